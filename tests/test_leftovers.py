"""However a test ends, nothing of it remains, here for one that forgets a server and a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import wait_for

SAMPLE = Path(__file__).parent / "samples" / "forgets_a_server.py"


@pytest.mark.plain_build
@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("passes", []),
        ("fails", []),
        ("interrupted", []),
        ("killed", []),  # also as pytest-timeout's thread does it
        ("killed", ["-n", "1", "--max-worker-restart", "0"]),
        ("takes too long", ["--timeout", "600", "--timeout-method", "signal"]),
    ],
    ids=["passes", "fails", "interrupted", "killed", "a worker is killed", "takes too long"],
)
def test_nothing_is_left(tmp_path: Path, how: str, options: list[str]) -> None:
    base = tmp_path / "base"
    words = ["-p", "no:cacheprovider", "--basetemp", str(base), str(SAMPLE), *options]
    env = os.environ | {"HOW": how, "NOTES": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], env=env, capture_output=True, text=True, check=False
    )
    server, orphan, temporary = (tmp_path / "made").read_text().split()
    wait_for("the end of its processes", lambda: not alive(server) and not alive(orphan))
    wait_for("the end of its folder", lambda: not Path(temporary).exists())
    assert (done.returncode == 0) == (how == "passes"), done.stdout
    # If the session continues with the next test, they ended before it.
    assert (tmp_path / "next").exists() == (how in ("passes", "fails", "takes too long")), done.stdout


def alive(pid: str) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return ") Z " not in Path("/proc", pid, "stat").read_text()
    except FileNotFoundError:
        return False
