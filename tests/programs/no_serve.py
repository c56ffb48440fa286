"""Waits for the end of its input. With "handles", the signal that requests stacks would end it."""

from __future__ import annotations

import signal
import sys

from fasttail.monitoring.stacks import SIGNAL

if sys.argv[1:] == ["handles"]:
    signal.signal(SIGNAL, lambda *_: sys.exit(7))
print(flush=True)
sys.stdin.read()
