"""/ws of a running server: the public protocol, on real files and sockets."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from lines import envelope, event, plain
from running import PATIENCE_S, Serve, command, hour_file, serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

USERS = [f"0x{i:040x}" for i in range(1, 6)]


class Bot:
    def __init__(self, server: Serve) -> None:
        # No keepalive pings: a pong waits behind all data, so a client that reads late would be closed.
        self.socket: ClientConnection = connect(
            f"ws://127.0.0.1:{server.port}/ws", max_size=None, legacy=True, ping_interval=None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, message: object) -> None:
        self.socket.send(message if isinstance(message, str) else json.dumps(message))

    def next(self) -> dict[str, Any]:
        message = json.loads(self.socket.recv(timeout=PATIENCE_S))
        assert isinstance(message, dict)
        return message

    def ask(self, method: str, **subscription: object) -> dict[str, Any]:
        """Return the answer to a request, which must be the next message."""
        self.send({"method": method, "subscription": subscription})
        return self.next()

    def subscribe(self, **subscription: object) -> dict[str, Any]:
        answer = self.ask("subscribe", **subscription)
        assert answer["channel"] == "subscriptionResponse", answer
        return answer

    def orders(self, count: int) -> list[Any]:
        """Return `count` orders from the next data messages."""
        orders: list[Any] = []
        while len(orders) < count:
            message = self.next()
            assert message["channel"] in ("orders", "orderUpdates"), message
            assert message["data"]
            orders += message["data"]
        assert len(orders) == count
        return orders


def public(each: dict[str, Any]) -> dict[str, Any]:
    """Convert an event to the form of the public API."""
    order = each["order"]
    names = ("coin", "side", "limitPx", "sz", "oid", "timestamp", "origSz", "cloid")
    return {"order": {name: order[name] for name in names}, "status": each["status"]}


def without_time(updates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: each[name] for name in ("order", "status")} for each in updates]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def path(folder: Path) -> Path:
    path = hour_file(folder, "plain", "20260505", 17)
    path.touch()
    return path


@pytest.fixture
def server(folder: Path, path: Path) -> Iterator[Serve]:
    with serve(folder, "--workers", 2, "--max-messages-per-minute", 0) as running:
        yield running


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_order_updates_of_one_user(server: Serve, path: Path) -> None:
    user = "0x" + "aB" * 20
    with Bot(server) as bot:
        answer = bot.subscribe(type="orderUpdates", user=user)
        assert answer["data"] == {
            "method": "subscribe",
            "subscription": {"type": "orderUpdates", "user": user.lower()},
        }
        assert answer["seq"] == 1
        mine = event(oid=1, user=user.lower(), time="2026-05-05T17:39:14.852711123")
        append(path, plain(mine, event(oid=2), event(oid=3, user=user.lower(), cloid="0x" + "1" * 32)))
        message = bot.next()
        assert message["channel"] == "orderUpdates"
        assert (message["seq"], message["prev"], message["user"]) == (1, 0, user.lower())
        assert [each["order"]["oid"] for each in message["data"]] == [1, 3]
        assert message["data"][0] == public(mine) | {"statusTimestamp": 1778002754852}


def test_ping_and_errors_as_the_public_server_gives_them(server: Serve) -> None:
    with Bot(server) as bot:
        bot.send({"method": "ping"})
        assert bot.next() == {"channel": "pong"}
        bot.send("what?")
        assert bot.next() == {
            "channel": "error",
            "data": "Error parsing JSON into valid websocket request: what?",
        }
        assert bot.ask("subscribe", type="l2Book", coin="SOL") == {
            "channel": "error",
            "data": 'Invalid subscription: {"type":"l2Book","coin":"SOL"}: "l2Book" is not served here',
        }
        shown = json.dumps({"type": "orderUpdates", "user": USERS[0]}, separators=(",", ":"))
        assert bot.ask("unsubscribe", type="orderUpdates", user=USERS[0])["data"] == (
            f"Already unsubscribed: {shown}"
        )
        bot.subscribe(type="orderUpdates", user=USERS[0])
        again = bot.ask("subscribe", type="orderUpdates", user=USERS[0].replace("0x", "0X"))
        assert again == {"channel": "error", "data": f"Already subscribed: {shown}"}
        answer = bot.ask("unsubscribe", type="orderUpdates", user=USERS[0])
        assert answer == {
            "channel": "subscriptionResponse",
            "data": {"method": "unsubscribe", "subscription": json.loads(shown)},
        }
        bot.subscribe(type="orderUpdates", user=USERS[0])


def test_no_greeting(server: Serve) -> None:
    with Bot(server) as bot, pytest.raises(TimeoutError):
        bot.socket.recv(timeout=0.3)


def by_layout(layout: str, events: list[dict[str, Any]]) -> bytes:
    """Render events as lines of a layout, ten per line in by_block."""
    if layout == "plain":
        return plain(*events)
    if layout == "streaming":
        return b"".join(envelope([each], 7000 + each["order"]["oid"] // 10) for each in events)
    parts = (events[i : i + 10] for i in range(0, len(events), 10))
    return b"".join(envelope(part, 7000 + part[0]["order"]["oid"] // 10) for part in parts)


def mixed(count: int) -> list[dict[str, Any]]:
    coins, statuses = ("BTC", "ETH", "SOL", "@107"), ("open", "filled", "perpMarginRejected", "newStatus")
    return [
        event(
            oid=i,
            coin=coins[i % 4],
            side="AB"[i % 3 % 2],
            status=statuses[i // 4 % 4],
            user=USERS[i % 5],
            limitPx=f"{i + 1}.0",
            origSz="2.0",
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("layout", ["plain", "streaming", "by_block"])
@pytest.mark.parametrize("form", ["full", "ws", "raw"])
def test_forms_of_orders(folder: Path, layout: str, form: str) -> None:
    path = hour_file(folder, layout, "20260505", 17)
    path.touch()
    events = mixed(100)
    with serve(folder, "--workers", 3) as server, Bot(server) as bot:
        bot.subscribe(type="orders", format=form)
        append(path, by_layout(layout, events))
        messages: list[dict[str, Any]] = []
        while sum(len(message["data"]) for message in messages) < 100:
            messages.append(bot.next())
    orders = [each for message in messages for each in message["data"]]
    if form == "raw":
        assert orders == events
    elif form == "ws":
        assert without_time(orders) == [public(each) for each in events]
    else:
        assert orders == [json.loads(line) for line in parsed(path)]
    for message in messages:
        assert set(message) - {"channel", "data"} == {"cursor", "seq", "prev"} | (
            set() if layout == "plain" else {"height", "blockTime"}
        )
        prefix = "p2026050517-" if layout == "plain" else f"orders:{message['height']:012d}-"
        assert message["cursor"].startswith(prefix)
    if layout != "plain":
        assert (messages[-1]["height"], messages[-1]["blockTime"]) == (7009, "2026-05-05T17:39:14.852711983")


def parsed(path: Path) -> list[bytes]:
    """Return what `fasttail parse --format json` prints for a file."""
    return subprocess.run(command("parse", path), capture_output=True, check=True).stdout.splitlines()


SELECTIONS: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
    ({}, lambda each: True),
    ({"coins": ["ETH", "@107"]}, lambda each: each["order"]["coin"] in ("ETH", "@107")),
    ({"users": [USERS[1], USERS[4].upper().replace("X", "x")]}, lambda e: e["user"] in (USERS[1], USERS[4])),
    ({"sides": ["A"]}, lambda each: each["order"]["side"] == "A"),
    ({"statuses": ["newStatus", "resting"]}, lambda each: each["status"] in ("newStatus", "open")),
    ({"statuses": ["rejected"]}, lambda each: each["status"] == "perpMarginRejected"),
    ({"minNotional": 100}, lambda each: float(each["order"]["limitPx"]) * 2 >= 100),
    ({"coins": ["BTC"], "sides": ["B"], "minNotional": "50.5"},
     lambda each: (each["order"]["coin"], each["order"]["side"]) == ("BTC", "B")
     and float(each["order"]["limitPx"]) * 2 >= 50.5),
]  # fmt: skip


def test_selections_side_by_side(server: Serve, path: Path) -> None:
    """Clients with different selections each get exactly the orders that match theirs."""
    events = mixed(400)
    bots = []
    try:
        for fields, _ in SELECTIONS:
            bots.append(Bot(server))
            bots[-1].subscribe(type="orders", format="raw", **fields)
        for i in range(0, 400, 50):
            append(path, plain(*events[i : i + 50]))
        for bot, (_, wanted) in zip(bots, SELECTIONS, strict=True):
            want = [each for each in events if wanted(each)]
            assert want
            assert bot.orders(len(want)) == want
        # and nothing else arrives
        append(path, plain(event(oid=99999, coin="BTC", side="A", status="filled", user="0x" + "9" * 40)))
        assert bots[0].orders(1)[0]["order"]["oid"] == 99999
        with pytest.raises(TimeoutError):
            bots[2].socket.recv(timeout=0.2)
    finally:
        for bot in bots:
            bot.socket.close()


def test_equal_subscriptions_share_their_counting(server: Serve, path: Path) -> None:
    with Bot(server) as one, Bot(server) as other:
        assert one.subscribe(type="orders", coins=["ETH", "BTC"], sides=["B", "A"])["seq"] == 1
        append(path, plain(event(oid=1), event(oid=2)))
        first = one.next()
        assert (first["seq"], first["prev"]) == (1, 0)
        answer = other.subscribe(type="orders", coins=["BTC", "ETH", "BTC"], onSlow="close")
        assert answer["seq"] == 2
        assert answer["cursor"] >= first["cursor"]
        append(path, plain(event(oid=3)))
        both = one.next(), other.next()
        assert both[0] == both[1]
        assert (both[0]["seq"], both[0]["prev"]) == (2, 1)
        # another subscription has sequence numbers of its own
        assert other.subscribe(type="orders", coins=["BTC"])["seq"] == 1


def test_cursors_are_in_the_order_of_the_orders(folder: Path) -> None:
    """Cursors of messages that end within a by_block line, across hours and a date, sort like the orders."""
    first = hour_file(folder, "by_block", "20260505", 23)
    first.touch()
    with serve(folder, "--workers", 2, "--max-message", "64k") as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw")
        cursors: list[str] = []
        oids: list[int] = []
        second = hour_file(folder, "by_block", "20260506", 0, make=False)
        lines = [envelope([event(oid=i) for i in range(k, k + 1000)], 7 + k // 1000) for k in (0, 1000, 2000)]
        for file, line in zip((first, first, second), lines, strict=True):
            file.parent.mkdir(exist_ok=True)
            append(file, line)
            while len(oids) % 1000 or not oids or oids[-1] < json.loads(line)["events"][-1]["order"]["oid"]:
                message = bot.next()
                assert len(json.dumps(message, separators=(",", ":"))) <= 64 << 10
                cursors.append(message["cursor"])
                oids += [each["order"]["oid"] for each in message["data"]]
        assert oids == list(range(3000))
        assert cursors == sorted(set(cursors))
        assert [cursor for cursor in cursors if cursor.endswith("-0001000")] == [
            "orders:000000000007-0001000",
            "orders:000000000008-0001000",
            "orders:000000000009-0001000",
        ]
        assert len(cursors) > 20


def test_an_order_that_fits_into_no_message_is_a_gap(server: Serve, path: Path) -> None:
    huge = event(oid=2, children=[{"note": "x" * (300 << 10)}])
    with Bot(server) as bot, Bot(server) as public_bot:
        bot.subscribe(type="orders", format="full")
        public_bot.subscribe(type="orders", format="ws")
        append(path, plain(event(oid=1), huge, event(oid=3)))
        first, gap, last = bot.next(), bot.next(), bot.next()
        assert [each["oid"] for each in first["data"]] == [1]
        assert gap["channel"] == "gap"
        assert gap["data"]["orders"] == 1
        assert gap["data"]["from"] == first["cursor"] < gap["data"]["to"] < last["cursor"]
        assert gap["data"]["subscription"]["format"] == "full"
        assert [each["oid"] for each in last["data"]] == [3]
        assert last["prev"] == first["seq"]
        assert [each["order"]["oid"] for each in public_bot.orders(3)] == [1, 2, 3]


def test_status_tells_how_old_the_data_is(server: Serve, path: Path) -> None:
    append(path, plain(event()))
    with Bot(server) as bot:
        bot.subscribe(type="status")
        messages = [bot.next(), bot.next()]
        assert all(message["channel"] == "status" for message in messages)
        data = messages[-1]["data"]
        assert set(data) == {"lagMs", "lastEventAgeMs", "height"}
        assert data["lastEventAgeMs"] - data["lagMs"] >= 0
        assert data["lagMs"] > 1000 * 3600 * 24, "the event's time is long past"
        assert data["height"] is None
        assert bot.ask("unsubscribe", type="status")["channel"] == "subscriptionResponse"


def test_subscriptions_are_bounded(folder: Path, path: Path) -> None:
    with serve(folder, "--max-subscriptions", 3) as server, Bot(server) as bot:
        for user in USERS[:3]:
            bot.subscribe(type="orderUpdates", user=user)
        answer = bot.ask("subscribe", type="orderUpdates", user=USERS[3])
        assert answer == {"channel": "error", "data": "Too many subscriptions: at most 3 a connection"}
        bot.ask("unsubscribe", type="orderUpdates", user=USERS[0])
        bot.subscribe(type="orderUpdates", user=USERS[3])


def test_a_change_of_hour_is_noticed_while_subscriptions_come(tmp_path: Path, path: Path) -> None:
    """inotify, not the next rescan, reveals the new hour, and the waiting pipeline does not spin."""
    with serve(tmp_path / "data", "--rescan-s", "600") as server, Bot(server) as bot:
        bot.subscribe(type="orders", format="raw")
        append(path, plain(event(oid=1)))
        assert [each["order"]["oid"] for each in bot.orders(1)] == [1]
        process = psutil.Process(server.process.pid)
        before = process.cpu_times()
        time.sleep(1)
        after = process.cpu_times()
        assert after.user + after.system - before.user - before.system < 0.5
        bot.subscribe(type="orderUpdates", user=USERS[0])
        append(path.with_name("18"), plain(event(oid=2)))
        assert [each["order"]["oid"] for each in bot.orders(1)] == [2]


def test_a_user_who_comes_back_gets_his_orders(server: Serve, path: Path) -> None:
    user = USERS[0]
    with Bot(server) as bot:
        for i in range(4):
            bot.subscribe(type="orderUpdates", user=user)
            append(path, plain(event(oid=i, user=user)))
            assert [each["order"]["oid"] for each in bot.orders(1)] == [i]
            assert bot.ask("unsubscribe", type="orderUpdates", user=user)["channel"] == "subscriptionResponse"


def test_subscriptions_come_and_go(server: Serve, path: Path) -> None:
    """After thousands of topics were added and most removed, the remaining ones get only their orders."""
    with Bot(server) as bot:
        for i in range(2500):
            user = f"0x{i + 1000:040x}"
            bot.subscribe(type="orderUpdates", user=user)
            if i % 500:
                bot.ask("unsubscribe", type="orderUpdates", user=user)
        append(path, plain(*(event(oid=i, user=f"0x{i + 1000:040x}") for i in range(2500))))
        # Orders of one batch may come in any order, because users are divided among the workers.
        assert sorted(each["order"]["oid"] for each in bot.orders(5)) == [0, 500, 1000, 1500, 2000]
    server.wait_metric('fasttail_clients{channel="orderUpdates"}', 0)


@pytest.mark.plain_build
def test_users_who_come_and_go_cost_little(server: Serve, path: Path) -> None:
    before = psutil.Process(server.process.pid).memory_info().rss
    with Bot(server) as bot:
        for turn in range(3):
            for method in ("subscribe", "unsubscribe"):
                for i in range(1000):
                    user = f"0x{turn * 1000 + i:040x}"
                    bot.send({"method": method, "subscription": {"type": "orderUpdates", "user": user}})
                for _ in range(1000):
                    assert bot.next()["channel"] == "subscriptionResponse"
    assert psutil.Process(server.process.pid).memory_info().rss - before < 100 << 20


def test_numbers_of_an_epoch_are_not_given_twice(server: Serve, path: Path) -> None:
    """Sequence numbers of an epoch are never reused, even if all other subscribers had left in between."""
    with Bot(server) as bot:
        epoch = bot.subscribe(type="orders", coins=["BTC"])["epoch"]
        append(path, plain(event(oid=1)))
        last = bot.next()["seq"]
        bot.ask("unsubscribe", type="orders", coins=["BTC"])
        append(path, plain(event(oid=2)))
        server.wait_metric("fasttail_lines_total", 2)
        answer = bot.subscribe(type="orders", coins=["BTC"])
        assert answer["epoch"] == epoch
        assert answer["seq"] > last + 1
        append(path, plain(event(oid=3)))
        message = bot.next()
        assert (message["seq"], message["prev"]) == (answer["seq"], answer["seq"] - 1)


def test_who_has_subscribed_to_nothing_is_idle_in_the_end(folder: Path, path: Path) -> None:
    with serve(folder, "--idle-timeout-s", 3) as server, Bot(server) as bot, Bot(server) as idle:
        subscription = {"type": "orders", "coins": ["QUIET"]}
        bot.subscribe(**subscription)
        idle.send({"method": "ping"})
        assert idle.next() == {"channel": "pong"}
        with pytest.raises(ConnectionClosed):
            idle.next()
        assert (idle.socket.close_code, idle.socket.close_reason) == (
            1000,
            "idle: no subscription and no message",
        )
        time.sleep(3.5)
        bot.send({"method": "ping"})
        assert bot.next() == {"channel": "pong"}
        bot.ask("unsubscribe", **subscription)
        with pytest.raises(ConnectionClosed):
            bot.next()
        server.wait_metric("fasttail_client_closed_idle_total", 2)


def test_compressed_and_plain_clients_get_the_same(folder: Path, path: Path) -> None:
    """Compression works in both directions with the permessage-deflate of `websockets`."""
    with serve(folder, "--compression") as server, Bot(server) as bot:
        assert bot.socket.protocol.extensions
        url = f"ws://127.0.0.1:{server.port}/ws"
        request = json.dumps({"method": "subscribe", "subscription": {"type": "orders", "format": "raw"}})
        with connect(url, compression=None, max_size=None) as plain_bot:
            assert not plain_bot.protocol.extensions
            sockets = (bot.socket, plain_bot)
            for socket in sockets:
                socket.send(request)
                assert json.loads(socket.recv(timeout=PATIENCE_S))["channel"] == "subscriptionResponse"
            append(path, plain(*(event(oid=number) for number in range(3000))))
            oids: list[int] = []
            while len(oids) < 3000:
                one, two = (socket.recv(timeout=PATIENCE_S) for socket in sockets)
                assert one == two
                oids += [each["order"]["oid"] for each in json.loads(one)["data"]]
            assert oids == list(range(3000))
