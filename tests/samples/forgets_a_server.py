"""Leaves a server, an orphan and a temporary folder behind.

It is not collected itself: test_leftovers.py runs it in a separate pytest, and HOW says how it ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

from running import Serve

NOTES = Path(os.environ["NOTES"])


def test_forgets_a_server(tmp_path: Path) -> None:
    server = Serve(tmp_path)
    orphan = subprocess.check_output(["sh", "-c", "sleep 1000 >/dev/null & echo $!"], text=True).strip()
    temporary = tempfile.mkdtemp()
    Path(temporary, "file").touch()
    (NOTES / "made").write_text(f"{server.process.pid} {orphan} {temporary}")
    how = os.environ["HOW"]
    if how == "interrupted":
        signal.raise_signal(signal.SIGINT)
    elif how == "killed":
        signal.raise_signal(signal.SIGKILL)
    elif how == "takes too long":
        signal.raise_signal(signal.SIGALRM)  # pytest-timeout's own signal
    assert how == "passes"


def test_the_next_finds_nothing() -> None:
    for pid in (NOTES / "made").read_text().split()[:2]:
        assert not Path("/proc", pid).exists()
    (NOTES / "next").touch()
