"""Collects statistics from a server's log line by line, in bounded memory, from any line on.

📦 🔄 📊 🚀 ⏳ … ✅ All (📦 Combining) ✅ Parallel 📡     one batch; the next begins only then
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fasttail.monitoring.growth import MB
from fasttail.tools.verify.log_line import BATCH_EVENTS, LogLine, read_lines

MAX_EXAMPLE = 120
"""Characters of a line that are shown as an example."""

MARKERS = ("📦", "🔄", "📊", "🚀", "⏳", "✅ All", "📦 Combining", "✅ Parallel", "📡")
"""Markers of the nine steps of a batch, in the order of BATCH_EVENTS."""
STEPS = dict(zip(BATCH_EVENTS, range(len(MARKERS)), strict=True))
BEGIN, ALL, COMBINING, BROADCAST = 0, 5, 6, 8

_STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")  # in other programs' lines
_ERROR = re.compile(r"❌|\bERROR\b")


@dataclass
class Occurrences:
    """Number of occurrences in the log, and the first one."""

    count: int = 0
    first: str = ""

    def add(self, text: str) -> None:
        if not self.count:
            self.first = text if len(text) <= MAX_EXAMPLE else text[:MAX_EXAMPLE] + "…"
        self.count += 1


class SizeHistory:
    """A history of sizes of any length, reduced to at most `POINTS` means of neighbouring batches."""

    POINTS = 120

    def __init__(self) -> None:
        self.count = 0
        self.smallest = 0
        self.largest = 0
        self._group_size = 1
        self._sums: list[int] = []

    def add(self, size: int) -> None:
        self.smallest = min(self.smallest, size) if self.count else size
        self.largest = max(self.largest, size)
        if self.count % self._group_size == 0:
            if len(self._sums) == self.POINTS:
                self._sums = [sum(self._sums[at : at + 2]) for at in range(0, self.POINTS, 2)]
                self._group_size *= 2
            self._sums.append(0)
        self._sums[-1] += size
        self.count += 1

    def points(self) -> list[tuple[float, float]]:
        """Return (batch number, mean size) of each complete group of neighbours."""
        whole = self.count // self._group_size
        return [
            (at * self._group_size, total / self._group_size) for at, total in enumerate(self._sums[:whole])
        ]


@dataclass
class LogStats:
    """Statistics of the lines so far. Batches count from the first 📦, since the log may begin within one."""

    lines: int = 0
    started: int = 0
    completed: int = 0
    broadcasts: int = 0
    last_broadcast: str = ""
    workers: set[int] = field(default_factory=set)
    sizes: SizeHistory = field(default_factory=SizeHistory)
    out_of_order: Occurrences = field(default_factory=Occurrences)
    unfinished: Occurrences = field(default_factory=Occurrences)
    mismatched_chunks: Occurrences = field(
        default_factory=Occurrences
    )  # number of chunks differs from number of workers
    timeouts: Occurrences = field(default_factory=Occurrences)
    errors: Occurrences = field(default_factory=Occurrences)
    alerts: Occurrences = field(default_factory=Occurrences)
    restarts: Occurrences = field(default_factory=Occurrences)
    summary_batches: int = 0  # batches that only a Σ line reports
    rejected: int = 0
    dropped: int = 0
    version: str | None = None
    memory: list[tuple[float, float]] = field(default_factory=list)

    _next_step: int = 0  # next expected step; BEGIN: no batch is open
    _batch_workers: int | None = None
    _batch_timestamp: str | None = None
    _batch_arrived_at: float = 0.0
    _last_timestamp: str | None = None
    _has_our_format: bool = False  # a line in fasttail's own format was seen

    MEMORY_POINTS = 480

    def feed(self, raw: bytes, arrived: float = 0.0) -> None:
        """Process one line. `arrived` is its time on any clock, the same as for `running_batch_age`."""
        for line in read_lines(raw):
            self._feed(line, arrived)

    def _feed(self, line: LogLine, arrived: float) -> None:
        self.lines += 1
        self._has_our_format = self._has_our_format or line.timestamp is not None
        # Timestamps of the old service's lines have another format.
        stamp = None if self._has_our_format else _STAMP.search(line.text[:MAX_EXAMPLE])
        when = stamp[0] if stamp else line.timestamp
        self._last_timestamp = when or self._last_timestamp
        if "⏰" in line.text:
            self.timeouts.add(line.message)
        elif _ERROR.search(line.text):
            self.errors.add(line.message)
            if "❌ Parallel batch processing FAILED" in line.message and self._next_step:
                self._record_unfinished("failed")
        if "🚨" in line.text:
            self.alerts.add(line.message)
        if line.event in STEPS:
            self._feed_step(STEPS[line.event], line.fields, when, arrived)
        else:
            self._feed_other_line(line)

    def running_batch_age(self, now: float | None = None) -> float | None:
        """Return the seconds since the start of the unfinished batch.

        None if there is no such batch, and 0 if its start is unknown.
        """
        if not BEGIN < self._next_step <= ALL:
            return None
        ages = [now - self._batch_arrived_at] if now is not None else []
        if self._batch_timestamp is not None and self._last_timestamp is not None:
            ages.append(_seconds(self._last_timestamp) - _seconds(self._batch_timestamp))
        return max(ages, default=0.0)

    def _feed_step(self, step: int, fields: Mapping[str, Any], timestamp: str | None, arrived: float) -> None:
        if step == BEGIN:
            self._start_batch(fields, timestamp, arrived)
            return
        if not self.started:
            return  # the end of a batch that began before this log
        if step != self._next_step and (step, self._next_step) != (COMBINING + 1, COMBINING):
            self._record_out_of_order(f"{MARKERS[step]} where {MARKERS[self._next_step]} was due")
        if step == ALL:
            self.completed += 1
        elif step == BROADCAST:
            self.broadcasts += 1
            self.last_broadcast = "{sent}/{selected} orders → {clients} clients".format(**fields)
        self._check_chunks(fields)
        # Continue after the received step, so that one missing line is one fault.
        self._next_step = 0 if step == BROADCAST else max(self._next_step, step + 1) if self._next_step else 0

    def _start_batch(self, fields: Mapping[str, Any], timestamp: str | None, arrived: float) -> None:
        if BEGIN < self._next_step <= ALL:
            self._record_unfinished("not finished")
        elif self._next_step:
            self._record_out_of_order(f"📦 where {MARKERS[self._next_step]} was due")
        self.started += 1
        self.sizes.add(int(fields["lines"]))
        self._next_step = BEGIN + 1
        self._batch_workers = None
        self._batch_timestamp, self._batch_arrived_at = timestamp, arrived

    def _check_chunks(self, values: Mapping[str, Any]) -> None:
        if (workers := values.get("workers")) is not None:
            self.workers.add(int(workers))
            if self._batch_workers is None:
                self._batch_workers = int(workers)
        for name in ("workers", "chunks"):
            value = values.get(name)
            if value is not None and self._batch_workers not in (None, int(value)):
                self.mismatched_chunks.add(
                    f"batch {self.started}: {value} {name}, {self._batch_workers} workers"
                )
                self._batch_workers = None  # one fault per batch
                return
        if int(values.get("failed") or 0):
            self.mismatched_chunks.add(f"batch {self.started}: {values['failed']} chunks failed")

    def _record_unfinished(self, how: str) -> None:
        self.unfinished.add(f"batch {self.started}, {how}")
        self._next_step = 0

    def _record_out_of_order(self, what: str) -> None:
        self.out_of_order.add(f"batch {self.started}, line {self.lines}: {what}")

    def _feed_other_line(self, line: LogLine) -> None:
        fields = line.fields
        match line.event:
            case "memory" if line.timestamp is not None:
                if len(self.memory) == self.MEMORY_POINTS:
                    pairs = zip(self.memory[::2], self.memory[1::2], strict=True)
                    self.memory = [(one[0], min(one[1], two[1])) for one, two in pairs]
                self.memory.append((_seconds(line.timestamp), float(fields["rss_mb"]) * MB))
            case "lines_rejected":
                self.rejected += int(fields["lines"])
            case "log_lines_dropped":
                self.dropped += int(fields["lines"])
            case "batch_summary":
                self.summary_batches += int(fields["batches"])
            case "started":
                if self.version is not None:
                    self.restarts.add(line.message)  # killed, and restarted by its supervisor
                self.version = f"{fields['version']} (commit {fields['commit']})"
            case "restarted":
                self.restarts.add(line.message)


def _seconds(timestamp: str) -> float:
    try:
        return datetime.fromisoformat(timestamp).replace(tzinfo=UTC).timestamp()
    except ValueError:  # digits that are not a time
        return 0.0
