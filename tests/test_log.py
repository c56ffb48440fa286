"""The log: its lines, its bounds, and that a stuck output never blocks the caller."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import PATIENCE_S, program, wait_for

from fasttail.monitoring.batch_log import BatchLog
from fasttail.monitoring.log import Event, LogService, format_json, format_lines, start_logging
from fasttail.monitoring.log_writer import LogWriter
from fasttail.monitoring.rate_limited import RejectedLines

NINE = """\
📦 Processing batch snapshot: 12000 lines (buffer cleared)
🔄 Parallel processing START: 12000 lines, 4 workers
📊 Chunks created: 4 chunks, ~3000 lines per chunk (workers: 4)
🚀 Starting parallel execution: 4 tasks (executor: 4 max workers)
⏳ Waiting for all 4 tasks to complete...
✅ All parallel tasks completed: 4 results received
📦 Combining results from 4 chunks...
✅ Parallel COMPLETED: 12000 lines → 9800 orders (4 chunks, 0 failed)
📡 WebSocket: 9800/9800 orders → 3 clients
"""
PREFIX = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) +")


@contextmanager
def logging_to(
    fd: int, level: str = "info", capacity: int = 10_000, *, as_json: bool = False
) -> Iterator[LogService]:
    service = start_logging(level, fd, capacity, as_json=as_json)
    try:
        yield service
    finally:
        service.stop(0.2)


@contextmanager
def logging_to_file(path: Path, level: str = "info", *, as_json: bool = False) -> Iterator[LogService]:
    with path.open("wb") as file, logging_to(file.fileno(), level, as_json=as_json) as service:
        yield service


def texts(data: str) -> str:
    """Return the lines without their prefixes, which must be well formed."""
    assert all(PREFIX.match(line) for line in data.splitlines())
    return "".join(PREFIX.sub("", line) + "\n" for line in data.splitlines())


def drain(fd: int, idle_s: float = 2.0) -> bytes:
    """Read from a pipe until nothing arrives for `idle_s`."""
    data = b""
    while select.select([fd], [], [], idle_s)[0]:
        piece = os.read(fd, 1 << 16)
        if not piece:
            break
        data += piece
    return data


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            assert fd == reader, "only the reading end may have been closed by the test"


# Format


def test_form_of_a_line() -> None:
    line = format_lines(1_778_002_754.123, logging.INFO, "message")
    assert line == b"2026-05-05T17:39:14.123Z INFO     message\n"
    assert format_lines(0.9999, logging.CRITICAL, "→") == "1970-01-01T00:00:00.999Z ERROR    →\n".encode()


def test_every_line_has_its_prefix_and_no_control_character_passes() -> None:
    text = format_lines(0, logging.WARNING, "a\r\nb\x1b[31m\x00\x85\u2028\u202eé\tx\udcff\n\n").decode()
    prefix = "1970-01-01T00:00:00.000Z WARNING  "
    assert text == f"{prefix}a\n{prefix}b\\x1b[31m\\x00\\x85\\u2028\\u202eé\tx\\udcff\n"


def test_long_messages_are_cut() -> None:
    line = format_lines(0, logging.INFO, "x" * 1_000_000)
    assert len(line) < 33 * 1024
    assert line.endswith(" … (967232 more characters)\n".encode())


def test_traceback_and_bad_arguments(tmp_path: Path) -> None:
    log = logging.getLogger("test")
    with logging_to_file(tmp_path / "log") as service:
        try:
            raise KeyError("inner")
        except KeyError:
            log.exception("outer")
        record = log.makeRecord("test", logging.INFO, "", 0, "%d lines", ("many",), None)
        logging.getLogger().handlers[-1].handle(record)  # only ours: the test runner's own raises
        assert service.flush()
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(PREFIX.match(line) for line in lines)
    assert [line.split(" ", 1)[1] for line in lines[:2]] == [
        "ERROR    outer",
        "ERROR    Traceback (most recent call last):",
    ]
    assert lines[-2].endswith("ERROR    KeyError: 'inner'")
    assert lines[-1].endswith("INFO     '%d lines' (its arguments could not be shown: TypeError)")


def test_levels_and_the_root_logger_is_given_back(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with logging_to_file(tmp_path / "log", "warning") as service:
        logging.getLogger("test").info("not shown")
        assert not service.log_lines(["not shown"])
        logging.getLogger("test").warning("shown")
        assert service.stop()
        assert service.dropped == 0
    assert texts((tmp_path / "log").read_text()) == "shown\n"
    assert (root.level, list(root.handlers)) == before


# JSON format


def test_form_of_an_object() -> None:
    event = Event("batch_started", "📦 Processing\n", {"lines": 7, "file": Path("/f")})
    line = format_json(1_778_002_754.123, logging.INFO, event, "fasttail.batch")
    assert line.decode() == (
        '{"time":"2026-05-05T17:39:14.123Z","level":"INFO","logger":"fasttail.batch",'
        '"event":"batch_started","message":"📦 Processing","lines":7,"file":"/f"}\n'
    )
    assert "event" not in json.loads(format_json(0, logging.CRITICAL, Event("", "x"), "a"))


def test_an_object_is_one_line_that_holds_any_text_and_no_control_character() -> None:
    text = 'a\r\nb\x1b[31m\x00\x7f\x85\u2028\u202e"\\é\tx\udcff'
    line = format_json(0, logging.WARNING, Event("", text + "\n\n"), "a")
    assert json.loads(line)["message"] == text
    assert line.decode()[:-1].isprintable()
    assert len(format_json(0, logging.INFO, Event("", "x" * 1_000_000), "a")) < 33 * 1024


def everything_that_is_logged(path: Path, *, as_json: bool) -> list[str]:
    log = logging.getLogger("fasttail.test")
    states = [(6, 5, True), (5, 0, False)]
    with logging_to_file(path, "debug", as_json=as_json) as service:
        batches = BatchLog(service)
        batches.start(12_000, 4, 4)
        batches.end(12_000, 4, 9800, 0, 9800, 9800, 3, states=states)
        batches.start(11, 2, 2)
        batches.timed_out(30.0, states)
        batches.failed("no worker\nanswers")
        batches.summary(1.49, 230, 23_500, 1200, 23_400, 0, 40, 40, 2)
        rejects = RejectedLines()
        rejects.record(7, ("/a/b", 3, "no order"))
        rejects.log_pending()
        log.info("100%% of %s", "it")
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("it failed")
        assert service.stop()
    return path.read_text().splitlines()


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [
        json.loads(line) for line in everything_that_is_logged(tmp_path / "json", as_json=True)
    ]
    told = [f"{each['level']:<8} {line}" for each in entries for line in each["message"].split("\n")]
    lines = everything_that_is_logged(tmp_path / "text", as_json=False)
    assert told == [line.partition(" ")[2] for line in lines]
    assert texts("\n".join(lines)).startswith(NINE[:40])
    assert all(entry["time"].endswith("Z") for entry in entries)
    of = {entry["event"]: entry for entry in entries if "event" in entry}
    assert of["batch_completed"].items() >= {"lines": 12_000, "orders": 9800, "failed": 0}.items()
    assert of["lines_rejected"].items() >= {"lines": 7, "file": "/a/b", "offset": 3}.items()
    assert of["batch_failed"]["reason"] == "no worker\nanswers"
    assert entries[-1]["logger"] == "fasttail.test"


def test_what_was_dropped_is_an_object_too(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with logging_to(writer, capacity=10, as_json=True) as service:
        for _ in range(1000):
            service.log_lines(["x" * 1000])
        data = drain(reader)
        dropped = service.dropped
    entries = [json.loads(line) for line in (data + drain(reader)).splitlines()]
    told = [entry for entry in entries if entry.get("event") == "log_lines_dropped"]
    assert sum(entry["lines"] for entry in told) == dropped > 0


# Batches


def test_nine_lines_of_a_batch(tmp_path: Path) -> None:
    with logging_to_file(tmp_path / "log") as service:
        batches = BatchLog(service)
        assert batches.start(12_000, 4, 4)
        assert service.flush()
        assert texts((tmp_path / "log").read_text()) == "".join(NINE.splitlines(keepends=True)[:5])
        assert batches.end(12_000, 4, 9800, 0, 9800, 9800, 3)
        assert service.stop()
    log = (tmp_path / "log").read_text()
    assert texts(log) == NINE
    assert all(" INFO " in line for line in log.splitlines())


def test_an_end_without_a_beginning(tmp_path: Path) -> None:
    with logging_to_file(tmp_path / "log") as service:
        batches = BatchLog(service)
        assert not batches.end(1, 4, 1, 0, 0, 0, 0)
        assert batches.end(12_000, 4, 9800, 0, 9800, 9800, 3, with_start=True)
        batches.start(12_000, 4, 4)
        assert batches.end(12_000, 4, 9800, 0, 9800, 9800, 3, with_start=True)
        assert not batches.end(1, 4, 1, 0, 0, 0, 0)
        assert service.stop()
    assert texts((tmp_path / "log").read_text()) == NINE * 2


def test_workers_at_debug_level(tmp_path: Path) -> None:
    states = [(6, 5, True), (5, 5, True)]
    for level, count in (("info", 0), ("debug", 4)):
        with logging_to_file(tmp_path / level, level) as service:
            batches = BatchLog(service)
            batches.start(11, 2, 2)
            batches.end(11, 2, 10, 0, 0, 0, 0, states=states)
            assert service.stop()
        lines = (tmp_path / level).read_text().splitlines()
        assert len(lines) == 9 + count
        assert sum("🔧 Worker START: " in line or "✅ Worker COMPLETED: " in line for line in lines) == count


def test_a_batch_that_times_out_and_one_that_fails(tmp_path: Path) -> None:
    with logging_to_file(tmp_path / "log") as service:
        batches = BatchLog(service)
        batches.start(11, 2, 2)
        batches.timed_out(30.0, [(6, 5, True), (5, 0, False)])
        batches.failed("no worker answers")
        assert not batches.end(11, 2, 0, 2, 0, 0, 0)
        batches.summary(1.0, 230, 23_500, 1200, 23_400, 0, 40, 40, 2)
        assert service.stop()
    lines = (tmp_path / "log").read_text().splitlines()[5:]
    assert lines[0].endswith("ERROR    ⏰ Parallel batch timed out after 30 seconds")
    assert [PREFIX.sub("", line) for line in lines[1:]] == [
        "🔧 Worker START: 1 of 2, 6 lines",
        "✅ Worker COMPLETED: 1 of 2, 5 orders",
        "🔧 Worker START: 2 of 2, 5 lines",
        "❌ Parallel batch processing FAILED: no worker answers",
        "Σ 1 s: 230 batches, largest 1200 lines, 23500 lines → 23400 orders (0 chunks failed), "
        "40/40 orders → 2 clients",
    ]


# Outputs that do not accept the log


def test_a_pipe_that_nobody_reads(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = logging.getLogger("test")
    with logging_to(writer, capacity=1000) as service:
        batches = BatchLog(service)
        for number in range(20_000):  # would never end if logging waited for the reader
            log.info("line %d", number)
            if number % 10 == 0 and batches.start(100, 4, 4):
                assert batches.end(100, 4, 90, 0, 90, 90, 1), "the beginning was logged"
        dropped = service.dropped
        assert dropped > 15_000

        data = drain(reader, 5.0).decode()  # the reader returns, and may have to wait on a busy machine
        written = texts(data)
        assert service.flush()
        numbers = [int(number) for number in re.findall(r"^line (\d+)$", written, re.MULTILINE)]
        assert numbers == sorted(set(numbers))
        assert (
            written.count("📦 Processing batch snapshot")
            == written.count("✅ All parallel tasks completed")
            > 0
        )
        log.info("goes on")
        more = drain(reader)
        assert b"goes on" in more
        assert service.dropped == dropped
    # Drops are reported at most once a second, and the rest at the end.
    told = re.findall(r"log: (\d+) lines dropped", written + texts((more + drain(reader)).decode()))
    assert sum(map(int, told)) == dropped


def test_a_beginning_that_was_logged_keeps_a_place_for_its_end(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with logging_to(writer, capacity=100) as service:
        batches = BatchLog(service)
        assert batches.start(100, 4, 4)
        while service.log_lines(["x" * 4000]):
            pass
        assert not BatchLog(service).start(100, 4, 4)
        assert batches.end(100, 4, 90, 0, 90, 90, 1)
        assert "✅ All parallel tasks completed" in drain(reader).decode()


def test_stop_never_hangs_on_a_pipe_that_nobody_reads(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    service = start_logging("info", writer)
    for _ in range(100):
        service.log_lines(["y" * 1000])
    assert not service.stop(0.3)
    assert 90 <= service.dropped < 100, "what the pipe took is not dropped"
    assert not service.log_lines(["after the end"])
    assert "fasttail-log" not in {thread.name for thread in threading.enumerate()}


def test_a_non_blocking_pipe_costs_nothing_while_it_is_full(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    with logging_to(writer) as service:
        for number in range(200):
            service.log_lines([f"{number} " + "z" * 500])
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1, "the writer spins"
        assert len(drain(reader).splitlines()) == 200
        assert service.dropped == 0


@pytest.mark.fault(34)
def test_a_full_disk_and_its_recovery(tmp_path: Path) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with logging_to(fd, capacity=100) as service:
            for number in range(10_000):
                logging.getLogger("test").info("line %d", number)
            assert service.dropped == 9910
            assert not service.flush(0.3)
            assert service.write_errors >= 1

            good = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
            os.dup2(good, fd)  # space is freed
            os.close(good)
            assert service.flush(PATIENCE_S)
            assert service.stop()
            written = texts((tmp_path / "log").read_text())
            assert re.findall(r"^line (\d+)$", written, re.MULTILINE) == [str(number) for number in range(90)]
            assert "log: 9910 lines dropped" in written
    finally:
        os.close(fd)


def test_stop_on_a_full_disk() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        service = start_logging("info", fd)
        service.log_lines(["one", "two"])
        assert not service.stop(0.1)
        assert service.dropped == 2
    finally:
        os.close(fd)


def test_a_reader_that_leaves(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    service = start_logging("info", writer)
    service.log_lines(["nobody"])
    wait_for("the error", lambda: service.write_errors >= 1)
    assert not service.stop(0.1)
    assert service.dropped == 1


def test_lines_stay_whole_beside_another_writer_of_the_same_pipe(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with logging_to(writer) as service:
        other = threading.Thread(target=lambda: [os.write(writer, b"o" * 99 + b"\n") for _ in range(2000)])
        collected: list[bytes] = []
        collector = threading.Thread(target=lambda: collected.append(drain(reader)))
        collector.start()
        other.start()
        for _ in range(200):
            service.log_lines([letter * 450 for letter in "abcdefghij"])  # more than one atomic write
        other.join()
        collector.join()
    lines = collected[0].splitlines()
    assert len(lines) == 4000
    whole = re.compile(rb"o{99}|\S+Z INFO     (\w)\1{449}")
    assert all(whole.fullmatch(line) for line in lines)


def test_the_queue_is_bounded_in_bytes_too(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    queue = LogWriter(writer, lambda dropped: b"", capacity=1000, max_bytes=100_000)
    taken = sum(queue.put(b"x" * 9999 + b"\n") for _ in range(100))
    assert taken == 9
    assert queue.put(b"y" * 9999 + b"\n", reserve=True)
    assert not queue.put(b"z" * 9999 + b"\n", reserve=True)
    assert queue.dropped == 92
    queue.stop(0.1)


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    with logging_to_file(tmp_path / "log") as service:
        threads = [
            threading.Thread(
                target=lambda who=who: [service.log_lines([f"{who} {n}"] * 2) for n in range(500)]
            )
            for who in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert service.stop()
    written = texts((tmp_path / "log").read_text()).splitlines()
    assert len(written) == 4000
    assert written[::2] == written[1::2], "a group stays together"


@pytest.mark.parametrize("how", ["stopped", "not stopped"])
def test_a_process_ends_although_nobody_reads_its_log(how: str) -> None:
    """A process whose log output is blocked still ends at once."""
    with subprocess.Popen([*program("unread_log"), how], stdout=subprocess.PIPE) as process:
        assert process.wait() == 7
