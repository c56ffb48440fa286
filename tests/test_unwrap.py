"""A log as engines and journald store it gives the same lines and the same verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fasttail.cli import main
from fasttail.tools.verify.unwrap import MAX_LINE_BYTES, Unwrapper

BATCH = (
    "📦 Processing batch snapshot: 12000 lines (buffer cleared)",
    "🔄 Parallel processing START: 12000 lines, 4 workers",
    "📊 Chunks created: 4 chunks, ~3000 lines per chunk (workers: 4)",
    "🚀 Starting parallel execution: 4 tasks (executor: 4 max workers)",
    "⏳ Waiting for all 4 tasks to complete...",
    "✅ All parallel tasks completed: 4 results received",
    "📦 Combining results from 4 chunks...",
    "✅ Parallel COMPLETED: 12000 lines → 9800 orders (4 chunks, 0 failed)",
    "📡 WebSocket: 9800/9800 orders → 3 clients",
)
LINES = [f"2026-05-05T17:39:{second:02}.123Z INFO     {text}" for second in range(9) for text in BATCH]
TIME = "2026-05-05T17:39:14.123456789Z"


def json_file(line: str) -> list[str]:
    parts = [line[:30], line[30:] + "\n"]
    return [json.dumps({"log": part, "stream": "stdout", "time": TIME}, ensure_ascii=False) for part in parts]


def cri(line: str) -> list[str]:
    return [f"{TIME} stdout P {line[:30]}", f"{TIME} stderr F other", f"{TIME} stdout F {line[30:]}"]


def journal_json(line: str) -> list[str]:
    return [json.dumps({"MESSAGE": list(line.encode()), "PRIORITY": "6"}), json.dumps({"MESSAGE": "x"})]


def journal_export(line: str) -> list[str]:
    return ["__CURSOR=s=1", "PRIORITY=6", f"MESSAGE={line}", ""]


FORMS: list[Callable[[str], list[str]]] = [
    json_file,
    cri,
    journal_json,
    journal_export,
    lambda line: [line],
    lambda line: [f"{TIME} {line}"],
    lambda line: [f"Nov 29 07:01:06 host fasttail[123]: {line}"],
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", ["", "ERROR    ❌ settings not reloaded"])
def test_the_verdict_is_the_same(
    form: Callable[[str], list[str]], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [*LINES, *([f"2026-05-05T17:39:59.123Z {fault}"] if fault else [])]
    (tmp_path / "log").write_text("".join(f"{each}\n" for line in lines for each in form(line)))
    code = main(["verify", "--log", str(tmp_path / "log"), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert (code, answer["verdict"]) == ((1, "FAIL") if fault else (0, "PASS")), answer
    figures = {check["name"]: check["figure"] for check in answer["checks"]}
    assert figures["completed"] == "📦 9, ✅ All 9"
    failed = [check["name"] for check in answer["checks"] if check["status"] == "FAIL"]
    assert failed == ["errors"] * bool(fault)


@pytest.mark.parametrize("raw", [b"{", b"{}", b'{"log":7}', b'{"MESSAGE":[999]}', b'{"MESSAGE":["x"]}', b""])
def test_what_is_none_of_these_stays_as_it_is(raw: bytes) -> None:
    assert Unwrapper().feed(raw) == raw


def test_parts_without_an_end_are_bounded_and_not_lost() -> None:
    unwrapper = Unwrapper()
    part = json.dumps({"log": "x" * (MAX_LINE_BYTES // 2 + 1), "stream": "stdout"}).encode()
    assert unwrapper.feed(part) is None
    whole = unwrapper.feed(part)
    assert whole is not None
    assert len(whole) == MAX_LINE_BYTES + 2
    assert unwrapper.flush() == []
    assert unwrapper.feed(part) is None
    assert [len(line) for line in unwrapper.flush()] == [MAX_LINE_BYTES // 2 + 1]
    assert unwrapper.flush() == []
