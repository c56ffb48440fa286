"""Resuming on /ws from a cursor or a time until the subscription is live, without gaps or duplicates."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lines import envelope, event, plain
from running import Serve, command, hour_file, serve, wait_for
from serving import TEXT, masked, upgrade
from test_ws import Bot, append, by_layout
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fasttail.engine.topics import Topic
from fasttail.replay.replay_reader import ReplayReader
from fasttail.replay.scan import FileTruncated, SharedScan
from fasttail.sources.cursor import CursorPosition


def numbered(first: int, last: int) -> list[dict[str, Any]]:
    return [event(oid=i) for i in range(first, last)]


def oids(message: dict[str, Any]) -> list[int]:
    return [each["order"]["oid"] for each in message["data"]]


def received(bot: Bot, last: int) -> list[int]:
    """Return the oids up to `last`; check sequence numbers and that cursors never go back."""
    got: list[int] = []
    seq, cursor = None, ""
    while not got or got[-1] < last:
        message = bot.next()
        if message["channel"] == "live":
            assert message["cursor"] >= cursor
            seq = message["seq"] - 1
            continue
        assert message["channel"] == "orders", message
        assert ("seq" in message) == (seq is not None)
        if seq is not None:
            assert (message["prev"], message["seq"]) == (seq, seq + 1)
            seq += 1
        assert message["cursor"] > cursor
        cursor = message["cursor"]
        got += oids(message)
    return got


@pytest.mark.parametrize("layout", ["plain", "by_block", "streaming"])
def test_from_every_cursor(tmp_path: Path, layout: str) -> None:
    """A client resumes from cursors between and within lines, across a change of hour, and goes live."""
    folder = tmp_path / "data"
    first = hour_file(folder, layout, "20260505", 23)
    first.write_bytes(by_layout(layout, numbered(0, 200)))
    second = hour_file(folder, layout, "20260506", 0)
    second.write_bytes(by_layout(layout, numbered(200, 300)))
    offsets = {path: [0] for path in (first, second)}
    for path, found in offsets.items():
        for line in path.read_bytes().splitlines(keepends=True):
            found.append(found[-1] + len(line))
    per_line = 10 if layout == "by_block" else 1
    places = {}
    for n in range(0, 300, 7):
        path, k = (first, n) if n < 200 else (second, n - 200)
        hour = "2026050523" if n < 200 else "2026050600"
        places[n] = f"{layout[0]}{hour}-{offsets[path][k // per_line]:013d}-{k % per_line:07d}"
    with serve(folder, "--workers", 2) as server:
        bots = {}
        for n, cursor in places.items():
            bots[n] = Bot(server)
            answer = bots[n].subscribe(type="orders", format="raw", cursor=cursor)
            assert (answer["cursor"], answer["seq"]) == (cursor, None)
            assert received(bots[n], 299) == list(range(n, 300))
        append(second, by_layout(layout, numbered(300, 310)))
        for bot in bots.values():
            assert received(bot, 309) == list(range(300, 310))
            bot.socket.close()


def test_filters_hold_in_a_replay(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    path = hour_file(folder, "plain", "20260505", 17)
    user = "0x" + "7" * 40
    events = [event(oid=i, coin="AB"[i % 2], user="0x1" if i % 5 else user) for i in range(100)]
    path.write_bytes(plain(*events))
    start = "p2026050517-0000000000000-0000000"
    with serve(folder) as server, Bot(server) as bot, Bot(server) as other:
        bot.subscribe(type="orders", format="raw", coins=["B"], cursor=start)
        assert received(bot, 99) == list(range(1, 100, 2))
        other.subscribe(type="orderUpdates", user=user, cursor=start)
        message = other.next()
        assert [each["order"]["oid"] for each in message["data"]] == list(range(0, 100, 5))
        assert message["user"] == user
        assert other.next()["channel"] == "live"


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for hour in (17, 19):
        path = hour_file(folder, "plain", "20260505", hour)
        path.write_bytes(plain(*numbered(0, 5)))
    size = path.stat().st_size
    with serve(folder) as server, Bot(server) as bot:
        for cursor, reason in {
            "p2026050516-0000000000000-0000000":
                "older than the data on disk: the oldest is p2026050517-0000000000000-0000000",
            "p2026050518-0000000000000-0000000":
                "no file for that hour: the oldest is p2026050517-0000000000000-0000000",
            "p2026050520-0000000000000-0000000": "no file for that hour",
            f"p2026050519-{size:013d}-0000001": "beyond the end of that hour's file",
            f"p2026050519-{size + 1:013d}-0000000": "beyond the end of that hour's file",
            "b2026050519-0000000000000-0000000": "the cursor is of layout by_block, "
            "but this server reads plain",
            "p2026050525-0000000000000-0000000": "not a cursor",
            "../../etc/passwd": "not a cursor",
        }.items():  # fmt: skip
            answer = bot.ask("subscribe", type="orders", cursor=cursor)
            assert answer["channel"] == "error"
            shown = json.dumps({"type": "orders", "cursor": cursor}, separators=(",", ":"))
            assert answer["data"].startswith(f"Invalid subscription: {shown}: {reason}")
        bot.subscribe(type="orders", format="raw", cursor=f"p2026050519-{size:013d}-0000000")
        assert bot.next()["channel"] == "live"
        append(path, plain(*numbered(5, 6)))
        assert oids(bot.next()) == [5]


def test_since_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    events = [
        event(oid=i, time=f"2026-05-05T{17 + i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d}.5")
        for i in range(0, 3 * 3600, 5)
    ]
    for hour in (17, 18, 19):
        path = hour_file(folder, "plain", "20260505", hour)
        path.write_bytes(plain(*events[(hour - 17) * 720 : (hour - 16) * 720]))
    with serve(folder) as server:
        for since, first in {
            "2026-05-05T17:00:00.5": 0,
            "2026-05-05T17:00:00.500000001": 5,
            "2026-05-05T17:39:00": 39 * 60,
            "2026-05-05T17:59:59": 3600,
            "2026-05-05T18:00:00Z": 3600,
            "2026-05-05T19:59:55.5": 3 * 3600 - 5,
        }.items():
            with Bot(server) as bot:
                answer = bot.subscribe(type="orders", format="raw", since=since)
                assert answer["cursor"].startswith("p20260505")
                assert received(bot, 3 * 3600 - 5) == list(range(first, 3 * 3600, 5))
        with Bot(server) as bot:
            answer = bot.subscribe(type="orders", format="raw", since="2026-05-05T20:00:00")
            assert bot.next()["channel"] == "live"
            answer = bot.ask("subscribe", type="orders", since="2026-05-05T17:00:00")
            assert answer["data"].endswith("the oldest event on disk, p2026050517-0000000000000-0000000")


def test_replays_wait_for_their_turn(tmp_path: Path) -> None:
    """Replays beyond `max_replays` wait for their turn, and all complete despite stalled clients."""
    folder = tmp_path / "data"
    path = hour_file(folder, "plain", "20260505", 17)
    path.write_bytes(plain(*numbered(0, 60_000)))
    start = "p2026050517-0000000000000-0000000"
    # On a slow machine it may take longer than the 40 s after which a client that answers no ping is closed.
    options = ("--max-replays", 1, "--client-queue", "256k", "--ping-interval-s", 3600)
    with serve(folder, *options) as server:
        stalled = [Bot(server) for _ in range(3)]
        for bot in stalled:
            bot.subscribe(type="orders", format="raw", cursor=start)
            for coins in (["BTC", "X"], ["BTC", "Y"]):
                bot.send(
                    {
                        "method": "subscribe",
                        "subscription": {"type": "orders", "coins": coins, "cursor": start},
                    }
                )
        for _ in range(3):
            with Bot(server) as bot:
                bot.subscribe(type="orders", format="raw", cursor=start)
                assert received(bot, 59_999) == list(range(60_000))
        for bot in stalled:
            got: dict[str, list[int]] = {}
            live = 0
            while live < 3:
                message = bot.next()
                live += message["channel"] == "live"
                if message["channel"] == "orders":
                    raw = "order" in message["data"][0]
                    found = oids(message) if raw else [each["oid"] for each in message["data"]]
                    got.setdefault("raw" if raw else "full", []).extend(found)
            assert got["raw"] == list(range(60_000))
            assert sorted(got["full"]) == sorted([*range(60_000), *range(60_000)])
            bot.socket.close()
        server.wait_metric("fasttail_replays_running", 0)


def test_members_share_a_reading_from_where_each_is(tmp_path: Path) -> None:
    """Subscriptions resume from positions between and within lines through one replay slot."""
    folder = tmp_path / "data"
    path = hour_file(folder, "by_block", "20260505", 17)
    users = [f"0x{number:040x}" for number in range(20)]
    count = 20_000
    events = [event(oid=i, user=users[i % 20]) for i in range(count)]
    path.write_bytes(by_layout("by_block", events))
    offsets = [0]
    for line in path.read_bytes().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    chance = random.Random(5)
    with serve(folder, "--max-replays", 1) as server:
        bots = []
        for i in range(60):
            first = chance.randrange(count // 2)
            cursor = f"b2026050517-{offsets[first // 10]:013d}-{first % 10:07d}"
            user = users[i % 20]
            wanted = [{"type": "orders", "format": "raw"}, {"type": "orderUpdates", "user": user}][i % 3 > 0]
            bot = Bot(server)
            bot.send({"method": "subscribe", "subscription": {**wanted, "cursor": cursor}})
            bots.append(
                (bot, range(first, count) if i % 3 == 0 else range(first + (i - first) % 20, count, 20))
            )
        for bot, due in bots:
            assert bot.next()["channel"] == "subscriptionResponse"
            got: list[int] = []
            while (message := bot.next())["channel"] != "live":
                got += oids(message)
            assert got == list(due)
            bot.socket.close()


def test_a_file_that_cannot_be_read_is_told_without_a_traceback(tmp_path: Path) -> None:
    """The error of an unreadable file is sent without a traceback; not even root can read address 0."""
    folder = tmp_path / "data"
    hour_file(folder, "plain", "20260505", 17).symlink_to("/proc/self/mem")
    hour_file(folder, "plain", "20260505", 18).write_bytes(plain(*numbered(0, 5)))
    with serve(folder) as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw", cursor="p2026050517-0000000000000-0000000")
        got, refusal = until_refused(bot)
        assert got == []
        assert refusal.endswith(": cannot read the node's files: Input/output error"), refusal
        bot.subscribe(type="orders", format="raw")
        assert not server.count("Traceback")


def test_a_client_that_is_cut_off_over_and_over_gets_each_order_once(tmp_path: Path) -> None:
    """A client disconnected a hundred times at random gets each order once, across hours."""
    folder = tmp_path / "data"
    chance = random.Random(4)
    hours = [hour_file(folder, "streaming", "20260505", hour, make=False) for hour in range(17, 21)]
    hours[0].parent.mkdir(parents=True)
    hours[0].touch()
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        turn = 0
        while not stop.is_set():
            count = chance.randrange(1, 400)
            lines = by_layout("streaming", numbered(written, written + count))
            with hours[min(turn // 150, 3)].open("ab") as file:
                file.write(lines)
            written += count
            turn += 1
            time.sleep(0.002)

    writer = threading.Thread(target=write)
    got: list[int] = []
    with serve(folder, "--workers", 2) as server:
        cursor = None
        writer.start()
        try:
            for _ in range(100):
                bot = Bot(server)
                more: dict[str, Any] = {} if cursor is None else {"cursor": cursor}
                answer = bot.subscribe(type="orders", format="raw", **more)
                cursor = answer["cursor"] if cursor is None else cursor
                leave_at = time.monotonic() + chance.random() * 0.1
                while time.monotonic() < leave_at:
                    try:
                        message = json.loads(bot.socket.recv(timeout=0.05))
                    except TimeoutError:
                        continue
                    except ConnectionClosed:
                        break
                    if message["channel"] == "orders":
                        cursor = message["cursor"]
                        got += oids(message)
                bot.socket.socket.shutdown(socket.SHUT_RDWR)
        finally:
            stop.set()
            writer.join()
        with Bot(server) as bot:
            bot.subscribe(type="orders", format="raw", cursor=cursor)
            while got[-1] < written - 1:
                message = bot.next()
                if message["channel"] == "orders":
                    got += oids(message)
    assert got == list(range(got[0], written))
    assert len(got) > 10_000


@pytest.mark.plain_build
def test_replays_that_are_cut_off_leave_nothing_behind(tmp_path: Path) -> None:
    """The memory of a replay is freed when its client disconnects."""
    path = hour_file(tmp_path / "data", "plain", "20260505", 9)
    path.write_bytes(plain(*numbered(0, 60_000)))
    cursor = "p2026050509-0000000000000-0000000"
    wanted = {"method": "subscribe", "subscription": {"type": "orders", "cursor": cursor}}
    with serve(tmp_path / "data", "--workers", 1, "--max-replays", 1) as server:

        def cut_off(times: int) -> float:
            """Return the bytes malloc has in use after `times` disconnected replays."""
            for _ in range(times):
                with socket.create_connection(("127.0.0.1", server.port), timeout=120) as client:
                    client.sendall(upgrade("/ws"))
                    client.recv(4096)
                    client.sendall(masked(TEXT, json.dumps(wanted).encode()))
                    client.recv(300)
                    time.sleep(0.01)
            server.wait_metric("fasttail_replays_running", 0)
            return server.metric("fasttail_malloc_used_bytes")

        few = cut_off(10)
        cut_off(60)
        # The last ones may still be closing.
        wait_for("their memory", lambda: server.metric("fasttail_malloc_used_bytes") - few < 8 << 20)


def test_a_cursor_that_lies_ahead_waits_for_the_server(tmp_path: Path) -> None:
    """A cursor ahead of the server waits until the server, which starts at the oldest file, has passed it."""
    folder = tmp_path / "data"
    path = hour_file(folder, "by_block", "20260505", 17)
    path.write_bytes(by_layout("by_block", numbered(0, 20_000)))
    lines = path.read_bytes().splitlines(keepends=True)
    cursor = f"b2026050517-{sum(map(len, lines[:1999])):013d}-0000004"
    with serve(folder, "--from", "oldest", "--block-size", "4k") as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw", cursor=cursor)
        append(path, envelope(numbered(20_000, 20_003)))
        assert received(bot, 20_002) == list(range(19_994, 20_003))


def test_since_a_time_with_a_torn_line_and_empty_hours(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    hour_file(folder, "plain", "20260505", 16).touch()
    first = hour_file(folder, "plain", "20260505", 17)
    first.write_bytes(plain(*(event(oid=i, time=f"2026-05-05T17:0{i}:00") for i in range(3))))
    hour_file(folder, "plain", "20260505", 18).touch()
    last = hour_file(folder, "plain", "20260505", 19)
    torn = plain(event(oid=5, time="2026-05-05T20:00:01"))
    last.write_bytes(plain(*(event(oid=i, time=f"2026-05-05T19:0{i}:00") for i in (3, 4))) + torn[:100])
    with serve(folder) as server, Bot(server) as middle, Bot(server) as old, Bot(server) as new:
        middle.subscribe(type="orders", format="raw", since="2026-05-05T19:04:00")
        old.subscribe(type="orders", format="raw", since="2026-05-05T17:01:00")
        new.subscribe(type="orders", format="raw", since="2026-05-05T20:00:00")
        assert new.next()["channel"] == "live"
        append(last, torn[100:])
        assert received(middle, 5) == [4, 5]
        assert received(old, 5) == [1, 2, 3, 4, 5]
        assert oids(new.next()) == [5]


LONG = [{"note": "x" * 600}]


def until_it_waits(server: Serve) -> None:
    """Wait until a replay to a client that does not read has filled the sockets and the 256 KiB queue."""
    wait_for("the queue", lambda: server.metric("fasttail_client_queued_bytes") > 256 << 10)


def until_live(bot: Bot) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the oids and the gaps before a subscription goes live."""
    got: list[int] = []
    gaps: list[dict[str, Any]] = []
    while (message := bot.next())["channel"] != "live":
        if message["channel"] == "gap":
            gaps.append(message["data"])
        else:
            assert message["channel"] == "orders", message
            got += oids(message)
    return got, gaps


def until_refused(bot: Bot) -> tuple[list[int], str]:
    """Return the oids before an error, and the error's text."""
    got: list[int] = []
    while (message := bot.next())["channel"] == "orders":
        got += oids(message)
    assert message["channel"] == "error", message
    return got, message["data"]


def test_an_hour_that_is_deleted_before_a_replay_reads_it_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    hours = [hour_file(folder, "plain", "20260505", hour) for hour in (17, 18, 19)]
    for i, path in enumerate(hours):
        path.write_bytes(plain(*(event(oid=n, children=LONG) for n in range(i * 20_000, (i + 1) * 20_000))))
    with serve(folder, "--client-queue", "256k") as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw", cursor="p2026050517-0000000000000-0000000")
        until_it_waits(server)  # in the first hour
        hours[1].unlink()
        got, gaps = until_live(bot)
        assert got == [*range(20_000), *range(40_000, 60_000)]
        assert [(gap["orders"], gap["to"]) for gap in gaps] == [(None, "p2026050519-0000000000000-0000000")]
        assert not server.count("ERROR")


def test_a_file_that_is_truncated_under_a_replay_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    path = hour_file(folder, "plain", "20260505", 17)
    path.write_bytes(plain(*(event(oid=n, children=LONG) for n in range(30_000))))
    with serve(folder, "--client-queue", "256k") as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw", cursor="p2026050517-0000000000000-0000000")
        until_it_waits(server)
        path.write_bytes(b"")
        server.wait_metric("fasttail_truncations_total", 1)
        append(path, plain(*(event(oid=n, children=LONG) for n in range(100_000, 120_000))))
        server.wait_metric("fasttail_lines_total", 20_000)
        got, gaps = until_live(bot)
        while got[-1] != 119_999:  # it went live at once if it had just read on
            message = bot.next()
            got += oids(message) if message["channel"] == "orders" else []
        first = got.index(100_000)
        assert got == [*range(first), *range(100_000, 120_000)]
        assert 0 < first < 30_000
        assert [(gap["orders"], gap["to"]) for gap in gaps] == [(None, "p2026050517-0000000000000-0000000")]


def test_a_replay_that_is_faster_than_the_pipeline_sees_the_truncation(tmp_path: Path) -> None:
    """A replay must not mistake the end of a truncated file for the position where it can go live."""
    path = hour_file(tmp_path, "plain", "20260505", 17)
    path.write_bytes(plain(*numbered(0, 10)))
    size = path.stat().st_size
    scan = SharedScan(ReplayReader(), "plain", CursorPosition(2026050517, 0), str(tmp_path), set())
    scan.replay_reader.attach_topic(Topic("orders", format="raw", with_seq=False))
    assert scan.open_next_file({}, set()) == CursorPosition(2026050517, 0)
    path.write_bytes(b"")
    with pytest.raises(FileTruncated):
        scan.read_step(size, True)


def test_a_client_that_comes_before_the_first_look_resumes(tmp_path: Path) -> None:
    """A client that connects before the first scan, as after a restart, can resume."""
    folder = tmp_path / "data"
    hour_file(folder, "plain", "20260505", 17).write_bytes(plain(*numbered(0, 5)))
    for _ in range(5):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = subprocess.Popen(command("serve", folder, "--port", port), stdout=subprocess.DEVNULL)
        try:
            client = wait_for("the port", partial(try_connect, port))
            request = {"type": "orders", "cursor": "p2026050517-0000000000000-0000000"}
            client.send(json.dumps({"method": "subscribe", "subscription": request}))
            assert json.loads(client.recv(timeout=120))["channel"] == "subscriptionResponse"
            client.socket.close()
        finally:
            process.kill()
            process.wait()


def try_connect(port: int) -> ClientConnection | None:
    with suppress(OSError):
        return connect(f"ws://127.0.0.1:{port}/ws", legacy=True, ping_interval=None)
    return None


def gathered(bot: Bot, count: int) -> tuple[list[int], str]:
    """Return the oids of the next `count` orders and the last cursor."""
    got: list[int] = []
    while len(got) < count:
        message = bot.next()
        got += oids(message)
    return got, message["cursor"]


@pytest.mark.parametrize("layout", ["plain", "by_block"])
def test_late_lines_come_once(tmp_path: Path, layout: str) -> None:
    """Late lines of a previous hour reach live clients and clients that resume meanwhile or afterwards."""
    folder = tmp_path / "data"
    former = hour_file(folder, layout, "20260505", 17)
    present = hour_file(folder, layout, "20260505", 18)
    former.write_bytes(by_layout(layout, numbered(0, 10)))
    start = f"{layout[0]}2026050517-0000000000000-0000000"
    with serve(folder, "--workers", 2, "--grace-s", 60) as server, Bot(server) as live:
        live.subscribe(type="orders", format="raw")
        append(present, by_layout(layout, numbered(100, 110)))
        assert gathered(live, 10)[0] == list(range(100, 110))
        append(former, by_layout(layout, numbered(10, 20)))
        late, cursor = gathered(live, 10)
        assert late == list(range(10, 20))
        append(present, by_layout(layout, numbered(110, 120)))
        assert gathered(live, 10)[0] == list(range(110, 120))
        with Bot(server) as again:
            again.subscribe(type="orders", format="raw", cursor=cursor)
            assert received(again, 119) == list(range(110, 120))
        for i in range(10):
            with Bot(server) as bot:
                append(former, by_layout(layout, numbered(1000 + 10 * i, 1010 + 10 * i)))
                bot.subscribe(type="orders", format="raw", cursor=start)
                assert gathered(live, 10)[0] == list(range(1000 + 10 * i, 1010 + 10 * i))
                append(present, by_layout(layout, numbered(5000 + i, 5001 + i)))
                assert oids(live.next()) == [5000 + i]
                got: list[int] = []
                wanted = [*range(20), *range(100, 120), *range(1000, 1010 + 10 * i), *range(5000, 5001 + i)]
                while len(got) < len(wanted):
                    message = bot.next()
                    got += oids(message) if message["channel"] == "orders" else []
                assert sorted(got) == wanted


def test_late_lines_that_come_during_a_replay(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    former = hour_file(folder, "plain", "20260505", 17)
    present = hour_file(folder, "plain", "20260505", 18)
    former.write_bytes(plain(*numbered(0, 10)))
    with serve(folder, "--client-queue", "256k", "--grace-s", 60) as server, Bot(server) as bot:
        with Bot(server) as live:
            live.subscribe(type="orders", format="raw", coins=["ETH"])
            append(present, plain(*(event(oid=n, children=LONG) for n in range(100, 20_000))))
            server.wait_metric("fasttail_lines_total", 19_900)
            bot.subscribe(type="orders", format="raw", cursor="p2026050517-0000000000000-0000000")
            until_it_waits(server)  # in the current hour
            append(former, plain(*(event(oid=n, coin="ETH") for n in range(10, 13))))
            assert gathered(live, 3)[0] == [10, 11, 12]
        got: list[int] = []
        cursor = ""
        while (message := bot.next())["channel"] != "live":
            got += oids(message)
            assert message["cursor"] >= cursor
            cursor = message["cursor"]
        assert got == [*range(10), *range(100, 20_000), 10, 11, 12]


@pytest.mark.plain_build
def test_thousands_of_files_hold_nobody_up(tmp_path: Path) -> None:
    """Finding a cursor's file does not block the thread that serves all clients."""
    folder = tmp_path / "data"
    for day in range(417):
        path = hour_file(folder, "plain", f"{20250101 + day}", 0)
        for hour in range(24):
            path.with_name(str(hour)).touch()
    with serve(folder) as server, Bot(server) as asking, Bot(server) as other:
        for i in range(100):
            cursor = "p2099010100-0000000000000-0000000"
            subscription = {"type": "orders", "coins": [str(i)], "cursor": cursor}
            asking.send({"method": "subscribe", "subscription": subscription})
        waited = []
        for _ in range(20):
            began = time.monotonic()
            other.send({"method": "ping"})
            assert other.next() == {"channel": "pong"}
            waited.append(time.monotonic() - began)
        assert max(waited) < 60
        for _ in range(100):
            assert "no file for that hour" in asking.next()["data"]
