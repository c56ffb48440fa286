"""`kill -9` at random moments under load, seen by three clients: one resumes and two do not."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from lines import envelope, event
from running import command, free_ports, hour_file, wait_for
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

KILLS = int(os.environ.get("FASTTAIL_KILLS") or 5)
"""`FASTTAIL_KILLS=200 pytest -s tests/test_kill.py` runs more kills and prints a table of their outcomes."""

RATE = 6000
"""Lines per second; ten times as many during bursts."""

HOUR_S = 7.0
FIRST = 10**11
BLOCK, BLOCK_LINES = 985_000_000, 400
HEAD, MIDDLE, TAIL = re.split(rb"%d|%d" % (FIRST, BLOCK), envelope([event(oid=FIRST)], BLOCK))


def numbered(number: int) -> bytes:
    """Return the line of an order."""
    return b"%b%d%b%d%b" % (HEAD, BLOCK + number // BLOCK_LINES, MIDDLE, FIRST + number, TAIL)


class Node:
    """Writes numbered orders with bursts, in pieces that cut lines anywhere, with hours of a few seconds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.written = 0
        self.files = [hour_file(folder, "streaming", "20260505", 0)]
        self.files[0].touch()
        self._folder = folder
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        due = 0.0
        last = began
        while not self._stop.is_set():
            now = time.monotonic()
            due += (now - last) * RATE * (10 if now % 5 < 0.2 else 1)
            last = now
            count = int(due)
            due -= count
            data = b"".join(map(numbered, range(self.written, self.written + count)))
            hour = int((now - began) / HOUR_S)
            if hour >= len(self.files):
                self.files.append(hour_file(self._folder, "streaming", f"{20260505 + hour // 24}", hour % 24))
            with self.files[-1].open("ab", buffering=0) as file:
                cut = self._chance.randrange(len(data) + 1)
                file.write(data[:cut])
                file.write(data[cut:])
            self.written += count
            time.sleep(0.01)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclass
class Connection:
    """What one connection received."""

    epoch: str = ""
    begin: str = ""  # cursor of its first live message, or the one it asked for
    cursor: str = ""
    orders: list[int] = field(default_factory=list)


class Watching(threading.Thread):
    """A client that keeps reconnecting, with one Connection per answered attempt."""

    def __init__(self, port: int, path: str, talk: Callable[[ClientConnection, Connection], None]) -> None:
        super().__init__(daemon=True)
        self.got: list[Connection] = []
        self.faults: list[str] = []
        self.stop = threading.Event()
        self._url = f"ws://127.0.0.1:{port}{path}"
        self._talk = talk
        self.start()

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                with connect(self._url, max_size=None, legacy=True, open_timeout=5) as ws:
                    self.got.append(Connection())
                    self._talk(ws, self.got[-1])
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                time.sleep(0.01)
            except Exception as error:
                self.faults.append(repr(error))
                raise


def subscribe(ws: ClientConnection, **more: Any) -> dict[str, Any]:
    wanted = {"type": "orders", "format": "raw", **more}
    ws.send(json.dumps({"method": "subscribe", "subscription": wanted}))
    answer: dict[str, Any] = json.loads(ws.recv(timeout=120))
    assert answer["channel"] == "subscriptionResponse", answer
    return answer


class Resuming(Watching):
    """Resumes at its cursor each time."""

    def __init__(self, port: int) -> None:
        self.cursor = ""
        self.orders: list[int] = []
        super().__init__(port, "/ws", self._follow)

    def _follow(self, ws: ClientConnection, connection: Connection) -> None:
        answer = subscribe(ws, **({"cursor": self.cursor} if self.cursor else {}))
        self.cursor = self.cursor or answer["cursor"]
        connection.epoch = answer["epoch"]
        while not self.stop.is_set():
            with suppress(TimeoutError):
                message = orjson.loads(ws.recv(timeout=0.1))
                if message["channel"] in ("live", "replay"):
                    assert message.get("epoch", connection.epoch) == connection.epoch
                    continue
                assert message["channel"] == "orders", message
                self.orders += [each["order"]["oid"] - FIRST for each in message["data"]]
                self.cursor = message["cursor"]


def live(ws: ClientConnection, connection: Connection) -> None:
    """Subscribe anew; everything published after the answer arrives without a gap."""
    answer = subscribe(ws)
    connection.epoch, connection.begin = answer["epoch"], answer["cursor"]
    seq: int | None = answer["seq"] - 1
    while True:
        message = orjson.loads(ws.recv(timeout=120))
        if message["channel"] == "replay":
            assert seq is not None
            seq = None
            continue
        if message["channel"] == "live":
            assert seq is None
            seq = message["seq"] - 1
            continue
        assert message["channel"] == "orders", message
        if seq is not None:
            assert (message["prev"], message["seq"]) == (seq, seq + 1)
            seq += 1
        connection.orders += [each["order"]["oid"] - FIRST for each in message["data"]]
        connection.cursor = message["cursor"]


def old(ws: ClientConnection, connection: Connection) -> None:
    """Read a channel of the old service."""
    assert orjson.loads(ws.recv(timeout=120))["type"] == "connected"
    while True:
        message = orjson.loads(ws.recv(timeout=120))
        connection.orders.append(int(message["data"]["id"]) - FIRST)


def end_all(node: Node, clients: Sequence[Watching], process: subprocess.Popen[bytes]) -> None:
    """End the node, the server and its clients, whatever state they are in."""
    node.end()
    for client in clients:
        client.stop.set()
    process.kill()
    process.wait()
    for client in clients:
        client.join()


def assert_without_holes(connection: Connection) -> None:
    begin = next(iter(connection.orders), 0)
    assert connection.orders == list(range(begin, begin + len(connection.orders)))


@pytest.mark.plain_build
@pytest.mark.fault(27)
@pytest.mark.timeout(120 + 6 * KILLS)
def test_kills_at_random_moments(tmp_path: Path) -> None:
    """The client that resumes gets each order once, and the others everything published while they were
    connected. Each life has its own epoch and starts at the previous one's checkpoint.
    """
    seed = int(os.environ.get("FASTTAIL_SEED") or time.time_ns() % 1_000_000)
    print(f"FASTTAIL_SEED={seed}")
    chance = random.Random(seed)
    folder, state, port = tmp_path / "data", tmp_path / "state", free_ports(1)[0]
    node = Node(folder, seed)
    # With the smallest queue, clients of /ws leave the live path and return under the load.
    words = command(
        *("serve", folder, "--port", port, "--state-dir", state, "--workers", 1),
        *("--client-queue", "64k", "--max-message", "64k"),
    )
    log = (tmp_path / "log").open("w+b")
    clients = resuming, newcomer, former = [
        Resuming(port), Watching(port, "/ws", live), Watching(port, "/ws/orderUpdate", old)
    ]  # fmt: skip
    table: list[tuple[float, int, str, int]] = []
    starts: list[int] = []
    process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        wait_for("the first order", lambda: resuming.orders)
        wait_for("the first checkpoint", (state / "checkpoint.json").exists)  # nothing is promised before it
        for _ in range(KILLS):
            # Mostly while it is working, and sometimes before it is up.
            delay = chance.random() ** 2 * 3.0
            time.sleep(delay)
            assert process.poll() is None, "it ended by itself"
            process.send_signal(signal.SIGKILL)
            process.wait()
            kept = json.loads((state / "checkpoint.json").read_text())["position"]
            table.append((delay, node.written, Path(kept["path"]).name, kept["offset"]))
            starts.append(log.seek(0, os.SEEK_END))
            process = subprocess.Popen(words, stdout=log, stderr=log)
        node.end()
        wait_for("the last order", lambda: resuming.orders[-1] == node.written - 1)
        time.sleep(0.3)
        resuming.stop.set()
        resuming.join()
    finally:
        end_all(node, clients, process)
        log.close()
        whole = (tmp_path / "log").read_bytes()
        starts.append(len(whole))
        text = whole.decode()
        print("\n".join(text.splitlines()[-40:]))
    assert [fault for client in clients for fault in client.faults] == []
    first = resuming.orders[0]
    assert resuming.orders == list(range(first, node.written)), "holes or doubles"

    lives = [connection for connection in newcomer.got if connection.orders]
    for connection in lives + [connection for connection in former.got if connection.orders]:
        assert_without_holes(connection)
    epochs = [connection.epoch for connection in newcomer.got if connection.epoch]
    assert len(set(epochs)) == len(epochs), "two lives with the same epoch"
    assert {connection.epoch for connection in resuming.got if connection.epoch} & set(epochs)
    assert "ERROR" not in text
    assert "cannot resume" not in text
    assert text.count("ignoring checkpoint") == 1, "only the first life has none"
    for (_, _, name, offset), (begin, end) in zip(table, itertools.pairwise(starts), strict=False):
        found = re.search(rb"following .*/(\d+) from byte (\d+)", whole[begin:end])
        if found is not None:  # otherwise it was killed before its first scan
            assert (found[1].decode(), int(found[2])) == (name, offset)
    print(
        f"\n{KILLS} kills, {node.written} orders in {len(node.files)} files; to the one that resumes: "
        f"{len(resuming.orders)} from order {first} on, {len(set(resuming.orders))} different, in "
        f"{len(resuming.got)} connections; without a cursor: {len(lives)} connections with "
        f"{sum(len(c.orders) for c in lives)} orders, without a hole; old channel: {len(former.got)} with "
        f"{sum(len(c.orders) for c in former.got)}; {len(set(epochs))} epochs"
    )
    if "FASTTAIL_KILLS" in os.environ:
        for delay, written, name, offset in table:
            print(f"{delay:6.3f} s  {written:9d} orders written  checkpoint: hour {name}, byte {offset}")
