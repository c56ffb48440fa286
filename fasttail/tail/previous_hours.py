"""Hours that were left and may still grow, holes that may still be filled: what of them is read, and when."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from .blocks import NO_LIMIT, Reader
from .files import line_end, open_regular
from .fingerprint import fits, mark
from .layout import HourFile
from .position import Hole, Left, Position

MOST_FORMERS = 64  # former hours that are looked after; of more, the oldest is let go
MOST_HOLES = 64  # holes that are looked after; of more, the oldest is let go
HOLE_S = 60.0  # how long a hole with data behind it may take to be filled


@dataclass
class TrackedHour:
    """An hour that was left and may still grow; or a hole, which ends at `end`, and may be filled."""

    hour: HourFile
    identity: tuple[int, int]
    offset: int  # read up to here
    read_to: int  # up to here there is nothing but a partial line after `offset`, …
    scanned_to: int  # … and up to here nothing but NUL bytes after that
    deadline: float  # of the grace time
    before: str  # mark of the bytes before `offset`
    end: int | None = None  # None: an hour

    @property
    def is_done(self) -> bool:
        return self.end is not None and self.offset >= self.end

    def has_successor(self) -> bool:
        """Whether another file has its name by now: that one is to be read before its time counts as over."""
        try:
            status = os.stat(self.hour.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) != self.identity

    def limit(self, expired: bool) -> int | None:
        """Up to where it is to be read now; None: nothing new is there. OSError."""
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
                limit = line_end(fd, limit)  # what stands behind the hole is the rest of its last line
            return limit if expired or (filled and self.read_to < limit) else None


class PreviousHours:
    """The hours and holes of one Follower, and the visits of its Reader to them.

    passed: for the checkpoint, which takes them out: holes; and paths of files whose holes count no more.
    complain(kind, text): tells an operator. give_out_tail(reader, path): takes the torn line that the reader
    holds.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        complain: Callable[[str, str], None],
        give_out_tail: Callable[[Reader, str], None],
    ) -> None:
        self.passed: deque[Hole | str] = deque(maxlen=2 * MOST_HOLES)
        self.formers: list[TrackedHour] = []
        self.visited: TrackedHour | None = None  # what the reader has open instead of the current file
        self._holes: list[TrackedHour] = []
        self._clock = clock
        self._complain = complain
        self._give_out_tail = give_out_tail

    def __bool__(self) -> bool:
        return bool(self.formers or self._holes)

    # ---- what is looked after

    def restore(self, lefts: Iterable[Left], locate: Callable[[str], HourFile | None]) -> None:
        """Go on with those of an earlier run. locate: the hour that a path names, if it is followed."""
        self.clear()
        for left in lefts:
            hour = locate(left.path)
            if hour is not None:
                left = left.with_mark()  # so that a later copy is known to be one
                identity, at, end = (left.dev, left.ino), left.offset, getattr(left, "end", None)
                deadline = self._clock() + left.seconds
                kept = self.formers if end is None else self._holes
                kept.append(TrackedHour(hour, identity, at, at, at, deadline, left.before, end))

    def add(self, former: TrackedHour) -> None:
        self.formers.append(former)
        del self.formers[:-MOST_FORMERS]

    def pass_hole(self, reader: Reader, hour: HourFile, identity: tuple[int, int], now: float) -> None:
        """Go on behind a hole. The piece of a line in front of it is read again when it is filled."""
        start, reach, end, before = reader.tell(), reader.reach(), reader.nuls_end, mark(reader.before())
        self._holes.append(TrackedHour(hour, identity, start, reach, end, now + HOLE_S, before, end))
        del self._holes[:-MOST_HOLES]
        self.passed.append(Hole(hour.path, start, *identity, before, HOLE_S, end))
        what = f"{hour.path} has no data from byte {reach} to {end}"
        self._complain("hole", f"{what}: going on behind that, and looking after it for {HOLE_S:g} s")
        reader.pass_hole()

    def forget_holes(self, hour: HourFile) -> None:
        """The file is read from its start, what is in its holes as well."""
        kept = [hole for hole in self._holes if hole.hour != hour]
        if len(kept) < len(self._holes):
            self._holes = kept
            self.passed.append(hour.path)

    def renamed(self, before: HourFile, now: HourFile) -> None:
        """A file has another name: its holes go with it."""
        self._holes = [replace(hole, hour=now) if hole.hour == before else hole for hole in self._holes]

    def clear(self) -> None:
        self.formers, self._holes = [], []

    def lefts(self, reader: Reader) -> tuple[tuple[Left, ...], tuple[Hole, ...]]:
        """For a Position: the hours, and the holes."""
        formers = tuple(self._as_left(former, reader) for former in self.formers)
        lefts = [(self._as_left(hole, reader), hole.end) for hole in self._holes]
        return formers, tuple(Hole(**vars(left), end=end) for left, end in lefts if end is not None)

    def _as_left(self, former: TrackedHour, reader: Reader) -> Left:
        offset, before = former.offset, former.before
        if former is self.visited:
            offset, before = reader.tell(), mark(reader.before())
        seconds = max(0.0, former.deadline - self._clock())
        return Left(former.hour.path, offset, *former.identity, before, seconds)

    # ---- visits

    def visit(
        self, reader: Reader, now: float, position: Callable[[Reader], Position | None]
    ) -> Position | None:
        """Turn to a former hour if one has grown, or has a torn line left when its time is over.

        Likewise to a hole that has been filled. Answers the `position` from which the reader came; None:
        there is nothing to visit.
        """
        for former in [*self._holes, *self.formers]:
            expired = now >= former.deadline
            try:
                limit = former.limit(expired)
                if limit is not None:
                    came_from = position(reader)
                    reader.visit(former.hour.path, former.offset, limit, former.end or former.scanned_to)
            except FileNotFoundError:  # it may come back, as it was
                limit = None
            except OSError as error:
                self._complain("errors", f"cannot look for late lines: {error}")
                limit = None
            if limit is None:
                if expired:
                    self._drop(former)
                continue
            identity = reader.identity()
            known = former.before or (former.offset == 0 and former.end is None)
            if not fits(former.before, reader, former.offset) or (identity != former.identity and not known):
                reader.leave()
                self._drop(former)
                self._complain(
                    "former", f"{former.hour.path} was written anew after its hour: not read again"
                )
                continue
            former.identity = identity
            self.visited = former
            return came_from
        return None

    def end_visit(self, reader: Reader, now: float) -> bool:
        """All that can be read there at present has been: go back, if that is so.

        False: the visit goes on, behind a hole or since more has come.
        """
        former = self.visited
        assert former is not None
        expired = now >= former.deadline and not former.has_successor()
        if reader.at_hole and not reader.error:
            if former.end is None:
                self.pass_hole(reader, former.hour, former.identity, now)
                return False
            if expired:
                self._give_out_tail(reader, former.hour.path)
                reader.pass_hole()
                return False
        elif (
            former.end is None
            and not reader.error
            and not reader.changed
            and reader.size() > reader.seen_to()
        ):
            return False
        if reader.error:
            self._complain("errors", f"cannot read {former.hour.path}: {os.strerror(reader.error)}")
        former.read_to, former.scanned_to = reader.reach(), reader.seen_to()
        if expired:
            self._drop(former)
            self._give_out_tail(reader, former.hour.path)
        former.offset, former.before = reader.tell(), mark(reader.before())
        if former.is_done:
            self._drop(former)
        reader.leave()
        self.visited = None
        return True

    def _drop(self, former: TrackedHour) -> None:
        for kept in (self.formers, self._holes):
            if former in kept:
                kept.remove(former)
