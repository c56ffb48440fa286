"""The pipeline and its ring, driven from Python with a real reader, watcher and follower on real files."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from driving import Drive
from lines import envelope, event, plain
from running import PATIENCE_S, hour_file, order, wait_for

from fasttail.engine.filters import Selector
from fasttail.engine.topics import Topic
from fasttail.replay.replay_reader import ReplayReader
from fasttail.sources.cursor import CursorPosition, prefix

SLOTS = 16


def numbered(first: int, count: int) -> list[dict[str, Any]]:
    return [event(oid=i) for i in range(first, first + count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return hour_file(tmp_path / "data", "plain", "20260505", 9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def ids(drive: Drive) -> list[int]:
    return [int(each["id"]) for each in drive.updates()]


def test_orders_come_once_and_in_order(folder: Path, path: Path) -> None:
    events = numbered(0, 3000)
    path.write_bytes(plain(*events))
    with Drive(folder, workers=3) as drive:
        drive.until_lines(3000)
        assert drive.updates() == drive.batched() == [order(each) for each in events]
        stats = drive.pipeline.stats()
        size = path.stat().st_size
        assert (stats["lines"], stats["orders"], stats["selected"]) == (3000, 3000, 3000)
        assert stats["bytes"] == size
        assert (stats["rejected"], stats["failed_chunks"], stats["worker_count"]) == (0, 0, 3)
        assert (stats["file"], stats["offset"], stats["state"]) == (str(path), size, "live")
        assert stats["batches"] == len(drive.ends) == stats["batch_number"]
        assert [end.number for end in drive.ends] == list(range(1, len(drive.ends) + 1))


@pytest.mark.plain_build  # measures speed; with a sanitizer's runtime other threads answer
def test_its_threads_run_soon_after_a_wake_up(folder: Path, path: Path) -> None:
    def slice_ns(task: Path) -> int:
        match = re.search(r"se\.slice +: +(\d+)", (task / "sched").read_text())
        assert match is not None
        return int(match[1])

    process = Path("/proc/self/task")
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 12) or not (process / f"{os.getpid()}/sched").exists():
        pytest.skip("this kernel grants no slices of one's own, or does not tell of them")
    path.write_bytes(plain(*numbered(0, 10)))
    with Drive(folder, workers=2) as drive:
        drive.until_lines(10)
        names = {(task / "comm").read_text().strip(): slice_ns(task) for task in process.iterdir()}
        here = slice_ns(process / str(threading.get_native_id()))
        assert names["fasttail-w0"] == names["fasttail-w1"] == here == 100_000


def comes_by(drive: Drive) -> None:
    """Wait until the pipeline has started two more loop iterations, so that one was complete."""
    seen = {drive.pipeline.stats()["loop_ns"]}

    def turns() -> int:
        seen.add(drive.pipeline.stats()["loop_ns"])
        return len(seen)

    wait_for("the pipeline", lambda: turns() >= 3)


@pytest.mark.fault(37)
def test_a_full_ring_holds_reading_back_and_loses_nothing(folder: Path, path: Path) -> None:
    path.write_bytes(plain(*numbered(0, 4000)))
    with Drive(folder, window=4096, min_batch_s=0, log_every_s=None) as drive:
        wait_for("a full ring", lambda: drive.pipeline.stats()["batches"] >= SLOTS)
        comes_by(drive)
        assert drive.pipeline.stats()["batches"] == SLOTS, "the file is the queue"
        read_on = drive.reader.bytes_read
        assert read_on < path.stat().st_size / 4
        comes_by(drive)  # waiting is no stall: /health/live stays 200
        assert drive.pipeline.stats()["batches"] == SLOTS
        assert drive.reader.bytes_read == read_on
        assert drive.take(1) == 1
        wait_for("one batch more", lambda: drive.pipeline.stats()["batches"] == SLOTS + 1)
        with path.open("ab") as file:
            file.write(plain(*numbered(4000, 10)))
        drive.until_lines(4010)
    assert ids(drive) == list(range(4010))


@pytest.mark.fault(2, 9)
@pytest.mark.parametrize("inotify", [True, False])
def test_no_write_is_passed_over_between_batches(folder: Path, path: Path, inotify: bool) -> None:
    """Lines that arrive during or right after a batch are read. A missed event would show, because the next
    rescan is too late for this test.
    """
    path.write_bytes(b"")
    rng = random.Random(3)
    written = 0
    with Drive(folder, workers=1, inotify=inotify, rescan_s=3600.0, log_every_s=None) as drive:
        for _ in range(1500 if inotify else 150):
            count = rng.choice([1, 1, 1, 2, 5])
            with path.open("ab", buffering=0) as file:
                for _ in range(count):
                    file.write(plain(*numbered(written, 1)))
                    written += 1
                    time.sleep(rng.choice([0, 0, 2e-5, 1e-4, 3e-4]))
            if rng.random() < 0.3:
                drive.until_lines(written)
        drive.until_lines(written)
    assert ids(drive) == list(range(written))


def test_a_few_lines_before_a_long_one(folder: Path, path: Path) -> None:
    """A read of a whole block may return few lines; more data follows, for which no event arrives."""
    path.write_bytes(b"")
    with Drive(folder, workers=1, window=4096, rescan_s=3600.0, log_every_s=None) as drive:
        for round_ in range(20):
            wait_for("rest", lambda: drive.follower.caught_up)
            with path.open("ab", buffering=0) as file:
                first, last = (plain(*numbered(2 * round_ + i, 1)) for i in range(2))
                file.write(first + b"x" * 20_000 + b"\n" + last)
            drive.until_lines(3 * round_ + 3)
        assert sum(end.rejected for end in drive.ends) == 20


def test_what_is_written_in_one_go_comes_together(folder: Path, path: Path) -> None:
    """Twenty writes of one line each, a moment apart, are coalesced into few batches."""
    path.write_bytes(b"")
    with Drive(folder, workers=1, min_batch_s=0.05, log_every_s=None) as drive:
        for burst in range(10):
            with path.open("ab", buffering=0) as file:
                for i in range(20):
                    file.write(plain(*numbered(burst * 20 + i, 1)))
            drive.until_lines(20 * (burst + 1))
        assert len(drive.ends) <= 25
    assert ids(drive) == list(range(200))


def test_the_ring_keeps_what_calm_batches_need(folder: Path, path: Path) -> None:
    """After a burst through all ring slots, memory is released as calm batches reuse them."""
    burst = 40 * SLOTS * 16
    path.write_bytes(plain(*numbered(0, burst)))
    with Drive(folder, workers=1, window=1 << 18, min_batch_s=0, log_every_s=None) as drive:
        drive.until_lines(burst)
        assert drive.pipeline.ring_bytes()[1] > SLOTS << 17
        with path.open("ab", buffering=0) as file:
            for number in range(2 * SLOTS):
                file.write(plain(*numbered(burst + number, 1)))
                drive.until_lines(burst + number + 1)
        # For the messages' text and their index.
        assert drive.pipeline.ring_bytes()[1] <= 2 * SLOTS << 16
    assert ids(drive) == list(range(burst + 2 * SLOTS))


@pytest.mark.fault(37)
def test_a_slow_main_thread_loses_nothing(folder: Path, path: Path) -> None:
    """The ring runs full and empty repeatedly, and no order is lost."""
    path.write_bytes(plain(*numbered(0, 6000)))
    rng = random.Random(1)
    with Drive(folder, window=2048, min_batch_s=0, log_every_s=0) as drive:
        while drive.lines < 6000:
            assert drive.ready(PATIENCE_S)
            drive.take(rng.randint(1, SLOTS))
            if rng.random() < 0.2:
                time.sleep(0.004)
    assert ids(drive) == list(range(6000))
    assert [int(each["id"]) for each in drive.batched()] == list(range(6000))


def test_after_stop_the_position_lies_behind_what_was_drained(folder: Path, path: Path) -> None:
    """After a stop at any moment, the next pipeline loses and repeats nothing."""
    events = numbered(0, 3000)
    text = plain(*events)
    path.write_bytes(text[:-10])  # the last line is incomplete
    ends = [index for index in range(len(text)) if text[index] == ord("\n")]
    rng = random.Random(2)
    received: list[int] = []
    position = None
    runs = 0
    while len(received) < 2999:
        drive = Drive(folder, resume=position, window=rng.choice([512, 4096, 65536]), min_batch_s=0)
        with drive:
            goal = min(2999 - len(received), rng.randint(1, 400))
            drive.until(lambda drive=drive, goal=goal: drive.lines >= goal)  # type: ignore[misc]
        received += ids(drive)
        assert received == list(range(len(received)))
        position = drive.pipeline.position()
        assert position is not None
        assert (position.path, position.offset) == (str(path), ends[len(received) - 1] + 1)
        assert (position.dev, position.ino) == (path.stat().st_dev, path.stat().st_ino)
        runs += 1
    assert runs > 3
    with path.open("ab") as file:
        file.write(text[-10:])
    with Drive(folder, resume=position) as drive:
        drive.until_lines(1)
    assert ids(drive) == [2999]


def test_notes_say_which_file_they_are_of(folder: Path, path: Path) -> None:
    """Events name their file, even if it is created again under its name before its first line arrives."""

    def file() -> tuple[str, int, int]:
        status = path.stat()
        return str(path), status.st_dev, status.st_ino

    line = plain(event(oid=1))
    path.write_bytes(line * 3)
    with Drive(folder, rescan_s=0.02) as drive:
        drive.until_lines(3)
        first = file()
        path.rename(path.with_name("kept"))  # or its inode would be reused
        path.touch()
        drive.until(lambda: len(drive.files) == 2)
        path.write_bytes(line * 2)
        drive.until_lines(5)
        assert [(note.file, note.end) for note in drive.files] == [(first, 0), (file(), 0)]
        assert drive.ends[0].file == first
        assert drive.ends[-1].file == file() != first
        assert drive.ends[-1].end == 2 * len(line)


def test_stop_with_a_full_ring(folder: Path, path: Path) -> None:
    """The thread ends once the main thread has taken enough events, and its position counts all of them."""
    path.write_bytes(plain(*numbered(0, 4000)))
    with Drive(folder, window=4096, min_batch_s=0) as drive:
        wait_for("a full ring", lambda: drive.pipeline.stats()["batches"] >= SLOTS - 1)
    received = ids(drive)
    assert received == list(range(len(received)))
    assert len(received) < 1000
    position = drive.pipeline.position()
    assert position is not None
    assert position.offset == len(plain(*numbered(0, len(received))))


def test_stop_while_nothing_is_there(folder: Path) -> None:
    with Drive(folder, rescan_s=10_000) as drive:
        wait_for("its first look", lambda: drive.pipeline.stats()["state"] == "waiting")
        assert drive.pipeline.stats()["file"] is None
        drive.stop()
    assert drive.pipeline.stopped
    assert drive.pipeline.position() is None
    assert drive.notes == []


def test_stop_while_waiting_for_data(folder: Path, path: Path) -> None:
    path.write_bytes(plain(*numbered(0, 5)))
    with Drive(folder, rescan_s=10_000) as drive:
        drive.until_lines(5)
        time.sleep(0.1)
        drive.stop()
    assert drive.pipeline.failure is None


def test_what_nobody_wants_is_not_made(folder: Path, path: Path) -> None:
    path.touch()
    with Drive(folder, frames=False, pieces=False) as drive:
        done, now = 0, (False, False)
        for frames, pieces in ((False, False), (True, False), (False, True), (True, True), (False, False)):
            for topic, before, after in zip(
                (drive.old_updates, drive.old_batches), now, (frames, pieces), strict=True
            ):
                if before != after:
                    change = drive.pipeline.add_topic if after else drive.pipeline.remove_topic
                    drive.until_applied(change(topic))
            now = (frames, pieces)
            drive.notes.clear()
            with path.open("ab") as file:
                file.write(plain(*numbered(done, 10)))
            drive.until_lines(10)
            expected = [order(each) for each in numbered(done, 10)]
            assert drive.updates() == (expected if frames else [])
            assert drive.batched() == (expected if pieces else [])
            assert sum(end.selected for end in drive.ends) == 10
            assert sum(end.published for end in drive.ends) == (10 if frames or pieces else 0)
            done += 10
        assert drive.pipeline.stats()["orders"] == 50


def test_a_user_who_comes_back_gets_orders_again(folder: Path, path: Path) -> None:
    path.touch()
    mine = event(user="0x" + "1" * 40)
    with Drive(folder, frames=False, pieces=False) as drive:
        for _ in range(3):
            topic = Topic("orderUpdates", user=mine["user"])
            for change, orders in ((drive.pipeline.add_topic, 1), (drive.pipeline.remove_topic, 0)):
                drive.until_applied(change(topic))
                drive.notes.clear()
                with path.open("ab") as file:
                    file.write(plain(mine))
                drive.until_lines(1)
                assert [each.orders for each in drive.messages(topic)] == [1] * orders


def test_every_batch_is_noted_if_asked_for(folder: Path, path: Path) -> None:
    path.write_bytes(plain(*numbered(0, 500)))
    with Drive(folder, window=8192, workers=3, log_every_s=0.0) as drive:
        drive.until_lines(500)
    assert len(drive.ends) > 10
    for start, end in zip(drive.notes[::2], drive.notes[1::2], strict=True):
        assert type(start).__name__ == "BatchStart"
        assert (start.number, start.lines) == (end.number, end.lines)
        assert type(end).__name__ == "BatchEnd"
    for end in drive.ends:
        assert end.logged
        assert end.failed == 0
        assert 0 < end.seconds < 5
        assert len(end.workers) == 3
        assert all(state.completed for state in end.workers)
        assert sum(state.lines for state in end.workers) == end.lines
        assert sum(state.orders for state in end.workers) == end.orders


def test_no_batch_is_noted_if_not_asked_for(folder: Path, path: Path) -> None:
    path.write_bytes(plain(*numbered(0, 500)))
    with Drive(folder, window=8192, log_every_s=None) as drive:
        drive.until_lines(500)
    assert drive.starts == []
    assert not any(end.logged or end.workers for end in drive.ends)


def test_one_batch_is_noted_in_a_while(folder: Path, path: Path) -> None:
    path.touch()
    with Drive(folder, log_every_s=0.5) as drive:
        began = time.monotonic()
        for i in range(130):
            with path.open("ab") as file:
                file.write(plain(event(oid=i)))
            drive.until_lines(i + 1)
            time.sleep(0.01)
        most = (time.monotonic() - began) / 0.5 + 1
    assert 2 <= len(drive.starts) <= most
    assert [start.number for start in drive.starts] == [end.number for end in drive.ends if end.logged]
    assert drive.starts[0].number == 1


def test_it_calls_when_there_is_something_and_only_then(folder: Path, path: Path) -> None:
    path.touch()
    with Drive(folder, window=2048, min_batch_s=0, log_every_s=None) as drive:
        wait_for("the file", lambda: drive.pipeline.stats()["files_opened"] == 1)
        assert not drive.ready(0.1)
        path.write_bytes(plain(*numbered(0, 20)))
        wait_for("all of it", lambda: drive.pipeline.stats()["lines"] == 20)
        batches = drive.pipeline.stats()["batches"]
        assert batches > 4
        for _ in range(batches):
            assert drive.ready(PATIENCE_S), "what is left calls again"
            assert drive.take(1) == 1
        assert not drive.ready(0.1)
        assert drive.take() == 0


@pytest.mark.fault(16)
def test_rejected_lines_are_told_with_their_offset(folder: Path, path: Path) -> None:
    good = plain(*numbered(0, 30))
    path.write_bytes(good + b"{broken}\n" + good + b'{"a":1}\n' * 3000 + good)
    with Drive(folder, workers=3, window=4096) as drive:
        drive.until_lines(3091)
        stats = drive.pipeline.stats()
    assert ids(drive) == list(range(30)) * 3
    assert sum(end.rejected for end in drive.ends) == stats["rejected"] == 3001
    first = next(end for end in drive.ends if end.rejected)
    assert first.reject == (str(path), len(good), "not valid JSON")
    assert all(end.reject is None for end in drive.ends if not end.rejected)


def test_the_first_rejected_line_of_all_workers_is_told(folder: Path, path: Path) -> None:
    good = plain(*numbered(0, 300))
    bad = b"[]\n"
    path.write_bytes(good + bad + good + bad)
    with Drive(folder, workers=3, window=1 << 20) as drive:
        drive.until_lines(602)
    (end,) = drive.ends
    assert end.rejected == 2
    assert end.reject is not None
    assert end.reject[:2] == (str(path), len(good))


@pytest.mark.fault(11)
def test_a_line_that_is_never_finished_is_taken_as_it_is(folder: Path, path: Path) -> None:
    text = plain(*numbered(0, 4))
    path.write_bytes(text[:-1])
    with Drive(folder, rescan_s=0.05, grace_s=0.2) as drive:
        drive.until_lines(3)
        hour_file(folder, "plain", "20260505", 10).write_bytes(plain(*numbered(4, 3)))
        drive.until_lines(7)
        assert ids(drive) == [0, 1, 2, 3, 4, 5, 6]
        with path.open("ab") as file:
            file.write(b"\n" + plain(*numbered(7, 2)))
        wait_for("late lines", lambda: drive.pipeline.stats()["late_lines"] >= 2)
        drive.until(lambda: len(ids(drive)) == 9)
    assert ids(drive) == list(range(9))
    stats = drive.pipeline.stats()
    assert (stats["rejected"], stats["files_opened"]) == (0, 2)
    position = drive.pipeline.position()
    assert position is not None
    assert position.path.endswith("/10")


@pytest.mark.fault(19)
def test_a_truncated_file_begins_anew(folder: Path, path: Path) -> None:
    path.write_bytes(plain(*numbered(0, 100)))
    with Drive(folder, rescan_s=0.05) as drive:
        drive.until_lines(100)
        path.write_bytes(plain(*numbered(100, 5)))
        drive.until_lines(105)
        assert drive.pipeline.stats()["truncations"] == 1
    assert ids(drive) == list(range(105))


def test_heights_and_times(folder: Path) -> None:
    path = hour_file(folder, "streaming", "20260505", 9)
    path.write_bytes(envelope([event(time="2026-05-05T17:39:14.852711983")], 985148182))
    with Drive(folder) as drive:
        drive.until_lines(1)
        stats = drive.pipeline.stats()
        assert stats["height"] == 985148182
        assert stats["last_event_ns"] == 1778002754852711983
        assert 0 <= time.monotonic_ns() - stats["last_data_ns"] < PATIENCE_S * 1e9
        with path.open("ab") as file:
            file.write(envelope([], 985148183))
        drive.until_lines(2)
        assert drive.pipeline.stats()["orders"] == 1
    with Drive(folder / "none") as drive:
        assert (drive.pipeline.stats()["height"], drive.pipeline.stats()["last_event_ns"]) == (None, 0)


def test_a_batch_that_hangs_is_seen(folder: Path, path: Path) -> None:
    path.write_bytes(plain(*numbered(0, 50)))
    with Drive(folder, workers=2, stall_ms=3000) as drive:
        wait_for("the batch", lambda: drive.pipeline.stats()["in_batch_ns"] > 0)
        wait_for("one", lambda: [each.completed for each in drive.pipeline.workers()] == [True, False])
        assert drive.take() == 1, "its beginning stands in the ring"
        assert drive.starts[0].lines == 50
        drive.until_lines(50)
        assert drive.pipeline.stats()["in_batch_ns"] == 0
        assert [state.completed for state in drive.pipeline.workers()] == [True, True]
        assert drive.ends[0].seconds > 2.9


def test_an_idle_pipeline_comes_by_often(folder: Path, path: Path) -> None:
    path.touch()
    with Drive(folder, rescan_s=0.2) as drive:
        comes_by(drive)
        comes_by(drive)
        assert drive.notes == []


def test_what_ends_the_thread_is_told(folder: Path, path: Path) -> None:
    def fail(level: str, text: str) -> None:
        raise RuntimeError("no room for a notice")

    path.touch()
    with Drive(folder, notice=fail, frames=False, pieces=False) as drive:
        assert drive.ready(PATIENCE_S), "the main thread is woken"
        wait_for("its end", lambda: drive.pipeline.stopped)
        assert isinstance(drive.pipeline.failure, RuntimeError)


@pytest.mark.plain_build
def test_what_many_topics_made_does_not_stay(tmp_path: Path) -> None:
    """Ring slots release their memory once their messages are taken."""
    path = hour_file(tmp_path, "plain", "20260505", 17)
    path.touch()
    lines = plain(*(event(oid=i) for i in range(2000)))
    with Drive(tmp_path, window=1 << 20, frames=False, pieces=False) as drive:
        topics = [Topic("orders", format="full") for _ in range(40)]
        drive.until_applied([drive.pipeline.add_topic(topic) for topic in topics][-1])
        before = psutil.Process().memory_info().rss
        for _ in range(20):
            with path.open("ab") as file:
                file.write(lines)
            drive.until_lines(2000)
            drive.notes.clear()
        assert psutil.Process().memory_info().rss - before < 250 << 20


def test_a_batch_that_too_many_want_leaves_orders_out_and_counts_them(folder: Path, path: Path) -> None:
    """The messages of a batch are bounded, and each topic is told how many orders were left out."""
    events = [event(oid=i, children=[{"note": "x" * 400}]) for i in range(1000)]
    path.touch()
    topics = [Topic("orders", selector=Selector(), format="raw") for _ in range(150)]
    with Drive(folder, workers=1, window=1 << 21, frames=False, pieces=False) as drive:
        for topic in topics:
            number = drive.pipeline.add_topic(topic)
        drive.until_applied(number)
        made_before = folder / "made"
        made_before.write_bytes(plain(*events))
        made_before.rename(path.with_name("10"))  # complete at once: one batch
        drive.until_lines(1000)
        assert len(drive.ends) == 1
    size = len(plain(*events))
    made = whole = 0
    for topic in topics:
        messages = drive.messages(topic)
        assert sum(message.orders for message in messages) == 1000
        made += sum(len(message.data) for message in messages)
        whole += all(message.data for message in messages)
        assert [message.seq > 0 for message in messages] == [bool(message.data) for message in messages]
        assert messages[-1].cursor.endswith(f"{size - len(plain(events[-1])):013d}-0000001")
    assert whole == 0, "all want the same, and get the same"
    bound = (32 << 20) + 64 * size
    assert 0.9 * bound < made <= bound


def test_the_place_is_not_asked_of_a_thread_that_runs(folder: Path, path: Path) -> None:
    """While the pipeline thread runs, which owns reader and follower, `position` returns None."""
    path.write_bytes(plain(event()))
    with Drive(folder) as drive:
        drive.until_lines(1)
        assert drive.pipeline.position() is None
        drive.stop()
        position = drive.pipeline.position()
        assert position is not None
        assert position.offset == len(plain(event()))


def test_what_a_cursor_begins_with_fits(path: Path) -> None:
    """A file name that is no hour gives no cursor prefix, and one too long for the buffer is refused."""
    path.write_bytes(plain(event()))
    assert prefix("plain", str(path)) == "p2026050509-"
    for name in ("123456789012", "24", "009", "x"):
        assert prefix("plain", str(path.with_name(name))) == ""
    replay_reader = ReplayReader()
    replay_reader.open(str(path), "plain", 0, CursorPosition(2026050509, 7))
    with pytest.raises(ValueError, match="cannot begin with"):
        replay_reader.open(str(path), "plain", 0, CursorPosition(10**40, 7))
