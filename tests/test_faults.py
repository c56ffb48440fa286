"""Faults of docs/faults.md that need the whole pipeline or the real server, on real files.

Most tests run with inotify and with polling. Other faults are tested next to the part that keeps the promise.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from driving import Drive
from lines import envelope, event, plain, without
from running import Client, Serve, command, hour_file, serve, wait_for
from shims import preload
from test_ws import Bot

from fasttail.engine.topics import Topic
from fasttail.replay.replay_reader import ReplayReader
from fasttail.sources.position import Position

both_ways = pytest.mark.parametrize("inotify", [True, False], ids=["inotify", "polling"])


def numbered(first: int, count: int) -> list[dict[str, Any]]:
    return [event(oid=i) for i in range(first, first + count)]


def ids(drive: Drive) -> list[int]:
    return [int(each["id"]) for each in drive.updates()]


def append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def path(folder: Path) -> Path:
    return hour_file(folder, "plain", "20260505", 9)


# ---- lines ----


@pytest.mark.fault(11)
@both_ways
def test_a_last_line_that_is_none_is_counted(folder: Path, path: Path, inotify: bool) -> None:
    path.write_bytes(plain(*numbered(0, 3)) + plain(event(oid=3))[:-20])
    with Drive(folder, rescan_s=0.05, grace_s=0.2, inotify=inotify) as drive:
        append(path.with_name("10"), plain(*numbered(4, 3)))
        drive.until_lines(7)
        stats = drive.pipeline.stats()
    assert ids(drive) == [0, 1, 2, 4, 5, 6]
    assert (stats["torn_lines"], stats["rejected"]) == (1, 1)


@pytest.mark.fault(12)
@both_ways
@pytest.mark.parametrize("piece", [1000, 1 << 16])
def test_a_line_past_the_limit_costs_its_neighbours_nothing(
    folder: Path, path: Path, inotify: bool, piece: int
) -> None:
    path.write_bytes(plain(*numbered(0, 3)))
    with Drive(folder, window=4096, max_line=8192, inotify=inotify) as drive:
        drive.until_lines(3)
        data = b'{"x":"' + b"x" * 300_000 + b'"}\n' + plain(*numbered(3, 4))
        for at in range(0, len(data), piece):
            append(path, data[at : at + piece])
        drive.until_lines(7)
        assert drive.pipeline.stats()["oversize_lines"] == 1
    assert ids(drive) == list(range(7))


@pytest.mark.fault(14, 16)
@both_ways
def test_bad_lines_are_counted_and_the_next_is_right(folder: Path, path: Path, inotify: bool) -> None:
    good = plain(event(oid=1))
    bad = [
        good[:-1].replace(b"BTC", b"B\xffC") + b"\n",
        good[:-1].replace(b"BTC", b"B\xed\xa0\x80C") + b"\n",
        good[:-1] + good,  # two on one line
        good[:-1] + good[:40] + b"\n",
        good[:-1] + b"," + good,
        good[:-5] + b"\n",
        good[5:],
        b"\xff\xfe\xfd\n",
        b"{}\n",
        b"]\n",
    ]
    path.touch()
    with Drive(folder, workers=3, inotify=inotify) as drive:
        for number, line in enumerate(bad):
            append(path, line + plain(event(oid=number)))
        drive.until_lines(2 * len(bad))
        assert drive.pipeline.stats()["rejected"] == len(bad)
    assert ids(drive) == list(range(len(bad)))


@pytest.mark.fault(15, 21)
@both_ways
@pytest.mark.parametrize("size", [1, 5000, 100_000, 64 << 20])
def test_a_hole_takes_no_line_along(folder: Path, path: Path, inotify: bool, size: int) -> None:
    """A hole far longer than the longest line is read once, and the lines around it are intact."""
    path.write_bytes(plain(event(oid=0)))
    with Drive(folder, window=4096 if size < 1 << 20 else 1 << 20, max_line=8192, inotify=inotify) as drive:
        drive.until_lines(1)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size + size)
            file.write(plain(*numbered(1, 3)))
        drive.until_lines(4)
        append(path, plain(event(oid=4)))
        drive.until_lines(5)
        stats = drive.pipeline.stats()
        assert (stats["nul_bytes"], stats["oversize_lines"], stats["rejected"]) == (size, 0, 0)
        assert drive.reader.bytes_read < path.stat().st_size + 100_000
        began = psutil.Process().cpu_times().user
        time.sleep(0.3)
        assert psutil.Process().cpu_times().user - began < 0.1, "it spins"
    assert ids(drive) == list(range(5))


@pytest.mark.fault(17, 18)
@both_ways
def test_what_nobody_has_seen_before_is_delivered_as_it_is(folder: Path, path: Path, inotify: bool) -> None:
    child = dict(event()["order"], oid=5, children=[], cloid=None)
    events = [
        event(status="somethingNew"),
        event(coin="NOBODY-KNOWS"),
        event(surprise={"deep": [1, {"a": None}]}),
        event(cloid=None),
        without("cloid"),
        event(children=[child, child]),
        event(limitPx="0." + "0" * 30 + "1", sz="9" * 25 + ".5", origSz="1e-7"),
        event(limitPx="123456789.123456789123456789", oid=2**63 - 1, timestamp=0),
    ]
    topic = Topic("orders", format="raw")
    path.touch()
    with Drive(folder, inotify=inotify, frames=False, pieces=False) as drive:
        drive.until_applied(drive.pipeline.add_topic(topic))
        path.write_bytes(plain(*events))
        drive.until_lines(len(events))
        assert drive.pipeline.stats()["rejected"] == 0
        got = b"".join(message.data for message in drive.messages(topic))
    for line in plain(*events).splitlines():
        assert line in got


# ---- content ----


@pytest.mark.fault(20)
@both_ways
@pytest.mark.parametrize("more", [1, 0])
def test_truncated_and_grown_past_the_place_of_reading(
    folder: Path, path: Path, inotify: bool, more: int
) -> None:
    """The file is rewritten repeatedly while it is being read, at once or in pieces."""
    count, first = 20, 0
    path.write_bytes(plain(*numbered(0, count)))
    # If there is more to read, the read detects the change; with the same size, only the next check does.
    with Drive(folder, rescan_s=60.0 if more else 0.05, window=4096, inotify=inotify) as drive:
        drive.until_lines(count)
        for turn in range(1, 11):
            first, count = first + count, count + more
            path.write_bytes(plain(*numbered(10_000 + first, count)))
            drive.until(lambda first=first, count=count: drive.lines >= first + count)  # type: ignore[misc]
            assert drive.pipeline.stats()["truncations"] == turn
        assert ids(drive) == [*range(20), *range(10_020, 10_000 + first + count)]
        assert drive.pipeline.stats()["rejected"] == 0


@pytest.mark.fault(21)
@both_ways
@pytest.mark.parametrize("look", [True, False], ids=["seen empty", "unseen"])
def test_copytruncate_under_a_writer_that_goes_on_where_it_was(
    folder: Path, path: Path, inotify: bool, look: bool
) -> None:
    with path.open("wb", buffering=0) as stale:
        stale.write(plain(*numbered(0, 100)))
        with Drive(folder, rescan_s=0.05, max_line=1 << 14, window=4096, inotify=inotify) as drive:
            drive.until_lines(100)
            shutil.copy(path, path.with_name("9.copy"))
            size = path.stat().st_size
            os.truncate(path, 0)
            if look:
                wait_for("the look", lambda: drive.pipeline.stats()["truncations"] == 1)
            stale.write(plain(*numbered(100, 5)))
            drive.until_lines(105)
            stale.write(plain(*numbered(105, 5)))
            drive.until_lines(110)
            stats = drive.pipeline.stats()
    assert ids(drive) == list(range(110))
    assert (stats["truncations"], stats["nul_bytes"]) == (1, size)
    assert (stats["rejected"], stats["oversize_lines"]) == (0, 0)


@pytest.mark.fault(36)
@both_ways
@pytest.mark.parametrize("layout", ["streaming", "by_block"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("deliver", [False, True])
def test_blocks_written_once_more_come_once(
    folder: Path, layout: str, workers: int, inotify: bool, deliver: bool
) -> None:
    """Each step back of the block number counts once, wherever batches end. What was read is dropped."""
    path = hour_file(folder, layout, "20260505", 9)
    heights = [*range(100, 200), *range(150, 260), *range(255, 300), 300, 300, 299, 300]
    path.touch()
    with Drive(folder, workers=workers, window=1 << 18, inotify=inotify, deliver_replayed=deliver) as drive:
        at = 0
        while at < len(heights):
            lines = [
                envelope([] if number % 7 == 0 else [event(oid=index)] * 3, number)
                for index, number in enumerate(heights[at : at + 90], at)
            ]
            append(path, b"".join(lines))
            at += 90
            drive.until(lambda at=at: drive.lines >= min(at, len(heights)))  # type: ignore[misc]
        stats = drive.pipeline.stats()
    assert stats["height_regressions"] == 3
    written = [(i, number) for i, number in enumerate(heights) if number % 7]
    first = {number: i for i, number in reversed(written)}
    new = [(i, number) for i, number in written if deliver or first[number] == i or i == len(heights) - 3]
    assert ids(drive) == [i for i, _ in new for _ in range(3)]
    assert stats["replayed_events"] == 3 * (len(written) - len(new))
    assert stats["height"] == 300


@pytest.mark.fault(36)
@pytest.mark.parametrize("layout", ["streaming", "by_block"])
def test_blocks_that_come_late_are_no_repetition(folder: Path, layout: str) -> None:
    """What was not read before is delivered, though newer blocks were; the second time it is dropped. Plain
    lines among the others always pass, and a chain that begins anew is read from its first block.
    """
    path = hour_file(folder, layout, "20260505", 9)
    heights = [1, 2, 3, 9, 10, 4, 5, 6, 11, 5, 9, 12, 0, 12, 7, 13]
    events = [(event(oid=i), number) for i, number in enumerate(heights)]
    lines = [envelope([each], number) if number else plain(each) for each, number in events]
    anew = {"block_time": "2026-06-01T00:00:00"}
    lines += [envelope([event(oid=len(heights) + i)], each, **anew) for i, each in enumerate([2, 3, 4])]
    path.write_bytes(b"".join(lines))
    for workers in (1, 2, 3):
        with Drive(folder, workers=workers) as drive:
            drive.until_lines(len(lines))
            assert ids(drive) == [i for i in range(len(lines)) if i not in (9, 10)]
            assert drive.pipeline.stats()["replayed_events"] == 2


@pytest.mark.fault(4, 36)
def test_late_lines_of_a_former_hour_are_no_step_back(folder: Path) -> None:
    path = hour_file(folder, "streaming", "20260505", 9)
    path.write_bytes(envelope([event(oid=0)], 100))
    append(path.with_name("10"), envelope([event(oid=1)], 200))
    with Drive(folder, grace_s=10.0) as drive:
        drive.until_lines(2)
        append(path, envelope([event(oid=2)], 101))
        drive.until_lines(3)
        append(path.with_name("10"), envelope([event(oid=3)], 201))
        drive.until_lines(4)
        stats = drive.pipeline.stats()
    assert (stats["late_lines"], stats["height_regressions"]) == (1, 0)


# ---- size ----


@pytest.mark.fault(42)
@both_ways
def test_a_file_beyond_4_gib(folder: Path, path: Path, inotify: bool) -> None:
    """Offsets beyond 4 GiB are right in cursors, positions and metrics, and the next hour follows."""
    start = (5 << 30) + 7
    with path.open("wb") as file:
        file.seek(start - 1)
        file.write(b"\n")
    topic = Topic("orders", format="raw")
    with Drive(folder, start="end", inotify=inotify) as drive:
        drive.until_applied(drive.pipeline.add_topic(topic))
        append(path, plain(*numbered(0, 2)))
        drive.until_lines(2)
        wait_for("the figure", lambda: drive.pipeline.stats()["offset"] == path.stat().st_size)
        assert f"{start + len(plain(event(oid=0))):013d}" in drive.messages(topic)[-1].cursor
        append(path.with_name("10"), plain(event(oid=2)))
        drive.until_lines(3)
    assert ids(drive) == [0, 1, 2]
    append(path.with_name("10"), plain(event(oid=3)))
    with Drive(folder, resume=Position(str(path), start, path.stat().st_dev, path.stat().st_ino)) as drive:
        drive.until_lines(4)
    assert ids(drive) == [0, 1, 2, 3]


@pytest.mark.fault(42)
@both_ways
def test_a_former_hour_that_never_rests_starves_nobody(folder: Path, path: Path, inotify: bool) -> None:
    """Late lines may come at any rate: lines of the current hour are delivered between them."""
    path.write_bytes(plain(event(oid=0)))
    append(path.with_name("10"), plain(event(oid=1)))
    with Drive(folder, grace_s=60.0, min_batch_s=0, inotify=inotify) as drive:
        drive.until_lines(2)
        for number in range(2, 200, 2):
            append(path, plain(event(oid=number)))
            append(path.with_name("10"), plain(event(oid=number + 1)))
        drive.until_lines(200)
    got = ids(drive)
    assert [number for number in got if number % 2] == list(range(1, 200, 2))
    assert [number for number in got if number % 2 == 0] == list(range(0, 200, 2))


# ---- the server in a hostile environment ----


def own_namespace(*setup: str) -> list[str]:
    """Return a command prefix that runs `setup`, then a command, as root of its own namespaces."""
    wrap = ["unshare", "--user", "--map-root-user", "--mount"]
    script = " && ".join((*setup, 'exec "$@"'))
    if subprocess.run([*wrap, "sh", "-c", script, "sh", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here, or not for this")
    return [*wrap, "sh", "-c", script, "sh"]


def has(client: Client, *oids: int) -> Callable[[], bool]:
    return lambda: {str(oid) for oid in oids} <= {each["id"] for each in client.orders}


def deliver(running: Serve, client: Client, path: Path, oid: int) -> None:
    """Write a line and wait until it is delivered."""
    append(path, plain(event(oid=oid)))
    wait_for(f"order {oid}", has(client, oid))


def each_once(client: Client, count: int) -> None:
    assert [int(each["id"]) for each in client.wait_orders(count)] == list(range(count))


@pytest.mark.fault(29)
@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_without_inotify_the_server_polls_and_names_the_sysctl(folder: Path, path: Path, limit: str) -> None:
    path.touch()
    with serve(folder, wrap=own_namespace(f"echo 0 > /proc/sys/user/{limit}")) as running:
        name = {"max_inotify_watches": "max_user_watches", "max_inotify_instances": "max_user_instances"}
        running.wait_log(rf"WARNING .*inotify is unavailable .*{name[limit]}.*polling instead")
        running.wait_log("following")
        client = running.client()
        for number, where in enumerate(
            (path, path, path.with_name("10"), path.parents[1] / "20260506" / "0")
        ):
            deliver(running, client, where, number)
        each_once(client, 4)


@pytest.mark.fault(30)
@both_ways
def test_a_file_system_that_tells_nothing(tmp_path: Path, inotify: bool) -> None:
    """An overlay whose lower folder is written to: reads see the data, but no events arrive."""
    below, seen = tmp_path / "below", tmp_path / "seen"
    for name in ("below", "seen", "upper", "work"):
        (tmp_path / name).mkdir()
    path = hour_file(below, "plain", "20260505", 9)
    path.touch()
    options = f"lowerdir={below},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    wrap = own_namespace(f"mount -t overlay overlay -o {options} {seen}")
    with serve(seen, "--rescan-s", 0.2, *([] if inotify else ["--no-inotify"]), wrap=wrap) as running:
        running.wait_log("following")
        client = running.client()
        for number, where in enumerate((path, path, path.with_name("10"), path.with_name("10"))):
            deliver(running, client, where, number)
        each_once(client, 4)


@pytest.mark.fault(32)
@pytest.mark.plain_build
@both_ways
@pytest.mark.parametrize("code", ["EIO", "ESTALE"])
def test_reads_that_fail_for_a_while(
    tmp_path: Path, folder: Path, path: Path, code: str, inotify: bool
) -> None:
    """The server stays healthy and reopens the file, and no order is missing or duplicated in the end."""
    path.touch()
    flag = tmp_path / "flag"
    env = preload(tmp_path, "failing_reads", FAILS_WHILE=flag, FAILS_WITH=getattr(errno, code))
    options = ["--rescan-s", 0.1, *([] if inotify else ["--no-inotify"])]
    with serve(folder, *options, env=env) as running:
        running.wait_log("following")
        client = running.client()
        deliver(running, client, path, 0)
        flag.touch()
        append(path, plain(event(oid=1)))
        running.wait_log("cannot read .*/9: (Input/output error|Stale file handle); reopening it")
        wait_for("tries", lambda: running.metric("fasttail_read_errors_total") >= 3)
        append(path, plain(event(oid=2)))
        assert running.get("/health/live")[0] == 200
        assert running.count("cannot read") == 1, "told once a minute"
        used = psutil.Process(running.process.pid).cpu_times().user
        time.sleep(0.5)
        assert psutil.Process(running.process.pid).cpu_times().user - used < 0.2, "it spins"
        flag.unlink()
        deliver(running, client, path, 3)
        each_once(client, 4)


@pytest.mark.fault(33)
@pytest.mark.plain_build
def test_without_descriptors_the_tail_goes_on(folder: Path, path: Path) -> None:
    """Without free descriptors, hours still change and connected clients get their orders."""
    path.touch()
    with serve(folder, "--max-clients-per-ip", 0, wrap=["prlimit", "--nofile=110:110"]) as running:
        running.wait_log("following")
        client = running.client()
        deliver(running, client, path, 0)
        held = []
        try:
            for _ in range(300):
                held.append(socket.create_connection(("127.0.0.1", running.port), timeout=120))
            deliver(running, client, path, 1)
            deliver(running, client, path.with_name("10"), 2)
            deliver(running, client, path.parents[1] / "20260506" / "0", 3)
            fds = len(os.listdir(f"/proc/{running.process.pid}/fd"))
            assert fds <= 110
        finally:
            for sock in held:
                sock.close()
        each_once(client, 4)
        wait_for("the answer", lambda: _refused(running) > 100)


def _refused(running: Serve) -> float:
    try:
        return running.metric("fasttail_client_refused_total")
    except (OSError, AssertionError):  # the held connections are still being closed
        return 0.0


@pytest.mark.fault(34)
def test_a_full_disk_under_the_log(tmp_path: Path, folder: Path, path: Path) -> None:
    """A full log disk delays no order; once there is space, the log reports what it lost."""
    path.touch()
    disk = tmp_path / "disk"
    disk.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    wrap = own_namespace(f"mount -t tmpfs -o size=64k tmpfs {disk}", f"exec >>{disk}/log 2>&1")
    words = ["--port", port, "--log-batches", "all", "--log-level", "debug", "--workers", 2]
    process = subprocess.Popen([*wrap, *command("serve", folder, *words)])
    try:
        client: Client = wait_for("the server", lambda: _client(port))
        for number in range(100):
            append(path, plain(event(oid=number)))
            wait_for(f"order {number}", has(client, number))
        each_once(client, 100)
        log = Path(f"/proc/{process.pid}/root{disk}/log")
        wait_for("a full disk", lambda: log.stat().st_size >= 60_000)
        wait_for("its end", lambda: os.statvfs(log).f_bfree == 0)
        os.truncate(log, 0)
        append(path, plain(event(oid=100)))
        wait_for("order 100", has(client, 100))
        wait_for("the log", lambda: b"log lines" in log.read_bytes() or b"WebSocket: 1/1" in log.read_bytes())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()


def _client(port: int) -> Client | None:
    try:
        return Client(port)
    except OSError:
        return None


@pytest.mark.fault(35)
@both_ways
def test_a_node_that_stops_is_told_and_the_server_stays_well(folder: Path, path: Path, inotify: bool) -> None:
    path.touch()
    options = ["--stale-after-s", 0.5, *([] if inotify else ["--no-inotify"])]
    with serve(folder, *options) as running:
        running.wait_log("following")
        assert json.loads(running.get("/health")[1])["state"] == "waiting"
        client = running.client()
        for number in range(2):
            deliver(running, client, path, number)
            wait_for("staleness", lambda: running.get("/health")[0] == 503)
            body = json.loads(running.get("/health")[1])
            assert body["status"] == "stale"
            assert body["data_age_s"] > 0.5
            assert running.get("/health/live")[0] == 200
        append(path, plain(event(oid=2)))
        wait_for("fresh data", lambda: running.get("/health")[0] == 200)
        each_once(client, 3)


@pytest.mark.fault(40)
@pytest.mark.plain_build
@both_ways
def test_the_clock_jumps(tmp_path: Path, folder: Path, path: Path, inotify: bool) -> None:
    """The clock and file times may jump by years: names decide, and nothing stalls."""
    path.touch()
    jump = tmp_path / "jump"
    env = preload(tmp_path, "jumping_clock", JUMP=jump)
    with serve(folder, *([] if inotify else ["--no-inotify"]), env=env) as running:
        running.wait_log("following")
        client = running.client()
        ten, eleven = path.with_name("10"), path.with_name("11")
        day = path.parents[1] / "20260506" / "0"
        ahead, back, far = "86400", "-900000000", "3000000000"
        steps = [
            (path, "0"),
            (path, ahead),
            (ten, ahead),
            (ten, back),
            (eleven, back),
            (day, far),
            (day, "0"),
        ]
        for number, (where, seconds) in enumerate(steps):
            jump.write_text(seconds)
            deliver(running, client, where, number)
            os.utime(where, (number * -1000 + 1e9, number * -1000 + 1e9))
            assert running.get("/health")[0] == 200
            assert running.get("/health/live")[0] == 200
        later = [day.with_name("3"), day.with_name("2"), day.with_name("1")]
        for number, where in enumerate(later):  # the last one created is the first by name
            append(where.with_name(f"x{number}"), plain(event(oid=len(steps) + 2 - number)))
            os.utime(where.with_name(f"x{number}"), (1e9 + number, 1e9 + number))
        running.pause()
        for number, where in enumerate(later):
            where.with_name(f"x{number}").rename(where)
        os.kill(running.process.pid, signal.SIGCONT)
        each_once(client, len(steps) + 3)
        assert running.metric("fasttail_truncations_total") == 0
        assert any(line.startswith("19") for line in running.log), "the clock did jump"


@pytest.mark.fault(22, 23, 24)
@both_ways
def test_renamed_deleted_and_made_again_under_the_server(folder: Path, path: Path, inotify: bool) -> None:
    """A tmpfs reuses a freed inode number for the next file."""
    path.touch()
    options = ["--rescan-s", 0.1, "--grace-s", 0.3, *([] if inotify else ["--no-inotify"])]
    with serve(folder, *options) as running:
        running.wait_log("following")
        client = running.client()
        deliver(running, client, path, 0)
        moved = path.rename(path.with_name("9.old"))
        deliver(running, client, moved, 1)
        deliver(running, client, path, 2)
        for number in range(3, 6):
            path.unlink()
            if number > 3:
                wait_for("the end", lambda: not _opened(running, path.parent))
            deliver(running, client, path, number)
        each_once(client, 6)
        wait_for("one descriptor", lambda: len(_opened(running, path.parent)) == 1)


def _opened(running: Serve, folder: Path) -> list[str]:
    """Return the files of the folder that the server has open."""
    return [name for name in running.open_files() if name.startswith(str(folder.resolve()))]


@pytest.mark.fault(15)
@pytest.mark.parametrize("window", [1000, 4096, 1 << 18])
def test_a_replay_that_passes_its_limit_within_a_hole(path: Path, window: int) -> None:
    """The limit is the live position of that moment; the hole has grown since, and a line follows it."""
    lines = plain(*numbered(0, 10))
    path.write_bytes(lines + bytes(50_000) + plain(*numbered(10, 2)))
    for limit in (len(lines), len(lines) + 1, len(lines) + 1000, len(lines) + 49_999):
        replay_reader = ReplayReader(window=window)
        replay_reader.attach_topic(Topic("orders", format="raw"))
        replay_reader.open(str(path), "plain", 0)
        orders = 0
        while replay_reader.tell() < limit:
            replay_reader.read_step(limit)
            orders += sum(message.orders for message in replay_reader.take_messages())
        assert orders == 10
        while replay_reader.read_step(path.stat().st_size):
            orders += sum(message.orders for message in replay_reader.take_messages())
            if replay_reader.tell() == path.stat().st_size:
                break
        assert orders == 12


@pytest.mark.fault(15)
def test_who_resumes_in_front_of_a_hole_goes_live(folder: Path, path: Path) -> None:
    path.write_bytes(plain(*numbered(0, 10)) + bytes(50_000))
    with serve(folder, "--from", "oldest", "--block-size", "4k") as running, Bot(running) as bot:
        running.wait_metric("fasttail_nul_bytes_total", 50_000)
        bot.subscribe(type="orders", format="raw", cursor="p2026050509-0000000000000-0000000")
        got: list[int] = []
        while (message := bot.next())["channel"] == "orders":
            got += [each["order"]["oid"] for each in message["data"]]
        assert (message["channel"], got) == ("live", list(range(10)))
        append(path, bytes(10_000) + plain(event(oid=10)))
        assert [each["order"]["oid"] for each in bot.next()["data"]] == [10]
