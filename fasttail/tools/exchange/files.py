"""Writes one stream of a node: its lines, in time, to hour files that grow and change."""

from __future__ import annotations

import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.constants import BLOCK_NS, NS, write_error
from fasttail.tools.exchange.faults import FaultRecord, Torn, torn_lines
from fasttail.tools.exchange.layouts import (
    LINE_GAP_NS,
    Part,
    events_per_line,
    line_count,
    lines_span_ns,
    render,
)

_MAX_TORN_WRITE = 32_768
SLICE_S = 0.002  # least interval between two slices of a block's lines


class HourClock:
    """Maps times of a node's clock to hour files, as hours since 1970, for all its streams.

    With `hour_seconds`, hours have that length, counted from the first time given, and begin with the hour
    of that time, or with `newest` if that is later.
    """

    def __init__(self, hour_seconds: float | None, newest: int = 0) -> None:
        self._length_ns = None if hour_seconds is None else max(1, int(hour_seconds * NS))
        self._newest = newest
        self._origin: tuple[int, int] | None = None  # (ns, hour)

    def at(self, local_ns: int) -> int:
        hour = local_ns // (3600 * NS)
        if self._length_ns is None:
            return hour
        if self._origin is None:
            self._origin = (local_ns, max(hour, self._newest))
        return self._origin[1] + (local_ns - self._origin[0]) // self._length_ns


def newest_hour(hourly: Path) -> int:
    """Return the newest hour file in a stream's `hourly` folder, as hours since 1970 (0: there is none)."""
    newest = 0
    for day in hourly.iterdir() if hourly.is_dir() else ():
        try:
            date = datetime.strptime(day.name, "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:
            continue
        if date.strftime("%Y%m%d") != day.name:  # strptime also accepts dates with fewer digits
            continue
        for name in os.listdir(day) if day.is_dir() else ():
            if name.isdecimal() and name == str(int(name)) and int(name) < 24:
                newest = max(newest, int(date.timestamp()) // 3600 + int(name))
    return newest


class HourFiles:
    """The growing hour files of one stream, one of which is open.

    torn: cut the bytes anywhere, as a node with buffered output does, instead of writing whole lines. Held
          bytes follow with the next write, with `flush_held`, or before the next hour's file is opened.
    """

    def __init__(self, hourly: Path, torn: bool, rng: random.Random) -> None:
        self._hourly = hourly
        self._torn = torn
        self._rng = rng
        self._fd = -1
        self.hour = -1  # of the open file
        self._held_bytes = b""
        self._path = hourly
        self.bytes = 0
        self.files = 0

    def write(self, hour: int, data: bytes) -> None:
        """Append lines to an hour's file, after completing and closing another one. Raises SynthError."""
        if not data:
            return
        if hour != self.hour:
            self.close()
            self._open(hour)
        if not self._torn:
            self._append(data)
            return
        self._held_bytes += data
        index = 0
        stop = self._rng.randrange(len(self._held_bytes) + 1)
        while index < stop:
            cut = min(stop, index + self._rng.randrange(1, _MAX_TORN_WRITE))
            self._append(self._held_bytes[index:cut])
            index = cut
        self._held_bytes = self._held_bytes[stop:]

    @property
    def has_held_bytes(self) -> bool:
        """Whether bytes of a torn line are held back."""
        return bool(self._held_bytes)

    def flush_held(self) -> None:
        """Write the held bytes."""
        held_bytes, self._held_bytes = self._held_bytes, b""
        if held_bytes:
            self._append(held_bytes)

    def close(self) -> None:
        try:
            self.flush_held()
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                self.hour = -1

    def _open(self, hour: int) -> None:
        moment = time.gmtime(hour * 3600)
        self._path = self._hourly / time.strftime("%Y%m%d", moment) / str(moment.tm_hour)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise write_error(self._path, error) from error
        self.hour = hour
        self.files += 1

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._fd, view)
            except OSError as error:
                raise write_error(self._path, error) from error
            self.bytes += written
            view = view[written:]


@dataclass(slots=True)
class Entry:
    """A block that a stream has to write, and when.

    local_ns: when the node sees it, UTC ns since 1970; None: the real time of its first line.
    jump_ns:  what the node's clock is wrong by.
    due, span_s: its lines are spread over this time (monotonic s).
    span_ns:  time that the local_time of its lines may span.
    written:  events written so far.
    """

    number: int
    time_ns: int
    events: Sequence[str]
    local_ns: int | None
    due: float
    span_s: float = 0.0
    span_ns: int = BLOCK_NS
    jump_ns: int = 0
    torn: Torn | None = None
    written: int = 0

    def ready(self, now: float, per_line: int) -> int:
        """Return how many events are to be written by now: whole lines, at least one more than before."""
        total = len(self.events)
        if now >= self.due + self.span_s:
            return total
        lines = int(-(-total // per_line) * (now - self.due) / self.span_s) + 1
        return min(total, max(lines * per_line, self.written + per_line))


class StreamWriter:
    """Writes the blocks of one stream in their order, each at its time.

    newest:   the stream's newest hour file, in which writing continues if it is later than the clock's.
    on_write: called with the part of a block that was written once it stands in the file, except for bytes
              that `torn` holds. Events of lines that nobody can read are left out.
    on_fault: called for each line that is stuck to a torn one.
    """

    def __init__(
        self,
        stream: str,
        layout: str,
        files: HourFiles,
        clock: HourClock,
        newest: int,
        on_write: Callable[[Block], None] | None,
        on_fault: Callable[[FaultRecord], None],
    ) -> None:
        self.files = files
        self.lines = 0
        self.events = 0
        self._stream = stream
        self._layout = layout
        self._clock = clock
        self._on_write = on_write
        self._on_fault = on_fault
        self._queue: deque[Entry] = deque()
        self._written_at = -math.inf
        # Of the entry that is being written
        self._hour = 0
        self._local_ns = 0
        self._next_local_ns = 0  # a real clock may step back, and blocks may follow quickly
        self._newest_hour = newest
        self._unended: tuple[str, int] | None = None  # the last line has no newline: its fault, its hour

    def add(self, entry: Entry) -> None:
        self._queue.append(entry)

    @property
    def next_at(self) -> float:
        """When the next line is due (monotonic); infinite if there is none."""
        if not self._queue:
            return math.inf
        entry = self._queue[0]
        if not entry.written:
            return entry.due
        share = entry.written / len(entry.events)
        end = entry.due + entry.span_s
        return max(entry.due + entry.span_s * share, min(self._written_at + SLICE_S, end))

    def write_due(self, now: float) -> None:
        """Write what is due by now."""
        while self._queue and self.next_at <= now:
            entry = self._queue[0]
            total = len(entry.events)
            if not entry.written:
                self._begin(entry)
            per_line = events_per_line(self._stream, self._layout, total)
            self._write(entry, entry.ready(now, per_line))
            self._written_at = now
            if entry.written >= total:
                self._queue.popleft()

    def _begin(self, entry: Entry) -> None:
        """Set local time and hour of a block: it goes into one file."""
        local_ns = time.time_ns() if entry.local_ns is None else entry.local_ns
        local_ns = max(local_ns, self._next_local_ns)
        span_ns = lines_span_ns(self._stream, self._layout, len(entry.events), entry.span_ns)
        self._next_local_ns = local_ns + span_ns + (LINE_GAP_NS if entry.events else 1)
        self._newest_hour = max(self._newest_hour, self._clock.at(local_ns))  # it never goes back, except:
        self._local_ns = local_ns + entry.jump_ns
        self._hour = self._clock.at(self._local_ns) if entry.jump_ns else self._newest_hour

    def _write(self, entry: Entry, stop: int) -> None:
        first, total = entry.written, len(entry.events)
        entry.written = stop
        if not total and self._layout != "by_block":
            return
        events = entry.events if stop - first == total else entry.events[first:stop]
        part = Part(
            self._stream, entry.number, entry.time_ns, self._local_ns, events, first, total, entry.span_ns
        )
        torn = entry.torn if entry.torn is not None and first <= entry.torn.first < stop else None
        lines = render(part, self._layout) if torn is None else torn_lines(part, self._layout, torn)
        self.files.write(self._hour, lines)
        self._count(part, self._unreadable(part, torn))

    def _unreadable(self, part: Part, torn: Torn | None) -> list[range]:
        """Return which events of a part stand in lines that nobody can read, as ranges of one line each."""
        ranges = []
        if self._unended is not None:
            fault, hour = self._unended
            self._unended = None
            if hour == self._hour:
                ranges.append(self._glued(part, 0, fault))
        if torn is not None:
            line = self._line(part, torn.first - part.first)
            ranges.append(line)
            if torn.form == "glued" and line.stop < len(part.events):
                ranges.append(self._glued(part, line.stop, torn.fault))
            elif torn.form == "glued":
                self._unended = (torn.fault, self._hour)
        return ranges

    def _line(self, part: Part, start: int) -> range:
        per_line = events_per_line(self._stream, self._layout, part.total)
        return range(start, min(start + per_line, len(part.events)))

    def _glued(self, part: Part, start: int, fault: str) -> range:
        """Tell that the line from event `start` on is stuck to a torn one. Return its events."""
        line = self._line(part, start)
        first = part.first + start
        self._on_fault(FaultRecord(fault, part.number, self._stream, "glued", first, len(line)))
        return line

    def _count(self, part: Part, unreadable: list[range]) -> None:
        """Count the lines and events that can be read, and tell of them."""
        events = part.events
        self.lines += line_count(self._stream, self._layout, len(events))
        if unreadable:
            self.lines -= len({line.start for line in unreadable})
            indices = {index for line in unreadable for index in line}
            events = [event for index, event in enumerate(events) if index not in indices]
        self.events += len(events)
        if self._on_write is not None:
            self._on_write(Block(part.number, part.time_ns, {self._stream: list(events)}))
