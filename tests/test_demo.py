"""`fasttail demo` from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from running import PATIENCE_S, command


def demo(folder: Path, *options: object, wrap: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the demo as a shell would, in its own process group, with temporary files in `folder`.

    `wrap` is a command prefix.
    """
    return subprocess.Popen(
        [*wrap, *command("demo", *options)],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def check_summary(output: str) -> None:
    first = r"^written  [\d,]+ lines \([\d,]+ orders\) in \d+ files, [\d.]+ MB, [\d.]+ s$"
    assert re.search(first, output, re.M)
    written, read, sent, got = (
        int(found[1].replace(",", ""))
        for pattern in ("^written +([0-9,]+) lines", "^read +([0-9,]+)", "^sent +([0-9,]+)", "([0-9,]+) got$")
        if (found := re.search(pattern, output, re.M)) is not None
    )
    assert written == read > 0
    assert sent == got > 100
    assert re.search(r"^delay    p50 [\d.]+ ms, p99 [\d.]+ ms, most [\d.]+ ms, ", output, re.M)
    assert re.search(r"^memory   [\d.]+ MB now, [\d.]+ MB at most$", output, re.M)
    assert output.rstrip().endswith("every line was read and every order arrived")


def test_it_ends_by_itself_with_a_summary(tmp_path: Path) -> None:
    process = demo(tmp_path, "--seconds", 3, "--hour-seconds", 1)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    check_summary(output)
    files = re.search(r" in (\d+) files", output)
    assert files is not None
    assert int(files[1]) > 1, "hours went by"
    seconds = re.findall(r"^ +\d+ s  +[\d,]+ lines/s  +[\d,]+ orders/s  delay p50 ", output, re.M)
    assert len(seconds) >= 3  # one more if the end takes a while
    assert re.search(r"^ +\S+ (Bid|Ask) [\d.]+ @ [\d.]+ (open|canceled|filled|triggered)$", output, re.M)
    assert list(tmp_path.iterdir()) == [], "it cleans up"


@pytest.mark.parametrize(
    ("how", "wrap"),
    [
        pytest.param(signal.SIGINT, [], id="ctrl-c"),
        pytest.param(signal.SIGTERM, [], id="sigterm"),
        pytest.param(signal.SIGTERM, ["env", "--ignore-signal=INT"], id="sigterm-in-the-background"),
    ],
)
def test_it_ends_early_without_leaving_anything(tmp_path: Path, how: signal.Signals, wrap: list[str]) -> None:
    """Ctrl-C reaches the whole group, as from a terminal; SIGTERM only the demo, as from `timeout`.

    A shell script starts its background jobs with SIGINT ignored.
    """
    process = demo(tmp_path, "--layout", "by_block", wrap=wrap)
    assert process.stdout is not None
    shown = ""
    while " s  " not in shown:
        shown = process.stdout.readline()
        assert shown, process.communicate()
    servers = psutil.Process(process.pid).children()
    assert len(servers) == 1
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    output, errors = process.communicate(timeout=PATIENCE_S)
    left = servers[0].is_running()
    if left:
        servers[0].kill()
    assert (process.returncode, errors, left) == (0, "", False)
    check_summary(output)
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    first = demo(tmp_path, "--rate", 10)
    assert first.stdout is not None
    found = None
    while found is None:
        found = re.search(r"on http://127\.0\.0\.1:(\d+) ", first.stdout.readline())
    second = demo(tmp_path, "--port", found[1])
    output, errors = second.communicate(timeout=PATIENCE_S)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=PATIENCE_S)
    assert (second.returncode, output) == (2, "")
    assert errors.startswith("fasttail demo: cannot listen on 127.0.0.1:")
    assert "Address already in use" in errors
    assert "Traceback" not in errors
