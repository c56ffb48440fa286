"""The assertions of fasttail/system/checks.h: active in a debug build, absent in any other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from running import program

TESTS = Path(__file__).parent
MARK = b"fasttail: assertion failed"


def checked(module: str) -> bool:
    """Return whether the compiled module contains assertions."""
    return MARK in Path(import_module(module).__file__ or "").read_bytes()


DEBUG = checked("fasttail.engine.pipeline")
debug_build = pytest.mark.skipif(not DEBUG, reason="no debug build: FASTTAIL_BUILD=debug scripts/test")


def test_the_kind_of_build_is_as_asked() -> None:
    if os.environ.get("FASTTAIL_BUILD") == "debug":
        assert DEBUG, "FASTTAIL_BUILD=debug, and no assertion in it"
    modules = [f"engine.{name}" for name in ("pool", "buffer", "router")]
    modules += ["sources.reader", "streams.json", "streams.order_status_portable"]
    assert {checked(f"fasttail.{module}") for module in modules} == {DEBUG}


@debug_build
@pytest.mark.parametrize("method", ["drain", "add_topic", "remove_topic", "trim"])
def test_a_wrong_thread_aborts(tmp_path: Path, method: str) -> None:
    done = subprocess.run(
        [*program("wrong_thread"), tmp_path, method],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "drained\n"
    assert done.returncode == -signal.SIGABRT
    assert re.search(
        r"fasttail/engine/ring\.pyx:\d+: fasttail: assertion failed: called by another thread", done.stderr
    ), done.stderr


@pytest.mark.plain_build
@pytest.mark.parametrize(
    ("flags", "arguments", "output", "fault"),
    [
        ([], ["1", "2", "3", "4"], "0\n", None),
        (["-DFASTTAIL_DEBUG"], ["1"], "1\n", None),
        (["-DFASTTAIL_DEBUG"], ["1", "2", "3"], "", r"checked\.c:9: .*failed: holds\(argc - 1\)"),
        (["-DFASTTAIL_DEBUG"], ["1", "2"], "", r"checked\.c:11: .*failed: "),
    ],
)
def test_the_macros(
    tmp_path: Path, sources: Path, flags: list[str], arguments: list[str], output: str, fault: str | None
) -> None:
    """Without FASTTAIL_DEBUG, the macros do not evaluate their arguments."""
    headers = ["-I", str(sources / "fasttail" / "system")]
    command = ["gcc", "-Wall", "-Wextra", "-Werror", *flags, *headers, "checked.c", "-o"]
    subprocess.run([*command, tmp_path / "checked"], cwd=TESTS / "samples", check=True)
    done = subprocess.run([tmp_path / "checked", *arguments], capture_output=True, text=True)
    assert done.stdout == output
    assert done.returncode == (0 if fault is None else -signal.SIGABRT)
    assert fault is None or re.search(fault, done.stderr), done.stderr
