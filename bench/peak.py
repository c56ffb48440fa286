"""Runs a command and says, as the last line of standard error, the most KiB that it had resident.

A process of its own, for the kernel counts what a process had before its exec too, and that is its parent's.
"""

from __future__ import annotations

import os
import sys

pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
os.write(2, b"%d\n" % usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
