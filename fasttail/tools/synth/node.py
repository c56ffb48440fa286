"""Writes the files of a synthetic node at a rate, until an end."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from fasttail.tools.synth.blocks import Synth
from fasttail.tools.synth.constants import (
    BLOCK_LINES,
    BLOCK_NS,
    BLOCK_S,
    CHILDREN_SHARE,
    LAG_NS,
    NS,
    Style,
    SynthError,
)
from fasttail.tools.synth.files import HourClock, HourFiles, newest_hour, write_error
from fasttail.tools.synth.layouts import LAYOUTS, Block, check_layout, render

_UNPACED_SPAN_NS = 1_000_000  # local time spanned by an unpaced block
_SLICE_S = 0.002  # interval between slices of lines at high rates
_MAX_SLEEP_S = 0.05  # bounds how late a stop is noticed


@dataclass(frozen=True)
class Summary:
    """Totals of a run: lines written, orders in them (equal except in by_block), files opened."""

    lines: int = 0
    orders: int = 0
    bytes: int = 0
    files: int = 0
    blocks: int = 0
    seconds: float = 0.0
    interrupted: bool = False


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """What a synthetic node writes, and how fast. Raises SynthError for values out of range.

    rate:            orders per second, evenly spread; None: as fast as possible. Blocks come at 15.6/s and
                     grow with it.
    lines:           orders to write, exactly. In by_block they fill fewer lines, because all layouts hold the
                     same orders.
    seconds:         real time to run.
    hour_seconds:    length of the folders' hours, which begin with the present hour.
    start:           start of the node's clock, which times, local_time and folders follow. None: local_time
                     and folders follow the real UTC clock, and writing continues in the newest hour file if
                     that is later.
    live:            whether events too carry the real time, lag_s seconds old. None: yes for a stream (a rate
                     and no `lines`), no for a set of lines. Its events begin at DEFAULT_START, so that the
                     seed determines every byte of them.
    torn:            cut lines anywhere, as a node with buffered output does.
    style, children: see `Synth`.
    """

    rate: float | None = None
    lines: int | None = None
    seconds: float | None = None
    layout: str = "plain"
    seed: int = 1
    hour_seconds: float | None = None
    start: datetime | None = None
    live: bool | None = None
    lag_s: float = LAG_NS / NS
    torn: bool = False
    style: Style = "2026"
    children: float = CHILDREN_SHARE

    def __post_init__(self) -> None:
        check_layout(self.layout, self.style)
        limits = {"rate": self.rate, "seconds": self.seconds, "hour_seconds": self.hour_seconds}
        for name, value in limits.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SynthError(f"{name} must be above 0, not {value}")
        if self.lines is not None and self.lines < 0:
            raise SynthError(f"lines must not be negative, not {self.lines}")

    @property
    def live_lag_ns(self) -> int | None:
        """Age of live events when they are written; None if events keep the seed's times."""
        stream = self.start is None and self.rate is not None and self.lines is None
        return int(self.lag_s * NS) if self.live or (self.live is None and stream) else None


@contextmanager
def _stop_signals(stopped: list[bool]) -> Iterator[None]:
    """Let SIGINT and SIGTERM set stopped[0], so that a run ends after a line. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: object) -> None:
        stopped[0] = True

    previous_handlers = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def run(
    directory: str | os.PathLike[str],
    options: NodeOptions,
    *,
    progress: Callable[[Summary], None] | None = None,
    stop: Callable[[], bool] | None = None,
    on_write: Callable[[Block], None] | None = None,
) -> Summary:
    """Write a node's order statuses under `directory`, which is created if missing. Return the totals.

    The run ends at the limits in `options`. SIGINT and SIGTERM (main thread), or stop() returning True, end
    it earlier, after a line.

    progress: called about once a second with the totals so far.
    on_write: called with each block, or part of one, once it is in the file (except for bytes that `torn`
              holds).

    Raises SynthError if the folder cannot be written or the disk is full.
    """
    root = Path(directory)
    hourly = root / LAYOUTS[options.layout] / "hourly"
    try:
        root.mkdir(parents=True, exist_ok=True)
        newest = newest_hour(hourly) if options.start is None else None
    except (FileExistsError, NotADirectoryError) as error:
        raise SynthError(f"{root} is not a directory") from error
    except OSError as error:
        raise write_error(root, error) from error
    files = HourFiles(hourly, options.torn, random.Random(f"{options.seed}:torn"))
    writer = _Writer(options, files, HourClock(options.hour_seconds, newest), progress, stop, on_write)
    with _stop_signals(writer.stopped):
        try:
            writer.run()
        finally:
            files.close()
    return writer.summary()


class _Writer:
    """Writes blocks on schedule until the run ends. Used once, by `run`."""

    def __init__(
        self,
        options: NodeOptions,
        files: HourFiles,
        hours: HourClock,
        progress: Callable[[Summary], None] | None,
        stop: Callable[[], bool] | None,
        on_write: Callable[[Block], None] | None,
    ) -> None:
        self._synth = Synth(
            options.seed,
            options.start,
            block_lines=BLOCK_LINES if options.rate is None else options.rate * BLOCK_S,
            style=options.style,
            children=options.children,
        )
        self._files = files
        self._hours = hours
        self._layout = options.layout
        self._paced = options.rate is not None
        self._orders_left = math.inf if options.lines is None else options.lines
        self._live_lag_ns = options.live_lag_ns
        self._real_clock = options.start is None
        self._progress = progress
        self._stop = stop
        self._on_write = on_write
        self._total = Summary()
        self.stopped = [False]
        self._begin = time.monotonic()
        self._end = math.inf if options.seconds is None else self._begin + options.seconds
        self._report_at = self._begin + 1.0

    def summary(self) -> Summary:
        return replace(
            self._total,
            bytes=self._files.bytes,
            files=self._files.files,
            seconds=time.monotonic() - self._begin,
            interrupted=self.stopped[0],
        )

    def run(self) -> None:
        number = 0
        while self._orders_left > 0:
            due = self._begin + number * BLOCK_S
            if not (self._wait_until(due) if self._paced else self._should_continue()):
                return
            self._block(due if self._paced else None)
            number += 1

    def _block(self, due: float | None) -> None:
        """Write one block: at once, or with its lines spread over the block's time from `due` on."""
        synth = self._synth
        now = time.time_ns() if self._real_clock or self._live_lag_ns is not None else 0
        size = synth.begin_block(
            None if self._live_lag_ns is None else now - self._live_lag_ns,
            now if self._real_clock else None,
            BLOCK_NS if due is not None or not self._real_clock else _UNPACED_SPAN_NS,
        )
        hour = self._hours.at(synth.local_ns)  # the whole block goes into one file
        self._total = replace(self._total, blocks=self._total.blocks + 1)
        if due is None or self._layout == "by_block":
            self._write_block(hour, synth.take_events(size))
            return
        written_at = 0.0
        while synth.events_left > 0 and self._orders_left > 0:
            done = size - synth.events_left
            if not self._wait_until(max(due + BLOCK_S * done / size, written_at + _SLICE_S)):
                return
            written_at = time.monotonic()
            ready = min(size, int(size * (written_at - due) / BLOCK_S) + 1)
            self._write_block(hour, synth.take_events(max(1, ready - done)))

    def _write_block(self, hour: int, block: Block) -> None:
        if len(block.events) > self._orders_left:
            block = block._replace(events=block.events[: int(self._orders_left)])
        self._files.write(hour, render(block, self._layout))
        if self._on_write is not None:
            self._on_write(block)
        orders = len(block.events)
        self._orders_left -= orders
        total = self._total
        lines = 1 if self._layout == "by_block" else orders
        self._total = replace(total, lines=total.lines + lines, orders=total.orders + orders)

    def _wait_until(self, deadline: float) -> bool:
        """Sleep until `deadline` (monotonic). Return False if the run must end instead."""
        while self._should_continue():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return True
            if (
                self._files.has_held_bytes
            ):  # the rest of a torn line follows soon, not only with the next line
                time.sleep(min(remaining, 0.001))
                if remaining > _SLICE_S:
                    self._files.flush_held()
            else:
                time.sleep(min(remaining, _MAX_SLEEP_S, max(0.0, self._end - time.monotonic())))
        return False

    def _should_continue(self) -> bool:
        now = time.monotonic()
        if self._progress is not None and now >= self._report_at:
            self._report_at = now + 1.0
            self._progress(self.summary())
        if self._stop is not None and self._stop():
            self.stopped[0] = True
        return not self.stopped[0] and now < self._end
