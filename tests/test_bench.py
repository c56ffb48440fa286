"""The bench runs on the installed package, checks its answers, and fails on a wrong one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    """`python -m bench` as a user starts it: in the checkout, whose folder Python then puts on sys.path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "bench", *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_list() -> None:
    result = bench("list")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("parse ")


def test_run_parse(tmp_path: Path) -> None:
    args = ["run", "parse", "--orders", "500", "--rounds", "2"]
    args += ["--data", str(tmp_path), "--results", str(tmp_path)]
    result = bench(*args)
    assert result.returncode == 0, result.stderr
    assert "answers checked: 500 orders" in result.stdout
    (written,) = tmp_path.glob("parse-*.json")
    report = json.loads(written.read_text())
    assert {row["engine"]: len(row["seconds"]) for row in report["rows"]} == {
        "orjson": 2,
        "json": 2,
        "fasttail.parse, 1 w": 2,
        "fasttail.parse, 2 w": 2,
        "fasttail parse FILE, 1 w": 2,
        "fasttail parse FILE, 2 w": 2,
    }
    assert report["expected"]["orders"] == 500
    assert report["machine"]["commit"]

    # A file with one order fewer than asked for is a wrong answer.
    (data,) = tmp_path.glob("plain-500-*.jsonl")
    data.write_bytes(b"".join(data.read_bytes().splitlines(keepends=True)[:-1]))
    result = bench(*args)
    assert result.returncode == 1
    assert "WRONG ANSWER" in result.stderr


def test_answers_are_compared_exactly() -> None:
    code = """
from bench.measure import Answer, WrongAnswer, check
right = Answer(2, {"oid": 2**63 + 1, "sz": 1e6})
check("same", Answer(2, {"oid": 2**63 + 1, "sz": 1e6 * (1 + 1e-12)}), right)
for wrong in (
    Answer(3, right.sums),
    Answer(2, {"oid": 2**63, "sz": 1e6}),
    Answer(2, {"oid": float(2**63 + 1), "sz": 1e6}),
    Answer(2, {"oid": 2**63 + 1, "sz": 1e6 * (1 + 1e-8)}),
    Answer(2, {"oid": 2**63 + 1, "sz": float("nan")}),
    Answer(2, {"oid": 2**63 + 1}),
):
    try:
        check("wrong", wrong, right)
    except WrongAnswer:
        continue
    raise SystemExit(f"{wrong} passed")
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)
