"""What each thread does, in this process and in a server that is asked from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from running import program, serve

from fasttail.monitoring.stacks import dump_stacks, request_stacks


def open_files() -> list[str]:
    """Return the open files, skipping those that other threads close meanwhile."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return found


def test_stacks_name_the_threads() -> None:
    hold, there = threading.Event(), threading.Event()

    def a_place_to_be_found() -> None:
        there.set()
        hold.wait()

    thread = threading.Thread(target=a_place_to_be_found, name="held-here")
    thread.start()
    try:
        there.wait()
        text = dump_stacks()
    finally:
        hold.set()
        thread.join()
    assert "[held-here]" in text
    assert "in a_place_to_be_found" in text
    assert "in test_stacks_name_the_threads" in text
    assert f"\n  {os.getpid()} " in text.partition("Threads of the system:")[2]
    assert not [name for name in open_files() if "memfd:stacks" in name]


def test_a_server_tells_what_it_does_whatever_it_does(tmp_path: Path) -> None:
    """A server answers twice and keeps running, and a stopped one is not waited for."""
    with serve(tmp_path) as server:
        pid = server.process.pid
        for _ in range(2):
            text = request_stacks(pid)
            assert text.count("most recent call first") >= 3, text
            assert 'File "' in text
            assert "fasttail-w0: " in text.partition("Threads of the system:")[2]
        assert server.get("/health/live")[0] == 200
        os.kill(pid, signal.SIGSTOP)
        try:
            assert request_stacks(pid).startswith("no answer within 2 s")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert server.get("/health/live")[0] == 200
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fasttail.monitoring.stacks"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"== process {pid}\n" in done.stdout


@pytest.mark.parametrize("handles", [False, True])
def test_who_would_not_answer_is_not_asked(handles: bool) -> None:
    """The signal is not sent to a process that it would end, or to which it means something else."""
    words = [*program("no_serve"), *(["handles"] if handles else [])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(LookupError, match=f"process {other.pid} is not fasttail serve"):
            request_stacks(other.pid)
        other.communicate(b"")
    assert other.returncode == 0
    with pytest.raises(OSError, match="No such file"):
        request_stacks(other.pid)
