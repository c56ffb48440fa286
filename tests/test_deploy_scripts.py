"""scripts/deploy by a stand-in for docker and git; test_container.py has them with a real engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The container's log has one line, then nothing for an hour; `verify` says CODE.
DOCKER = """#!/bin/sh
echo "$*" >>CALLS
case "$*" in
"image inspect"*hyperliquid-parser:previous) echo sha256:older ;;
"image inspect --format {{.Id}}"*) echo sha256:BUILT ;;
"image inspect"*) echo "0.1.0 (commit)" ;;
"inspect"*Image*) echo sha256:before ;;
"inspect"*) echo running/healthy ;;
"logs --follow"*) echo $$ >FOLLOWER; echo line; exec sleep 3600 ;;
"exec --interactive"*) read -r line; exit CODE ;;
esac
"""
GIT = "#!/bin/sh\n[ $1 != rev-parse ] || echo 0123456789abcdef\n"


def deploy(folder: Path, *words: str, code: int = 0, built: str = "new") -> tuple[int, str, list[str]]:
    """Exit code, what it says, and each call of docker."""
    calls, follower = folder / "calls", folder / "follower"
    shutil.copytree(ROOT / "scripts", folder / "checkout" / "scripts")
    (folder / "bin").mkdir()
    docker = DOCKER.replace("CALLS", str(calls)).replace("FOLLOWER", str(follower))
    docker = docker.replace("CODE", str(code)).replace("BUILT", built)
    for name, text in (("docker", docker), ("git", GIT)):
        tool = folder / "bin" / name
        tool.write_text(text)
        tool.chmod(0o755)
    done = subprocess.run(
        [folder / "checkout" / "scripts" / "deploy", *words],
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    if follower.exists():
        for _ in range(50):
            if not Path(f"/proc/{follower.read_text().strip()}").exists():
                break
            time.sleep(0.1)
        else:
            pytest.fail("docker logs --follow was left behind")
    return done.returncode, done.stdout, calls.read_text().splitlines() if calls.exists() else []


def test_a_log_that_falls_silent_holds_nothing_up(tmp_path: Path) -> None:
    code, said, calls = deploy(tmp_path, "staging", code=1)
    assert (code, "fasttail verify says no" in said, "rolled back" in said) == (1, True, True), said
    assert calls[-1] == "tag sha256:older hyperliquid-parser:previous"


def test_what_is_well_is_left_running(tmp_path: Path) -> None:
    code, said, calls = deploy(tmp_path, "production")
    assert (code, said.splitlines()[-1]) == (0, "== production: deployed")
    assert "tag sha256:before hyperliquid-parser:previous" in calls


def test_the_way_back_survives_a_deploy_of_the_same_image(tmp_path: Path) -> None:
    code, said, calls = deploy(tmp_path, "production", built="before")
    assert (code, said.splitlines()[-1]) == (0, "== production: deployed")
    assert not any(call.startswith("tag") and call.endswith(":previous") for call in calls)


@pytest.mark.parametrize(
    "words", [[], ["moon"], ["staging", "--minutes", "five"], ["staging", "--minuets", "5"]]
)
def test_a_mistake_changes_nothing(tmp_path: Path, words: list[str]) -> None:
    code, said, calls = deploy(tmp_path, *words)
    assert (code, calls) == (2, []), said
