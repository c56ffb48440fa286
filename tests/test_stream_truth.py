"""Fills and trades of a simulated exchange against its truth, while servers are killed."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from fill_lines import events_of
from running import PATIENCE_S, command, free_ports, serve, wait_for
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

COINS = ("BTC", "ETH", "HYPE", "SOL")
RESTARTS = 3


class Returning:
    """A client of one subscription that reconnects whenever it is cut off, and continues at its cursor.

    ports: of the servers, of which it takes any each time. stay_s: after which it leaves, about
    """

    def __init__(self, *ports: int, stay_s: float = 1e9, **subscription: object) -> None:
        self.got: list[Any] = []
        self.errors: list[str] = []
        self.ports = ports
        self._stay_s = stay_s
        self._chance = random.Random(str(subscription))
        self._subscription = subscription
        self._cursor: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except (OSError, ConnectionClosed, InvalidHandshake, EOFError):
                time.sleep(0.02)

    def _follow(self) -> None:
        cursor = {} if self._cursor is None else {"cursor": self._cursor}
        leave_at = time.monotonic() + self._stay_s * self._chance.uniform(0.5, 1.5)
        with connect(
            f"ws://127.0.0.1:{self._chance.choice(self.ports)}/ws", max_size=None, legacy=True
        ) as client:
            client.send(json.dumps({"method": "subscribe", "subscription": {**self._subscription, **cursor}}))
            while not self._stopping.is_set() and time.monotonic() < leave_at:
                try:
                    message = json.loads(client.recv(timeout=0.05))
                except TimeoutError:
                    continue
                if message["channel"] in ("error", "gap"):
                    self.errors.append(str(message))
                elif message["channel"] == "subscriptionResponse":
                    self._cursor = self._cursor or message["cursor"]
                elif message["channel"] == self._subscription["type"]:
                    self.got += message["data"]
                    self._cursor = message["cursor"]


def true_trades(truth: Path) -> list[dict[str, Any]]:
    """Return the exchange's trades in the public API's shape, without one-sided ones."""
    keys = ("coin", "side", "px", "sz", "time", "hash", "tid", "users")
    found = [json.loads(line) for line in (truth / "trades.jsonl").read_bytes().splitlines()]
    return [{key: each[key] for key in keys} for each in found if None not in each["users"]]


def fill_files(node: Path) -> list[Path]:
    """Return the files of fills, oldest first."""
    paths = node.glob("node_fills*/hourly/*/*")
    return sorted(paths, key=lambda path: (path.parent.name, int(path.name)))


def written_fills(node: Path) -> list[Any]:
    """Return all events in the files, each block's as they were written in whole."""
    paths = fill_files(node)
    blocks: dict[int | None, list[Any]] = {}
    before, count = None, 0
    for line in (line for path in paths for line in path.read_bytes().splitlines()):
        try:
            block, events = events_of(line)
        except orjson.JSONDecodeError:  # the node was stopped within it
            continue
        count = count + len(events) if block == before else len(events)
        before = block
        written = blocks.setdefault(block, [])
        if count > len(written):
            written += events[len(events) - (count - len(written)) :]
    return [event for block in sorted(blocks, key=lambda block: block or 0) for event in blocks[block]]


def goes_back(node: Path) -> bool:
    """Return whether the block number decreases somewhere, be it from one hour's file to the next."""
    data = b"".join(path.read_bytes() for path in fill_files(node))
    numbers = [int(found) for found in re.findall(rb'"block_number":(\d+)', data)]
    return numbers != sorted(numbers)


def check(client: Returning, expected: list[Any]) -> None:
    """Assert that a client has got each of the expected elements once, from its first one on."""
    wait_for("the rest", lambda: client.got[-1] == expected[-1])
    assert len(client.got) > 1
    assert client.got == expected[-len(client.got) :]
    assert client.errors == []


@pytest.mark.plain_build
@pytest.mark.parametrize("layout", ["plain", "streaming", "by_block"])
def test_each_fill_and_trade_once_over_kills(tmp_path: Path, layout: str) -> None:
    node, truth = tmp_path / "node", tmp_path / "truth"
    port = free_ports(1)[0]
    chance = random.Random(layout)
    synth = subprocess.Popen(
        command(
            "synth", node, "--streams", "orders,fills", "--layout", layout, "--seconds", 9, "--rate", 8000,
            "--hour-seconds", 2, "--truth", truth, "--resting", 4000,
            *(() if layout == "plain" else ("--fault", "restart@2.5", "--fault", "restart@5")),
        ),
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    options = ("--port", port, "--workers", 2)
    traders: list[Returning] = []
    try:
        wait_for("the first fills", lambda: list(node.glob("node_fills*/hourly/*/*")))
        with serve(node, *options) as server:
            traders += [Returning(port, type="trades", coin=coin) for coin in COINS]
            everything = Returning(port, type="fills", format="raw")
            clients = [*traders, everything]
            wait_for("fills and trades", lambda: all(client.got for client in clients))
            server.end(signal.SIGKILL)
        for _ in range(RESTARTS - 1):
            with serve(node, *options) as server:
                time.sleep(chance.uniform(0.3, 1.2))
                server.end(signal.SIGKILL)
        with serve(node, *options):
            assert synth.wait(timeout=PATIENCE_S) == 0
            trades = true_trades(truth)
            for coin, client in zip(COINS, traders, strict=True):
                check(client, [each for each in trades if each["coin"] == coin])
            check(everything, written_fills(node))
            assert layout == "plain" or goes_back(node), "the node has restarted"
            for client in clients:
                client.stop()
    finally:
        synth.kill()
        synth.wait()
