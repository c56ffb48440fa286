"""Fills and what is made of them on /ws of a running server: `fills`, `trades`, `userFills`, `userEvents`."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from fill_lines import FIRST_BLOCK, Event, events_of, in_block, match, render, trades
from lines import event, plain
from running import Serve, hour_file, serve, wait_for
from test_ws import Bot

from fasttail.engine.topics import Topic
from fasttail.replay.replay_reader import ReplayReader

USERS = [f"0x{i:040x}" for i in range(1, 7)]
COINS = ["BTC", "ETH", "xyz:GOLD", "@107"]
LAYOUTS = ["plain", "streaming", "by_block"]


def fills_file(folder: Path, layout: str, hour: int = 17) -> Path:
    path = hour_file(folder, layout, "20260505", hour, stream="node_fills")
    path.touch()
    return path


def orders_file(folder: Path) -> None:
    hour_file(folder, "plain", "20260505", 17).touch()


def market(seed: int, count: int) -> list[list[Event]]:
    """Return blocks with matches whose fills stand apart, one-sided fills, and equal tids in other coins."""
    chance = random.Random(seed)
    blocks = []
    for number in range(count):
        events: list[Event] = []
        for each in range(chance.choice([0, 0, 1, 2, 5])):
            buyer, seller = chance.sample(USERS, 2)
            coin = chance.choice(COINS)
            px, sz = f"{chance.randint(1, 9999)}.5", f"{chance.randint(1, 99)}.0"
            both = match(
                1000 * (number % 3) + each, buyer, seller, taker=chance.choice("AB"), coin=coin, px=px, sz=sz,
                oid=number * 100 + each,
            )  # fmt: skip
            if chance.random() < 0.1:
                both = both[:1]
            elif chance.random() < 0.05:
                both[0][1]["liquidation"] = both[1][1]["liquidation"] = {
                    "liquidatedUser": buyer, "markPx": px, "method": "market",
                }  # fmt: skip
            events += both
        if chance.random() < 0.3:
            chance.shuffle(events)
        blocks.append(in_block(events, number + FIRST_BLOCK))
    return blocks


class Listener(Bot):
    """A client of one subscription, which collects the elements of its messages."""

    def __init__(self, server: Serve, **subscription: object) -> None:
        super().__init__(server)
        self.got: list[Any] = []
        self.messages: list[dict[str, Any]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.answer = self.subscribe(**subscription)

    def elements_or_snapshot(self) -> None:
        """Take the next message that has fills."""
        seen = len(self.snapshots) + len(self.messages)
        while len(self.snapshots) + len(self.messages) == seen:
            self._take()

    def elements(self, count: int) -> list[Any]:
        """Return the first `count` elements, once they have come."""
        while len(self.got) < count:
            self._take()
        assert len(self.got) == count, self.got[count:]
        return self.got

    def _take(self) -> None:
        message = self.next()
        if message["channel"] in ("live", "replay"):
            return
        assert message["channel"] in ("fills", "trades", "userFills", "user"), message
        if isinstance(message["data"], dict) and message["data"].get("isSnapshot"):
            self.snapshots.append(message)
            return
        self.messages.append(message)
        data = message["data"]
        self.got += data if isinstance(data, list) else data["fills"]


def append_in_pieces(path: Path, data: bytes, seed: int) -> None:
    """Append the bytes in a few writes that cut lines anywhere."""
    chance = random.Random(seed)
    cuts = sorted(chance.randrange(len(data)) for _ in range(12))
    with path.open("ab", buffering=0) as file:
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            file.write(data[begin:end])
            time.sleep(0.002)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_channel_of_fills(tmp_path: Path, layout: str) -> None:
    orders_file(tmp_path)
    path = fills_file(tmp_path, layout)
    blocks = market(5, 400)
    data = render(blocks, layout)
    lines = data.splitlines()
    events = [event for line in lines for event in events_of(line)[1]]
    with serve(tmp_path, "--workers", 2) as server:

        def selected(condition: Callable[[str, dict[str, Any]], bool]) -> list[Any]:
            return [event for event in events if condition(*event)]

        raw = {"type": "fills", "format": "raw"}
        wanted: list[tuple[dict[str, Any], list[Any]]] = [
            (raw, events),
            ({**raw, "coins": ["ETH"]}, selected(lambda _, each: each["coin"] == "ETH")),
            ({**raw, "users": USERS[:2]}, selected(lambda user, _: user in USERS[:2])),
            ({**raw, "sides": ["A"]}, selected(lambda _, each: each["side"] == "A")),
            (
                {**raw, "minNotional": 100_000},
                selected(lambda _, each: float(each["px"]) * float(each["sz"]) >= 100_000),
            ),
            ({**raw, "liquidations": True}, selected(lambda _, each: "liquidation" in each)),
        ]
        all_trades = trades(lines)
        for coin in COINS:
            wanted.append(({"type": "trades", "coin": coin}, [t for t in all_trades if t["coin"] == coin]))
        for kind in ("userFills", "userEvents"):
            for user in USERS[:3]:
                wanted.append(({"type": kind, "user": user}, [e[1] for e in events if e[0] == user]))
        assert all(expected for _, expected in wanted)
        listeners = [(Listener(server, **subscription), expected) for subscription, expected in wanted]
        append_in_pieces(path, data, 7)
        for listener, expected in listeners:
            assert listener.elements(len(expected)) == expected, listener.answer
            numbers = [message["seq"] for message in listener.messages]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            if layout != "plain":
                assert all(message["height"] >= FIRST_BLOCK for message in listener.messages)
            listener.socket.close()
        for message in listeners[-1][0].messages:
            assert message["user"] == USERS[2]


def replayed_trades(path: Path, layout: str, window: int) -> list[dict[str, Any]]:
    """Return the trades that a replay of a whole file makes."""
    reader = ReplayReader("fills", window=window)
    reader.attach_topic(Topic("trades", with_seq=False))
    reader.open(str(path), layout, 0)
    found = []
    size = path.stat().st_size
    while reader.tell() < size:
        assert reader.read_step(size)
        for message in reader.take_messages():
            found += orjson.loads(message.data[message.data.index(b"{") :])["data"]
    return found


def test_every_genuine_match_is_a_trade(tmp_path: Path, real_data: Path) -> None:
    fills = matches = 0
    for layout in LAYOUTS:
        for source in sorted(real_data.glob(f"node_fills.{layout}.*.jsonl")):
            path = tmp_path / source.name
            path.write_bytes(source.read_bytes())
            lines = [line for line in source.read_bytes().splitlines() if line]
            expected = trades(lines)
            fills += sum(len(events_of(line)[1]) for line in lines)
            matches += len(expected)
            for window in (1 << 12, 1 << 20):
                assert replayed_trades(path, layout, window) == expected, source.name
    assert fills > 4000
    assert matches > 2000
    assert fills - 2 * matches < 100, "nearly all genuine fills have another side"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_trades_resume_from_every_cursor(tmp_path: Path, layout: str) -> None:
    """No cursor loses a match whose fills stand on both sides of it."""
    orders_file(tmp_path)
    path = fills_file(tmp_path, layout)
    first, second = match(1, *USERS[:2]), match(2, *USERS[2:4])
    apart = [first[0], second[0], first[1], second[1]]
    blocks = [apart, match(3, *USERS[:2]), [], [*apart, *match(4, *USERS[:2])]]
    data = render(blocks, layout)
    expected = trades(data.splitlines())
    assert [each["tid"] for each in expected] == [1, 2, 3, 1, 2, 4]
    path.write_bytes(data)
    since = "2026-05-05T17:39:14.852"
    with serve(tmp_path) as server, Listener(server, type="trades", coin="BTC", since=since) as all_:
        assert all_.elements(6) == expected
        cursors = {message["cursor"]: sum(len(m["data"]) for m in all_.messages[: i + 1])
                   for i, message in enumerate(all_.messages)}  # fmt: skip
        events = Listener(server, type="fills", format="raw", since=since)
        events.elements(sum(map(len, blocks)))
        # A fill's cursor may lie between the two of a match: the trade belongs to the later one.
        seen = 0
        for message in events.messages:
            seen += len(message["data"])
            done = [event for block in blocks for event in block][:seen]
            cursors[message["cursor"]] = len(trades([orjson.dumps({"block_number": b, "events": e})
                                                     for b, e in by_block(blocks, len(done))]))  # fmt: skip
        for cursor, count in cursors.items():
            with Listener(server, type="trades", coin="BTC", cursor=cursor) as again:
                assert again.elements(6 - count) == expected[count:], cursor
        events.socket.close()


def by_block(blocks: list[list[Event]], count: int) -> list[tuple[int, list[Event]]]:
    """Return the first `count` events of the blocks, with the blocks' numbers."""
    found = []
    for number, events in enumerate(blocks):
        found.append((number, events[:count]))
        count -= len(found[-1][1])
    return found


def test_fills_are_read_only_while_they_are_wanted(tmp_path: Path) -> None:
    orders_file(tmp_path)
    path = fills_file(tmp_path, "streaming")
    path.write_bytes(render([match(1, *USERS[:2])], "streaming"))
    with serve(tmp_path) as server:

        def opened() -> bool:
            return str(path) in server.open_files()

        assert not opened()
        with Listener(server, type="trades", coin="BTC") as trader:
            assert opened()
            with Listener(server, type="fills", format="raw") as other, path.open("ab") as file:
                file.write(render([[], match(2, *USERS[:2])], "streaming"))
                file.flush()
                assert [each["tid"] for each in trader.elements(1)] == [2]
                assert [each[1]["tid"] for each in other.elements(2)] == [2, 2]
            assert opened()
        wait_for("the file to be closed", lambda: not opened())
        with path.open("ab") as file:
            file.write(render([[], [], match(3, *USERS[:2])], "streaming"))
        with Listener(server, type="trades", coin="BTC") as trader:
            cursor = trader.answer["cursor"]
            with path.open("ab") as file:
                file.write(render([[], [], [], match(4, *USERS[:2])], "streaming"))
            assert [each["tid"] for each in trader.elements(1)] == [4], "what came meanwhile is not its own"
        with Listener(server, type="trades", coin="BTC", cursor=cursor) as trader:
            assert [each["tid"] for each in trader.elements(1)] == [4]
        with Listener(server, type="trades", coin="BTC", since="2026-05-05T17:39:14.852") as trader:
            assert [each["tid"] for each in trader.elements(4)] == [1, 2, 3, 4]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_snapshot_and_what_follows_have_each_fill_once(tmp_path: Path, layout: str) -> None:
    """A user's fills begin with those in the files, over hours, while others are being written."""
    orders_file(tmp_path)
    blocks = market(11, 900)
    data = render(blocks, layout)
    lines = data.splitlines(keepends=True)
    fills_file(tmp_path, layout, 16).write_bytes(b"".join(lines[: len(lines) // 3]))
    path = fills_file(tmp_path, layout, 17)
    path.write_bytes(b"".join(lines[len(lines) // 3 : len(lines) // 2]))
    rest = b"".join(lines[len(lines) // 2 :])
    with serve(tmp_path, "--workers", 2) as server:
        writer = threading.Thread(target=append_in_pieces, args=(path, rest, 3))
        writer.start()
        for user in (*USERS[:3], "0x" + "f" * 40):
            expected = [e[1] for line in lines for e in events_of(line)[1] if e[0] == user]
            with Listener(server, type="userFills", user=user) as listener:
                known: list[Any] = []
                if expected:
                    while len(known) + len(listener.got) < len(expected):
                        listener.elements_or_snapshot()
                        known = [each for one in listener.snapshots for each in one["data"]["fills"]]
                else:
                    listener.elements_or_snapshot()
                assert len(listener.snapshots) == 1
                assert known + listener.got == expected
                (snapshot,) = listener.snapshots
                assert set(snapshot["data"]) == {"isSnapshot", "user", "fills"}
                assert snapshot["data"]["user"] == user
                assert snapshot["since"] <= min((each["time"] for each in known), default=snapshot["since"])
        writer.join()


def test_a_snapshot_is_bounded(tmp_path: Path) -> None:
    orders_file(tmp_path)
    blocks = [match(i, *USERS[:2]) for i in range(3000)]
    fills_file(tmp_path, "streaming").write_bytes(render(blocks, "streaming"))
    with serve(tmp_path) as server, Listener(server, type="userFills", user=USERS[0]) as user:
        user.elements_or_snapshot()
        (snapshot,) = user.snapshots
        fills = snapshot["data"]["fills"]
        assert 100 < len(fills) <= 2000
        assert len(orjson.dumps(snapshot)) < 256 << 10
        assert [each["tid"] for each in fills] == list(range(3000 - len(fills), 3000)), "the newest ones"
        assert snapshot["since"] == fills[0]["time"] + 1


def test_a_cursor_belongs_to_its_stream(tmp_path: Path) -> None:
    orders_file(tmp_path)
    fills_file(tmp_path, "plain")
    with serve(tmp_path) as server, Bot(server) as bot:
        of_orders = bot.subscribe(type="orders")["cursor"]
        of_fills = bot.subscribe(type="fills")["cursor"]
        assert of_fills == f"fills:{of_orders}"
        for kind, cursor, names in (
            ("userFills", of_orders, "orders, not fills"),
            ("orderUpdates", of_fills, "fills, not orders"),
        ):
            answer = bot.ask("subscribe", type=kind, user=USERS[0], cursor=cursor)
            assert answer["channel"] == "error"
            assert answer["data"].endswith(f": the cursor is of stream {names}")


def test_a_node_that_writes_no_fills_yet(tmp_path: Path) -> None:
    orders_file(tmp_path)
    with serve(tmp_path) as server, Listener(server, type="userFills", user=USERS[0]) as user:
        assert user.answer["cursor"] is None
        path = fills_file(tmp_path, "by_block")
        path.write_bytes(render([match(1, *USERS[:2])], "by_block"))
        assert [each["tid"] for each in user.elements(1)] == [1]


def test_streams_that_are_not_served(tmp_path: Path) -> None:
    orders_file(tmp_path)
    with serve(tmp_path, "--streams", "orders") as server, Bot(server) as bot:
        answer = bot.ask("subscribe", type="trades", coin="BTC")
        assert answer == {
            "channel": "error",
            "data": 'Invalid subscription: {"type":"trades","coin":"BTC"}: '
            'this server does not follow the stream "fills"',
        }


def test_fills_and_orders_at_once(tmp_path: Path) -> None:
    """One pipeline reads both streams; neither loses anything, and the old channels see only orders."""
    orders_file(tmp_path)
    orders = hour_file(tmp_path, "plain", "20260505", 17)
    path = fills_file(tmp_path, "plain")
    blocks = market(9, 600)
    data = render(blocks, "plain").splitlines(keepends=True)
    lines = [plain(event(oid=i)) for i in range(len(data))]
    with serve(tmp_path, "--workers", 2) as server, Listener(server, type="fills", format="raw") as fills:
        old = server.client()
        with orders.open("ab", buffering=0) as one, path.open("ab", buffering=0) as other:
            for order_line, fill_line in zip(lines, data, strict=True):
                one.write(order_line)
                other.write(fill_line)
        assert fills.elements(len(data)) == [orjson.loads(line) for line in data]
        got = old.wait_orders(len(lines))
        assert [int(each["id"]) for each in got] == list(range(len(lines)))
        server.wait_metric("fasttail_orders_total", len(lines))
