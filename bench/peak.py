"""Runs a command and prints its peak RSS in KiB as the last line of standard error.

It is a separate process because the kernel's peak includes the memory from before exec, which is the
parent's.
"""

from __future__ import annotations

import os
import sys

pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
os.write(2, b"%d\n" % usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
