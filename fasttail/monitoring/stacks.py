"""Dumps the stacks of all threads, with the system's view, of this process or another one.

    request_stacks(pid) ──SIGUSR1──► faulthandler, at any time ──► the target's file in memory ──► read here

`python -m fasttail.monitoring.stacks` prints the stacks of every server it may signal, for example in a
container.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
import signal
import tempfile
import threading
import time
from pathlib import Path

SIGNAL = signal.SIGUSR1
MEMFD_NAME = "fasttail-stacks"
"""Name of the file in memory. A process that has it open handles the signal; any other would be killed."""
MAX_DUMP_BYTES = 64 << 10
ANSWER_TIMEOUT_S = 2.0
SETTLE_S = 0.05
"""faulthandler writes line by line; a dump that has not grown for this long is complete."""


def dump_stacks() -> str:
    """Return the stacks of this process, with the names of its threads."""
    # A file in memory, because a pipe that is not read meanwhile could fill up.
    fd = _memory_file("stacks")
    try:
        faulthandler.dump_traceback(fd, all_threads=True)
        text = os.pread(fd, MAX_DUMP_BYTES, 0).decode("utf-8", "replace")
    finally:
        os.close(fd)
    names = {thread.ident: thread.name for thread in threading.enumerate()}

    def with_thread_name(found: re.Match[str]) -> str:
        return f"{found[0]} [{names.get(int(found[1], 16), '?')}]"

    return re.sub(r"[Tt]hread 0x([0-9a-f]+)", with_thread_name, text) + "\n".join(
        _system_threads(os.getpid())
    )


def _memory_file(name: str) -> int:
    """Return the descriptor of a file in memory, or of a temporary file if seccomp forbids that.

    Raises OSError.
    """
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    except OSError:
        with tempfile.TemporaryFile() as file:
            return fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)


def install_dump_handler() -> None:
    """Answer `request_stacks` until the process ends or executes another program.

    A signal that was blocked until now is answered too.
    """
    fd = _memory_file(MEMFD_NAME)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # the requester truncates the file first
    faulthandler.register(SIGNAL, fd, all_threads=True, chain=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})


def request_stacks(pid: int) -> str:
    """Return the stacks of another process on this machine, without thread names.

    Raises OSError if the process may not be inspected, and LookupError if it does not handle the signal.
    """
    path = _dump_file(pid)
    if path is None:
        raise LookupError(f"process {pid} is not fasttail serve")
    fd = os.open(path, os.O_RDWR)
    try:
        os.ftruncate(fd, 0)
        os.kill(pid, SIGNAL)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        size, seen = 0, -1
        while (size != seen or not size) and time.monotonic() < deadline:
            seen = size
            time.sleep(SETTLE_S)
            size = os.fstat(fd).st_size
        text = os.pread(fd, MAX_DUMP_BYTES, 0).decode("utf-8", "replace")
    finally:
        os.close(fd)
    return "\n".join([text or f"no answer within {ANSWER_TIMEOUT_S:g} s", *_system_threads(pid)])


def _dump_file(pid: int) -> str | None:
    """Return the path of the process's dump file, or None if it has none or does not catch the signal."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if caught is None or not int(caught[1], 16) >> (SIGNAL - 1) & 1:
        return None
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(path).startswith(f"/memfd:{MEMFD_NAME} "):
                return str(path)
    return None


def _system_threads(pid: int) -> list[str]:
    """Return one line per thread, including the workers, which Python does not know."""
    found = ["Threads of the system:"]
    for task in sorted(Path(f"/proc/{pid}/task").glob("*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
            try:
                waits_in = (task / "wchan").read_text().strip("0\n")
            except OSError:
                waits_in = ""
            # Fields 3, 14 and 15 of proc(5): state, and ticks of CPU time in user and kernel mode.
            ticks = int(fields[11]) + int(fields[12])
            line = f"  {task.name} {name}: {fields[0]}, {ticks} ticks of CPU"
            found.append(f"{line}, in {waits_in}" if waits_in else line)
    return found


def main() -> None:
    """Print the stacks of every server."""
    for pid in sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(OSError, LookupError):
            print(f"== process {pid}\n{request_stacks(pid)}")


if __name__ == "__main__":
    main()
