"""Simulates the soak's node: the orders of `fasttail.tools.synth`, paced with bursts, in short hours.

It counts what it writes, so that clients' data can be checked against it, and records when each piece was in
the file. `synth.run` itself has only one pace; the orders are the same.
"""

from __future__ import annotations

import os
import time
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fasttail.tools.synth import Synth, render

FIRST_HOUR = datetime(2026, 6, 2, tzinfo=UTC)
LAYOUT = "streaming"
HOURLY = "node_order_statuses_streaming/hourly"
BLOCK_LINES = 1506
SLICE_S = 0.002  # interval between writes of the lines that are due
LAG_NS = 350_000_000  # from an order's time to its line in the node's file
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


def write(plan: Plan, stop: Any, total: Any, answer: Connection) -> None:
    """Run the process. stop: shared flag to end early. total: shared count of orders written so far."""
    answer.send(_write(plan, lambda: bool(stop.value), total))


def _write(plan: Plan, stopped: Callable[[], bool], total: Any) -> Written:
    synth = Synth(plan.seed, block_lines=BLOCK_LINES)
    done = Written()
    hourly = Path(plan.folder, HOURLY)
    fd, hour, offset = -1, -1, 0
    begin = due = time.monotonic()
    burst: tuple[float, int] | None = None  # when it began, and orders then
    while due - begin < plan.seconds and not stopped():
        rate = plan.pace(due - begin)
        if rate == plan.burst_rate and burst is None:
            burst = (time.monotonic(), done.orders)
        elif rate != plan.burst_rate and burst is not None:
            done.fastest = max(done.fastest, (done.orders - burst[1]) / (time.monotonic() - burst[0]))
            burst = None
        now_ns = time.time_ns()
        size = synth.begin_block(now_ns - LAG_NS, now_ns, int(BLOCK_LINES / rate * 1e9))
        if (turn := int((due - begin) / plan.hour_seconds)) != hour:
            if fd >= 0:
                os.close(fd)
            hour, offset = turn, 0
            path = hourly / hour_name(hour)
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            done.files += 1
            done.crcs[hour] = 0
            if hour >= plan.keep:
                # Short hours may have been skipped.
                (hourly / hour_name(hour - plan.keep)).unlink(missing_ok=True)
        while synth.events_left > 0:
            part = size - synth.events_left
            wait = due + part / rate - time.monotonic()
            if wait > 0:
                time.sleep(max(wait, SLICE_S))
            done.behind_s = max(done.behind_s, -wait)
            ready = int((time.monotonic() - due) * rate) + 1
            block = synth.take_events(max(1, min(ready, size) - part))
            data = render(block, LAYOUT)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            offset += len(data)
            done.hours.append(hour)
            done.ends.append(offset)
            done.times.append(time.monotonic_ns())
            text = "\n".join([*block.events, ""])
            done.crcs[hour] = zlib.crc32(text.encode(), done.crcs[hour])
            done.old_orders += sum(text.count(f'"status":"{status}"') for status in OLD_STATUSES)
            done.orders += len(block.events)
            done.bytes += len(data)
            total.value = done.orders
        due += size / rate
    os.close(fd)
    return done
