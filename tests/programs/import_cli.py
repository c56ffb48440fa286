"""Imports the command line, which must not load anything compiled or heavy or change anything."""

from __future__ import annotations

import os
import signal
import sys
import threading

before = dict(os.environ), signal.getsignal(signal.SIGINT)
import fasttail.cli  # noqa: E402, F401

assert before == (dict(os.environ), signal.getsignal(signal.SIGINT))
assert threading.active_count() == 1
ours = [module for name, module in sys.modules.items() if name.startswith("fasttail")]
compiled = [module for module in ours if str(getattr(module, "__file__", "")).endswith(".so")]
heavy = {"yaml", "psutil", "uvloop", "picows", "asyncio", "tqdm", "prometheus_client"} & set(sys.modules)
assert not compiled, compiled
assert not heavy, heavy
