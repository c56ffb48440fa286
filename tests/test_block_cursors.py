"""Cursors that name a block: where each is found in a node's files, and clients that move between nodes."""

from __future__ import annotations

import json
import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from fill_lines import events_of, in_block, match
from lines import envelope, event
from running import Serve, command, hour_file, serve, wait_for
from test_ws import USERS, Bot, append, by_layout

from fasttail.replay.block_search import BlockAheadError, BlockSearch, BlockTooOldError, NoBlocksError
from fasttail.sources.cursor import BlockPosition, CursorPosition
from fasttail.sources.layout import HourFile, hour_files, hourly_folder
from fasttail.tools.exchange.chain import ExchangeOptions
from fasttail.tools.exchange.prepared import prepare

Blocks = list[tuple[int, list[dict[str, Any]]]]
"""Writings of blocks in order: height and events."""


def lines_of(blocks: Blocks, layout: str) -> list[bytes]:
    if layout == "by_block":
        return [envelope(events, height) for height, events in blocks]
    return [envelope([each], height) for height, events in blocks for each in events]


def write_hours(folder: Path, lines: list[bytes], layout: str, cuts: list[int]) -> list[HourFile]:
    """Write the lines to hour files, which begin at the lines `cuts`."""
    for hour, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(lines)], strict=True)):
        hour_file(folder, layout, "20260505", hour).write_bytes(b"".join(lines[begin:end]))
    return hour_files(hourly_folder(folder, layout))


def oids_behind(hours: list[HourFile], position: CursorPosition) -> list[int]:
    """Return the oids after a position."""
    found: list[int] = []
    for hour in hours:
        if hour.number < position.hour:
            continue
        data = Path(hour.path).read_bytes()[position.offset if hour.number == position.hour else 0 :]
        for number, line in enumerate(data.splitlines()):
            skipped = position.events_consumed if number == 0 and hour.number == position.hour else 0
            found += [each["order"]["oid"] for each in json.loads(line)["events"][skipped:]]
    return found


def search(hours: list[HourFile]) -> BlockSearch:
    return BlockSearch(hours, max_line=1 << 20, stream="orders")


def chain(chance: random.Random, count: int, first: int = 7000) -> Blocks:
    oids = iter(range(10**9))
    return [
        (first + i, [event(oid=next(oids)) for _ in range(chance.choice([1, 1, 2, 30]))])
        for i in range(count)
    ]


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
@pytest.mark.parametrize("seed", range(4))
def test_every_position_is_found(tmp_path: Path, layout: str, seed: int) -> None:
    """Hours begin anywhere, in the streaming layout also within a block."""
    chance = random.Random(seed)
    blocks = chain(chance, 60)
    lines = lines_of(blocks, layout)
    hours = write_hours(tmp_path, lines, layout, sorted(chance.sample(range(1, len(lines)), 3)))
    rest = [each["order"]["oid"] for _, events in blocks for each in events]
    for height, events in blocks:
        for number in range(len(events) + 1):
            found = search(hours).find(BlockPosition(height, number))
            assert oids_behind(hours, found) == rest[number:], (height, number)
        rest = rest[len(events) :]


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
@pytest.mark.parametrize("torn", [False, True])
def test_blocks_that_are_written_again(tmp_path: Path, layout: str, torn: bool) -> None:
    """Whatever writing is found: what follows, without repetitions, is what a client has not got."""
    blocks = [(7000 + i, [event(oid=10 * i + k) for k in range(4)]) for i in range(40)]
    first = blocks[:30]
    if torn:
        first = [*first[:-1], (first[-1][0], first[-1][1][:2])]
    lines = lines_of([*first, *blocks[20:]], layout)
    hours = write_hours(tmp_path, lines, layout, [len(lines) // 3])
    oids = [each["order"]["oid"] for _, events in blocks for each in events]
    for i, (height, events) in enumerate(blocks):
        for number in range(1, len(events) + 1):
            behind = oids_behind(hours, search(hours).find(BlockPosition(height, number)))
            wanted = oids[4 * i + number :]
            assert list(dict.fromkeys(oid for oid in behind if oid in set(wanted))) == wanted, (
                height,
                number,
            )


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
@pytest.mark.parametrize("seed", range(6))
def test_a_node_that_restarts_over_and_over(tmp_path: Path, layout: str, seed: int) -> None:
    """Repetitions begin within blocks and go over several hours: all that is missing is behind a position."""
    chance = random.Random(seed)
    blocks = chain(chance, 50)
    written: Blocks = []
    at = 0
    while at < len(blocks):
        height, events = blocks[at]
        if at > 5 and chance.random() < 0.15:
            torn = events[: chance.randrange(len(events))] if layout == "streaming" else []
            written += [(height, torn)] if torn else []
            at -= chance.randrange(2, 6)
            continue
        written.append(blocks[at])
        at += 1
    lines = lines_of(written, layout)
    hours = write_hours(tmp_path, lines, layout, sorted(chance.sample(range(1, len(lines)), 6)))
    rest = [each["order"]["oid"] for _, events in blocks for each in events]
    for height, events in blocks[1:]:
        rest = rest[len(blocks[height - 7001][1]) :]
        for number in range(1, len(events) + 1):
            behind = set(oids_behind(hours, search(hours).find(BlockPosition(height, number))))
            assert behind >= set(rest[number:]), (height, number)


def test_a_line_without_events_has_no_part_in_its_block(tmp_path: Path) -> None:
    blocks: Blocks = [
        *((6999, [event(oid=0)]), (7000, []), (7000, [event(oid=1), event(oid=2)])),
        *((7001, []), (7002, [event(oid=3)])),
    ]
    hours = write_hours(tmp_path, lines_of(blocks, "by_block"), "by_block", [])
    for position, rest in ((7000, 1), [2, 3]), ((7000, 2), [3]), ((7001, 0), [3]), ((7002, 1), []):
        assert oids_behind(hours, search(hours).find(BlockPosition(*position))) == rest


def test_positions_that_are_not_on_disk(tmp_path: Path) -> None:
    hours = write_hours(tmp_path, lines_of(chain(random.Random(1), 9), "streaming"), "streaming", [3])
    with pytest.raises(BlockTooOldError) as too_old:
        search(hours).find(BlockPosition(6999, 1))
    assert too_old.value.oldest == BlockPosition(7000, 0)
    for ahead in (BlockPosition(7008, 99), BlockPosition(7009, 0), BlockPosition(10**11, 1)):
        with pytest.raises(BlockAheadError) as error:
            search(hours).find(ahead)
        assert error.value.newest == 7008
    hour_file(tmp_path, "plain", "20260505", 0).write_bytes(by_layout("plain", [event()]))
    with pytest.raises(NoBlocksError):
        search(hour_files(hourly_folder(tmp_path, "plain"))).find(BlockPosition(7000, 0))


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
def test_the_position_of_a_line(tmp_path: Path, layout: str) -> None:
    blocks = chain(random.Random(2), 20)
    lines = lines_of(blocks, layout)
    second = len(lines) // 2
    hours = write_hours(tmp_path, lines, layout, [second])
    offset, before = 0, (0, 0)
    for number, line in enumerate(lines):
        offset = 0 if number == second else offset
        height, count = json.loads(line)["block_number"], len(json.loads(line)["events"])
        events = before[1] if before[0] == height else 0
        hour = hours[number >= second].number
        assert search(hours).position_at(CursorPosition(hour, offset)) == BlockPosition(height, events)
        offset += len(line)
        before = height, events + count
    assert search(hours).position_at(CursorPosition(hours[1].number, offset)) is None


@pytest.mark.parametrize("newline", [True, False])
def test_a_server_that_starts_in_the_first_block_of_an_hour(folder: Path, newline: bool) -> None:
    """The block began in the hour before, whose last line may lack its newline."""
    lines = lines_of([(7000, [event(oid=oid) for oid in range(40)])], "streaming")
    first = hour_file(folder, "streaming", "20260505", 23)
    first.write_bytes(b"".join(lines[:10]).removesuffix(b"" if newline else b"\n"))
    second = hour_file(folder, "streaming", "20260506", 0)
    second.write_bytes(b"".join(lines[10:13]))
    with serve(folder) as server:
        with Bot(server) as bot:
            assert bot.subscribe(type="orders")["cursor"] == "orders:000000007000-0000013"
        for number in (5, 9, 10, 11, 13):
            with Bot(server) as bot:
                bot.subscribe(type="orders", format="raw", cursor=f"orders:000000007000-{number:07d}")
                got: list[int] = []
                while (message := bot.next())["channel"] == "orders":
                    got += [each["order"]["oid"] for each in message["data"]]
                    assert message["cursor"] == f"orders:000000007000-{got[-1] + 1:07d}"
                assert got == list(range(number, 13))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def oids_up_to(bot: Bot, last: int) -> list[int]:
    """Return the oids that a client of raw orders gets, up to the last one."""
    got: list[int] = []
    while not got or got[-1] != last:
        message = bot.next()
        assert message["channel"] in ("orders", "live"), message
        if message["channel"] == "orders":
            got += [each["order"]["oid"] for each in message["data"]]
    return got


def resume(bot: Bot, cursor: str, **subscription: object) -> None:
    """Subscribe to orders behind a cursor, which the server accepts as it is."""
    assert bot.subscribe(type="orders", cursor=cursor, **subscription)["cursor"] == cursor


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
def test_cursors_name_blocks_wherever_they_are_said(folder: Path, layout: str) -> None:
    path = hour_file(folder, layout, "20260505", 17)
    events = [event(oid=i) for i in range(95)]
    path.write_bytes(by_layout(layout, events))
    with serve(folder) as server, Bot(server) as bot:
        assert bot.subscribe(type="orders")["cursor"] == "orders:000000007009-0000005"
        append(path, by_layout(layout, [event(oid=i) for i in range(95, 97)]))
        expected = "orders:000000007009-0000007"
        assert bot.next()["cursor"] == expected
        with Bot(server) as other:
            resume(other, "orders:000000007003-0000004")
            got: list[int] = []
            while (message := other.next())["channel"] == "orders":
                got += [each["oid"] for each in message["data"]]
                assert message["cursor"] == f"orders:{7000 + got[-1] // 10:012d}-{got[-1] % 10 + 1:07d}"
            assert got == list(range(34, 97))
            assert message["channel"] == "live"
            assert message["cursor"] == expected
        with Bot(server) as other:
            error = other.ask("subscribe", type="orders", since="2001-01-01T00:00:00")["data"]
            assert "older than the oldest event on disk, orders:000000007000-0000000" in error


def test_a_cursor_of_the_files_is_still_accepted(folder: Path) -> None:
    path = hour_file(folder, "by_block", "20260505", 17)
    path.write_bytes(by_layout("by_block", [event(oid=i) for i in range(30)]))
    with serve(folder) as server, Bot(server) as bot:
        resume(bot, "b2026050517-0000000000000-0000004")
        message = bot.next()
        assert [each["oid"] for each in message["data"]] == list(range(4, 30))
        assert message["cursor"] == "orders:000000007002-0000010"


@pytest.mark.parametrize(
    ("layout", "cursor", "error"),
    [
        ("plain", "orders:000000007000-0000001", "but the lines of layout plain name none"),
        ("by_block", "orders:000000006999-0000001", "the oldest is orders:000000007000-0000000"),
        ("by_block", "orders:000000999999-0000001", "992990 blocks ahead of this node, whose newest is 7009"),
        ("by_block", "fills:000000007000-0000001", "the cursor is of stream fills, not orders"),
        ("by_block", "orders:7000-1", "not a cursor"),
    ],
)  # fmt: skip
def test_cursors_that_cannot_be_resumed(folder: Path, layout: str, cursor: str, error: str) -> None:
    hour_file(folder, layout, "20260505", 17).write_bytes(
        by_layout(layout, [event(oid=i) for i in range(100)])
    )
    with serve(folder) as server, Bot(server) as bot:
        assert error in bot.ask("subscribe", type="orders", cursor=cursor)["data"]


def test_where_blocks_are_delivered_again_cursors_name_the_files(folder: Path) -> None:
    """A block may come twice there, so it is no position."""
    path = hour_file(folder, "streaming", "20260505", 17)
    events = [event(oid=i) for i in range(30)]
    path.write_bytes(by_layout("streaming", events + events))
    with serve(folder, "--replayed-blocks", "deliver") as server, Bot(server) as bot:
        begin = "s2026050517-0000000000000-0000000"
        bot.subscribe(type="orders", format="raw", cursor=begin)
        got: list[int] = []
        while (message := bot.next())["channel"] == "orders":
            got += [each["order"]["oid"] for each in message["data"]]
            assert message["cursor"].startswith("s2026050517-")
        assert got == [*range(30), *range(30)]
        assert message["cursor"] == f"s2026050517-{path.stat().st_size:013d}-0000000"
        ahead = bot.ask("subscribe", type="orders", coins=["A"], cursor="orders:000000007005-0000001")
        assert "3 blocks ahead of this node, whose newest is 7002" in ahead["data"]
        with Bot(server) as other:  # a client from another server
            resume(other, "orders:000000007002-0000004", format="raw")
            assert oids_up_to(other, 29)[-6:] == list(range(24, 30))


def test_a_cursor_ahead_of_the_node_is_waited_for(folder: Path) -> None:
    """The node is a few blocks behind the one that the cursor is from."""
    path = hour_file(folder, "streaming", "20260505", 17)
    path.write_bytes(by_layout("streaming", [event(oid=i) for i in range(20)]))
    with serve(folder) as server, Bot(server) as bot:
        resume(bot, "orders:000000007004-0000007", format="raw")
        append(path, by_layout("streaming", [event(oid=i) for i in range(20, 45)]))
        append(path, by_layout("streaming", [event(oid=i) for i in range(45, 60)]))
        assert oids_up_to(bot, 59) == list(range(47, 60))
        with Bot(server) as leaving:  # one that waits may leave
            leaving.subscribe(type="orders", cursor="orders:000000008000-0000001")
            assert leaving.ask("unsubscribe", type="orders")["data"]["method"] == "unsubscribe"


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
def test_a_server_that_starts_within_a_large_block_knows_its_position(folder: Path, layout: str) -> None:
    """Half a megabyte of the block is before the place where reading begins."""
    path = hour_file(folder, layout, "20260505", 17)
    blocks: Blocks = [(7000, [event()]), (7001, [event(oid=oid) for oid in range(1500)])]
    path.write_bytes(b"".join(lines_of(blocks, layout)))
    with serve(folder) as server, Bot(server) as bot:
        assert bot.subscribe(type="orders")["cursor"] == "orders:000000007001-0001500"
        append(path, b"".join(lines_of([(7001, [event(), event()])], layout)))
        assert bot.next()["cursor"] == "orders:000000007001-0001502"
        with Bot(server) as other:
            other.subscribe(type="orders", format="raw", cursor="orders:000000007001-0001400")
            oids: list[int] = []
            while len(oids) < 102:
                message = other.next()
                oids += [each["order"]["oid"] for each in message["data"]]
            assert oids[:100] == list(range(1400, 1500))
            assert message["cursor"] == "orders:000000007001-0001502"


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
@pytest.mark.parametrize("height", [7050, 7150, 7199, 7230, 7299])
def test_a_server_that_starts_within_a_repetition(folder: Path, layout: str, height: int) -> None:
    """The node wrote blocks up to 7299, and again from 7100 on; the server starts at 7200.

    The repetition is longer than what the server reads back.
    """
    path = hour_file(folder, layout, "20260505", 17)
    blocks: Blocks = [(7000 + i, [event(oid=10 * i + k) for k in range(6)]) for i in range(320)]
    path.write_bytes(b"".join(lines_of([*blocks[:300], *blocks[100:200]], layout)))
    with serve(folder) as server, Bot(server) as bot, Bot(server) as other:
        bot.subscribe(type="orders", format="raw", cursor=f"orders:{height:012d}-0000004")
        other.subscribe(type="orders", format="raw", cursor="orders:000000007120-0000006")
        time.sleep(0.3)
        for begin in range(200, 320, 20):
            append(path, b"".join(lines_of(blocks[begin : begin + 20], layout)))
            time.sleep(0.05)
        for each, first in ((bot, (height, 4)), (other, (7120, 6))):
            expected = [
                oid["order"]["oid"]
                for at, events in blocks
                for number, oid in enumerate(events, 1)
                if (at, number) > first
            ]
            got: list[int] = []
            while not got or got[-1] != expected[-1]:
                message = each.next()
                got += (
                    [] if message["channel"] == "live" else [one["order"]["oid"] for one in message["data"]]
                )
            assert got == expected


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
@pytest.mark.parametrize("height", [7180, 7210, 7248, 7249, 7290])
@pytest.mark.parametrize("next_hour", [False, True])
def test_a_client_that_resumes_during_a_repetition(
    folder: Path, layout: str, height: int, next_hour: bool
) -> None:
    """The server has read blocks up to 7299; the node is at 7249 again, perhaps in the next hour's file."""
    path = hour_file(folder, layout, "20260505", 17)
    blocks: Blocks = [(7000 + i, [event(oid=10 * i + k) for k in range(6)]) for i in range(320)]
    path.write_bytes(b"".join(lines_of(blocks[:299], layout)))
    with serve(folder) as server, Bot(server) as live, Bot(server) as bot:
        live.subscribe(type="orders", format="raw")
        append(path, b"".join(lines_of(blocks[299:300], layout)))
        assert oids_up_to(live, 2995) == list(range(2990, 2996))
        path = hour_file(folder, layout, "20260505", 18) if next_hour else path
        with path.open("ab") as file:
            file.write(b"".join(lines_of(blocks[150:250], layout)))
        server.wait_metric("fasttail_replayed_events_total", 600)
        bot.subscribe(type="orders", format="raw", cursor=f"orders:{height:012d}-0000004")
        append(path, b"".join(lines_of(blocks[250:], layout)))
        rest = [each["order"]["oid"] for _, events in blocks[height - 7000 :] for each in events][4:]
        assert oids_up_to(bot, rest[-1]) == rest
        assert oids_up_to(live, rest[-1]) == rest[-120:]


@pytest.mark.parametrize("number", range(1, 4))
def test_no_trade_is_lost_between_its_fills_in_a_repetition(folder: Path, number: int) -> None:
    """The cursor stands between the two fills of a match whose block is written again."""
    path = hour_file(folder, "streaming", "20260505", 17, stream="node_fills")
    events = {
        i: [*match(i, *USERS[:2], coin="BTC"), *match(1000 + i, *USERS[:2], coin="BTC")] for i in range(105)
    }
    lines = {
        i: [envelope([cast("Any", each)], 7000 + i) for each in in_block(fills, 7000 + i)]
        for i, fills in events.items()
    }
    path.write_bytes(b"".join(line for i in [*range(100), *range(60, 105)] for line in lines[i]))
    with serve(folder) as server, Bot(server) as bot:
        bot.subscribe(type="trades", coin="BTC", cursor=f"fills:000000007080-{number:07d}")
        got: list[int] = []
        while not got or got[-1] != 1104:
            message = bot.next()
            got += [each["tid"] for each in message["data"]] if message["channel"] == "trades" else []
        first = [80, 1080][number // 2 :]
        assert got == [*first, *(tid for i in range(81, 105) for tid in (i, 1000 + i))]


def test_a_block_larger_than_the_longest_line_is_numbered_right(folder: Path) -> None:
    path = hour_file(folder, "streaming", "20260505", 17)
    lines = lines_of([(7000, [event()]), (7001, [event(oid=i) for i in range(3000)])], "streaming")
    path.write_bytes(b"".join(lines))
    with serve(folder, "--max-line", "64k", "--block-size", "64k") as server, Bot(server) as bot:
        assert bot.subscribe(type="orders")["cursor"] == "orders:000000007001-0003000"


@pytest.mark.parametrize("layout", ["streaming", "by_block"])
def test_the_position_of_a_line_where_blocks_are_written_again(tmp_path: Path, layout: str) -> None:
    blocks: Blocks = [(7000 + i, [event(oid=10 * i + k) for k in range(6)]) for i in range(60)]
    lines = lines_of([*blocks[:50], *blocks[30:]], layout)
    second = len(lines_of(blocks[:50], layout))
    hours = write_hours(tmp_path, lines, layout, [second])
    offset, before = 0, (0, 0)
    for line in lines[second:]:
        height, count = json.loads(line)["block_number"], len(json.loads(line)["events"])
        events = before[1] if before[0] == height else 0
        found = search(hours).position_at(CursorPosition(hours[1].number, offset))
        assert found == BlockPosition(height, events)
        offset += len(line)
        before = height, events + count


MOVES = 100
FOLDERS = {"orders": "node_order_statuses", "fills": "node_fills"}


def moved(servers: list[Serve], kind: str) -> list[Any]:
    """Return what a client gets that moves between servers at random, with its last cursor."""
    chance = random.Random(kind)
    got: list[Any] = []
    cursor: dict[str, str] = {}
    for _ in range(MOVES):
        with Bot(chance.choice(servers)) as bot:
            cursor = {"cursor": bot.subscribe(type=kind, format="raw", **cursor)["cursor"]}
            for _ in range(chance.randrange(4)):
                message = bot.next()
                assert message["channel"] in (kind, "live"), message
                cursor = {"cursor": message["cursor"]}
                got += message["data"] if message["channel"] == kind else []
    return got


def written(node: Path, folder: str) -> list[Any]:
    """Return all events of a node that writes each block once."""
    files = sorted(node.glob(f"{folder}_*/hourly/*/*"), key=lambda path: (path.parent.name, int(path.name)))
    return [each for path in files for line in path.read_bytes().splitlines() for each in events_of(line)[1]]


@pytest.mark.plain_build
def test_a_client_moves_between_nodes(tmp_path: Path) -> None:
    """Two nodes of one chain, in other layouts and hours, one a moment behind the other."""
    prepared = tmp_path / "chain"
    market = ExchangeOptions(resting=500, block_lines=100.0, streams=tuple(FOLDERS))
    prepare(prepared, market, lines=120_000)
    nodes = {"by_block": (tmp_path / "a", 2), "streaming": (tmp_path / "b", 3)}
    writers: list[subprocess.Popen[bytes]] = []
    try:
        for layout, (node, hour_s) in nodes.items():
            replay = "--replay", prepared, "--streams", ",".join(FOLDERS), "--rate", 4000
            synth = command("synth", node, *replay, "--layout", layout, "--hour-seconds", hour_s)
            writers.append(subprocess.Popen(synth, stdout=subprocess.DEVNULL))
            time.sleep(0.2)
        wait_for("fills", lambda: len(list(tmp_path.glob("?/node_fills*/hourly/*/*"))) >= 2)
        with (
            serve(nodes["by_block"][0]) as one,
            serve(nodes["streaming"][0]) as other,
            ThreadPoolExecutor(2) as threads,
        ):
            got = dict(zip(FOLDERS, threads.map(partial(moved, [one, other]), FOLDERS), strict=True))
    finally:
        for writer in writers:
            writer.terminate()
            writer.wait()
    for kind, folder in FOLDERS.items():
        expected = written(nodes["by_block"][0], folder)
        both = written(nodes["streaming"][0], folder)
        assert expected[: len(both)] == both[: len(expected)]
        assert len(got[kind]) > 100
        begin = expected.index(got[kind][0])
        assert got[kind] == expected[begin : begin + len(got[kind])]
