"""Simulates the soak's node: the orders of `fasttail.tools.exchange`, paced with bursts, in short hours.

It counts what it writes, so that clients' data can be checked against it, and records when each piece was in
the file. `exchange.run` itself has only one pace; the orders are the same. A burst is faster than orders can
be made, so a thread makes blocks ahead, with the times at which they are due.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fasttail.tools.exchange import Exchange, ExchangeOptions
from fasttail.tools.exchange.layouts import Part, lines_span_ns, render

FIRST_HOUR = datetime(2026, 6, 2, tzinfo=UTC)
LAYOUT = "streaming"
HOURLY = "node_order_statuses_streaming/hourly"
BLOCK_LINES = 1506
SLICE_S = 0.002  # interval between writes of the lines that are due
LAG_NS = 350_000_000  # from an order's time to its line in the node's file
LINE_BYTES = 610  # a streaming line, about
MOST_AHEAD_BYTES = 256 << 20
LEAST_AHEAD_S = 0.5  # with less ahead, blocks are made without a pause
SPARE = 1.5
"""Blocks are made at most so many times as fast as the plan needs on average, to spread the work evenly."""
SWITCH_S = 0.0005  # how long the writer waits for the thread that makes blocks
OLD_STATUSES = ("open", "filled", "triggered", "canceled", "cancelled", "vaultWithdrawalCanceled")
"""Statuses that the old channels carry."""


def hour_name(hour: int) -> str:
    """Return the path of the soak's hour: folder of the date, number of the hour."""
    moment = FIRST_HOUR + timedelta(hours=hour)
    return f"{moment:%Y%m%d}/{moment.hour}"


def hour_of(cursor: str) -> int:
    """Return the soak's hour that a cursor points into."""
    moment = datetime.strptime(cursor[1:11], "%Y%m%d%H").replace(tzinfo=UTC)
    return int((moment - FIRST_HOUR).total_seconds()) // 3600


@dataclass(frozen=True)
class Plan:
    """rate, burst_rate: lines per second. Bursts of burst_s seconds every burst_every_s; 0: no bursts."""

    folder: str
    seconds: float
    rate: float
    burst_rate: float
    burst_every_s: float
    burst_s: float
    hour_seconds: float
    seed: int
    keep: int = 4
    """Hours kept on disk; older ones are deleted, as a node's operator does."""

    def pace(self, at: float) -> float:
        """Return the lines per second at a moment of the run."""
        # Bursts are in the middle of their period, so that some fall on an hour change and the run begins
        # calmly.
        every = self.burst_every_s
        in_burst = every > 0 and (at + every / 2) % every < self.burst_s
        return self.burst_rate if in_burst else self.rate

    @property
    def mean_rate(self) -> float:
        """Lines per second over the whole run."""
        share = self.burst_s / self.burst_every_s if self.burst_every_s > 0 else 0.0
        return self.rate + (self.burst_rate - self.rate) * min(share, 1.0)

    @property
    def ahead_bytes(self) -> int:
        """Bound of the blocks made ahead: a burst, and a second without one."""
        burst = self.burst_rate * self.burst_s if self.burst_every_s > 0 else 0.0
        return min(int((burst + self.rate) * LINE_BYTES), MOST_AHEAD_BYTES)


@dataclass
class Written:
    """What is in the files. crcs: by hour, of the events in the plain layout with their newlines."""

    orders: int = 0
    old_orders: int = 0
    bytes: int = 0
    files: int = 0
    fastest: float = 0.0  # lines per second in the fastest burst
    behind_s: float = 0.0  # largest lag of the writer behind its schedule
    crcs: dict[int, int] = field(default_factory=dict)
    hours: array[int] = field(default_factory=lambda: array("q"))  # these three: per piece
    ends: array[int] = field(default_factory=lambda: array("q"))  # end offset in its hour's file
    times: array[int] = field(default_factory=lambda: array("q"))  # monotonic ns at which it was written


@dataclass(frozen=True)
class Made:
    """A block with orders, before it is written.

    at: when its first line is due, in seconds of the run. rate: lines per second from then on.
    data: its lines. crc: of its hour's events up to its last one, as in `Written`.
    """

    at: float
    rate: float
    hour: int
    data: bytes
    orders: int
    old_orders: int
    crc: int


def _make(plan: Plan, exchange: Exchange, begin: float) -> Iterator[Made]:
    """Make the blocks of the plan. begin: of the run, monotonic seconds."""
    at, hour, crc, local_end = 0.0, -1, 0, 0
    while at < plan.seconds:
        rate = plan.pace(at)
        due_ns = time.time_ns() + max(0, int((begin + at - time.monotonic()) * 1e9))
        block = exchange.next_block(due_ns - LAG_NS)
        events = block.events["orders"]
        size, span_ns = len(events), int(BLOCK_LINES / rate * 1e9)
        if not size:
            continue
        local_ns = max(local_end, due_ns)
        local_end = local_ns + lines_span_ns("orders", LAYOUT, size, span_ns)
        part = Part("orders", block.number, block.time_ns, local_ns, events, 0, size, span_ns)
        text = render(part, "plain")
        if (turn := int(at / plan.hour_seconds)) != hour:
            hour, crc = turn, 0
        crc = zlib.crc32(text, crc)
        old_orders = sum(text.count(f'"status":"{status}"'.encode()) for status in OLD_STATUSES)
        yield Made(at, rate, hour, render(part, LAYOUT), size, old_orders, crc)
        at += size / rate


class Ahead:
    """Iterates over the blocks of the plan, which a thread makes ahead.

    begin: of the run, monotonic seconds.
    """

    def __init__(self, plan: Plan) -> None:
        start = datetime.now(UTC) - timedelta(microseconds=LAG_NS // 1000)
        exchange = Exchange(ExchangeOptions(seed=plan.seed, start=start, block_lines=BLOCK_LINES))
        self.begin = time.monotonic() + LEAST_AHEAD_S
        self._source = _make(plan, exchange, self.begin)
        self._pace = plan.mean_rate * SPARE
        self._most = plan.ahead_bytes
        self._made: deque[Made] = deque()
        self._bytes = 0
        self._ended = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Made]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._made or self._ended)
                if not self._made:
                    break
                made = self._made.popleft()
                self._bytes -= len(made.data)
                self._changed.notify()
            yield made
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Make no more blocks."""
        self._end()
        self._thread.join()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            began = time.monotonic()
            for made in self._source:
                with self._changed:
                    self._made.append(made)
                    self._bytes += len(made.data)
                    self._changed.notify()
                    self._changed.wait_for(lambda: self._bytes < self._most or self._ended)
                    if self.begin + made.at - time.monotonic() > LEAST_AHEAD_S:
                        pause = began + made.orders / self._pace - time.monotonic()
                        self._changed.wait_for(lambda: self._ended, max(0.0, pause))
                    if self._ended:
                        break
                began = time.monotonic()
        except Exception as error:
            self._failure = error
        self._end()


def write(plan: Plan, stop: Any, total: Any, answer: Connection) -> None:
    """Run the process. stop: shared flag to end early. total: shared count of orders written so far."""
    sys.setswitchinterval(SWITCH_S)
    ahead = Ahead(plan)
    try:
        answer.send(_write(plan, ahead, lambda: bool(stop.value), total))
    finally:
        ahead.close()


def _write(plan: Plan, ahead: Ahead, stopped: Callable[[], bool], total: Any) -> Written:
    done = Written()
    hourly = Path(plan.folder, HOURLY)
    fd, hour, offset = -1, -1, 0
    burst: tuple[float, int] | None = None  # when it began, and orders then
    for made in ahead:
        if stopped():
            break
        rate = made.rate
        if rate == plan.burst_rate and burst is None:
            burst = (time.monotonic(), done.orders)
        elif rate != plan.burst_rate and burst is not None:
            done.fastest = max(done.fastest, (done.orders - burst[1]) / (time.monotonic() - burst[0]))
            burst = None
        if made.hour != hour:
            if fd >= 0:
                os.close(fd)
            hour, offset = made.hour, 0
            fd = _open(hourly, hour, plan.keep)
            done.files += 1
        due = ahead.begin + made.at
        lines = made.data.splitlines(keepends=True)
        written = 0
        while written < made.orders:
            wait = due + written / rate - time.monotonic()
            if wait > 0:
                time.sleep(max(wait, SLICE_S))
            done.behind_s = max(done.behind_s, -wait)
            ready = int((time.monotonic() - due) * rate) + 1
            piece = lines[written : max(ready, written + 1)]
            data = b"".join(piece)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            offset += len(data)
            done.hours.append(hour)
            done.ends.append(offset)
            done.times.append(time.monotonic_ns())
            written += len(piece)
            done.orders += len(piece)
            done.bytes += len(data)
            total.value = done.orders
        done.crcs[hour] = made.crc
        done.old_orders += made.old_orders
    if fd >= 0:
        os.close(fd)
    return done


def _open(hourly: Path, hour: int, keep: int) -> int:
    """Open the file of an hour and delete the one that is `keep` hours older."""
    path = hourly / hour_name(hour)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    if hour >= keep:
        # Short hours may have been skipped.
        (hourly / hour_name(hour - keep)).unlink(missing_ok=True)
    return fd
