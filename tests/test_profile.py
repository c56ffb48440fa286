"""scripts/profile, small: that each file it promises is there, and what is missing is said."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.plain_build

ROOT = Path(__file__).resolve().parent.parent
PER_ORDER = re.compile(r"^ *([\d,.]+) +100\.0 % +all", re.MULTILINE)


def profile(tmp_path: Path, *args: str) -> Path:
    """The folder that a run writes."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "bench.profiling", *args, "--results", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("profile-*")
    return folder


def listed(folder: Path) -> set[str]:
    """What index.txt names: all that is there, and nothing else."""
    about, _, rest = (folder / "index.txt").read_text().partition("\n\n")[2].partition("\n\n")
    names = {line.split()[0] for line in about.splitlines()}
    assert names == {path.name for path in folder.iterdir()} - {"index.txt"}, rest
    return names


def missing(folder: Path) -> str:
    return (folder / "index.txt").read_text().partition("left out:")[2]


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_parse(tmp_path: Path, checkout: Path) -> None:
    folder = profile(tmp_path, "parse", "--orders", "2000", "--counted", "300", "--seconds", "0.01")
    names = listed(folder)
    for stage in ("parse", "encode-ws"):
        table = (folder / f"{stage}-functions.txt").read_text()
        found = PER_ORDER.search(table)
        assert found is not None, table
        assert 100 < float(found[1]) < 50_000
        assert {f"{stage}-lines.txt", f"{stage}-annotate.txt", f"{stage}.callgrind"} <= names
        assert "PROGRAM TOTALS" in (folder / f"{stage}-annotate.txt").read_text()
    assert "_event_fast" in (folder / "parse-functions.txt").read_text()
    assert "parse-perf.txt" in names or "perf is not" in missing(folder)
    assert "parse.svg" in names or "py-spy" in missing(folder)
    if "annotated" in names:
        html = (folder / "annotated" / "publish.frames.html").read_text()
        assert "encode_ws" in html
        assert not list((folder / "annotated").glob("*.c"))


@pytest.mark.parametrize("mode", ["live", "catch-up"])
def test_serve(tmp_path: Path, mode: str) -> None:
    args = ["--mode", mode, "--seconds", "1", "--rate", "5000", "--orders", "20000"]
    folder = profile(tmp_path, "serve", *args)
    names = listed(folder)
    assert "serve-threads.txt" in names
    used = (folder / "serve-threads.txt").read_text()
    if mode == "live":
        rate = int(re.search(r"\(([\d,]+)/s\)", used)[1].replace(",", ""))  # type: ignore[index]
        assert 2500 < rate < 10_000
        assert "fasttail-w0" in used
    if "serve-stages.txt" in names:
        assert "all, " in (folder / "serve-stages.txt").read_text()
        assert "serve-perf.txt" in names
    else:
        assert "perf is not" in missing(folder)
    if "serve.svg" in names:
        assert "<svg" in (folder / "serve.svg").read_text()
    else:
        assert "py-spy" in missing(folder)


def test_what_the_machine_lacks_is_said(tmp_path: Path) -> None:
    """Without valgrind and perf, all else is made."""
    code = """
import shutil, sys
from bench.__main__ import leave_checkout
leave_checkout()
from bench import profiling
shutil.which = lambda name: None
sys.exit(profiling.main())
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", code, "parse", "--orders", "500", "--seconds", "0.001"]
    command += ["--counted", "100", "--results", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("profile-*")
    listed(folder)
    assert "valgrind is not installed" in missing(folder)
    assert "perf is not installed" in missing(folder)


def test_a_callgrind_file_is_read(checkout: Path) -> None:
    code = """
from pathlib import Path
import sys, tempfile
from bench.__main__ import leave_checkout
leave_checkout()
from bench import callgrind_file
text = '''version: 1
events: Ir

fl=/x/build/per-isa/fasttail/parser/order_status_avx2.pyx
fn=outer
10 5
fi=/usr/include/emmintrin.h
7 3
fe=/x/build/per-isa/fasttail/parser/order_status_avx2.pyx
11 2
cfn=inner
calls=4 1
12 1000
fl=/libc/memcpy.S
fn=inner
1 90

totals: 100
'''
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "x")
    path.write_text(text)
    costs = callgrind_file.read(path)
assert sum(costs.values()) == 100, costs
table = callgrind_file.functions(costs, 10)
assert "     10.0  100.0 %  all" in table, table
assert "      9.0   90.0 %  inner" in table, table
assert "0.3    3.0 %  intrinsics, inlined" in table, table
assert "order_status.pyx" in callgrind_file.lines(costs, 10)
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)
