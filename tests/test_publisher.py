"""What a publisher does with answers, without a server; tests/tools/test_nats.py has real ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("nats", reason="the extra nats is not installed")

from fasttail.engine.block_lines import LineRun
from fasttail.jetstream.entry import Entry
from fasttail.jetstream.line_source import SourceRun
from fasttail.jetstream.log import Limits, Log, ServerOptions
from fasttail.jetstream.publisher import MAX_UNANSWERED, Publisher, _Session
from fasttail.sources.cursor import BlockPosition

ENTRIES = 2 * MAX_UNANSWERED


class AnsweringLog:
    """Answers each entry before the event loop's next turn, as happens when answers come in bulk."""

    max_body = 1 << 20

    async def append(self, entry: Entry, body: bytes, after: int, previous: Entry | None) -> Any:
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(after + 1)
        return answer


@pytest.mark.timeout(60)
def test_answers_that_are_there_at_once(tmp_path: Path) -> None:
    """Waiting for the first of many entries on their way lets what counts the answers run."""

    def no_follower(position: object) -> Any:
        raise AssertionError("nothing is read")

    async def append_all() -> int:
        publisher = Publisher(
            ServerOptions(("nats://127.0.0.1:1",), "hl.mainnet"),
            Limits(3600, 1 << 30),
            node="a",
            stream="orders",
            data_dir=tmp_path,
            layout="auto",
            max_line=1 << 20,
            linger_s=0.005,
            takeover_s=1.0,
            make_follower=no_follower,
        )
        session = _Session(publisher, cast(Log, AnsweringLog()))
        for block in range(ENTRIES):
            run = LineRun(b"{}\n", BlockPosition(block, 0), BlockPosition(block, 1), 1, 1, b"", [])
            await session._append(SourceRun(run, "streaming", 2026050509, 0.0, b"body"), gap=False)
        await asyncio.sleep(0)
        return publisher.stats.entries

    assert asyncio.run(append_all()) == ENTRIES
