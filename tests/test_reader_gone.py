"""Commands whose standard output is closed by its reader end silently, whatever they wait for."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lines import event, plain
from running import PATIENCE_S, command, hour_file

from fasttail.sources.watcher import WAIT_OUTPUT_CLOSED, Watcher

Ends = tuple[int, Callable[[], object]]


def pipe(tmp_path: Path) -> Ends:
    reading, writing = os.pipe()
    return writing, lambda: os.close(reading)


def fifo(tmp_path: Path) -> Ends:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    return os.open(path, os.O_WRONLY), lambda: os.close(reading)


def unix_socket(tmp_path: Path) -> Ends:
    ours, theirs = socket.socketpair()
    fd = os.dup(theirs.fileno())
    theirs.close()
    return fd, ours.close


def terminal(tmp_path: Path) -> Ends:
    ours, theirs = os.openpty()
    return theirs, lambda: os.close(ours)


outputs = pytest.mark.parametrize(
    "output", [pipe, fifo, unix_socket, terminal], ids=lambda each: each.__name__
)


@outputs
@pytest.mark.parametrize("use_inotify", [True, False], ids=["inotify", "polling"])
def test_a_wait_ends(tmp_path: Path, output: Callable[[Path], Ends], use_inotify: bool) -> None:
    fd, leave = output(tmp_path)
    watcher = Watcher(output_fd=fd, use_inotify=use_inotify)
    assert not watcher.wait_once(1000) & WAIT_OUTPUT_CLOSED
    leave()
    assert watcher.wait_once(60_000_000) & WAIT_OUTPUT_CLOSED
    watcher.close()
    os.close(fd)


@outputs
@pytest.mark.parametrize("how", ["--inotify", "--no-inotify"])
def test_tail(tmp_path: Path, output: Callable[[Path], Ends], how: str) -> None:
    """`tail` ends even if no further order matches, so that nothing is ever written."""
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.write_bytes(plain(event(coin="ETH")))
    fd, leave = output(tmp_path)
    words = command("tail", tmp_path, "--from", "oldest", "--coin", "ETH", how)
    with subprocess.Popen(words, stdout=fd, stderr=subprocess.PIPE) as process:
        os.close(fd)
        assert process.stderr is not None
        while b"following" not in process.stderr.readline():
            pass
        leave()
        with path.open("ab", buffering=0) as file:
            deadline = time.monotonic() + PATIENCE_S
            while process.poll() is None and time.monotonic() < deadline:
                file.write(plain(event(coin="BTC")))
                time.sleep(0.05)
        assert process.poll() == 0
        assert b"Traceback" not in process.stderr.read()


@outputs
def test_parse_of_a_pipe_that_says_no_more(tmp_path: Path, output: Callable[[Path], Ends]) -> None:
    fd, leave = output(tmp_path)
    reading, writing = os.pipe()
    with subprocess.Popen(command("parse", "-"), stdin=reading, stdout=fd, stderr=subprocess.PIPE) as process:
        os.close(fd)
        os.close(reading)
        os.write(writing, plain(event()))
        time.sleep(0.5)
        leave()
        assert process.wait(timeout=PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    os.close(writing)


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (("tail", "{data}", "--from", "oldest", "--no-follow"), {0}),
        (("parse", "{file}"), {0}),
        (("synth", "{out}", "--lines", "10"), {0}),
        (("--version",), {0}),
        (("demo", "--seconds", "3"), {0}),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_gone_before_the_first_line(tmp_path: Path, words: tuple[str, ...], codes: Any) -> None:
    path = hour_file(tmp_path / "data", "plain", "20260505", 9)
    path.write_bytes(plain(event()))
    given = [word.format(data=tmp_path / "data", file=path, out=tmp_path / "out") for word in words]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(*given), stdout=writing, stderr=subprocess.PIPE, check=False, timeout=120)
    os.close(writing)
    assert done.returncode in codes, done.stderr
    assert b"Traceback" not in done.stderr
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command(*given)],
        stderr=subprocess.PIPE,
        check=False,
        timeout=120,
    )
    assert closed.returncode in (0, 1), closed.stderr
    assert b"Traceback" not in closed.stderr
    assert path.read_bytes() == plain(event()), "no descriptor of ours took the place of standard output"
