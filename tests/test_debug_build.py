"""The assertions of fasttail/checks.h: alive in a debug build, not there in any other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

MARK = b"fasttail: assertion failed"


def checked(module: str) -> bool:
    """Whether the compiled module has assertions in it."""
    return MARK in Path(import_module(module).__file__ or "").read_bytes()


DEBUG = checked("fasttail.pipeline")
debug_build = pytest.mark.skipif(not DEBUG, reason="no debug build: FASTTAIL_BUILD=debug scripts/test")


def test_the_kind_of_build_is_as_asked() -> None:
    if os.environ.get("FASTTAIL_BUILD") == "debug":
        assert DEBUG, "FASTTAIL_BUILD=debug, and no assertion in it"
    modules = ("parser.pool", "parser.json", "parser.order_status_portable", "publish.frames", "tail.blocks")
    assert {checked(f"fasttail.{module}") for module in modules} == {DEBUG}


# The pipeline's ring has one taker: the thread that drained it first.
TWO_THREADS = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from driving import Drive

drive = Drive(Path(sys.argv[2]))
drive.pipeline.drain()
print("drained", flush=True)
action = getattr(drive.pipeline, sys.argv[3])
arguments = {"add_topic": [drive.old_updates], "remove_topic": [drive.old_updates]}.get(sys.argv[3], [])
thread = threading.Thread(target=action, args=arguments)
thread.start()
thread.join()
print("came back", flush=True)
"""


@debug_build
@pytest.mark.parametrize("method", ["drain", "add_topic", "remove_topic", "trim"])
def test_a_wrong_thread_aborts(tmp_path: Path, method: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", TWO_THREADS, str(Path(__file__).parent), str(tmp_path), method],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "drained\n"
    assert done.returncode == -signal.SIGABRT
    assert re.search(
        r"fasttail/pipeline\.pyx:\d+: fasttail: assertion failed: called by another thread", done.stderr
    ), done.stderr


# The macros themselves: they name file, line and condition; without FASTTAIL_DEBUG nothing is evaluated.
PROGRAM = """
#include "checks.h"
#include <stdio.h>
static int evaluated = 0;
static int holds(int n) { evaluated++; return n < 3; }
int main(int argc, char **argv) {
    char text[8] = {0};
    (void)argv;
    ft_assert(holds(argc - 1));
    ft_may_read(text + 4);
    ft_reads(text, argc > 2 ? 5 : 4);
    printf("%d\\n", evaluated);
    return 0;
}
"""


@pytest.mark.plain_build
@pytest.mark.parametrize(
    ("flags", "arguments", "output", "fault"),
    [
        ([], ["1", "2", "3", "4"], "0\n", None),
        (["-DFASTTAIL_DEBUG"], ["1"], "1\n", None),
        (["-DFASTTAIL_DEBUG"], ["1", "2", "3"], "", r"check\.c:9: .*failed: holds\(argc - 1\)"),
        (["-DFASTTAIL_DEBUG"], ["1", "2"], "", r"check\.c:11: .*failed: "),
    ],
)
def test_the_macros(
    tmp_path: Path, sources: Path, flags: list[str], arguments: list[str], output: str, fault: str | None
) -> None:
    (tmp_path / "check.c").write_text(PROGRAM)
    headers = ["-I", str(sources / "fasttail")]
    command = ["gcc", "-Wall", "-Wextra", "-Werror", *flags, *headers, "check.c", "-o", "check"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "check", *arguments], capture_output=True, text=True)
    assert done.stdout == output
    assert done.returncode == (0 if fault is None else -signal.SIGABRT)
    assert fault is None or re.search(fault, done.stderr), done.stderr
