"""Holes of NUL bytes that are filled later or never: mirrors that write out of order, preallocation."""

# ruff: noqa: F811 (fixtures of test_follower)
from __future__ import annotations

import os
import random
import time
from pathlib import Path

import psutil
import pytest
from driving import Drive
from lines import event, plain
from running import hour_file, serve
from test_follower import GRACE, Node, StartTail, Tail, node, start  # noqa: F401  (fixtures)
from test_ws import Bot

from fasttail.engine.events import BatchEnd, FileOpened
from fasttail.sources.files import last_line_start
from fasttail.sources.position import Position
from fasttail.sources.previous_hours import HOLE_TIMEOUT_S, MAX_HOLES
from fasttail.state.delivered import DeliveredPosition

both_ways = pytest.mark.parametrize("inotify", [True, False], ids=["inotify", "polling"])
LINES = [b"line %d %s\n" % (number, b"x" * (number % 7)) for number in range(20)]
CONTENT = b"".join(LINES)


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def with_hole(content: bytes, begin: int, end: int) -> bytes:
    return content[:begin] + bytes(end - begin) + content[end:]


def whole(lines: list[bytes]) -> list[bytes]:
    """Drop the pieces of lines beside a hole, which the parser rejects."""
    return [line for line in lines if line + b"\n" in LINES]


@pytest.mark.fault(15)
@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 100_000])
def test_a_preallocated_file(node: Node, start: StartTail, size: int) -> None:
    """Lines that replace NUL bytes up to the end come in order, once each, and none counts as late."""
    path = node.write("20260505/9", bytes(size))
    tail = start(start="oldest", window=50)
    tail.settle()
    rng = random.Random(1)
    at = 0
    while at < len(CONTENT):
        step = rng.randrange(1, 60)
        put(path, at, CONTENT[at : at + step])
        at += step
        tail.settle()
    assert [line + b"\n" for line in tail.lines] == LINES
    assert tail.late == []
    os.truncate(path, len(CONTENT))  # as the writer does when it closes the file
    node.write("20260505/9", b"more\n")
    node.write("20260505/10", b"next\n")
    assert tail.settle()[len(LINES) :] == [b"more", b"next"]
    assert tail.follower.truncations == 0


@pytest.mark.fault(15)
def test_preallocated_at_the_start(node: Node, start: StartTail) -> None:
    """`--from end` starts after the last line, not after the NUL bytes, however many there are."""
    path = node.write("20260505/9", b"old\n")
    os.truncate(path, 200 << 20)
    assert last_line_start(str(path)) == 4
    tail = start()
    tail.settle()
    put(path, 4, b"new\n")
    tail.clock.now += 2
    assert tail.settle() == [b"new"]


@pytest.mark.fault(15)
@pytest.mark.parametrize("begin", [0, len(LINES[0]), len(LINES[0]) + 3])
@pytest.mark.parametrize("end", [len(b"".join(LINES[:7])), len(b"".join(LINES[:7])) + 2])
@pytest.mark.parametrize("window", [7, 1 << 16])
def test_a_hole_is_filled(node: Node, start: StartTail, begin: int, end: int, window: int) -> None:
    """Data behind a hole comes at once, and the hole's lines once they are written."""
    path = node.write("20260505/9", with_hole(CONTENT, begin, end))
    tail = start(start="oldest", window=window)
    before = whole(tail.settle())
    assert (
        before
        == whole(tail.lines)
        == [
            line[:-1]
            for line in LINES
            if end <= CONTENT.index(line) or CONTENT.index(line) + len(line) <= begin
        ]
    )
    tail.wait(GRACE + 1)
    put(path, begin, CONTENT[begin:end])
    tail.wait(1)
    got = whole(tail.lines)
    assert sorted(got) == sorted(line[:-1] for line in LINES), "each once"
    late = [line for line in got if line not in before]
    assert [line + b"\n" for line in late] == [line for line in LINES if line[:-1] in late], "in order"
    assert tail.follower.truncations == 0
    node.write("20260505/9", b"more\n")
    node.write("20260505/10", b"next\n")
    assert tail.settle()[-2:] == [b"more", b"next"]


@pytest.mark.fault(15)
@pytest.mark.parametrize("seed", range(30))
def test_blocks_in_any_order(node: Node, start: StartTail, seed: int) -> None:
    """Blocks are written in any order while the tail reads in between and may be restarted."""
    rng = random.Random(seed)
    path = node.write("20260505/9", b"")
    size = rng.choice([5, 16, 64])
    blocks = list(range(0, len(CONTENT), size))
    for i in range(len(blocks) - 1):  # each up to three positions from its own
        j = min(len(blocks) - 1, i + rng.randrange(4))
        blocks[i], blocks[j] = blocks[j], blocks[i]
    tail = start(start="oldest", window=rng.choice([3, 1 << 16]))
    tails = [tail]
    for at in blocks:
        put(path, at, CONTENT[at : at + size])
        if rng.random() < 0.5:
            tails[-1].settle()
        if rng.random() < 0.2:
            tails[-1].wait(0.5)
        if rng.random() < 0.1:
            tails[-1].settle()
            position = Position.from_json(tails[-1].position().to_json())
            tails.append(start(resume=position, clock=tails[-1].clock))
    tails[-1].wait(2)
    got = [line for each in tails for line in whole(each.lines)]
    assert sorted(got) == sorted(line[:-1] for line in LINES)
    assert sum(each.follower.truncations + each.follower.resume_losses for each in tails) == 0


@pytest.mark.fault(15)
def test_a_hole_that_stays(node: Node, start: StartTail) -> None:
    """When a hole expires, its data and the partial line before it are delivered; later data is ignored."""
    path = node.write("20260505/9", b"one\ntorn" + bytes(30) + b"two\n")
    tail = start(start="oldest")
    assert tail.settle() == [b"one", b"two"]
    put(path, 20, b"\nisland\n")
    assert tail.wait(HOLE_TIMEOUT_S - 2) == [b"one", b"two"]
    assert tail.wait(3)[2:] == [b"torn", b"", b"island"]
    assert tail.follower.torn_lines == 1
    assert tail.follower.next_check_s > 0.5
    put(path, 8, b"too late\n")
    node.write("20260505/9", b"three\n")
    assert tail.wait(1)[5:] == [b"three"]


@pytest.mark.fault(15)
def test_many_holes(node: Node, start: StartTail) -> None:
    """At most MAX_HOLES are watched, and every line beside a hole is delivered."""
    count = 3 * MAX_HOLES
    content = b"".join(b"%05d\n" % number + bytes(10) for number in range(count)) + b"end\n"
    node.write("20260505/9", content)
    tail = start(start="oldest", window=64)
    tail.settle()
    assert tail.lines == [b"%05d" % number for number in range(count)] + [b"end"]
    assert len(tail.position().holes) == MAX_HOLES
    assert tail.reader.nul_bytes == 10 * count


@pytest.mark.fault(4, 15)
@pytest.mark.parametrize("where", ["end", "middle"])
def test_a_hole_of_a_former_hour(node: Node, start: StartTail, where: str) -> None:
    behind = b"behind\n" if where == "middle" else b""
    path = node.write("20260505/9", b"1\n" + bytes(12) + behind)
    node.write("20260505/10", b"2\n")
    tail = start(start="oldest")
    tail.settle()
    tail.wait(GRACE - 2)
    put(path, 2, b"filled\nlate\n")
    assert tail.wait(1) == [b"1", *behind.splitlines(), b"2", b"filled", b"late"]
    assert tail.late == [b"filled", b"late"]


@pytest.mark.fault(15)
def test_late_lines_behind_a_hole(node: Node, start: StartTail) -> None:
    """A writer continues at its position in a previous hour that was truncated."""
    path = node.write("20260505/9", b"1\n")
    node.write("20260505/10", b"2\n")
    tail = start(start="oldest")
    tail.settle()
    put(path, 50, b"late\n")
    assert tail.wait(1) == [b"1", b"2", b"late"]
    put(path, 2, b"x" * 47 + b"\n")
    assert tail.wait(1)[3:] == [b"x" * 47]


@pytest.mark.fault(15, 43)
def test_replaced_while_there_is_a_hole(node: Node, start: StartTail) -> None:
    """The copy contains the lines of the hole."""
    path = node.write("20260505/9", with_hole(CONTENT, len(LINES[0]), len(LINES[0] + LINES[1])))
    tail = start(start="oldest")
    tail.settle()
    new = path.with_name("new")
    new.write_bytes(CONTENT + b"more\n")
    new.rename(path)
    tail.wait(1)
    assert sorted(tail.lines) == sorted([*CONTENT.splitlines(), b"more"])


@pytest.mark.fault(15, 20)
def test_written_anew_with_a_hole_passed_over(node: Node, start: StartTail) -> None:
    """If the file is rewritten, the hole of the old content is forgotten."""
    path = node.write("20260505/9", b"1\n" + bytes(20) + b"2\n")
    tail = start(start="oldest")
    tail.settle()
    new = b"".join(b"new %d\n" % number for number in range(20))
    path.write_bytes(new)
    tail.wait(1)
    assert tail.lines == [b"1", b"2", *new.splitlines()]


@pytest.mark.fault(15, 27)
@both_ways
def test_a_kill_while_a_hole_is_open(tmp_path: Path, inotify: bool) -> None:
    """The checkpoint keeps skipped holes until their lines have been delivered."""
    path = hour_file(tmp_path, "plain", "20260505", 9)
    parts = [plain(event(oid=oid)) for oid in range(5)]
    lines = b"".join(parts)
    begin, end = len(parts[0]), len(b"".join(parts[:3]))
    path.write_bytes(with_hole(lines, begin, end))
    with Drive(tmp_path, inotify=inotify, rescan_s=0.1) as drive:
        delivered = DeliveredPosition(None, 5.0, skipped_holes=drive.follower.skipped_holes)
        drive.until_lines(3)
        for opened in drive.files:
            assert isinstance(opened, FileOpened)
            delivered.on_file_opened(opened)
        for ended in drive.ends:
            delivered.on_batch_end(ended)
        position = delivered.position()
        assert position is not None
        assert [(hole.offset, hole.end) for hole in position.holes] == [(begin, end)]
        put(path, begin, parts[1])
        drive.until_lines(4)
        done = [note for note in drive.ends if isinstance(note, BatchEnd)]
        delivered.on_batch_end(done[-1])
        half = delivered.position()
        assert half is not None
        assert [(hole.offset, hole.end) for hole in half.holes] == [(begin + len(parts[1]), end)]
    put(path, begin, parts[1] + parts[2])
    for place, missing in ((position, [1, 2]), (half, [2])):
        resume = Position.from_json(place.with_fingerprints().to_json())
        with Drive(tmp_path, inotify=inotify, resume=resume) as drive:
            drive.until_lines(len(missing))
            assert [int(each["id"]) for each in drive.updates()] == missing


@pytest.mark.fault(15)
@both_ways
def test_a_writer_that_fills_holes_under_the_server(tmp_path: Path, inotify: bool) -> None:
    """Clients get each order once: those behind the hole at once, those in it as it is filled."""
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.write_bytes(plain(event(oid=0)))
    how = "--inotify" if inotify else "--no-inotify"
    with serve(tmp_path, "--from", "oldest", how, "--rescan-s", "0.1") as running, Bot(running) as bot:
        running.wait_metric("fasttail_lines_total", 1)
        bot.subscribe(type="orders", format="raw")
        first = plain(*(event(oid=oid) for oid in range(1, 50)))
        at = path.stat().st_size
        os.truncate(path, at + len(first))
        with path.open("ab") as file:
            file.write(plain(event(oid=50)))
        assert [each["order"]["oid"] for each in bot.orders(1)] == [50]
        put(path, at, first[: len(first) // 2])
        time.sleep(0.3)
        put(path, at + len(first) // 2, first[len(first) // 2 :])
        assert [each["order"]["oid"] for each in bot.orders(49)] == list(range(1, 50))
        assert running.metric("fasttail_nul_bytes_total") == len(first)
        assert running.metric("fasttail_late_lines_total") == 49
        assert running.metric("fasttail_rejected_lines_total") == 0


@pytest.mark.fault(15)
def test_waiting_at_a_large_hole_costs_nothing(tmp_path: Path) -> None:
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.write_bytes(plain(event(oid=0)))
    at = path.stat().st_size
    os.truncate(path, 4 << 30)
    with Drive(tmp_path, rescan_s=0.1) as drive:
        drive.until_lines(1)
        began = psutil.Process().cpu_times().user
        for oid in range(1, 200):
            line = plain(event(oid=oid))
            put(path, at, line)
            at += len(line)
            drive.until_lines(oid + 1)
        assert psutil.Process().cpu_times().user - began < 10
        assert [int(each["id"]) for each in drive.updates()] == list(range(200))
        assert drive.pipeline.stats()["late_lines"] == 0
