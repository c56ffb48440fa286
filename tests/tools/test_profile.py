"""scripts/profile at a small size: each promised file exists, and what is missing is reported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import callgrind_file

pytestmark = pytest.mark.plain_build

ROOT = Path(__file__).resolve().parents[2]
PER_ORDER = re.compile(r"^ *([\d,.]+) +100\.0 % +all", re.MULTILINE)


def profile(tmp_path: Path, *args: str, **more: str) -> Path:
    """Run the profiler and return its folder. `more` are environment variables."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | more
    command = [sys.executable, "-m", "bench.profiling", *args, "--results", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("profile-*")
    return folder


def listed(folder: Path) -> set[str]:
    """Return the names in index.txt, which must match the files in the folder."""
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
        html = (folder / "annotated" / "engine.public_shapes.html").read_text()
        assert "encode_order_update" in html
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
        assert rate > 0
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
    """Without valgrind and perf, everything else is produced."""
    args = ["--orders", "500", "--seconds", "0.001", "--counted", "100"]
    folder = profile(tmp_path, "parse", *args, PATH="/nowhere")
    listed(folder)
    assert "valgrind is not installed" in missing(folder)
    assert "perf is not installed" in missing(folder)


def test_a_callgrind_file_is_read(checkout: Path) -> None:
    costs = callgrind_file.read(Path(__file__).parents[1] / "samples" / "callgrind.out")
    assert sum(costs.values()) == 100
    table = callgrind_file.functions(costs, 10)
    assert "     10.0  100.0 %  all" in table
    assert "      9.0   90.0 %  inner" in table
    assert "0.3    3.0 %  intrinsics, inlined" in table
    assert "order_status.pyx" in callgrind_file.lines(costs, 10)
