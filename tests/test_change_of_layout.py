"""`--layout auto` follows the folder that is being written, even if the node changes it."""

# ruff: noqa: F811 (fixtures of test_follower)
from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lines import envelope, event, plain
from running import hour_file, serve, wait_for
from test_follower import Node, StartTail, Tail, node, start  # noqa: F401  (fixtures)
from test_ws import Bot

from fasttail.replay.find import locate_after_block
from fasttail.sources import layout
from fasttail.sources.position import Position

STALE = 60.0
both_ways = pytest.mark.parametrize("inotify", [True, False], ids=["inotify", "polling"])


def block(number: int, *oids: int) -> bytes:
    return envelope([event(oid=oid) for oid in oids], number)


def oids(lines: list[bytes]) -> list[int]:
    found = []
    for line in lines:
        data = json.loads(line)
        found += [each["order"]["oid"] for each in data.get("events", [data])]
    return found


def aged(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


@pytest.fixture
def begin(start: StartTail) -> Any:
    return partial(start, start="oldest", locate_after_block=partial(locate_after_block, max_line=1 << 20))


@pytest.fixture
def streaming(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def by_block(tmp_path: Path) -> Node:
    return Node(tmp_path, "node_order_statuses_by_block")


@pytest.mark.parametrize(
    ("ages", "dates", "chosen"),
    [
        ((3600.0, 0.0, 7200.0), ("20260505",) * 3, "by_block"),
        ((3600.0, 3600.0, 0.0), ("20260505",) * 3, "plain"),
        ((3.0, 0.0, 0.0), ("20260505",) * 3, "streaming"),
        ((3.0, 0.0, 0.0), ("20260404", "20260505", "20260505"), "by_block"),
        ((0.0, 3600.0, 3600.0), ("20260404", "20260505", "20260505"), "streaming"),
    ],
)
def test_which_is_being_written(
    tmp_path: Path, ages: tuple[float, ...], dates: tuple[str, ...], chosen: str
) -> None:
    """The layout written last is chosen; on a tie, the newest date, then the order of preference."""
    for name, age, date in zip(layout.LAYOUTS, ages, dates, strict=True):
        path = hour_file(tmp_path, name, date, 9)
        path.write_bytes(b"{}\n")
        aged(path, age)
    choice = layout.choose_layout(tmp_path)
    assert (choice.layout, set(choice.others)) == (chosen, set(layout.LAYOUTS) - {chosen})


@pytest.mark.fault(44)
def test_behind_the_last_block(begin: Any, streaming: Node, by_block: Node) -> None:
    """After the change, no block is repeated or missing, including those in older hours of the new folder."""
    for name, first in (("20260505/9", 100), ("20260505/10", 103)):
        streaming.write(name, b"".join(block(first + i // 2, 2 * first + i) for i in range(6)))
    tail = begin()
    tail.settle()
    assert tail.follower.layout == "streaming"
    for name, first in (("20260505/9", 100), ("20260505/10", 103), ("20260505/11", 107)):
        by_block.write(
            name, b"".join(block(first + i, 2 * (first + i), 2 * (first + i) + 1) for i in range(4))
        )
    tail.wait(STALE - 1)
    assert tail.follower.layout == "streaming", "not while it may still be written"
    tail.wait(3)
    by_block.write("20260505/11", block(111, 222, 223))
    tail.wait(2)
    assert tail.follower.layout == "by_block"
    assert oids(tail.lines) == list(range(200, 224))
    assert any("continuing with layout by_block, after block 105" in notice for notice in tail.notices)
    by_block.write("20260505/12", block(112, 224))
    tail.settle()
    streaming.write("20260505/12", block(200, 999))
    tail.wait(1)
    assert oids(tail.lines) == list(range(200, 225))


@pytest.mark.fault(44)
@pytest.mark.parametrize("order", ["to plain", "from plain"])
def test_without_a_block_number_at_the_first_line(
    tmp_path: Path, begin: Any, streaming: Node, order: str
) -> None:
    old, new = streaming, Node(tmp_path, "node_order_statuses")
    if order == "from plain":
        old, new = new, old
    as_lines = {streaming: lambda oid: block(100 + oid, oid)}
    made = [as_lines.get(each, lambda oid: plain(event(oid=oid))) for each in (old, new)]
    old.write("20260505/9", made[0](1) + made[0](2))
    tail = begin()
    tail.settle()
    tail.wait(STALE + 2)
    new.write("20260505/9", made[1](2))
    new.write("20260505/10", made[1](3))
    tail.wait(2)
    assert oids(tail.lines) == [1, 2, 2, 3]
    assert any("at the first line of" in notice for notice in tail.notices)


@pytest.mark.fault(44)
def test_stale_from_the_start(begin: Any, streaming: Node, by_block: Node) -> None:
    """If the last file is already old at the start, the change is not delayed."""
    aged(streaming.write("20260401/9", block(1, 1)), 30 * 86400)
    tail = begin()
    tail.wait(2)
    by_block.write("20260505/9", block(2, 2))
    tail.wait(2)
    assert (tail.follower.layout, oids(tail.lines)) == ("by_block", [1, 2])


@pytest.mark.fault(44)
def test_a_torn_line_of_the_old_layout(begin: Any, streaming: Node, by_block: Node) -> None:
    streaming.write("20260505/9", block(1, 1) + block(2, 2)[:-1])
    tail = begin()
    tail.settle()
    tail.wait(STALE + 2)
    by_block.write("20260505/9", block(1, 1) + block(2, 2) + block(3, 3))
    tail.wait(2)
    assert oids(tail.lines)[:1] == [1]
    assert 3 in oids(tail.lines)
    assert oids(tail.lines) in ([1, 2, 3], [1, 2, 2, 3])


@pytest.mark.fault(44)
def test_both_are_written(begin: Any, streaming: Node, by_block: Node) -> None:
    """The followed layout is kept while it grows; a configured one always, but the growing one is named."""
    streaming.write("20260505/9", block(1, 1))
    by_block.write("20260505/9", block(1, 1))
    tail, fixed = begin(), begin(layout="by_block")
    for number in range(2, 8):
        streaming.write("20260505/9", block(number, number))
        for each in (tail, fixed):
            each.wait(STALE / 2)
        if number < 3:
            by_block.write("20260505/9", block(number, number))
    assert oids(tail.lines) == [1, 2, 3, 4, 5, 6, 7]
    assert oids(fixed.lines) == [1, 2]
    assert tail.follower.growing_layout == ""
    assert fixed.follower.growing_layout.startswith("layout streaming is being written: ")
    by_block.write("20260505/9", block(3, 3))
    fixed.wait(1)
    assert fixed.follower.growing_layout == ""


@pytest.mark.fault(44)
@pytest.mark.parametrize("how", ["auto", "by hand"])
def test_over_a_restart(begin: Any, streaming: Node, by_block: Node, how: str) -> None:
    """If the position is in another layout, reading continues after its block."""
    streaming.write("20260505/9", block(1, 1) + block(2, 2))
    tail = begin()
    tail.settle()
    position = Position.from_json(tail.position().to_json())
    streaming.write("20260505/9", block(3, 3))
    by_block.write("20260505/9", block(1, 1) + block(2, 2) + block(3, 3) + block(4, 4))
    resumed = begin(resume=position, layout="auto" if how == "auto" else "by_block")
    resumed.settle()
    if how == "auto":
        assert (resumed.follower.layout, oids(resumed.lines)) == ("streaming", [3])
        resumed.wait(STALE + 2)
        by_block.write("20260505/9", block(5, 5))
        resumed.wait(2)
        assert oids(resumed.lines) == [3, 4, 5]
    else:
        assert oids(resumed.lines) == [3, 4]
    assert resumed.follower.resume_losses == 0


@pytest.mark.parametrize("column", ["streaming", "by_block"])
def test_find_behind_a_block(tmp_path: Path, column: str) -> None:
    """The search finds the right line for blocks in, between, before and after the files."""
    old = tmp_path / "old"
    paths = [hour_file(tmp_path, column, "20260505", hour) for hour in (9, 10, 11)]
    blocks = {9: (10, 20), 10: (20, 20), 11: (25, 40)}
    lines: list[tuple[int, int, int]] = []  # hour, offset, block
    for path, (first, end) in zip(paths, blocks.values(), strict=True):
        data = b"{}\n"
        for number in range(first, end, 2):
            for _ in range(3 if column == "streaming" else 1):
                lines.append((int(path.name), len(data), number))
                data += block(number, *range(number % 5 + 1))
        path.write_bytes(data)
    hours = layout.hour_files(layout.hourly_folder(tmp_path, column))
    for number in (5, 10, 11, 17, 18, 19, 23, 25, 30, 38, 50):
        old.write_bytes(b"torn\n" + block(number, 1))
        found = locate_after_block(str(old), old.stat().st_size, hours, max_line=1 << 20)
        assert found is not None
        assert found[2] == number
        there = [(hour, offset) for hour, offset, of in lines if (hour, offset) >= (found[0].hour, found[1])]
        assert there == [(hour, offset) for hour, offset, of in lines if of > number]
    old.write_bytes(plain(event()))
    assert locate_after_block(str(old), old.stat().st_size, hours, max_line=1 << 20) is None
    assert locate_after_block(str(tmp_path / "gone"), 5, hours, max_line=1 << 20) is None


@pytest.mark.fault(44)
@both_ways
def test_under_the_server(tmp_path: Path, inotify: bool) -> None:
    """Clients get each order once, a cursor of the old layout is refused, and /health recovers."""
    old, new = (hour_file(tmp_path, name, "20260505", 9) for name in ("streaming", "by_block"))
    new.unlink(missing_ok=True)
    old.write_bytes(block(1, 1) + block(2, 2))
    how = "--inotify" if inotify else "--no-inotify"
    options = ("--from", "oldest", how, "--rescan-s", "0.1", "--stale-after-s", "1")
    with serve(tmp_path, *options) as running, Bot(running) as bot:
        bot.subscribe(type="orders", format="raw")
        wait_for("503", lambda: running.get("/health")[0] == 503)
        new.write_bytes(block(1, 1) + block(2, 2) + block(3, 3))
        got: list[int] = []
        for number in range(4, 7):
            while 3 not in got and number == 4:
                message = bot.next()
                got += [each["order"]["oid"] for each in message["data"]]
            with new.open("ab") as file:
                file.write(block(number, number))
            message = bot.next()
            got += [each["order"]["oid"] for each in message["data"]]
            assert message["cursor"].startswith("orders:0000000000")
        assert [oid for oid in got if oid > 2] == [3, 4, 5, 6]
        assert json.loads(running.get("/health")[1])["reason"] is None
        cursor = "s2026050509-0000000000000-0000000"
        bot.send({"method": "subscribe", "subscription": {"type": "orders", "cursor": cursor}})
        answer = bot.next()
        assert answer["channel"] == "error"
        assert "the cursor is of layout streaming, but this server reads by_block" in json.dumps(answer)


@pytest.mark.fault(44)
def test_health_names_the_other_folder(tmp_path: Path) -> None:
    old, new = (hour_file(tmp_path, name, "20260505", 9) for name in ("streaming", "by_block"))
    old.write_bytes(block(1, 1))
    options = ("--layout", "streaming", "--rescan-s", "0.1", "--stale-after-s", "0.5")
    with serve(tmp_path, *options) as running:
        number = 1

        def named() -> bool:
            nonlocal number
            number += 1
            with new.open("ab") as file:
                file.write(block(number, number))
            status, body = running.get("/health")
            return status == 503 and f"layout by_block is being written: {new.parent.parent}" in body

        wait_for("the other folder in /health", named)
