"""Writes 20,000 generated lines of seed 7 to standard output."""

from __future__ import annotations

import sys

from fasttail.tools import exchange

sys.stdout.buffer.write(exchange.generate(20_000, "streaming", 7))
