"""Signals in the first moments of a process, before it can handle them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from running import PATIENCE_S, command, program, wait_for


def start(words: list[object], delay: float, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """Start `fasttail` and return once it has set up its signals; it continues after `delay`."""
    process = subprocess.Popen(
        [*program("early"), *map(str, words)],
        env=os.environ | {"DELAY": str(delay), "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder or "/tmp")},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stderr.read(4) == b"held"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after", [0.0, 0.05, 0.2, 0.5])
def test_a_stop_in_the_first_moments(number: int, after: float, tmp_path: Path) -> None:
    process = start(["serve", tmp_path, "--port", 0], 0.1)
    time.sleep(after)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, b""), out


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE])
def test_others_wait_until_they_can_be_answered(number: int, tmp_path: Path) -> None:
    process = start(["serve", tmp_path, "--port", 0], 1.0)
    try:
        for _ in range(20):
            process.send_signal(number)
            time.sleep(0.05)
        assert process.stdout is not None
        log = b""
        # A reload requested before the settings could be read again happens afterwards.
        wanted = rb"settings reloaded" if number == signal.SIGHUP else rb"http and ws on"
        while not re.search(wanted, log):
            line = process.stdout.readline()
            assert line, log
            log += line
    finally:
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, b"")


def test_signals_that_were_blocked_by_whoever_started_it(tmp_path: Path) -> None:
    """A signal mask is inherited, but must not block a stop."""
    words = ["env", "--block-signal=TERM,INT", *command("serve", tmp_path, "--port", 0)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    while b"http and ws on" not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


@pytest.mark.parametrize("words", [["tail", "."], ["synth", "d"], ["demo"], ["verify", "--pid", os.getpid()]])
@pytest.mark.parametrize("after", [0.2, 0.4, 0.8])
def test_an_interrupt_never_shows_a_traceback(words: list[object], after: float, tmp_path: Path) -> None:
    process = start(words, 0.1, tmp_path)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err
    assert process.returncode in (0, 1, 130, -signal.SIGINT)
    assert not list(tmp_path.glob("fasttail-demo-*")), "nothing is left behind"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("after", [0.3, 0.6])
def test_demo_leaves_nothing_behind(number: int, after: float, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("demo"),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for("its folder, or its end", lambda: list(tmp_path.glob("fasttail-demo-*")) or process.poll())
    time.sleep(after)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert b"Traceback" not in err
    assert not list(tmp_path.glob("fasttail-demo-*"))
