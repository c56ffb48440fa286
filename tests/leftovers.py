"""Ensures that no process and no temporary folder of a test outlives it, however the test ends.

The pytest process adopts orphans of its children, so that `end` finds all of them after each test. If pytest
itself is killed, a guard (this file run as a program) kills them: it recognizes them by a variable in their
environment. It also removes the temporary folder that they share.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VARIABLE = "LEFTOVERS_RUN"
PR_SET_CHILD_SUBREAPER = 36


def begin() -> None:
    """Adopt orphans, mark and give a temporary folder to all processes started from here, start the guard."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    unmarked = {name: value for name, value in os.environ.items() if name != VARIABLE}
    os.environ[VARIABLE] = mark = f"{os.getpid()}-{time.time_ns()}"
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # keeps tmp_path where it was
    tempfile.tempdir = os.environ["TMPDIR"] = folder = tempfile.mkdtemp(prefix="fasttail-tests-")
    os.chmod(folder, 0o1777)  # some tests run programs as another user
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), mark, folder]
    subprocess.Popen(command, env=unmarked, stdin=subprocess.DEVNULL, start_new_session=True)


def children() -> set[int]:
    """Return the children of this process, including those not yet waited for."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # the thread has ended
            found.update(map(int, Path("/proc/self/task", task, "children").read_text().split()))
    return found


def end(*, but: set[int]) -> None:
    """Kill the children that are not in `but`, and their children, which this process adopts."""
    while others := children() - but:
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in others:
            with contextlib.suppress(ChildProcessError):  # a thread of this process has waited for it
                os.waitpid(pid, 0)


def marked(mark: str) -> set[int]:
    """Return the processes started with this mark in their environment."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if wanted in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found


def guard(pid: int, mark: str, folder: str) -> None:
    """Wait for a pytest process to end, then kill what it left."""
    with contextlib.suppress(ProcessLookupError):  # it has already ended
        select.select([os.pidfd_open(pid)], [], [])
    while left := marked(mark):
        for each in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2], sys.argv[3])
