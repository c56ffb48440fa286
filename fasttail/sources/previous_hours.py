"""Watches previous hours that may still grow and holes that may be filled, and reads their late lines."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from .files import line_end, open_regular
from .fingerprint import fingerprint, matches_fingerprint
from .layout import HourFile
from .position import Hole, Position, PreviousHour
from .reader import NO_LIMIT, Reader

MAX_PREVIOUS_HOURS = 64  # previous hours watched at once; beyond that, the oldest is dropped
MAX_HOLES = 64  # holes watched at once; beyond that, the oldest is dropped
HOLE_TIMEOUT_S = 60.0  # how long a hole with data behind it may take to be filled


@dataclass
class TrackedHour:
    """A previous hour that may still grow, or a hole that ends at `end` and may be filled."""

    hour: HourFile
    identity: tuple[int, int]
    offset: int  # read up to here
    read_to: int  # end of the partial line after `offset`
    scanned_to: int  # end of the NUL bytes after `read_to`
    deadline: float  # when watching it ends, on the Follower's clock
    tail_fingerprint: str  # of the bytes before `offset`
    end: int | None = None  # None: an hour

    @property
    def is_filled(self) -> bool:
        return self.end is not None and self.offset >= self.end

    def is_replaced(self) -> bool:
        """Return whether another file has its name now, which must be read before the deadline counts."""
        try:
            status = os.stat(self.hour.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) != self.identity

    def limit(self, expired: bool) -> int | None:
        """Return the offset up to which to read it now, None if there is nothing new. Raise OSError."""
        size = os.stat(self.hour.path).st_size
        filled = self.read_to < self.scanned_to or self.end is not None
        if size < self.offset or not (expired or filled or size > self.scanned_to):
            return None
        with open_regular(self.hour.path) as file:
            fd = file.fileno()
            filled = filled and os.pread(fd, 1, self.read_to) not in (b"", b"\0")
            if self.end is None:
                return NO_LIMIT if filled or size > (self.offset if expired else self.scanned_to) else None
            limit = self.end
            if os.pread(fd, 1, limit - 1) not in (b"", b"\0", b"\n"):
                limit = line_end(fd, limit)  # the data behind the hole completes its last line
            return limit if expired or (filled and self.read_to < limit) else None


class PreviousHours:
    """The previous hours and holes of one Follower, and its Reader's visits to them.

    warn(kind, text): reports to the operator. emit_partial_line(reader, path): delivers the partial line that
    the reader holds. skipped_holes: a queue that the checkpoint empties, with holes and with paths of files
    whose holes no longer count.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        warn: Callable[[str, str], None],
        emit_partial_line: Callable[[Reader, str], None],
    ) -> None:
        self.skipped_holes: deque[Hole | str] = deque(maxlen=2 * MAX_HOLES)
        self.previous_hours: list[TrackedHour] = []
        self.visiting: TrackedHour | None = None  # what the reader has open in place of the current file
        self._holes: list[TrackedHour] = []
        self._clock = clock
        self._warn_rate_limited = warn
        self._emit_partial_line = emit_partial_line

    def __bool__(self) -> bool:
        return bool(self.previous_hours or self._holes)

    # ---- what is watched

    def restore(
        self, records: Iterable[PreviousHour], parse_hour_path: Callable[[str], HourFile | None]
    ) -> None:
        """Continue watching what an earlier run watched.

        parse_hour_path(path): returns the hour that a path names, None if it is not followed.
        """
        self.clear()
        for previous_hour in records:
            hour = parse_hour_path(previous_hour.path)
            if hour is not None:
                previous_hour = previous_hour.with_fingerprint()  # so that a later copy can be recognised
                identity, at, end = (
                    (previous_hour.dev, previous_hour.ino),
                    previous_hour.offset,
                    getattr(previous_hour, "end", None),
                )
                deadline = self._clock() + previous_hour.grace_left_s
                kept = self.previous_hours if end is None else self._holes
                kept.append(
                    TrackedHour(hour, identity, at, at, at, deadline, previous_hour.tail_fingerprint, end)
                )

    def add(self, tracked: TrackedHour) -> None:
        self.previous_hours.append(tracked)
        del self.previous_hours[:-MAX_PREVIOUS_HOURS]

    def skip_hole(self, reader: Reader, hour: HourFile, identity: tuple[int, int], now: float) -> None:
        """Continue behind a hole. The partial line before it is read again once the hole is filled."""
        start, read_to, end, before = (
            reader.tell(),
            reader.read_offset(),
            reader.nul_run_end,
            fingerprint(reader.preceding_bytes()),
        )
        self._holes.append(
            TrackedHour(hour, identity, start, read_to, end, now + HOLE_TIMEOUT_S, before, end)
        )
        del self._holes[:-MAX_HOLES]
        self.skipped_holes.append(Hole(hour.path, start, *identity, before, HOLE_TIMEOUT_S, end))
        what = f"{hour.path} has no data from byte {read_to} to {end}"
        self._warn_rate_limited("hole", f"{what}; skipping it, and watching it for {HOLE_TIMEOUT_S:g} s")
        reader.skip_hole()

    def drop_holes(self, hour: HourFile) -> None:
        """Forget the holes of a file that is read again from its start."""
        kept = [hole for hole in self._holes if hole.hour != hour]
        if len(kept) < len(self._holes):
            self._holes = kept
            self.skipped_holes.append(hour.path)

    def renamed(self, before: HourFile, now: HourFile) -> None:
        """Move the holes of a renamed file to its new name."""
        self._holes = [replace(hole, hour=now) if hole.hour == before else hole for hole in self._holes]

    def clear(self) -> None:
        self.previous_hours, self._holes = [], []

    def records(self, reader: Reader) -> tuple[tuple[PreviousHour, ...], tuple[Hole, ...]]:
        """Return the previous hours and the holes in the form that a Position stores."""
        previous_hours = tuple(self._to_record(tracked, reader) for tracked in self.previous_hours)
        records = [(self._to_record(hole, reader), hole.end) for hole in self._holes]
        return previous_hours, tuple(
            Hole(**vars(previous_hour), end=end) for previous_hour, end in records if end is not None
        )

    def _to_record(self, tracked: TrackedHour, reader: Reader) -> PreviousHour:
        offset, before = tracked.offset, tracked.tail_fingerprint
        if tracked is self.visiting:
            offset, before = reader.tell(), fingerprint(reader.preceding_bytes())
        seconds = max(0.0, tracked.deadline - self._clock())
        return PreviousHour(tracked.hour.path, offset, *tracked.identity, before, seconds)

    # ---- visits

    def visit(
        self, reader: Reader, now: float, position: Callable[[Reader], Position | None]
    ) -> Position | None:
        """Begin a visit to a hole that was filled, or to a previous hour that has something to read.

        That is an hour that has grown, or one past its deadline with a partial line left. Return the
        `position` that the reader left, None if there is nothing to visit.
        """
        for tracked in [*self._holes, *self.previous_hours]:
            expired = now >= tracked.deadline
            try:
                limit = tracked.limit(expired)
                if limit is not None:
                    saved_position = position(reader)
                    reader.begin_visit(
                        tracked.hour.path, tracked.offset, limit, tracked.end or tracked.scanned_to
                    )
            except FileNotFoundError:  # it may come back unchanged
                limit = None
            except OSError as error:
                self._warn_rate_limited("errors", f"cannot check for late lines: {error}")
                limit = None
            if limit is None:
                if expired:
                    self._stop_tracking(tracked)
                continue
            identity = reader.identity()
            known = tracked.tail_fingerprint or (tracked.offset == 0 and tracked.end is None)
            if not matches_fingerprint(tracked.tail_fingerprint, reader, tracked.offset) or (
                identity != tracked.identity and not known
            ):
                reader.end_visit()
                self._stop_tracking(tracked)
                self._warn_rate_limited(
                    "former", f"{tracked.hour.path} was rewritten after its hour; not reading it again"
                )
                continue
            tracked.identity = identity
            self.visiting = tracked
            return saved_position
        return None

    def end_visit(self, reader: Reader, now: float) -> bool:
        """End the visit if nothing more can be read now. To be called at the end of the visited file.

        Return False if the visit continues, behind a hole or because the file has grown.
        """
        tracked = self.visiting
        assert tracked is not None
        expired = now >= tracked.deadline and not tracked.is_replaced()
        if reader.at_hole and not reader.error:
            if tracked.end is None:
                self.skip_hole(reader, tracked.hour, tracked.identity, now)
                return False
            if expired:
                self._emit_partial_line(reader, tracked.hour.path)
                reader.skip_hole()
                return False
        elif (
            tracked.end is None
            and not reader.error
            and not reader.rewritten
            and reader.size() > reader.scanned_to()
        ):
            return False
        if reader.error:
            self._warn_rate_limited("errors", f"cannot read {tracked.hour.path}: {os.strerror(reader.error)}")
        tracked.read_to, tracked.scanned_to = reader.read_offset(), reader.scanned_to()
        if expired:
            self._stop_tracking(tracked)
            self._emit_partial_line(reader, tracked.hour.path)
        tracked.offset, tracked.tail_fingerprint = reader.tell(), fingerprint(reader.preceding_bytes())
        if tracked.is_filled:
            self._stop_tracking(tracked)
        reader.end_visit()
        self.visiting = None
        return True

    def _stop_tracking(self, tracked: TrackedHour) -> None:
        for kept in (self.previous_hours, self._holes):
            if tracked in kept:
                kept.remove(tracked)
