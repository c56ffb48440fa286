"""Writes the files of a simulated node, or of two nodes of one chain, at a rate, until an end."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.chain import Exchange, ExchangeOptions
from fasttail.tools.exchange.constants import (
    BLOCK_NS,
    BLOCK_S,
    LAG_NS,
    NS,
    SynthError,
    write_error,
)
from fasttail.tools.exchange.faults import ChainBlock, Fault, FaultRecord, Faults, Writing
from fasttail.tools.exchange.files import (
    SLICE_S,
    Entry,
    HourClock,
    HourFiles,
    StreamWriter,
    newest_hour,
)
from fasttail.tools.exchange.layouts import check_layout, check_streams, folder_name

_UNPACED_SPAN_NS = 1_000_000  # local time spanned by an unpaced block
_WRITE_SHARE = 0.75  # of a block's time; in the rest, the next block is made
_MAX_SLEEP_S = 0.05  # bounds how late a stop is noticed
_DIFFS_DELAY_S = 0.0015  # at most, from a block's due time to a stream's first line
_OTHERS_DELAY_S = (0.001, 0.005)
_LAG_JITTER_NS = 400_000
_TWO_NODES_JITTER_S = 0.2  # of two nodes, now one and now the other is the later one
_LEAST_RATE, _MOST_RATE = 0.01, 10_000_000


@dataclass(frozen=True)
class Summary:
    """Totals of a run: what stands in the first node's files and can be read.

    lines:  in all streams; in by_block, one per block and stream.
    orders: order statuses. events: of all streams.
    blocks: of the chain.
    faults: what faults did.
    second: the same of the second node, if there is one.
    """

    lines: int = 0
    orders: int = 0
    events: int = 0
    bytes: int = 0
    files: int = 0
    blocks: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    faults: tuple[FaultRecord, ...] = ()
    second: Summary | None = None


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """What a simulated node writes, and how fast. Raises SynthError for values out of range.

    rate:         order statuses per second, evenly spread; None: as fast as possible. Blocks come at 15.6/s
                  and grow with it.
    lines:        order statuses to write, exactly. In by_block they fill fewer lines, because all layouts
                  hold the same events.
    seconds:      real time to run.
    streams:      what is written (see `constants.STREAMS`).
    hour_seconds: length of the folders' hours, which begin with the present hour.
    start:        start of the node's clock, which times, local_time and folders follow. None: local_time and
                  folders follow the real UTC clock, and writing continues in the newest hour file if that is
                  later.
    live:         whether events too carry the real time, lag_s seconds old. None: yes for a stream (a rate
                  and no `lines`), no for a set of lines. Its events begin at the market's start, so that
                  the seed determines every byte of them.
    torn:         cut lines anywhere, as a node with buffered output does.
    faults:       what goes wrong in the first node (see `faults.parse_fault`).
    second_node:  folder of a second node of the same chain. It sees a block second_lag_s later on average,
                  but now and then earlier, and the first time the one after `second_skip` others.
    market:       the exchange, apart from its streams, and from `start` and `rate` if these are given. Its
                  seed also determines what nodes do by chance.
    """

    rate: float | None = None
    lines: int | None = None
    seconds: float | None = None
    streams: Sequence[str] = ("orders",)
    layout: str = "plain"
    hour_seconds: float | None = None
    start: datetime | None = None
    live: bool | None = None
    lag_s: float = LAG_NS / NS
    torn: bool = False
    faults: Sequence[Fault] = ()
    second_node: str | os.PathLike[str] | None = None
    second_lag_s: float = 0.05
    second_skip: int = 20
    market: ExchangeOptions = field(default_factory=ExchangeOptions)

    def __post_init__(self) -> None:
        check_layout(self.layout)
        check_streams(self.streams)
        if self.rate is not None and not _LEAST_RATE <= self.rate <= _MOST_RATE:
            raise SynthError(f"rate must be from {_LEAST_RATE:g} to {_MOST_RATE:,}, not {self.rate:g}")
        limits = {"seconds": self.seconds, "hour_seconds": self.hour_seconds}
        for name, value in limits.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SynthError(f"{name} must be above 0, not {value}")
        for name, value in {"lag_s": self.lag_s, "second_lag_s": self.second_lag_s}.items():
            if not (value >= 0 and math.isfinite(value)):
                raise SynthError(f"{name} must not be negative, not {value}")
        for name, count in {"lines": self.lines, "second_skip": self.second_skip}.items():
            if count is not None and count < 0:
                raise SynthError(f"{name} must not be negative, not {count}")
        if self.lines is not None and "orders" not in self.streams:
            raise SynthError("lines counts order statuses, so it needs the stream orders")
        if self.live and self.start is not None:
            raise SynthError("live events follow the real clock, so they have no start")

    @property
    def live_lag_ns(self) -> int | None:
        """Age of live events when they are written; None if events keep the seed's times."""
        stream = self.start is None and self.rate is not None and self.lines is None
        return int(self.lag_s * NS) if self.live or (self.live is None and stream) else None

    @property
    def exchange(self) -> ExchangeOptions:
        """The options of the exchange whose blocks the node writes."""
        start = self.start or self.market.start
        if self.live_lag_ns is not None:
            start = datetime.now(UTC) - timedelta(seconds=self.lag_s)
        block_lines = self.market.block_lines if self.rate is None else self.rate * BLOCK_S
        return replace(self.market, start=start, block_lines=block_lines, streams=tuple(self.streams))


class BlockSource(Protocol):
    """Gives the blocks of a chain: an exchange, or a prepared file. None: there are no more."""

    def next_block(self, time_ns: int | None = None, max_orders: int | None = None) -> ChainBlock | None: ...


@contextmanager
def _stop_signals(stopped: list[bool]) -> Iterator[None]:
    """Let SIGINT and SIGTERM set stopped[0], so that a run ends after a block. Main thread only."""
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
    source: BlockSource | None = None,
    speed: float = 1.0,
    progress: Callable[[Summary], None] | None = None,
    stop: Callable[[], bool] | None = None,
    on_write: Callable[[Block], None] | None = None,
    on_fault: Callable[[FaultRecord], None] | None = None,
) -> Summary:
    """Write a node's streams under `directory`, which is created if missing. Return the totals.

    The run ends at the limits in `options`, or with the source's last block. SIGINT and SIGTERM (main
    thread), or stop() returning True, end it earlier, after a block.

    source:   gives the blocks; None: the exchange of `options`.
    speed:    by how much a paced run is faster than the blocks' times.
    progress: called about once a second with the totals so far.
    on_write: called with what was written of a block, one stream each time, once it is in the first node's
              file (except for bytes that `torn` holds).
    on_fault: called with each record of `Summary.faults` as it is made.

    Raises SynthError if a folder cannot be written or the disk is full.
    """
    records: list[FaultRecord] = []

    def tell(record: FaultRecord) -> None:
        records.append(record)
        if on_fault is not None:
            on_fault(record)

    nodes = [_Node(Path(directory), options, speed, on_write=on_write, on_fault=tell)]
    if options.second_node is not None:
        if Path(options.second_node).resolve() == Path(directory).resolve():
            raise SynthError(f"two nodes cannot share the folder {directory}")
        nodes.append(_Node(Path(options.second_node), options, speed, second=True, on_fault=tell))
    runner = _Run(options, nodes, source, speed, records, progress, stop)
    with _stop_signals(runner.stopped):
        try:
            runner.run()
        finally:
            for node in nodes:
                node.close()
    return runner.summary()


def _continued_hours(root: Path, options: NodeOptions) -> dict[str, int]:
    """Create a node's folder. Return each stream's newest hour file (0: writing does not continue there)."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if options.start is not None:
            return dict.fromkeys(options.streams, 0)
        return {
            stream: newest_hour(root / folder_name(stream, options.layout) / "hourly")
            for stream in options.streams
        }
    except (FileExistsError, NotADirectoryError) as error:
        raise SynthError(f"{root} is not a directory") from error
    except OSError as error:
        raise write_error(root, error) from error


class _Node:
    """One node: hands the blocks of the chain, after its faults, to its streams."""

    def __init__(
        self,
        root: Path,
        options: NodeOptions,
        speed: float,
        *,
        second: bool = False,
        on_write: Callable[[Block], None] | None = None,
        on_fault: Callable[[FaultRecord], None],
    ) -> None:
        seed = options.market.seed
        name = f"{seed}:node{2 if second else 1}"
        self._rng = random.Random(name)
        self._lag_s = options.lag_s + (options.second_lag_s if second else 0.0)
        self._due_lag_s = options.second_lag_s if second else 0.0
        self._jitter_s = _TWO_NODES_JITTER_S if options.second_node is not None else 0.0
        self._skip = options.second_skip if second else 0
        self._real_clock = options.start is None
        self._paced = options.rate is not None
        self._speed = speed
        faults = () if second else options.faults
        self._faults = Faults(
            faults, options.streams, options.layout, torn=options.torn, seed=seed, tell=on_fault
        )
        newest = _continued_hours(root, options)
        clock = HourClock(options.hour_seconds, max(newest.values()))
        self._writers = {
            stream: StreamWriter(
                stream,
                options.layout,
                HourFiles(
                    root / folder_name(stream, options.layout) / "hourly",
                    options.torn,
                    random.Random(f"{name}:{stream}:torn"),
                ),
                clock,
                newest[stream],
                on_write,
                on_fault,
            )
            for stream in options.streams
        }

    def take(self, block: ChainBlock, due: float) -> None:
        """Take over the chain's next block, which the node sees at `due` (monotonic s)."""
        if self._skip > 0:
            self._skip -= 1
            return
        self._add(self._faults.apply(block), block.time_ns, due)

    def finish(self, time_ns: int, due: float) -> None:
        """Take over what faults hold back."""
        self._add(self._faults.finish(), time_ns, due)

    def abandon(self) -> None:
        """Give up what faults hold back."""
        self._faults.abandon()

    def _add(self, writings: list[Writing], now_ns: int, due: float) -> None:
        delays = {stream: self._delay_s(stream) for stream in self._writers}
        jitter_s = self._rng.uniform(0.0, self._jitter_s)
        lag_ns = int((self._lag_s + jitter_s) * NS) + self._rng.randrange(_LAG_JITTER_NS)
        span_s = _WRITE_SHARE * BLOCK_S / self._speed if self._paced else 0.0
        span_ns = BLOCK_NS
        if self._real_clock:
            span_ns = int(BLOCK_NS / self._speed) if self._paced else _UNPACED_SPAN_NS
        for writing in writings:
            seen_ns = (now_ns if writing.late else writing.time_ns) + lag_ns
            for stream, events in writing.events.items():
                delay_s = delays[stream] / self._speed
                entry = Entry(
                    writing.number,
                    writing.time_ns,
                    events,
                    None if self._real_clock else seen_ns + int(delay_s * NS),
                    due + self._due_lag_s + jitter_s + delay_s,
                    0.0 if writing.late else max(span_s - delay_s, 0.0),
                    span_ns,
                    writing.jump_ns,
                    writing.torn.get(stream),
                )
                self._writers[stream].add(entry)

    def _delay_s(self, stream: str) -> float:
        """Return when a stream's first line of a block comes: mostly, diffs are ahead."""
        least, most = (0.0, _DIFFS_DELAY_S) if stream == "bookDiffs" else _OTHERS_DELAY_S
        return self._rng.uniform(least, most)

    @property
    def next_at(self) -> float:
        """When the next line is due (monotonic); infinite if there is none."""
        return min(writer.next_at for writer in self._writers.values())

    def write_due(self, now: float) -> None:
        """Write what is due by now, the stream first whose line is due first."""
        for writer in sorted(self._writers.values(), key=lambda writer: writer.next_at):
            writer.write_due(now)

    @property
    def has_held_bytes(self) -> bool:
        return any(writer.files.has_held_bytes for writer in self._writers.values())

    def flush_held(self) -> None:
        for writer in self._writers.values():
            writer.files.flush_held()

    def close(self) -> None:
        """Close all files. The first error is raised at the end."""
        failure: SynthError | None = None
        for writer in self._writers.values():
            try:
                writer.files.close()
            except SynthError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def summary(self) -> Summary:
        writers = self._writers.values()
        return Summary(
            lines=sum(writer.lines for writer in writers),
            orders=self._writers["orders"].events if "orders" in self._writers else 0,
            events=sum(writer.events for writer in writers),
            bytes=sum(writer.files.bytes for writer in writers),
            files=sum(writer.files.files for writer in writers),
        )


class _Run:
    """Makes blocks and lets the nodes write them on schedule until the run ends. Used once, by `run`."""

    def __init__(
        self,
        options: NodeOptions,
        nodes: list[_Node],
        source: BlockSource | None,
        speed: float,
        records: list[FaultRecord],
        progress: Callable[[Summary], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self._nodes = nodes
        self._speed = speed
        self._records = records
        self._progress = progress
        self._stop = stop
        self._paced = options.rate is not None
        self._orders_left = options.lines
        self._live_lag_ns = options.live_lag_ns
        self._source: BlockSource = Exchange(options.exchange) if source is None else source
        self._blocks = 0
        self._block_ns = 0  # of the last block
        self.stopped = [False]
        self._begin = time.monotonic()
        self._end = math.inf if options.seconds is None else self._begin + options.seconds
        self._report_at = self._begin + 1.0

    def summary(self) -> Summary:
        first, *others = [replace(node.summary(), blocks=self._blocks) for node in self._nodes]
        return replace(
            first,
            seconds=time.monotonic() - self._begin,
            interrupted=self.stopped[0],
            faults=tuple(self._records),
            second=others[0] if others else None,
        )

    def run(self) -> None:
        if not (self._write_paced() if self._paced else self._write_unpaced()):
            for node in self._nodes:
                node.abandon()
                node.write_due(math.inf)  # completes the last block, so that the files hold all that was made

    def _write_paced(self) -> bool:
        """Write each block at its time. Return whether the run came to its own end."""
        block = self._next_block()
        if block is None:
            return True
        begin, first_ns = time.monotonic(), block.time_ns
        due = begin
        while block is not None:
            due = begin + (block.time_ns - first_ns) / NS / self._speed
            in_time = self._write_until(due)
            for node in self._nodes:
                node.take(block, due)
            if not in_time or not self._write_until(due + _WRITE_SHARE * BLOCK_S / self._speed):
                return False
            block = self._next_block()
        if not self._write_rest():
            return False
        self._finish(due)
        return self._write_rest()

    def _write_unpaced(self) -> bool:
        """Write each block at once. Return whether the run came to its own end."""
        while self._should_continue():
            block = self._next_block()
            if block is None:
                self._finish(0.0)
            for node in self._nodes:
                if block is not None:
                    node.take(block, 0.0)
                node.write_due(math.inf)
            if block is None:
                return True
        return False

    def _next_block(self) -> ChainBlock | None:
        if self._orders_left == 0:
            return None
        time_ns = None
        if self._live_lag_ns is not None and not (self._paced and self._blocks):
            time_ns = max(self._block_ns + 1, time.time_ns() - self._live_lag_ns)
        block = self._source.next_block(time_ns, self._orders_left)
        if block is not None:
            self._blocks += 1
            self._block_ns = block.time_ns
            if self._orders_left is not None:
                self._orders_left -= len(block.events["orders"])
        return block

    def _finish(self, due: float) -> None:
        for node in self._nodes:
            node.finish(self._block_ns, due)

    def _write_rest(self) -> bool:
        """Write all that the nodes have, each line at its time. Return False if the run must end before."""
        while (at := min(node.next_at for node in self._nodes)) < math.inf:
            if not self._write_until(at):
                return False
        return True

    def _write_until(self, deadline: float) -> bool:
        """Write what is due until `deadline` (monotonic). Return False if the run must end before."""
        while self._should_continue():
            now = time.monotonic()
            for node in self._nodes:
                node.write_due(now)
            if now >= deadline:
                return True
            self._sleep(min(deadline, *(node.next_at for node in self._nodes)))
        return False

    def _sleep(self, wake_at: float) -> None:
        remaining = wake_at - time.monotonic()
        if remaining <= 0:
            return
        if any(node.has_held_bytes for node in self._nodes):
            # The rest of a torn line follows soon, not only with the next line.
            time.sleep(min(remaining, 0.001))
            if remaining > SLICE_S:
                for node in self._nodes:
                    node.flush_held()
        else:
            time.sleep(min(remaining, _MAX_SLEEP_S, max(0.0, self._end - time.monotonic())))

    def _should_continue(self) -> bool:
        now = time.monotonic()
        if self._progress is not None and now >= self._report_at:
            self._report_at = now + 1.0
            self._progress(self.summary())
        if self._stop is not None and self._stop():
            self.stopped[0] = True
        return not self.stopped[0] and now < self._end
