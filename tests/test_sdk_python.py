"""The unmodified Python SDK of the public API against a running server."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fill_lines import FIRST_BLOCK, in_block, match, trades
from fill_lines import render as render_fills
from running import PATIENCE_S, Serve, hour_file, serve, wait_for
from sdks import OTHER, USER, missing, mixed, render, updates

try:
    from hyperliquid.info import Info
    from hyperliquid.utils.error import ClientError
    from hyperliquid.websocket_manager import WebsocketManager
except ModuleNotFoundError as error:
    missing(f"no hyperliquid-python-sdk ({error}): pip install it, or run scripts/test")

META: dict[str, Any] = {
    "meta": {"universe": [{"name": "BTC", "szDecimals": 5}]},
    "spot_meta": {"tokens": [], "universe": []},
}
"""What Info would otherwise request from the public API's /info, which is not served here."""


class Bot:
    """What users write around the SDK, which logs the server's answers but does not pass them on."""

    def __init__(self, info: Info, log: pytest.LogCaptureFixture) -> None:
        self.info = info
        self.messages: list[dict[str, Any]] = []
        self._log = log

    @property
    def received(self) -> list[dict[str, Any]]:
        """All elements of all messages."""
        return [element for message in list(self.messages) for element in message["data"]]

    def subscribe(self, user: str) -> int:
        """Subscribe and wait for the server's answer."""
        number: int = self.info.subscribe({"type": "orderUpdates", "user": user}, self.messages.append)
        self.wait_answer("subscribe", user)
        return number

    def unsubscribe(self, user: str, number: int) -> None:
        assert self.info.unsubscribe({"type": "orderUpdates", "user": user}, number)
        self.wait_answer("unsubscribe", user)

    def wait_answer(self, method: str, user: str) -> None:
        subscription = {"type": "orderUpdates", "user": user.lower()}
        wanted = {"method": method, "subscription": subscription}
        answers = wait_for(
            f"the answer to {method}",
            lambda: [each for each in self.answers("subscriptionResponse") if each["data"] == wanted],
        )
        assert len(answers) == 1

    def answers(self, channel: str) -> list[dict[str, Any]]:
        """Return all messages of a channel that appear in the SDK's log."""
        texts = [record.getMessage() for record in self._log.records]
        seen = [
            json.loads(text.removeprefix("on_message ")) for text in texts if text.startswith("on_message ")
        ]
        return [message for message in seen if message["channel"] == channel]

    def wait_received(self, count: int) -> list[dict[str, Any]]:
        """Wait for `count` elements, and a moment longer to catch surplus ones."""
        wait_for(f"{count} elements", lambda: len(self.received) >= count)
        time.sleep(0.2)
        return self.received


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


@contextmanager
def connected(running: Serve, log: pytest.LogCaptureFixture) -> Iterator[Bot]:
    """Connect the SDK's Info, and end the server with it. The server must end first; otherwise the SDK's
    thread waits out its ten seconds.
    """
    info = Info(f"http://127.0.0.1:{running.port}", **META)
    try:
        yield Bot(info, log)
    finally:
        running.end()
        assert info.ws_manager is not None
        info.disconnect_websocket()
        info.ws_manager.join(timeout=PATIENCE_S)
        assert not info.ws_manager.is_alive()


@contextmanager
def bot(folder: Path, log: pytest.LogCaptureFixture) -> Iterator[Bot]:
    """Connect to a separate server that follows `folder`."""
    with serve(folder) as running, connected(running, log) as user:
        yield user


@pytest.mark.parametrize("layout", ["plain", "streaming", "by_block"])
def test_order_updates_arrive(tmp_path: Path, layout: str, log: pytest.LogCaptureFixture) -> None:
    events = mixed(0, 300)
    path = hour_file(tmp_path, layout, "20260505", 17)
    with bot(tmp_path, log) as user:
        user.subscribe(USER.upper().replace("X", "x"))
        for start in range(0, 300, 100):
            with path.open("ab") as file:
                file.write(render(events[start : start + 100], layout))
            expected = updates(events[: start + 100], USER)
            assert user.wait_received(len(expected)) == expected
        for message in user.messages:
            assert (message["channel"], message["user"]) == ("orderUpdates", USER)
            assert {"cursor", "seq", "prev"} < set(message)


def test_order_updates_of_genuine_lines(
    tmp_path: Path, real_data: Path, log: pytest.LogCaptureFixture
) -> None:
    lines = (real_data / "node_order_statuses.streaming.dz_20260505.jsonl").read_bytes()
    events = [event for line in lines.splitlines() for event in json.loads(line)["events"]]
    busiest = Counter(event["user"] for event in events).most_common(1)[0][0]
    path = hour_file(tmp_path, "streaming", "20260505", 17)
    with bot(tmp_path, log) as user:
        user.subscribe(busiest)
        path.write_bytes(lines)
        expected = updates(events, busiest)
        assert len(expected) > 1000
        assert user.wait_received(len(expected)) == expected


def test_after_unsubscribe_nothing_comes(
    tmp_path: Path, log: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hour_file(tmp_path, "streaming", "20260505", 17)
    with bot(tmp_path, log) as user:
        number = user.subscribe(USER)
        path.write_bytes(render(mixed(0, 10), "streaming"))
        assert user.wait_received(5) == updates(mixed(0, 10), USER)
        user.unsubscribe(USER, number)
        # The SDK accepts one user at a time, and passes on whatever arrives on the channel.
        user.messages.clear()
        user.subscribe(OTHER)
        with path.open("ab") as file:
            file.write(render(mixed(10, 20), "streaming"))
        assert user.wait_received(10) == updates(mixed(10, 20), OTHER)
    assert "unexpected subscription" not in capsys.readouterr().out


class Sooner(threading.Event):
    """Replaces the SDK's `stop_event`, so that its period of 50 s becomes 50 ms."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(None if timeout is None else timeout / 1000)


def test_its_pings_are_answered(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    """The SDK's WebsocketManager, which needs no Info, gets pongs for its pings."""
    path = hour_file(tmp_path, "streaming", "20260505", 17)
    got: list[dict[str, Any]] = []
    with serve(tmp_path) as running:
        manager = WebsocketManager(f"http://127.0.0.1:{running.port}")
        manager.stop_event = Sooner()
        manager.subscribe({"type": "orderUpdates", "user": USER}, got.append)
        manager.start()
        wait_for("pongs", lambda: log.messages.count("Websocket received pong") > 10)
        path.write_bytes(render(mixed(0, 2), "streaming"))
        wait_for("an order", lambda: got)
        running.end()
        manager.stop()
        manager.join(timeout=PATIENCE_S)
    assert got[0]["data"] == updates(mixed(0, 2), USER)


def test_one_user_a_connection(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    """The SDK accepts no second user, so each needs its own connection."""
    path = hour_file(tmp_path, "streaming", "20260505", 17)
    events = mixed(0, 20)
    with serve(tmp_path) as running, connected(running, log) as one, connected(running, log) as other:
        one.subscribe(USER)
        with pytest.raises(NotImplementedError):
            one.info.subscribe({"type": "orderUpdates", "user": OTHER}, one.messages.append)
        other.subscribe(OTHER)
        path.write_bytes(render(events, "streaming"))
        assert one.wait_received(10) == updates(events, USER)
        assert other.wait_received(10) == updates(events, OTHER)


def test_the_next_connection_goes_on_at_the_cursor(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    """The SDK does not reconnect by itself: its thread ends with the connection."""
    data = tmp_path / "data"
    path = hour_file(data, "streaming", "20260505", 17)
    with serve(data) as first, connected(first, log) as before:
        before.subscribe(USER)
        path.write_bytes(render(mixed(0, 10), "streaming"))
        before.wait_received(5)
        assert first.end() == 0
        assert before.info.ws_manager is not None
        before.info.ws_manager.join(timeout=PATIENCE_S)
        assert not before.info.ws_manager.is_alive()
    with path.open("ab") as file:
        file.write(render(mixed(10, 10), "streaming"))
    with serve(data, "--from", "oldest") as second, connected(second, log) as after:
        cursor = before.messages[-1]["cursor"]
        after.info.subscribe({"type": "orderUpdates", "user": USER, "cursor": cursor}, after.messages.append)
        assert after.wait_received(5) == updates(mixed(10, 10), USER)
        with path.open("ab") as file:
            file.write(render(mixed(20, 10), "streaming"))
        assert after.wait_received(10) == updates(mixed(10, 20), USER)


def test_a_refusal_costs_nothing_but_the_subscription(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    wrong = {"type": "orderUpdates", "user": "0x1"}
    path = hour_file(tmp_path, "streaming", "20260505", 17)
    with bot(tmp_path, log) as user:
        number = user.info.subscribe(wrong, user.messages.append)
        wait_for("the refusal", lambda: user.answers("error"))
        assert [message["data"] for message in user.answers("error")] == [
            'Invalid subscription: {"type":"orderUpdates","user":"0x1"}'
        ]
        user.info.unsubscribe(wrong, number)  # or the SDK refuses further subscriptions
        user.subscribe(USER)
        path.write_bytes(render(mixed(0, 10), "streaming"))
        assert user.wait_received(5) == updates(mixed(0, 10), USER)


def test_its_own_origin_passes_a_list_of_others(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    """The SDK sends the server's own address as Origin, as browsers do for a page of the server."""
    hour_file(tmp_path, "plain", "20260505", 17).touch()
    with (
        serve(tmp_path, "--allowed-origins", "https://app.example") as running,
        connected(running, log) as listener,
    ):
        listener.subscribe(USER)


def test_what_it_asks_for_over_http_is_told_where_it_belongs(tmp_path: Path) -> None:
    with serve(tmp_path) as running:
        with pytest.raises(ClientError) as caught:
            Info(f"http://127.0.0.1:{running.port}", skip_ws=True)
        assert caught.value.status_code == 404
        assert "Leave requests to /info at the public API" in caught.value.error_message


@pytest.mark.parametrize("layout", ["plain", "streaming", "by_block"])
def test_trades_and_fills_arrive(tmp_path: Path, layout: str, log: pytest.LogCaptureFixture) -> None:
    hour_file(tmp_path, "plain", "20260505", 17).touch()
    path = hour_file(tmp_path, layout, "20260505", 17, stream="node_fills")
    events = [event for i in range(20) for event in match(i, USER, OTHER, taker="AB"[i % 2])]
    got: dict[str, list[Any]] = {"trades": [], "userFills": [], "userEvents": []}
    with bot(tmp_path, log) as user:
        info = user.info
        info.subscribe({"type": "trades", "coin": "BTC"}, lambda each: got["trades"].extend(each["data"]))
        for kind in ("userFills", "userEvents"):
            info.subscribe(
                {"type": kind, "user": USER},
                lambda each, kind=kind: got[kind].extend(each["data"]["fills"]),
            )
        wait_for("the answers", lambda: len(user.answers("subscriptionResponse")) == 3)
        path.write_bytes(render_fills([events], layout))
        wait_for("all", lambda: all(len(each) >= 20 for each in got.values()))
        fills = [each for owner, each in in_block(events, FIRST_BLOCK) if owner == USER]
        expected = trades(render_fills([events], layout).splitlines())
        assert got == {"trades": expected, "userFills": fills, "userEvents": fills}
