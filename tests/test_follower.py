"""Follower, reader and watcher on real files: which file is read, from where, in which order.

`Tail` is the pipeline's loop in plain Python. Most tests advance their own clock; those of inotify events use
real time.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fasttail.sources.files import open_regular
from fasttail.sources.fingerprint import fingerprint
from fasttail.sources.follower import Follower
from fasttail.sources.layout import date_folders
from fasttail.sources.position import Position, PreviousHour
from fasttail.sources.reader import FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NO_FILE, Reader
from fasttail.sources.watcher import WAIT_DIRS, Watcher

GRACE = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Tail:
    """Drives a follower, reader and watcher as the pipeline does, and collects the lines."""

    def __init__(
        self, data_dir: Path, *, window: int = 1 << 19, inotify: bool = True, **options: Any
    ) -> None:
        self.clock = options.setdefault("clock", Clock())
        self.notices: list[str] = []
        self.lines: list[bytes] = []
        self.late: list[bytes] = []
        options.setdefault("grace_s", GRACE)
        self.follower = Follower(data_dir, notice=lambda level, text: self.notices.append(text), **options)
        self.reader = Reader(window=window)
        self.watcher = Watcher(use_inotify=inotify, poll_ms=2)
        self.watch = self.watcher.watch()

    def fill(self) -> bool:
        """Read once, and return whether there may be more."""
        code = self.reader.fill_once()
        if code == FILL_LINES:
            lines = self.reader.take_lines().split(b"\n")[:-1]
            self.lines += lines
            if self.follower.late:
                self.late += lines
                self.follower.late_lines += len(lines)
        return code not in (FILL_EOF, FILL_NO_FILE, FILL_ERROR)

    def check(self, at_eof: bool) -> None:
        self.follower.check(self.reader, self.watch, at_eof)
        while (line := self.follower.take_final_line()) is not None:
            self.lines.append(line)

    def settle(self) -> list[bytes]:
        """Read and check until nothing is left to do, and return the lines so far."""
        for _ in range(1000):
            while self.fill():
                pass
            self.check(at_eof=True)
            if self.follower.next_check_s > 0:
                return self.lines
        raise AssertionError("does not come to rest")

    def wait(self, seconds: float) -> list[bytes]:
        """Advance the clock in small steps."""
        for _ in range(round(seconds / 0.1)):
            self.clock.now += 0.1
            self.settle()
        return self.lines

    def follow(self, enough: Callable[[], bool], timeout_s: float = 120.0, *, look: bool = True) -> None:
        """Run the loop until `enough()`, waiting for events and timers; with `look`, check at once."""
        end = time.monotonic() + timeout_s
        due = 0.0 if look else time.monotonic() + self.follower.next_check_s
        while True:
            now = time.monotonic()
            while self.fill():
                pass
            if enough():
                return
            assert now < end, (self.lines, self.notices)
            if now >= due:
                self.check(at_eof=True)
                due = now + self.follower.next_check_s
                if due == now:
                    continue
            if self.watcher.wait_once(max(0, int((min(due, end) - now) * 1e6))) & WAIT_DIRS:
                due = 0.0

    def position(self) -> Position:
        position = self.follower.position(self.reader)
        assert position is not None
        return position

    def close(self) -> None:
        self.reader.close()
        self.watcher.close()


class Node:
    """Writes files as the node does."""

    def __init__(self, data_dir: Path, stream: str = "node_order_statuses_streaming") -> None:
        self.hourly = data_dir / stream / "hourly"

    def path(self, name: str) -> Path:
        return self.hourly / name

    def write(self, name: str, data: bytes) -> Path:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
        return path


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture(params=[True, False], ids=["inotify", "polling"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Tail]]:
    """Return a factory of Tails on tmp_path. Each test runs with and without inotify."""
    made = []

    def make(data_dir: Path = tmp_path, **options: Any) -> Tail:
        made.append(Tail(data_dir, inotify=request.param, **options))
        return made[-1]

    yield make
    for tail in made:
        tail.close()


StartTail = Callable[..., Tail]


# ---- where reading starts ----


def test_start_at_the_end(node: Node, start: StartTail) -> None:
    node.write("20260505/9", b"old\n")
    node.write("20260505/10", b"one\ntwo\n")
    tail = start()
    assert tail.settle() == []
    node.write("20260505/10", b"three\n")
    assert tail.settle() == [b"three"]


@pytest.mark.fault(9)
def test_start_at_the_end_within_a_line(node: Node, start: StartTail) -> None:
    """A line that is being written at the start is delivered once it is complete."""
    node.write("20260505/9", b"one\n" + b"x" * 200_000)
    tail = start()
    assert tail.settle() == []
    node.write("20260505/9", b"yz\n")
    assert tail.settle() == [b"x" * 200_000 + b"yz"]


def test_start_at_the_end_of_a_file_without_newline(node: Node, start: StartTail) -> None:
    node.write("20260505/9", b"fir")
    tail = start()
    tail.settle()
    node.write("20260505/9", b"st\n")
    assert tail.settle() == [b"first"]


def test_start_with_the_hour_or_the_oldest(node: Node, start: StartTail) -> None:
    node.write("20260504/23", b"a\n")
    node.write("20260505/9", b"b\n")
    node.write("20260505/10", b"c\n")
    assert start(start="hour").settle() == [b"c"]
    assert start(start="oldest").settle() == [b"a", b"b", b"c"]


@pytest.mark.fault(3, 7)
def test_missing_folder_is_waited_for(tmp_path: Path, start: StartTail) -> None:
    """Faults 3 and 7: everything that appears after the start is read from its beginning."""
    tail = start(tmp_path / "later")
    assert tail.settle() == []
    assert tail.follower.caught_up
    assert tail.follower.layout is None
    assert tail.follower.position(tail.reader) is None
    tail.settle()
    assert sum("waiting" in notice for notice in tail.notices) == 1
    node = Node(tmp_path / "later")
    node.write("20260505/9", b"a\n")
    node.write("20260505/10", b"b\nhal")
    assert tail.settle() == [b"a", b"b"]
    assert tail.follower.layout == "streaming"
    assert tail.follower.path == str(node.path("20260505/10"))


@pytest.mark.fault(7)
def test_empty_folders_are_waited_in(node: Node, start: StartTail) -> None:
    node.path("20260505").mkdir(parents=True)
    for layout in ("auto", "streaming"):
        tail = start(layout=layout)
        assert tail.settle() == []
        node.write("20260505/9", b"a\n")
        assert tail.settle() == [b"a"]
        node.path("20260505/9").unlink()


def test_layouts(tmp_path: Path, start: StartTail) -> None:
    Node(tmp_path, "node_order_statuses_by_block").write("20260505/9", b"by_block\n")
    Node(tmp_path, "node_order_statuses").write("20260505/9", b"plain\n")
    tail = start(start="oldest")
    assert tail.settle() == [b"by_block"]
    assert tail.notices[0] == "layout by_block (also present, not followed: plain)"
    assert start(start="oldest", layout="plain").settle() == [b"plain"]
    tail = start(start="oldest", layout="streaming")
    assert tail.settle() == []
    Node(tmp_path).write("20260505/9", b"streaming\n")
    assert tail.settle() == [b"streaming"]


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown layout 'plane'"):
        Tail(tmp_path, layout="plane")
    with pytest.raises(ValueError, match="unknown start 'now'"):
        Tail(tmp_path, start="now")


# ---- the next file ----


@pytest.mark.fault(1, 2, 3)
def test_change_of_hour_and_date(node: Node, start: StartTail) -> None:
    """Faults 1, 2 and 3: the old file is read to its end, then the new one from byte 0."""
    node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    for number, name in enumerate(("20260505/10", "20260505/23", "20260506/0", "20260601/1"), 1):
        node.write(name, b"%d new\n" % number)
    assert tail.settle() == [b"1", b"1 new", b"2 new", b"3 new", b"4 new"]
    assert tail.follower.files_opened == 5


@pytest.mark.fault(1)
def test_old_file_is_drained_first(node: Node, start: StartTail) -> None:
    node.write("20260505/9", b"1\n")
    tail = start(start="oldest", window=3)
    tail.settle()
    node.write("20260505/10", b"4\n")
    node.write("20260505/9", b"2\n3\n")
    tail.check(at_eof=True)  # the end was seen before the lines were written
    assert tail.settle() == [b"1", b"2", b"3", b"4"]


@pytest.mark.fault(1)
def test_no_change_while_there_are_lines(node: Node, start: StartTail) -> None:
    node.write("20260505/9", b"1\n2\n")
    tail = start(start="oldest", window=2)
    tail.check(at_eof=True)
    assert tail.fill()
    node.write("20260505/10", b"3\n")
    tail.check(at_eof=False)
    assert tail.follower.next_check_s == 0, "wants to know of the end"
    assert tail.follower.path == str(node.path("20260505/9"))
    assert tail.settle() == [b"1", b"2", b"3"]


@pytest.mark.fault(2)
def test_new_folder_is_looked_at_twice(node: Node, start: StartTail) -> None:
    """A file may be created in the folder before the watch exists and after the listing."""
    node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    node.path("20260506").mkdir()
    tail.check(at_eof=True)
    assert tail.follower.next_check_s == 0
    tail.check(at_eof=True)
    assert tail.follower.next_check_s > 0


@pytest.mark.fault(5, 6)
def test_several_hours_at_once(node: Node, start: StartTail) -> None:
    """Faults 5 and 6: all files are read, oldest first, with hours compared as numbers."""
    tail = start()
    tail.settle()
    for hour in (11, 9, 2, 10, 1):
        node.write(f"20260505/{hour}", b"%d\n" % hour)
    node.write("20260505/12.tmp", b"no\n")
    node.path("20260505/13").symlink_to("13")
    assert tail.settle() == [b"1", b"2", b"9", b"10", b"11"]


@pytest.mark.fault(4)
def test_late_lines(node: Node, start: StartTail) -> None:
    """Fault 4: the previous hour is watched until its grace time is over."""
    node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    node.write("20260505/10", b"2\n")
    tail.settle()
    assert tail.follower.next_check_s <= 0.1
    node.write("20260505/9", b"late 1\nlate 2\nlat")
    node.write("20260505/10", b"3\nhal")
    tail.settle()
    position = tail.position()
    assert (position.path, position.offset) == (str(node.path("20260505/10")), 4)
    node.write("20260505/9", b"e 3\n")
    node.write("20260505/10", b"f\n")
    tail.settle()
    assert sorted(tail.lines) == sorted([b"1", b"2", b"late 1", b"late 2", b"3", b"late 3", b"half"])
    assert tail.late == [b"late 1", b"late 2", b"late 3"]
    assert tail.follower.late_lines == 3
    tail.wait(GRACE + 0.2)
    assert tail.follower.next_check_s > 0.5
    node.write("20260505/9", b"too late\n")
    assert b"too late" not in tail.wait(1)


@pytest.mark.fault(4)
def test_late_line_without_newline(node: Node, start: StartTail) -> None:
    node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    node.write("20260505/10", b"2\n")
    tail.settle()
    node.write("20260505/9", b"late")
    assert tail.wait(GRACE - 0.2) == [b"1", b"2"]
    assert tail.wait(0.5) == [b"1", b"2", b"late"]
    assert tail.follower.late_lines == 1
    assert tail.follower.final_origin == (str(node.path("20260505/9")), 2)


@pytest.mark.fault(4)
def test_late_lines_of_the_last_moment(node: Node, start: StartTail) -> None:
    """The visit lasts until everything is read, no matter when `check` is called."""
    node.write("20260505/9", b"1\n")
    node.write("20260505/10", b"2\n")
    tail = start(start="oldest")
    tail.settle()
    node.write("20260505/9", b"late\n")
    tail.clock.now += GRACE + 1
    for _ in range(3):
        tail.check(at_eof=True)
    assert tail.settle() == [b"1", b"2", b"late"]
    assert tail.late == [b"late"]


def test_late_position_is_that_of_the_current_file(node: Node, start: StartTail) -> None:
    node.write("20260505/9", b"1\n")
    node.write("20260505/10", b"2\n")
    tail = start(start="oldest")
    tail.settle()
    before = tail.position()
    node.write("20260505/9", b"late\n")
    while not tail.follower.late:
        tail.check(at_eof=True)
    assert tail.position() == before
    assert tail.follower.path == str(node.path("20260505/9"))
    node.path("20260505/10").rename(node.path("20260505/10.moved"))  # during the visit
    with node.path("20260505/10.moved").open("ab") as file:
        file.write(b"3\n")
    assert tail.settle() == [b"1", b"2", b"late", b"3"]


@pytest.mark.fault(9, 11)
def test_torn_line_at_the_change_of_hour(node: Node, start: StartTail) -> None:
    """The new hour waits for the rest of the line."""
    node.write("20260505/9", b"1\nto")
    tail = start(start="oldest")
    tail.settle()
    node.write("20260505/10", b"2\n")
    assert tail.wait(GRACE - 1) == [b"1"]
    assert tail.follower.next_check_s < 0.1
    node.write("20260505/9", b"rn\nsl")
    assert tail.wait(GRACE - 1) == [b"1", b"torn"], "each line has its own time"
    node.write("20260505/9", b"ow\n")
    assert tail.settle() == [b"1", b"torn", b"slow", b"2"]


@pytest.mark.fault(11)
def test_no_final_newline(node: Node, start: StartTail) -> None:
    """Fault 11: after the grace time the partial line is delivered, before the lines of the new hour."""
    node.write("20260505/9", b"1\nlast")
    tail = start(start="oldest")
    tail.settle()
    node.write("20260505/10", b"2\n")
    assert tail.wait(GRACE - 0.2) == [b"1"]
    assert tail.wait(0.5) == [b"1", b"last", b"2"]
    assert tail.follower.final_origin == (str(node.path("20260505/9")), 2)
    node.write("20260505/9", b" rest\nmore\n")  # the writer was only slow
    assert tail.wait(0.2) == [b"1", b"last", b"2", b" rest", b"more"]


def test_no_grace(node: Node, start: StartTail) -> None:
    node.write("20260505/9", b"1\nlast")
    node.write("20260505/10", b"2\n")
    tail = start(start="oldest", grace_s=0.0)
    assert tail.settle() == [b"1", b"last", b"2"]


def test_caught_up(node: Node, start: StartTail) -> None:
    node.write("20260505/9", b"1\n")
    node.write("20260505/10", b"2\nhal")
    tail = start(start="oldest")
    tail.check(at_eof=True)
    assert not tail.follower.caught_up
    tail.settle()
    assert tail.follower.caught_up
    assert tail.reader.take_partial_line() == b"hal"


# ---- other changes to files ----


@pytest.mark.fault(19)
def test_truncated(node: Node, start: StartTail) -> None:
    """Fault 19: after a truncation, the file is read from its start."""
    path = node.write("20260505/9", b"one\ntwo\nhal")
    tail = start(start="oldest")
    tail.settle()
    os.truncate(path, 0)
    tail.settle()
    node.write("20260505/9", b"new\n")
    assert tail.settle() == [b"one", b"two", b"new"]
    assert tail.follower.truncations == 1
    assert any("truncated" in notice for notice in tail.notices)


@pytest.mark.fault(20)
@pytest.mark.parametrize("content", [b"1 anew\n2 anew\n3 anew\n", b"1st\n2nd\n", b"x" * 5000 + b"\ny\n"])
@pytest.mark.parametrize("rest", [b"", b"hal"])
def test_written_anew_past_the_place_of_reading(
    node: Node, start: StartTail, content: bytes, rest: bytes
) -> None:
    """A file rewritten between two checks, to the same length or longer, is read again from its start."""
    path = node.write("20260505/9", b"one\ntwo\n" + rest)
    tail = start(start="oldest", window=3)
    tail.settle()
    path.write_bytes(content + rest)
    assert tail.settle() == [b"one", b"two", *content.splitlines()]
    assert tail.follower.truncations == 1
    assert any("rewritten" in notice for notice in tail.notices)
    node.write("20260505/9", b"f\n")
    assert tail.settle()[-1] == rest + b"f"


@pytest.mark.fault(20)
def test_only_the_torn_line_written_anew(node: Node, start: StartTail) -> None:
    """A restarting node may rewrite its partial line; no earlier line is delivered twice."""
    path = node.write("20260505/9", b"one\nhal")
    tail = start(start="oldest")
    tail.settle()
    os.truncate(path, 4)
    node.write("20260505/9", b"two, longer\nthree\n")
    assert tail.settle() == [b"one", b"two, longer", b"three"]
    assert tail.follower.truncations == 0


@pytest.mark.fault(19, 20)
def test_what_happens_often_is_told_once_a_minute(node: Node, start: StartTail) -> None:
    path = node.write("20260505/9", b"0\n")
    tail = start(start="oldest")
    tail.settle()
    for number in range(1, 10):
        path.write_bytes(b"%d\n" % number)
        tail.settle()
    assert tail.lines == [b"%d" % number for number in range(10)]
    assert tail.follower.truncations == 9
    assert sum("rewritten" in notice for notice in tail.notices) == 1


@pytest.mark.fault(4, 24)
@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_former_hour_written_anew_is_not_read_again(node: Node, start: StartTail, moment: str) -> None:
    path = node.write("20260505/9", b"1\n2\n")
    node.write("20260505/10", b"3\n")
    tail = start(start="oldest")
    tail.settle()
    if moment == "during":
        node.write("20260505/9", b"late\n")
        while not tail.follower.late:
            tail.check(at_eof=True)
        tail.fill()
    path.write_bytes(b"another thing of some length\n")
    tail.wait(1)
    assert tail.lines == [b"1", b"2", b"3"] + ([b"late"] if moment == "during" else [])
    assert any("rewritten after its hour" in notice for notice in tail.notices)
    node.write("20260505/10", b"4\n")
    assert tail.settle()[-1] == b"4"


@pytest.mark.fault(19)
def test_torn_line_cut_off(node: Node, start: StartTail) -> None:
    """A restarting node may cut off its partial line; no earlier line is delivered twice."""
    path = node.write("20260505/9", b"one\nhal")
    tail = start(start="oldest")
    tail.settle()
    os.truncate(path, 4)
    tail.settle()
    node.write("20260505/9", b"two\n")
    assert tail.settle() == [b"one", b"two"]
    assert tail.follower.truncations == 0


@pytest.mark.fault(19)
def test_another_torn_line_in_place_of_one_cut_off(node: Node, start: StartTail) -> None:
    """A new partial line in place of the old one gets the whole grace time."""
    node.write("20260505/9", b"one\n")
    path = node.write("20260505/9", b"torn")
    node.write("20260505/10", b"next\n")
    tail = start(start="oldest")
    tail.wait(GRACE - 1)
    os.truncate(path, 4)
    node.write("20260505/9", b"another")
    assert tail.wait(GRACE - 1) == [b"one"]
    node.write("20260505/9", b" line\n")
    assert tail.settle() == [b"one", b"another line", b"next"]


@pytest.mark.fault(22)
def test_renamed(node: Node, start: StartTail) -> None:
    """Fault 22: the open descriptor is kept, and the next file follows."""
    path = node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    path = path.rename(path.with_name("9.old"))
    with path.open("ab") as file:
        file.write(b"2\n")
    tail.settle()
    node.write("20260505/9", b"3\n")
    node.write("20260505/10", b"4\n")
    assert tail.settle() == [b"1", b"2", b"3", b"4"]


@pytest.mark.fault(22)
def test_renamed_to_a_later_hour(node: Node, start: StartTail) -> None:
    path = node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    path.rename(path.with_name("10"))
    node.write("20260505/10", b"2\n")
    node.write("20260505/11", b"3\n")
    assert tail.settle() == [b"1", b"2", b"3"]


@pytest.mark.fault(23, 24)
def test_deleted(node: Node, start: StartTail) -> None:
    """Faults 23 and 24: a deleted file is read to its end and released; a new one is read from byte 0."""
    path = node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    with path.open("ab", buffering=0) as file:
        path.unlink()
        file.write(b"2\nlast")
        assert tail.wait(GRACE - 0.2) == [b"1", b"2"]
        assert tail.reader.is_open
        assert tail.wait(0.5) == [b"1", b"2", b"last"]
    assert not tail.reader.is_open
    assert tail.position().offset == 8
    node.write("20260505/9", b"3\n")
    assert tail.settle() == [b"1", b"2", b"last", b"3"]
    node.write("20260505/10", b"4\n")
    assert tail.settle()[-1] == b"4"


@pytest.mark.fault(24)
def test_made_again(node: Node, start: StartTail) -> None:
    """Fault 24: the new file is read whichever inode it gets."""
    path = node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    for number in range(2, 6):
        path.unlink()
        node.write("20260505/9", b"%d\n" % number)
        tail.settle()
    assert tail.lines == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.fault(8)
def test_root_made_again(node: Node, tmp_path: Path, start: StartTail) -> None:
    """Fault 8: the root folder is deleted and created again, seen by the loop that waits for events."""
    node.write("20260505/9", b"1\n")
    tail = start(start="oldest", clock=time.monotonic, grace_s=0.1)
    tail.follow(lambda: len(tail.lines) == 1)
    for root, _, files in os.walk(node.hourly, topdown=False):
        for name in files:
            os.unlink(os.path.join(root, name))
        os.rmdir(root)
    tail.follow(lambda: not tail.reader.is_open)
    node.write("20260505/9", b"2\n")
    tail.follow(lambda: len(tail.lines) == 2)
    node.write("20260505/10", b"3\n")
    tail.follow(lambda: len(tail.lines) == 3)
    assert tail.lines == [b"1", b"2", b"3"]


@pytest.mark.fault(32)
def test_read_error(node: Node, start: StartTail) -> None:
    """Fault 32: after a read error, the file is reopened and read from the same position."""
    path = node.write("20260505/9", b"1\n").resolve()
    tail = start(start="oldest")
    tail.settle()
    links = {int(fd): os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    [fd] = [fd for fd, link in links.items() if link == str(path)]
    folder = os.open(path.parent, os.O_RDONLY)
    os.dup2(folder, fd, inheritable=False)  # reading it returns EISDIR
    os.close(folder)
    node.write("20260505/9", b"2\n")
    assert tail.settle() == [b"1"]
    assert tail.follower.trouble == f"cannot read {node.path('20260505/9')}: Is a directory"
    assert tail.settle() == [b"1", b"2"]
    assert tail.follower.trouble == ""
    assert any("Is a directory" in notice for notice in tail.notices)
    node.write("20260505/10", b"3\n")
    assert tail.settle() == [b"1", b"2", b"3"]


@pytest.mark.fault(20, 32)
def test_written_anew_while_it_could_not_be_read(node: Node, start: StartTail) -> None:
    path = node.write("20260505/9", b"1\n").resolve()
    tail = start(start="oldest")
    tail.settle()
    links = {int(fd): os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    [fd] = [fd for fd, link in links.items() if link == str(path)]
    folder = os.open(path.parent, os.O_RDONLY)
    os.dup2(folder, fd, inheritable=False)
    os.close(folder)
    path.write_bytes(b"2\n3\n")
    tail.settle()
    assert tail.settle() == [b"1", b"2", b"3"]
    assert (tail.follower.read_errors, tail.follower.truncations) == (1, 1)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Make permissions apply even if the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.fault(31)
def test_permission_lost_and_restored(start: StartTail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 31: a lost permission is reported once a minute and retried."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        node = Node(Path(folder))
        node.write("20260505/9", b"1\n")
        tail = start(Path(folder), start="oldest")
        during: list[str] = []

        def watched(hourly: str, since: str = "") -> list[str]:
            during.append(tail.follower.trouble)
            return date_folders(hourly, since=since)

        monkeypatch.setattr("fasttail.sources.follower.date_folders", watched)
        with ordinary_user():
            tail.settle()
        for forbidden in (node.write("20260505/10", b"2\n"), node.path("20260505"), node.hourly):
            mode = forbidden.stat().st_mode
            forbidden.chmod(0)
            before = list(tail.lines)
            told = sum("Permission denied" in notice for notice in tail.notices)
            tail.clock.now += 61
            with ordinary_user():
                assert tail.wait(3) == before
            assert "Permission denied" in tail.follower.trouble
            during.clear()
            with ordinary_user():
                tail.wait(2)
            assert during
            assert all("Permission denied" in each for each in during), "/health may ask while it looks"
            assert sum("Permission denied" in notice for notice in tail.notices) == told + 1
            forbidden.chmod(mode)
            node.write("20260505/10", b"more\n")
            with ordinary_user():
                tail.settle()
            assert tail.lines[-1] == b"more"
            assert tail.follower.trouble == ""
        assert tail.lines == [b"1", b"2", b"more", b"more", b"more"]


@pytest.mark.fault(31)
def test_permission_missing_at_the_start(start: StartTail) -> None:
    """A folder that may not be listed is not treated as an empty one."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        node = Node(Path(folder))
        node.write("20260505/9", b"old\n")
        node.hourly.chmod(0)
        tail = start(Path(folder))
        with ordinary_user():
            tail.settle()
        node.hourly.chmod(0o755)
        with ordinary_user():
            tail.settle()
        node.write("20260505/9", b"new\n")
        with ordinary_user():
            assert tail.settle() == [b"new"]


# ---- resuming after a restart ----


def test_position_is_json() -> None:
    left = PreviousHour("/data/8", 7, 2, 5, fingerprint(b"end\n"), 1.5)
    for position in (
        Position("/data/9", 1 << 40, 2, 3),
        Position("/data/9", 1 << 40, 2, 3, fingerprint(b"first"), fingerprint(b"before\n"), (left, left)),
    ):
        assert Position.from_json(position.to_json()) == position
    assert Position.from_json('{"path":"x","offset":0,"dev":1,"ino":2}') == Position("x", 0, 1, 2)
    for text in (
        "",
        "{}",
        "[]",
        "null",
        '{"path":"x","offset":-1,"dev":1,"ino":1}',
        '{"path":"x","offset":"1","dev":1,"ino":1}',
        '{"path":"x","offset":1,"dev":1}',
        '{"path":"x","offset":1,"dev":1,"ino":1,"first":5}',
        '{"path":"x","offset":1,"dev":1,"ino":1,"before":"99999-0123456789abcdef"}',
        '{"path":"x","offset":1,"dev":1,"ino":1,"formers":[{"path":"y"}]}',
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            Position.from_json(text)


def test_resume(node: Node, start: StartTail) -> None:
    node.write("20260505/9", b"1\n2\nhal")
    tail = start(start="oldest")
    tail.settle()
    position = tail.position()
    assert position.offset == 4
    node.write("20260505/9", b"f\n")
    node.write("20260505/10", b"3\n")
    assert start(resume=position).settle() == [b"half", b"3"]


@pytest.mark.fault(4)
@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_former_hour_is_looked_after_over_a_restart(node: Node, start: StartTail, moment: str) -> None:
    """A previous hour is watched for the rest of its grace time after a restart, and no line comes twice."""
    node.write("20260505/9", b"1\n")
    node.write("20260505/10", b"2\n")
    tail = start(start="oldest")
    tail.settle()
    node.write("20260505/9", b"late 1\n")
    if moment == "before":
        tail.settle()
    else:
        while b"late 1" not in tail.lines:
            tail.check(at_eof=True)
            tail.fill()
        assert tail.follower.late
    position = Position.from_json(tail.position().to_json())
    assert position == tail.position()
    node.write("20260505/9", b"late 2\n")
    node.write("20260505/10", b"3\n")
    resumed = start(resume=position, clock=tail.clock)
    assert sorted(resumed.settle()) == [b"3", b"late 2"]
    resumed.wait(GRACE + 1)
    node.write("20260505/9", b"too late\n")
    assert len(resumed.wait(1)) == 2


def test_resume_keeps_the_layout(tmp_path: Path, start: StartTail) -> None:
    plain = Node(tmp_path, "node_order_statuses")
    plain.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    Node(tmp_path).write("20260505/9", b"other\n")
    plain.write("20260505/9", b"2\n")
    assert start(resume=tail.position()).settle() == [b"2"]


def test_resume_waits_for_the_folder(tmp_path: Path, start: StartTail) -> None:
    node = Node(tmp_path / "data")
    node.write("20260505/8", b"0\n")
    node.write("20260505/9", b"1\n")
    tail = start(tmp_path / "data", start="oldest")
    tail.settle()
    (tmp_path / "data").rename(tmp_path / "away")
    resumed = start(tmp_path / "data", resume=tail.position())
    assert resumed.settle() == []
    (tmp_path / "away").rename(tmp_path / "data")
    node.write("20260505/9", b"2\n")
    assert resumed.settle() == [b"2"]


def test_resume_in_a_file_that_is_gone(node: Node, start: StartTail) -> None:
    node.write("20260505/8", b"0\n")
    node.write("20260505/9", b"1\n")
    tail = start(start="oldest")
    tail.settle()
    node.path("20260505/9").unlink()
    resumed = start(resume=tail.position())
    assert resumed.settle() == []
    assert resumed.position() == tail.position()
    assert resumed.follower.trouble == f"{node.path('20260505/9')} was removed, and there is no later hour"
    node.write("20260505/10", b"2\n")
    node.write("20260505/11", b"3\n")
    assert resumed.settle() == [b"2", b"3"]
    assert resumed.follower.trouble == ""
    assert any("was removed" in notice for notice in resumed.notices)
    assert resumed.follower.resume_losses == 1


@pytest.mark.fault(24, 25)
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("change", ["other inode", "shorter", "other bytes", "other start"])
def test_resume_in_another_file_of_that_name(node: Node, start: StartTail, change: str, marked: bool) -> None:
    """A file with other content is read from its start, with a notice, and counted. The inode decides only if
    no fingerprint is known.
    """
    one = b"1" * 2000 + b"\n"
    path = node.write("20260505/9", one + b"two\n")
    tail = start(start="oldest")
    tail.settle()
    position = tail.position()
    assert position is not None
    if not marked:
        position = replace(position, head_fingerprint="", tail_fingerprint="")
    if change == "other inode":
        os.link(path, path.with_name("kept"))
        path.unlink()
        node.write("20260505/9", one + b"two\n")
    elif change == "shorter":
        os.truncate(path, len(one))
    elif change == "other start":
        path.write_bytes(b"0" + one[1:] + b"two\n")
    else:
        path.write_bytes(one + b"TWO\n")
    resumed = start(resume=position)
    same = change == "other inode" if marked else change.startswith("other ") and change != "other inode"
    assert resumed.settle() == ([] if same else path.read_bytes().splitlines())
    assert any("cannot resume" in notice for notice in resumed.notices) != same
    assert resumed.follower.resume_losses == (not same)
    node.write("20260505/9", b"three\n")
    assert resumed.settle()[-1] == b"three"


@pytest.mark.fault(19)
def test_stopped_before_a_truncation_was_seen(node: Node, start: StartTail) -> None:
    """A truncation before the position is taken is noticed even if the file is longer again at the resume."""
    path = node.write("20260505/9", b"one\n")
    tail = start(start="oldest")
    tail.settle()
    os.truncate(path, 0)
    position = tail.position()
    assert position.offset == 4
    node.write("20260505/9", b"new one\nnew two\n")
    resumed = start(resume=position)
    assert resumed.settle() == [b"new one", b"new two"]
    assert resumed.follower.resume_losses == 1


def test_resume_in_a_file_of_another_folder(node: Node, start: StartTail) -> None:
    """A position in another folder falls back to the start policy, with a notice."""
    path = node.write("20260505/9", b"one\n")
    status = path.stat()
    resumed = start(resume=Position("/elsewhere/hourly/20260505/9", 0, status.st_dev, status.st_ino))
    assert resumed.settle() == []
    assert any("cannot resume" in notice for notice in resumed.notices)
    assert resumed.follower.resume_losses == 1
    node.write("20260505/9", b"two\n")
    assert resumed.settle()[-1] == b"two"


def test_a_pipe_of_that_name_holds_nobody_up(node: Node, start: StartTail) -> None:
    """A FIFO under the file's name counts as a missing hour, because opening it would block forever."""
    path = node.write("20260505/9", b"one\n")
    tail = start(start="oldest")
    tail.settle()
    position = tail.position()
    assert position is not None
    path.unlink()
    os.mkfifo(path)
    assert position.with_fingerprints() == position
    unmarked = replace(position, head_fingerprint="", tail_fingerprint="")
    assert unmarked.with_fingerprints() == replace(unmarked, ino=0)
    node.write("20260505/10", b"two\n")
    assert start(resume=position).settle() == [b"two"]


def test_resume_before_the_first_byte_of_another_file(node: Node, start: StartTail) -> None:
    """No loss is counted if nothing of the replaced file had been read."""
    path = node.write("20260505/9", b"")
    tail = start(start="oldest")
    tail.settle()
    os.link(path, path.with_name("kept"))
    path.unlink()
    node.write("20260505/9", b"one\n")
    resumed = start(resume=tail.position())
    assert resumed.settle() == [b"one"]
    assert resumed.follower.resume_losses == 0


# ---- events ----


@pytest.mark.fault(1, 2, 9, 10)
def test_live(node: Node, start: StartTail) -> None:
    """Every line arrives in order, across hours and a date, from a writer of small pieces."""
    names = ["20260505/9", "20260505/10", "20260505/23", "20260506/0"]
    expected = [f"{name} {number} ü".encode() for name in names for number in range(40)]
    rng = random.Random(7)

    def write() -> None:
        for name in names:
            data = b"".join(line + b"\n" for line in expected if line.startswith(name.encode() + b" "))
            while data:
                size = rng.choice([1, 5, 100, 1000])
                node.write(name, data[:size])
                data = data[size:]
                time.sleep(0.002)

    tail = start(start="oldest", clock=time.monotonic)
    tail.settle()
    thread = threading.Thread(target=write)
    thread.start()
    tail.follow(lambda: len(tail.lines) >= len(expected))
    thread.join()
    assert tail.lines == expected


@pytest.mark.fault(1, 2)
def test_events_are_quick_and_rare(node: Node, tmp_path: Path) -> None:
    """With inotify, new hours, dates and lines are read without a rescan, and idle checks are rare."""
    node.write("20260505/23", b"1\n")
    tail = Tail(tmp_path, start="oldest", clock=time.monotonic, grace_s=0.0, rescan_s=1000.0)
    tail.follow(lambda: len(tail.lines) == 1)
    names = ["20260506/0", "20260506/1", "20260506/1", "20260507/0", "20260507/0"]
    for number, name in enumerate(names, 2):
        timer = threading.Timer(0.1, node.write, (name, b"%d\n" % number))
        timer.start()
        tail.follow(lambda: len(tail.lines) == number)  # noqa: B023
        timer.join()
    tail.settle()
    begin = time.thread_time()
    with suppress(AssertionError):
        tail.follow(lambda: False, timeout_s=0.5)
    assert time.thread_time() - begin < 0.05
    tail.close()


@pytest.mark.fault(28)
def test_a_queue_that_ran_over_hides_nothing(node: Node, tmp_path: Path) -> None:
    """After an inotify overflow, a scan finds the new date and its hours."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    node.write("20260505/9", b"1\n")
    tail = Tail(tmp_path, start="oldest", clock=time.monotonic, rescan_s=1000.0)
    tail.settle()
    for number in range(limit // 2 + 10):
        node.path(f"20260505/x{number % 7}").touch()
        node.path(f"20260505/x{number % 7}").unlink()
    node.write("20260505/10", b"2\n")
    node.write("20260506/0", b"3\n")
    node.write("20260506/0", b"4\n")
    tail.follow(lambda: tail.watcher.overflows == 1, look=False)
    tail.follow(lambda: len(tail.lines) == 4, look=False)
    assert tail.lines == [b"1", b"2", b"3", b"4"]
    tail.close()


def test_polling_is_told(node: Node, tmp_path: Path) -> None:
    tail = Tail(tmp_path, inotify=False)
    tail.settle()
    tail.settle()
    assert tail.notices.count("inotify is switched off; polling instead") == 1
    tail.close()


def test_a_folder_is_no_file_and_costs_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before
