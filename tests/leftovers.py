"""No process and no temporary folder that a test makes outlives the test, however the test ends.

A pytest process adopts what its children leave behind, so that `end` finds all of them at the end of each
test. Where pytest itself is killed, a guard (this file, run as a program of its own) ends them: it knows them
by a variable in their environment. It also removes the folder for temporary files, which all of them share.
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
    """Adopt orphans, mark all processes that this one starts, give them a folder, and start the guard."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    unmarked = {name: value for name, value in os.environ.items() if name != VARIABLE}
    os.environ[VARIABLE] = mark = f"{os.getpid()}-{time.time_ns()}"
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # tmp_path stays where it was
    tempfile.tempdir = os.environ["TMPDIR"] = folder = tempfile.mkdtemp(prefix="fasttail-tests-")
    os.chmod(folder, 0o1777)  # some tests run programs as another user
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), mark, folder]
    subprocess.Popen(command, env=unmarked, stdin=subprocess.DEVNULL, start_new_session=True)


def children() -> set[int]:
    """The processes whose parent is this one; those that nobody has waited for are among them."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # the thread has ended
            found.update(map(int, Path("/proc/self/task", task, "children").read_text().split()))
    return found


def end(*, but: set[int]) -> None:
    """Kill the children that are not in `but`, and their children, which become ours."""
    while others := children() - but:
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in others:
            with contextlib.suppress(ChildProcessError):  # a thread of this process has waited for it
                os.waitpid(pid, 0)


def marked(mark: str) -> set[int]:
    """The processes that were started with this mark in their environment."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if wanted in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found


def guard(pid: int, mark: str, folder: str) -> None:
    """Wait for the end of a pytest process, and end what it has left."""
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        select.select([os.pidfd_open(pid)], [], [])
    while left := marked(mark):
        for each in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2], sys.argv[3])
