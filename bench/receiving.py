"""Runs picows clients on /ws in separate processes, for benchmarks that measure a server from outside."""

from __future__ import annotations

import asyncio
import bisect
import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.measure import WrongAnswer
from fasttail.sources.cursor import CursorPosition
from fasttail.system.scheduling import set_time_slice

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MARK = b'"statusTimestamp":'
LIVE = b'{"channel":"live"'
EVENTS_DONE = len("-0000001")
TAIL = 200
"""Bytes at the end of a message that hold its cursor and sequence numbers."""
PATIENCE_S = 120.0


def place(hour: int, offset: int) -> str:
    """Return the beginning of a streaming line's cursors, without the event. hour: YYYYMMDDHH."""
    return CursorPosition(hour, offset).to_cursor("streaming")[:-EVENTS_DONE]


def delays_since(marks: list[tuple[int, float]], seen: list[tuple[int, float]]) -> list[float]:
    """Return the milliseconds from the write of each message's last order to its receipt.

    marks: (size of the file, when) per write. seen: (offset of that order's line, time of receipt).
    """
    sizes = [size for size, _ in marks]
    return [1e3 * (came - marks[bisect.bisect_right(sizes, offset)][1]) for offset, came in seen]


class Message(NamedTuple):
    """at: time of receipt, monotonic ns. hour, line: YYYYMMDDHH and offset of its last order's line.

    orders: 0 if not counted. text: empty if not kept.
    """

    at: int
    line: int
    orders: int
    size: int
    hour: int = 0
    text: bytes = b""


class Receiver(WSListener):
    """One client with one subscription, which runs until it gets the line at `last` (a cursor's beginning).

    It checks that no `seq` is missing; a gap is a failure. Replayed messages have no sequence numbers, so
    only their content can be checked. progress: shared value, the hour of the newest message.
    """

    def __init__(self, last: str, *, counts: bool, keeps: bool = False, progress: Any = None) -> None:
        self.failed = ""
        self.subscribed = asyncio.Event()
        self.finished = asyncio.Event()
        self.messages: list[Message] = []
        self._last = last
        self._counts = counts
        self._keeps = keeps
        self._progress = progress
        self._seq: int | None = 0  # None during a replay

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        at = time.monotonic_ns()
        if frame.msg_type != WSMsgType.TEXT:
            return
        payload = frame.get_payload_as_memoryview()
        if not self.subscribed.is_set():
            seq = orjson.loads(payload)["seq"]
            self._seq = None if seq is None else seq - 1
            self.subscribed.set()
            return
        if self._seq is None and bytes(payload[: len(LIVE)]) == LIVE:
            self._seq = orjson.loads(payload)["seq"] - 1
            return
        end = bytes(payload[-TAIL:])
        begin = end.rfind(b'"cursor":"')
        numbers = orjson.loads(b"{" + end[begin:]) if begin >= 0 else {}
        if not numbers or numbers.get("prev") != self._seq:
            self._fail(f"behind message {self._seq} came {end!r}")
            return
        self._seq = numbers.get("seq")
        cursor = numbers["cursor"]
        text = bytes(payload) if self._counts or self._keeps else b""
        orders = text.count(MARK) if self._counts else 0
        line, hour = int(cursor.split("-")[1]), int(cursor[1:11])
        kept = text if self._keeps else b""
        self.messages.append(Message(at, line, orders, frame.payload_size, hour, kept))
        if self._progress is not None:
            self._progress.value = hour
        if cursor >= self._last:
            self.finished.set()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.finished.is_set():
            self._fail("closed before the end")

    def _fail(self, reason: str) -> None:
        self.failed = self.failed or reason
        self.finished.set()


class Clients:
    """Running, subscribed clients. `take` returns the messages of each once all have the last line."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def take(self) -> list[list[Message]]:
        """Raise WrongAnswer if a client missed anything."""
        received: list[list[Message]] = []
        for pipe in self._pipes:
            received += _answer(pipe)
        return received


@contextmanager
def clients(
    port: int,
    count: int,
    subscription: dict[str, Any],
    last: str,
    *,
    processes: int,
    counting: int,
    keeps: bool = False,
    progress: Any = None,
) -> Iterator[Clients]:
    """Run `count` clients spread over processes; the first `counting` of each process count their orders.

    keeps: all clients keep the text of their messages. progress: a shared value, see Receiver.
    """
    context = multiprocessing.get_context("fork")
    processes = min(processes, count)
    pipes, running = [], []
    try:
        for index in range(processes):
            ours, theirs = context.Pipe()
            share = count // processes + (index < count % processes)
            process = context.Process(
                target=_receive, args=(port, share, subscription, last, counting, keeps, progress, theirs)
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
    """One client that resumes at a cursor and leaves once it is live."""

    def __init__(self) -> None:
        self.bytes = 0
        self.done = asyncio.Event()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.bytes += frame.payload_size
        if bytes(frame.get_payload_as_memoryview()[: len(LIVE)]) == LIVE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.done.set()


@contextmanager
def replaying(port: int, count: int, subscription: dict[str, Any]) -> Iterator[Callable[[], float]]:
    """Run `count` clients that resume over and over; yield a function that returns bytes per second."""
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
    port: int,
    count: int,
    subscription: dict[str, Any],
    last: str,
    counting: int,
    keeps: bool,
    progress: Any,
    pipe: Connection,
) -> None:
    # Keeps the garbage collector from scanning what this process inherits, which takes 0.1 s.
    gc.freeze()
    # A real client has its own machine. Here it would often wait 4 ms for the end of the writer's time slice,
    # and that would count as the server's delay.
    set_time_slice()

    async def main() -> None:
        receivers = [
            Receiver(last, counts=index < counting, keeps=keeps, progress=progress) for index in range(count)
        ]
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
