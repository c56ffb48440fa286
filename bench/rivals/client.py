"""Receives what a rival delivers, in a separate process, and compares it with what was expected.

All rivals that speak WebSocket get the same picows client; lines are read from a pipe or a socket. While
running it only records what arrives and when; the comparison comes afterwards.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import re
import select
import socket
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.measure import WrongAnswer
from bench.rivals.material import BASE, OID

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

CONNECT_S = 30.0
LOOK_S = 0.02
DONE_S = 0.2
"""Time to wait for duplicates once everything expected has arrived."""
READ = 1 << 20
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")


@dataclass
class Account:
    """lost: never arrived. twice: duplicates. late: arrived after one with a higher number.

    broken: arrived but not expected. at, numbers: of first arrivals.
    """

    expected: int
    lost: int = 0
    twice: int = 0
    late: int = 0
    broken: int = 0
    sample: str = ""  # one of the broken
    at: array[int] = field(default_factory=lambda: array("q"))  # monotonic ns
    numbers: array[int] = field(default_factory=lambda: array("q"))

    @property
    def came(self) -> int:
        return len(self.numbers)

    def faults(self) -> str:
        """Describe the faults; empty if everything arrived once and in order."""
        counts = {
            "lost": self.lost, "broken": self.broken, "twice": self.twice, "out of order": self.late
        }  # fmt: skip
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def account(pieces: Iterable[tuple[int, int, Any]], expected: Mapping[int, Any]) -> Account:
    """Compare pieces (time, number, content) with what was expected."""
    done = Account(len(expected))
    seen: set[int] = set()
    highest = -1
    for at, number, value in pieces:
        if number not in expected or expected[number] != value:
            done.broken += 1
            done.sample = done.sample or repr(value)[:600]
        elif number in seen:
            done.twice += 1
        else:
            seen.add(number)
            done.late += number < highest
            highest = max(highest, number)
            done.at.append(at)
            done.numbers.append(number)
    done.lost = len(expected) - len(seen)
    return done


class Collector:
    """The running process. After `close`, `take` waits until everything has arrived or nothing more does."""

    def __init__(self, pipe: Connection, over: Any) -> None:
        self._pipe = pipe
        self._over = over

    def close(self) -> None:
        """Tell the process that everything is written."""
        self._over.value = 1

    def take(self, patience_s: float) -> Account:
        if not self._pipe.poll(patience_s):
            raise WrongAnswer(f"no end within {patience_s:.0f} s")
        answer = self._pipe.recv()
        assert isinstance(answer, Account)
        return answer


@contextmanager
def collecting(
    source: int | socket.socket, kind: str, expected: Mapping[int, Any], quiet_s: float
) -> Iterator[Collector]:
    """Run the collector; yield it once connected, if it connects.

    source: for orders the port of a WebSocket server; for lines a descriptor or a listening socket.
    """
    context = multiprocessing.get_context("fork")
    over = context.RawValue("i", 0)
    ours, theirs = context.Pipe()
    process = context.Process(target=_collect, args=(source, kind, expected, quiet_s, over, theirs))
    process.start()
    try:
        if not ours.poll(CONNECT_S):
            raise WrongAnswer("the client did not connect")
        ours.recv()
        yield Collector(ours, over)
    finally:
        process.terminate()
        process.join()


def _collect(
    source: Any, kind: str, expected: Mapping[int, Any], quiet_s: float, over: Any, pipe: Connection
) -> None:
    if kind == "orders":
        client = Client(expected)
        uvloop.run(_run_client(client, source, quiet_s, over, pipe))
        pipe.send(account(_orders(client.at, client.texts), expected))
    else:
        chunks = _read_lines(source, len(expected), quiet_s, over, pipe)
        pipe.send(account(_lines(chunks), expected))


class Client(WSListener):
    """Stores everything. left: expected orders that have not arrived."""

    def __init__(self, expected: Mapping[int, Any]) -> None:
        self.greeted = asyncio.Event()
        self.closed = False
        self.at = array("q")
        self.texts: list[bytes] = []
        self.left = len(expected)
        self.newest = 0.0
        self._seen = bytearray(max(expected) + 1)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        at = time.monotonic_ns()
        if frame.msg_type != WSMsgType.TEXT:
            return
        text = frame.get_payload_as_bytes()
        if not self.greeted.is_set():
            self.greeted.set()
            return
        self.at.append(at)
        self.texts.append(text)
        begin = text.find(b'"id":"') + 6
        try:
            number = int(text[begin : begin + 12]) - BASE
            if not self._seen[number]:
                self._seen[number] = 1
                self.left -= 1
        except (ValueError, IndexError):
            pass  # checked later

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.closed = True


async def _run_client(client: Client, port: int, quiet_s: float, over: Any, pipe: Connection) -> None:
    url = f"ws://127.0.0.1:{port}/ws/orderUpdate"
    await ws_connect(lambda: client, url, max_frame_size=1 << 26)
    await client.greeted.wait()
    pipe.send(None)
    count, since = 0, 0.0
    while not client.closed:
        await asyncio.sleep(LOOK_S)
        if not over.value:
            continue
        if len(client.at) != count or not since:
            count, since = len(client.at), time.monotonic()
        if time.monotonic() - since > (quiet_s if client.left else DONE_S):
            return


def _orders(at: Iterable[int], texts: Iterable[bytes]) -> Iterator[tuple[int, int, Any]]:
    for when, text in zip(at, texts, strict=True):
        number, value = -1, None
        try:
            message = json.loads(text)
            value = message.pop("data")
            number = int(value["id"]) - BASE
            made = message.pop("timestamp")
        except (ValueError, KeyError, TypeError):
            yield when, -1, text
            continue
        if message != {"type": "orderUpdate", "channel": "orderUpdate"} or not TIME.fullmatch(made):
            number = -1
        yield when, number, value if number >= 0 else text


def _read_lines(
    source: int | socket.socket, expected: int, quiet_s: float, over: Any, pipe: Connection
) -> list[tuple[int, bytes]]:
    pipe.send(None)
    if isinstance(source, socket.socket):
        poll = select.poll()
        poll.register(source, select.POLLIN)
        begin = time.monotonic()
        while not poll.poll(LOOK_S * 1000):
            if over.value and time.monotonic() - begin > CONNECT_S:
                return []
        source = source.accept()[0].detach()
    poll = select.poll()
    poll.register(source, select.POLLIN)
    chunks: list[tuple[int, bytes]] = []
    count, since = 0, 0.0
    while True:
        if poll.poll(LOOK_S * 1000):
            if not (data := os.read(source, READ)):
                return chunks
            chunks.append((time.monotonic_ns(), data))
            count += data.count(b"\n")
            since = time.monotonic()
        elif over.value:
            since = since or time.monotonic()
            if time.monotonic() - since > (quiet_s if count < expected else DONE_S):
                return chunks


def _lines(chunks: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int, Any]]:
    rest = b""
    for at, data in chunks:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            match = OID.search(line)
            yield at, int(match[1]) - BASE if match else -1, line
    if rest:
        yield 0, -1, rest
