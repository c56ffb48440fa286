"""Writes 20,000 synthetic lines with seed 7 to standard output."""

from __future__ import annotations

import sys

from fasttail.tools import synth

sys.stdout.buffer.write(synth.generate(20_000, "streaming", 7))
