"""Picows clients on /ws in processes of their own, for the benchmarks that measure a server from outside."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.measure import WrongAnswer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MARK = b'"statusTimestamp":'
TAIL = 200
"""Bytes at the end of a message that hold its cursor and its numbers."""
PATIENCE_S = 120.0


class Message(NamedTuple):
    """at: when it came, monotonic ns. line: offset in the file of its last order's line.

    orders: 0 if they were not counted.
    """

    at: int
    line: int
    orders: int
    size: int


class Receiver(WSListener):
    """One client with one subscription, until the message comes that ends with the line at offset `last`.

    Checks that no `seq` is missing: a gap is a failure.
    """

    def __init__(self, last: int, *, counts: bool) -> None:
        self.failed = ""
        self.subscribed = asyncio.Event()
        self.finished = asyncio.Event()
        self.messages: list[Message] = []
        self._last = last
        self._counts = counts
        self._seq = 0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        at = time.monotonic_ns()
        if frame.msg_type != WSMsgType.TEXT:
            return
        payload = frame.get_payload_as_memoryview()
        if not self.subscribed.is_set():
            self._seq = orjson.loads(payload)["seq"] - 1
            self.subscribed.set()
            return
        end = bytes(payload[-TAIL:])
        begin = end.rfind(b'"cursor":"')
        numbers = orjson.loads(b"{" + end[begin:]) if begin >= 0 else {}
        if numbers.get("prev") != self._seq:
            self._fail(f"behind message {self._seq} came {end!r}")
            return
        self._seq = numbers["seq"]
        line = int(numbers["cursor"].split("-")[1])
        orders = bytes(payload).count(MARK) if self._counts else 0
        self.messages.append(Message(at, line, orders, frame.payload_size))
        if line >= self._last:
            self.finished.set()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.finished.is_set():
            self._fail("closed before the end")

    def _fail(self, reason: str) -> None:
        self.failed = self.failed or reason
        self.finished.set()


class Clients:
    """Running clients, all subscribed. `take` gives the messages of each when all have the last line."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def take(self) -> list[list[Message]]:
        """Raises WrongAnswer if one of them missed something."""
        received: list[list[Message]] = []
        for pipe in self._pipes:
            received += _answer(pipe)
        return received


@contextmanager
def clients(
    port: int,
    count: int,
    subscription: dict[str, Any],
    last: int,
    *,
    processes: int,
    counting: int,
) -> Iterator[Clients]:
    """`count` clients, shared out to processes; the first `counting` of each process count their orders."""
    context = multiprocessing.get_context("fork")
    processes = min(processes, count)
    pipes, running = [], []
    try:
        for index in range(processes):
            ours, theirs = context.Pipe()
            share = count // processes + (index < count % processes)
            process = context.Process(
                target=_receive, args=(port, share, subscription, last, counting, theirs)
            )
            process.start()
            pipes.append(ours)
            running.append(process)
        for pipe in pipes:
            _answer(pipe)
        yield Clients(pipes)
    finally:
        for process in running:
            process.terminate()
            process.join()


class Replayer(WSListener):
    """One client that resumes at a cursor and leaves when it is live."""

    def __init__(self) -> None:
        self.bytes = 0
        self.done = asyncio.Event()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.bytes += frame.payload_size
        if bytes(frame.get_payload_as_memoryview()[:17]) == b'{"channel":"live"':
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.done.set()


@contextmanager
def replaying(port: int, count: int, subscription: dict[str, Any]) -> Iterator[Callable[[], float]]:
    """`count` clients that resume with `subscription`, over and over. Yields what tells bytes a second."""
    total = multiprocessing.RawValue("q", 0)
    process = multiprocessing.get_context("fork").Process(
        target=_replay, args=(port, count, subscription, total)
    )
    if count:
        process.start()
    begin = time.monotonic()
    try:
        yield lambda: float(total.value / (time.monotonic() - begin))
    finally:
        if count:
            process.terminate()
            process.join()


def _replay(port: int, count: int, subscription: dict[str, Any], total: Any) -> None:
    request = orjson.dumps({"method": "subscribe", "subscription": subscription})

    async def one() -> None:
        while True:
            client = Replayer()
            transport, _ = await ws_connect(
                lambda client=client: client, f"ws://127.0.0.1:{port}/ws", max_frame_size=1 << 26
            )
            transport.send(WSMsgType.TEXT, request)
            await client.done.wait()
            total.value += client.bytes

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    uvloop.run(main())


def _receive(
    port: int, count: int, subscription: dict[str, Any], last: int, counting: int, pipe: Connection
) -> None:
    async def main() -> None:
        receivers = [Receiver(last, counts=index < counting) for index in range(count)]
        request = orjson.dumps({"method": "subscribe", "subscription": subscription})
        for receiver in receivers:
            transport, _ = await ws_connect(
                lambda receiver=receiver: receiver,
                f"ws://127.0.0.1:{port}/ws",
                max_frame_size=1 << 26,
            )
            transport.send(WSMsgType.TEXT, request)
            await receiver.subscribed.wait()
        pipe.send([])
        for receiver in receivers:
            await receiver.finished.wait()
            if receiver.failed:
                pipe.send(receiver.failed)
                return
        pipe.send([receiver.messages for receiver in receivers])

    uvloop.run(main())


def _answer(pipe: Connection) -> list[list[Message]]:
    if not pipe.poll(PATIENCE_S):
        raise WrongAnswer("a client waits for the last line")
    answer = pipe.recv()
    if isinstance(answer, str):
        raise WrongAnswer(f"a client failed: {answer}")
    assert isinstance(answer, list)
    return answer
