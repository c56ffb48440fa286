"""scripts/deploy before it needs an engine; test_container.py tests the rest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "words", [[], ["moon"], ["staging", "--minutes", "five"], ["staging", "--minuets", "5"]]
)
def test_a_mistake_comes_before_everything(words: list[str]) -> None:
    """A wrong argument is reported before the unreachable engine would be."""
    done = subprocess.run(
        [ROOT / "scripts" / "deploy", *words],
        env={**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:9"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "staging|production" in done.stderr
