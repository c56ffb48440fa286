"""What a publisher asks JetStream, without a server; tests/tools/test_nats.py has real ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("nats", reason="the extra nats is not installed")

from fasttail.engine.block_lines import LineRun
from fasttail.jetstream.entry import Entry
from fasttail.jetstream.line_source import SourceRun
from fasttail.jetstream.log import MAX_UNANSWERED, ConflictError, Limits, Log, ServerOptions
from fasttail.jetstream.publisher import CONFIRM_ENTRIES, CONFIRM_LAST_S, Publisher, _Session
from fasttail.sources.cursor import BlockPosition

ENTRIES = 2 * MAX_UNANSWERED


class AnsweringLog:
    """Answers an entry before the event loop's next turn, as happens when answers come in bulk."""

    max_body = 1 << 20
    max_unanswered = MAX_UNANSWERED

    def __init__(self) -> None:
        self.sent: list[tuple[int, bool]] = []  # after which sequence, and whether with a question

    async def append(
        self, entry: Entry, body: bytes, after: int, previous: Entry | None, answer: Any
    ) -> None:
        self.sent.append((after, answer is not None))
        if answer is not None:
            answer.set_result(after + 1)

    async def holds(self, entry: Entry, sequence: int) -> bool:
        return True


def new_session(folder: Path) -> tuple[Publisher, _Session, AnsweringLog]:
    def no_follower(position: object) -> Any:
        raise AssertionError("nothing is read")

    publisher = Publisher(
        ServerOptions(("nats://127.0.0.1:1",), "hl.mainnet"),
        Limits(3600, 1 << 30),
        node="a",
        stream="orders",
        data_dir=folder,
        layout="auto",
        max_line=1 << 20,
        linger_s=0.005,
        takeover_s=1.0,
        make_follower=no_follower,
    )
    log = AnsweringLog()
    return publisher, _Session(publisher, cast(Log, log)), log


async def append(session: _Session, block: int) -> None:
    run = LineRun(b"{}\n", BlockPosition(block, 0), BlockPosition(block, 1), 1, 1, b"", [])
    await session._append(SourceRun(run, "streaming", 2026050509, 0.0), gap=False)


@pytest.mark.timeout(60)
def test_answers_that_are_there_at_once(tmp_path: Path) -> None:
    """Waiting for the first of many entries on their way lets what counts the answers run."""

    async def append_all() -> int:
        publisher, session, _ = new_session(tmp_path)
        for block in range(ENTRIES):
            await append(session, block)
        task = asyncio.create_task(session._check_answers())  # of the last ones
        await asyncio.sleep(10 * CONFIRM_LAST_S)
        task.cancel()
        return publisher.stats.entries

    assert asyncio.run(append_all()) == ENTRIES


def test_one_answer_confirms_many_entries(tmp_path: Path) -> None:
    """Of many entries few ask; whether the last one is stored is looked up when nothing follows."""

    async def append_some() -> tuple[int, int, list[tuple[int, bool]]]:
        publisher, session, log = new_session(tmp_path)
        for block in range(CONFIRM_ENTRIES + 2):
            await append(session, block)
        await asyncio.sleep(0)
        confirmed = publisher.stats.entries
        task = asyncio.create_task(session._check_answers())
        await asyncio.sleep(10 * CONFIRM_LAST_S)
        task.cancel()
        return confirmed, publisher.stats.entries, log.sent

    confirmed, entries, sent = asyncio.run(append_some())
    asked = [after for after, is_asked in sent if is_asked]
    assert confirmed <= entries == len(sent) == CONFIRM_ENTRIES + 2
    assert asked[0] == 0
    assert len(asked) < entries


def test_an_entry_whose_place_another_one_has_taken(tmp_path: Path) -> None:
    """It is noticed by the answer to a later one, or when nothing follows."""

    class RefusingLog(AnsweringLog):
        async def append(
            self, entry: Entry, body: bytes, after: int, previous: Entry | None, answer: Any
        ) -> None:
            if answer is not None and after:
                answer.set_exception(ConflictError("wrong last sequence"))
            elif answer is not None:
                answer.set_result(1)

        async def holds(self, entry: Entry, sequence: int) -> bool:
            raise ConflictError("another node has appended meanwhile")

    async def append_some() -> int:
        publisher, session, _ = new_session(tmp_path)
        session._log = cast(Log, RefusingLog())
        for block in range(3):
            await append(session, block)
        with pytest.raises(ConflictError, match="another node"):
            await session._check_answers()
        for block in range(CONFIRM_ENTRIES):
            await append(session, block)
        with pytest.raises(ConflictError, match="wrong last sequence"):
            await session._refusal
        return publisher.stats.entries

    assert asyncio.run(append_some()) == 1


def test_one_at_a_time_with_replicas(tmp_path: Path) -> None:
    """An entry of a replicated stream is sent when the one before it has been answered."""

    class SlowLog(AnsweringLog):
        max_unanswered = 1
        waiting = 0
        most_waiting = 0

        async def append(
            self, entry: Entry, body: bytes, after: int, previous: Entry | None, answer: Any
        ) -> None:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
            asyncio.get_running_loop().call_later(0.01, self.answer, answer, after + 1)

        def answer(self, answer: Any, sequence: int) -> None:
            self.waiting -= 1
            answer.set_result(sequence)

    async def append_some() -> tuple[int, int]:
        publisher, session, _ = new_session(tmp_path)
        log = SlowLog()
        session._log = cast(Log, log)
        for block in range(CONFIRM_ENTRIES):
            await append(session, block)
        return publisher.stats.entries, log.most_waiting

    assert asyncio.run(append_some()) == (CONFIRM_ENTRIES, 1)
