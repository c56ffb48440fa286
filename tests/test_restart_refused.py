"""A restart in place is not started if the next image would not find what it needs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from running import hour_file, serve

from fasttail.state import restart

LEAK = ("--debug-leak-c", 40, "--memory-limit-mb", 75, "--memory-warmup-s", 0, "--memory-window-s", 2)


@pytest.mark.plain_build
@pytest.mark.parametrize(
    ("gone", "told"), [("release", "release"), ("data", "release/link"), ("state", "release/../state")]
)
def test_what_is_gone_prevents_it(gone: str, told: str, tmp_path: Path) -> None:
    for name in ("release", "data"):
        (tmp_path / name).mkdir()
    hour_file(tmp_path / "data", "plain", "20260505", 17).touch()
    (tmp_path / "release" / "link").symlink_to("../data")
    # As in a deployment with a folder per release and settings relative to it.
    wrap = ["sh", "-c", f'cd "{tmp_path}/release" && exec "$@"', "sh"]
    with serve(Path("link"), "--state-dir", "../state", *LEAK, wrap=wrap) as server:
        shutil.rmtree(tmp_path / gone)
        server.wait_log(rf"ERROR .*no restart: .*{tmp_path}/{told},? is gone")
        time.sleep(1)
        assert server.get("/health/live")[0] == 200
        assert server.count("no restart:") == 1, "told once"
        assert server.count("restarting in place") == 0
        assert server.end() == 0


@pytest.mark.plain_build
def test_a_folder_of_the_same_name_is_as_good(tmp_path: Path) -> None:
    """A folder removed and created again at the same path is used, also by relative paths."""
    for name in ("release", "release/data"):
        (tmp_path / name).mkdir()
    wrap = ["sh", "-c", f'cd "{tmp_path}/release" && exec "$@"', "sh"]
    with serve(Path("data"), *LEAK, wrap=wrap) as server:
        shutil.rmtree(tmp_path / "release")
        for name in ("release", "release/data"):
            (tmp_path / name).mkdir()
        server.wait_log(r"restart 1 in place")
        assert Path(os.readlink(f"/proc/{server.process.pid}/cwd")) == tmp_path / "release"
        # A signal at any moment around the execve leads to an orderly end.
        server.process.send_signal(signal.SIGHUP)
        assert server.end() == 0


def test_what_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script"
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert restart.first_missing([tmp_path]) == ""
    assert restart.first_missing([tmp_path / "x"]) == f"{tmp_path}/x is gone"
    script.unlink()
    assert restart.first_missing([]) == f"{script} is gone"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert restart.first_missing([]) == f"the interpreter {tmp_path}/python is gone"
