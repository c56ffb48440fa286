"""Clients of /ws that do not keep up get everything from the files, and cost others nothing."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lines import event, plain
from running import PATIENCE_S, Serve, hour_file, serve, wait_for
from test_resume import numbered, oids
from test_ws import Bot, append
from websockets.exceptions import ConnectionClosed


def slow(tmp_path: Path) -> AbstractContextManager[Serve]:
    """Start a server on which clients soon become too slow."""
    return serve(tmp_path / "data", "--client-queue", "256k", "--ping-interval-s", 3600)


def is_read(server: Serve, lines: float) -> bool:
    return server.metric("fasttail_lines_total") >= lines


def flood(server: Serve, path: Path, first: int, last: int) -> None:
    """Write long orders, more than the sockets and queue of a stalled client hold."""
    step = 5_000
    for i in range(first, last, step):
        long = [{"note": "x" * 600}]
        append(path, plain(*(event(oid=n, children=long) for n in range(i, min(i + step, last)))))
        so_far = float(min(i + step, last))
        wait_for("them to be read", partial(is_read, server, so_far))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = hour_file(tmp_path / "data", "plain", "20260505", 17)
    path.touch()
    return path


class Following:
    """The messages of one subscription: its orders, live or replayed, and the notices in between."""

    def __init__(self) -> None:
        self.orders: list[int] = []
        self.told: list[str] = []
        self.gaps: list[dict[str, Any]] = []
        self.seq: int | None = None
        self.cursor = ""

    def take(self, message: dict[str, Any]) -> None:
        if message["channel"] == "orders":
            assert ("seq" in message) == (self.seq is not None)
            if self.seq is not None:
                assert (message["prev"], message["seq"]) == (self.seq, self.seq + 1)
                self.seq += 1
            self.orders += oids(message)
        else:
            self.told.append(message["channel"])
            if message["channel"] == "live":
                assert self.seq is None
                self.seq = message["seq"] - 1
                assert message["cursor"] >= self.cursor
                return
            assert message["channel"] in ("replay", "gap"), message
            if message["channel"] == "gap":
                self.gaps.append(message["data"])
                return
            assert self.seq is not None
            self.seq = None
            message = message["data"]
        assert message["cursor"] >= self.cursor
        self.cursor = message["cursor"]

    def follow(self, bot: Bot, last: int) -> None:
        while not self.orders or self.orders[-1] < last:
            self.take(bot.next())


def test_a_client_that_sleeps_misses_nothing(tmp_path: Path, path: Path) -> None:
    """With default settings, a client that sleeps repeatedly misses nothing."""
    with serve(tmp_path / "data") as server, Bot(server) as bot:
        following = Following()
        following.seq = bot.subscribe(type="orders", format="raw")["seq"] - 1
        for turn in range(3):
            flood(server, path, turn * 20_000, turn * 20_000 + 20_000)
            following.follow(bot, turn * 20_000 + 19_999)
            while following.seq is None:
                following.take(bot.next())
        append(path, plain(event(oid=60_000)))
        following.follow(bot, 60_000)
        assert following.orders == list(range(60_001))
        assert following.told == ["replay", "live"] * (len(following.told) // 2)
        assert following.told
        assert server.metric("fasttail_gaps_total") == 0
        assert server.metric("fasttail_replayed_orders_total") > 0
        assert server.metric("fasttail_replays_running") == 0


def test_its_status_says_how_far_behind_a_client_is(tmp_path: Path, path: Path) -> None:
    with slow(tmp_path) as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw")
        bot.subscribe(type="status")
        flood(server, path, 0, 30_000)
        server.wait_metric("fasttail_replays_running", 1)
        assert server.metric("fasttail_replay_bytes_behind") > 1 << 20
        behind: list[dict[str, Any]] = []
        count = 0
        while count < 30_000:
            message = bot.next()
            time.sleep(0 if behind else 0.1)  # so that it takes longer than the interval between two statuses
            if message["channel"] == "status":
                behind += message["data"].get("behind", [])
            count += len(message["data"]) if message["channel"] == "orders" else 0
        assert [each["subscription"]["format"] for each in behind]
        # It was more than 1 MiB; a slow machine has read some of it by the time of the status.
        assert 0 < behind[0]["bytes"] < path.stat().st_size
        assert behind[0]["lagMs"] >= 0
        server.wait_metric("fasttail_replays_running", 0)
        while "behind" in (message := bot.next())["data"]:
            assert message["channel"] == "status"


def test_who_is_too_far_behind_goes_on_at_the_newest_order(tmp_path: Path, path: Path) -> None:
    """A client that is too far behind gets a gap and continues with the newest order."""
    options = ("--client-queue", "256k", "--max-behind-s", 1)
    with serve(tmp_path / "data", *options) as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw")
        flood(server, path, 0, 30_000)
        server.wait_metric("fasttail_replays_running", 1)
        server.wait_metric("fasttail_gaps_total", 1)
        following = Following()
        following.seq = 0
        got: list[dict[str, Any]] = []
        # On a slow machine it may catch up and fall behind again, before a gap and after it.
        while not (got and got[-1]["channel"] == "live" and any(each["channel"] == "gap" for each in got)):
            got.append(bot.next())
        runs: list[list[int]] = [[]]
        for message in got:
            if message["channel"] == "gap":
                gap = message["data"]
                assert (gap["orders"], gap["from"] < gap["to"]) == (None, True)
                runs.append([])
            elif message["channel"] == "orders":
                runs[-1] += oids(message)
        assert len(runs) > 1
        assert runs[0][:1] == [0]
        assert all(run == list(range(run[0], run[0] + len(run))) for run in runs if run)
        orders = [oid for run in runs for oid in run]
        assert orders == sorted(set(orders))
        assert len(orders) < 30_000
        append(path, plain(*numbered(30_000, 30_002)))
        assert oids(bot.next()) == [30_000, 30_001]


def test_all_queues_together_have_a_bound(tmp_path: Path, path: Path) -> None:
    """Past the total bound, clients with the longest queues continue from the files and miss nothing."""
    options = ("--client-queue", "64M", "--queues-total", "16M")
    with serve(tmp_path / "data", *options) as server:
        bots = [Bot(server) for _ in range(6)]
        for bot in bots:
            bot.subscribe(type="orders", format="raw")
        flood(server, path, 0, 30_000)  # about 30 MB per client, of which the kernel holds a part
        # The bound of 16 MiB, a sixteenth of it until the next check, a quarter in which clients stay live,
        # and a batch of 1 MiB for each client. Without the bound they would hold 150 MB.
        assert server.metric("fasttail_client_queued_bytes") < 32 << 20
        server.wait_metric("fasttail_replays_running", 6)
        for bot in bots:
            following = Following()
            following.seq = 0
            following.follow(bot, 29_999)
            assert following.orders == list(range(30_000))
            bot.socket.close()


def test_what_a_stalled_client_missed_is_told_and_can_be_had(tmp_path: Path, path: Path) -> None:
    """Every order is in a message or a gap, and the gap's cursors retrieve exactly what is missing."""
    count = 60_000
    with slow(tmp_path) as server, Bot(server) as bot, Bot(server) as other:
        bot.subscribe(type="orders", format="raw", onSlow="gap")
        flood(server, path, 0, count)
        got: list[int] = []
        gaps: list[dict[str, Any]] = []
        last = ""
        while sum(gap["orders"] for gap in gaps) + len(got) < count:
            message = bot.next()
            if message["channel"] == "gap":
                gap = message["data"]
                assert gap["from"] == last < gap["to"]
                assert gap["subscription"]["type"] == "orders"
                last = gap["to"]
                gaps.append({**gap, "after": got[-1]})
            else:
                assert message["cursor"] > last
                last = message["cursor"]
                got += oids(message)
        assert gaps
        assert len(got) > 1000
        missing = sorted(set(range(count)) - set(got))
        assert len(got) == len(set(got))
        assert len(missing) == sum(gap["orders"] for gap in gaps)
        for gap in gaps:
            begin = gap["after"] + 1
            other.subscribe(type="orders", format="raw", cursor=gap["from"])
            again: list[int] = []
            while len(again) < gap["orders"]:
                message = other.next()
                assert message["channel"] == "orders"
                again += oids(message)
            assert again[: gap["orders"]] == list(range(begin, begin + gap["orders"]))
            assert message["cursor"] >= gap["to"]
            break
        # and it continues
        append(path, plain(*numbered(count, count + 3)))
        while len(got) < count + 3 - len(missing):
            message = bot.next()
            assert message["channel"] == "orders"
            got += oids(message)
        assert got[-3:] == [count, count + 1, count + 2]
        assert server.metric("fasttail_gaps_total") == len(gaps)
        assert server.metric("fasttail_gap_orders_total") == len(missing)


def test_a_gap_is_told_without_waiting_for_the_next_order(tmp_path: Path, path: Path) -> None:
    with slow(tmp_path) as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw", onSlow="gap")
        flood(server, path, 0, 40_000)
        time.sleep(0.5)
        last = bot.next()
        while last["channel"] == "orders":
            last = bot.next()
        assert last["channel"] == "gap"


def test_a_client_may_ask_to_be_closed_instead(tmp_path: Path, path: Path) -> None:
    with slow(tmp_path) as server, Bot(server) as bot, Bot(server) as other:
        bot.subscribe(type="orders", format="raw", onSlow="close")
        other.subscribe(type="orders", format="raw", coins=["ETH"], onSlow="close")
        flood(server, path, 0, 40_000)
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012
            while True:
                assert bot.next()["channel"] == "orders"
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        append(path, plain(event(oid=1, coin="ETH")))
        assert oids(other.next()) == [1]


def test_a_stalled_client_costs_the_others_nothing(tmp_path: Path, path: Path) -> None:
    """Clients that read get everything in time and without gaps beside one that does not."""
    with slow(tmp_path) as server:
        bots = [Bot(server) for _ in range(6)]
        for bot in bots:
            bot.subscribe(type="orders", format="ws")
        done = 0
        began = time.monotonic()
        for i in range(0, 40_000, 500):
            append(path, plain(*numbered(i, i + 500)))
            for bot in bots[1:]:
                got: list[int] = []
                while len(got) < 500:
                    message = bot.next()
                    assert message["channel"] == "orders"
                    got += [each["order"]["oid"] for each in message["data"]]
                assert got == list(range(i, i + 500))
            done += 500
            assert time.monotonic() - began < PATIENCE_S * 4
        assert done == 40_000
        assert server.metric("fasttail_client_closed_slow_total") == 0
        for bot in bots:
            bot.socket.socket.close()


def test_who_unsubscribes_is_told_what_was_missed(tmp_path: Path, path: Path) -> None:
    with slow(tmp_path) as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw", onSlow="gap")
        for i in range(0, 200_000, 100):
            append(path, plain(*(event(oid=n, children=[{"note": "x" * 600}]) for n in range(i, i + 100))))
            server.wait_metric("fasttail_lines_total", i + 100)
            if server.metric("fasttail_client_queued_bytes") > 128 << 10:
                break
        huge = event(oid=1, children=[{"note": "x" * (300 << 10)}])
        append(path, plain(huge))  # fits into no message, and the queue is too full to say so at once
        server.wait_metric("fasttail_lines_total", i + 101)
        assert 128 << 10 < server.metric("fasttail_client_queued_bytes") <= 256 << 10
        bot.send({"method": "unsubscribe", "subscription": {"type": "orders", "format": "raw"}})
        server.wait_metric("fasttail_subscriptions", 0)
        messages = [bot.next()]
        while messages[-1]["channel"] != "subscriptionResponse":
            messages.append(bot.next())
        assert messages[-2]["channel"] == "gap"
        assert messages[-2]["data"]["orders"] == 1
