"""Logs more than a pipe holds and ends with code 7. With "stopped", it stops the log first."""

from __future__ import annotations

import sys

from fasttail.monitoring.log import start_logging

log = start_logging()
for n in range(50_000):
    log.log_lines([f"line {n}"])
if sys.argv[1] == "stopped":
    log.stop(0.2)
raise SystemExit(7)
