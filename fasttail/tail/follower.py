"""Which file is read next, and when: change of hour and date, truncation, waiting, going on after a restart.

Plain policy without a thread of its own. The pipeline reads the open file to its end and asks
`Follower.check` in between; check looks at the folders and, where that is due, opens another file in the
Reader. inotify is only a hint that makes check come sooner: each call looks at everything again and would do
alone.

What is promised: each byte of each hour file that appears after the start is read once, from byte 0, files
oldest first. The next file is opened only when the one before has been read to an end seen *after* the next
was there. What can be lost: what was not read yet when the node truncated a file, or deleted it before it was
opened; lines added to an hour more than `grace_s` after it was left.

A file is known again by its content: its first bytes and those before the place of reading. Device and inode
count only where the content is not known. So a mirror may replace the file with a longer copy, and reading
goes on at the same offset. A file that is shorter, but holds nothing else so far, may still be being copied:
it has `grace_s` to grow to that place. A file with other content was written anew and is read from byte 0.

A hole of NUL bytes at the end of a file is waited for. One with data behind it is passed over, and looked
after for HOLE_S: its lines are read as late lines once they are there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .blocks import NO_LIMIT, Reader
from .inotify import Watcher
from .layout import (
    LAYOUTS,
    ORDER_STATUSES,
    HourFile,
    choose_layout,
    date_folders,
    hour_files,
    hourly_folder,
    locate,
    newest_hour,
    stream_folder,
)

Start = Literal["end", "hour", "oldest"]
AfterBlock = Callable[[str, int, list[HourFile]], tuple[HourFile, int, int] | None]

RESCAN_S = 1.0  # how often the folders are looked at without any event
GRACE_RESCAN_S = 0.1  # the same while a former hour may still grow, which nothing watches
TAIL_RESCAN_S = 0.02  # the same while the next file waits for the rest of a line
COMPLAINT_S = 60.0  # what happens again and again is told so often, each kind by itself
BACK_BYTES = 1 << 16  # read at once when looking for the last newline
BACK_LIMIT = 64 << 20  # as far back as that newline is looked for
MOST_FORMERS = 64  # former hours that are looked after; of more, the oldest is let go
MOST_HOLES = 64  # holes that are looked after; of more, the oldest is let go
HOLE_S = 60.0  # how long a hole with data behind it may take to be filled
MARK_BYTES = 1024  # of content, by which a file is known again

_MARK = re.compile(r"|[0-9]{1,4}-[0-9a-f]{16}")


@dataclass(frozen=True)
class Left:
    """An hour that had been left at a Position, and may still have grown: read up to `offset`."""

    path: str
    offset: int
    dev: int
    ino: int
    before: str
    seconds: float  # of its grace time that were left


@dataclass(frozen=True)
class Hole(Left):
    """NUL bytes that were passed over and may be filled: lines are still to come from `offset` to `end`."""

    end: int


@dataclass(frozen=True)
class Position:
    """Where to go on: byte `offset` of the file `path`, provided it is the same file.

    first, before: marks (see `mark`) of the file's first bytes and of those before `offset`; "": not known.
    Where both are known, they say whether it is the same file; else device and inode do, and the one known.
    """

    path: str
    offset: int
    dev: int
    ino: int
    first: str = ""
    before: str = ""
    formers: tuple[Left, ...] = ()
    holes: tuple[Hole, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Position:
        """ValueError: not a position."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, data: Any) -> Position:
        """ValueError: not a position."""
        match data:
            case {"path": str(path), "offset": int(offset), "dev": int(dev), "ino": int(ino)} if offset >= 0:
                first, before = data.get("first", ""), data.get("before", "")
                formers, holes = data.get("formers", []), data.get("holes", [])
                if (
                    _is_mark(first)
                    and _is_mark(before)
                    and isinstance(formers, list)
                    and isinstance(holes, list)
                ):
                    left = tuple(map(_left, formers))
                    return cls(path, offset, dev, ino, first, before, left, tuple(map(_hole, holes)))
        raise ValueError(f"not a position in a file: {data!r:.200}")

    def with_marks(self) -> Position:
        """With the marks that are not known yet, of the files that are still there under their names.

        Those that are known are kept: they are of what was read, which may have been written anew since.
        """
        first, before = _marks(self)
        formers = tuple(replace(left, before=left.before or _marks(left)[1]) for left in self.formers)
        holes = tuple(replace(hole, before=hole.before or _marks(hole)[1]) for hole in self.holes)
        first, before, ino = self.first or first, self.before or before, self.ino
        if self.offset and not first and not before and _is_gone(self):
            ino = 0  # what has its name and its inode the next time is another
        return replace(self, ino=ino, first=first, before=before, formers=formers, holes=holes)


def open_regular(path: str) -> io.FileIO:
    """Opened for reading, unbuffered. OSError, also if it is no file: to open a pipe would take for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return io.FileIO(fd)
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", path)


def _left(data: Any) -> Left:
    match data:
        case {
            "path": str(path), "offset": int(offset), "dev": int(dev), "ino": int(ino),
            "before": str(before), "seconds": int() | float() as seconds,
        } if offset >= 0 and _is_mark(before):  # fmt: skip
            return Left(path, offset, dev, ino, before, float(seconds))
    raise ValueError(f"not the place where an hour was left: {data!r}")


def _hole(data: Any) -> Hole:
    match data:
        case {"end": int(end)}:
            return Hole(**asdict(_left(data)), end=end)
    raise ValueError(f"not the place of a hole: {data!r}")


def mark(content: bytes) -> str:
    """A short text by which so many bytes are known again."""
    return f"{len(content)}-{hashlib.blake2b(content, digest_size=8).hexdigest()}" if content else ""


def _marks(place: Position | Left) -> tuple[str, str]:
    """Of the first bytes of its file and of those before it; "", "": it is not there any more."""
    with contextlib.suppress(OSError), open_regular(place.path) as file:
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) == (place.dev, place.ino) and status.st_size >= place.offset:
            size = min(MARK_BYTES, place.offset)
            # NUL bytes may be replaced by data, which makes it no other file.
            return (
                mark(os.pread(file.fileno(), size, 0).partition(b"\0")[0]),
                mark(os.pread(file.fileno(), size, place.offset - size).rpartition(b"\0")[2]),
            )
    return "", ""


def _is_gone(place: Position) -> bool:
    """Whether there is no such file under its name, or it was truncated."""
    try:
        status = os.stat(place.path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return (status.st_dev, status.st_ino) != (place.dev, place.ino) or status.st_size < place.offset


def _has_successor(former: _Former) -> bool:
    """Whether another file has its name by now: that one is to be read before its time counts as over."""
    try:
        status = os.stat(former.hour.path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) != former.identity


def _is_mark(text: object) -> bool:
    return isinstance(text, str) and _MARK.fullmatch(text) is not None


def _fits(text: str, reader: Reader, end: int | None = None) -> bool:
    """Whether the reader's file has content of that mark: at its start, or right before `end`.

    True also if it cannot be read: reading on will tell.
    """
    if not text:
        return True
    size = int(text.partition("-")[0])
    if end is not None and end < size:
        return False
    try:
        return mark(reader.peek(0 if end is None else end - size, size)) == text
    except OSError:
        return True


@dataclass
class _Former:
    """An hour that was left and may still grow; or a hole, which ends at `end`, and may be filled."""

    hour: HourFile
    identity: tuple[int, int]
    offset: int  # read up to here
    reach: int  # up to here there is nothing but a partial line after `offset`, …
    seen: int  # … and up to here nothing but NUL bytes after that
    deadline: float  # of the grace time
    before: str  # mark of the bytes before `offset`
    end: int | None = None  # None: an hour

    @property
    def is_done(self) -> bool:
        return self.end is not None and self.offset >= self.end


class Follower:
    """Follows the hour files of one stream. Used by one thread, together with one Reader and one Watcher.

    layout: "auto" or one of LAYOUTS. start: where to begin if there are files at the first check: at the last
    line start in the newest ("end"), at its byte 0 ("hour"), at byte 0 of the oldest ("oldest"). Files that
    come later are read from byte 0. grace_s: how long the rest of a torn line is waited for once the next
    file is there, and how long a former hour is looked after. rescan_s: how
    often the folders are looked at without any event. resume: where an earlier run stopped; replaces
    `start`. If it does not hold any more: its file is read from byte 0; if that is gone, the hours after it
    are; if it is none of this folder, `start` counts. notice(level, text): told what an operator should know;
    level is "info" or "warning". stale_after_s: once the folder that is followed has not grown for so long,
    the other layouts' folders are looked at; with "auto" the one that grows is followed from then on.
    after_block(path, offset, hours): where to go on in the files of another layout, behind the block at that
    place of the present one (file, offset, block; None: not known); without it, at its first line.
    ValueError: unknown layout or start.
    """

    def __init__(
        self,
        data_dir: str | Path,
        *,
        layout: str = "auto",
        start: Start = "end",
        grace_s: float = 5.0,
        rescan_s: float = RESCAN_S,
        resume: Position | None = None,
        stale_after_s: float = 60.0,
        after_block: AfterBlock | None = None,
        notice: Callable[[str, str], None],
        stream: str = ORDER_STATUSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if layout not in ("auto", *LAYOUTS):
            raise ValueError(f"unknown layout {layout!r}: expected auto or one of {', '.join(LAYOUTS)}")
        if start not in ("end", "hour", "oldest"):
            raise ValueError(f"unknown start {start!r}: expected end, hour or oldest")
        self.layout: str | None = None  # known from the first check on, with "auto" once a file is there
        self.truncations = 0
        self.read_errors = 0  # each led to the file being opened again
        self.torn_lines = 0  # last lines without a newline, taken as they were
        self.late_lines = 0  # lines of former hours: the pipeline adds those it reads while `late` is true
        self.files_opened = 0
        self.resume_losses = 0  # `resume` did not hold: what stood behind it may never have been read
        self.trouble = ""  # why nothing can be read at present
        self.written_ns = 0  # when the current file had last been written to as it was opened; Unix time
        self.grows = ""  # which other layout's folder grows, while the one that is followed does not
        self.late = False  # the file that is open is a former hour
        self.nothing_yet = False  # the folders were looked at, and no file has been there so far
        self.caught_up = False  # at the last check all was read, but for a partial last line
        self.next_check_s = 0.0  # when to call check again; 0: as soon as the reader is at the end
        self.final_origin: tuple[str, int] | None = None  # path, offset of take_final_line's last
        self._data_dir = os.path.abspath(data_dir)
        self._stream = stream
        self._setting = layout
        self._start = start
        self._grace_s = grace_s
        self._rescan_s = rescan_s
        self._resume = resume
        self._notice = notice
        self._clock = clock
        self._waiting_told = False
        self._reason_told: str | None = None
        self._complained: dict[str, float] = {}  # what -> when
        self._watched: list[str] = []
        self._current: HourFile | None = None
        self._identity: tuple[int, int] | None = None  # of the current file; None: it was let go
        self._left: Position | None = None  # where the current file goes on while the reader is elsewhere
        self._torn: int | None = (
            None  # where its unfinished last line began that was given out as it was let go
        )
        # For the checkpoint, which takes them out: holes; and paths of files whose holes count no more.
        self.passed: deque[Hole | str] = deque(maxlen=2 * MOST_HOLES)
        self._formers: list[_Former] = []
        self._holes: list[_Former] = []
        self._start_bytes = b""  # the first bytes of the current file, as far as they have been read
        self._stale_after_s = stale_after_s
        self._after_block = after_block
        self._written = (0, 0)  # size of the current file and when it was written to, as last seen, …
        self._grown = clock() - stale_after_s  # … and when that changed
        self._elsewhere: dict[str, tuple[str, int, int, int]] | None = None  # the other layouts' newest files
        self._looked_elsewhere = 0.0
        self._looked_again = 0.0  # at the NUL bytes behind the place of reading
        self._visited: _Former | None = None
        self._patience: tuple[int, float] | None = None  # (offset, how long more is waited for)
        self._comeback: tuple[int, float] | None = None  # the same for the content that was there before
        self._final: list[tuple[bytes, str, int]] = []

    # ---- what the pipeline calls ----

    def check(self, reader: Reader, watcher: Watcher, at_eof: bool) -> None:
        """Look at the folders and see to it that the right file is open.

        at_eof: the reader's last fill found nothing to read (end, no file or an error) and its lines are
        consumed. To be called at the start, after WAIT_DIRS, and when next_check_s have passed; after each
        call take_final_line is to be asked. Raises nothing for what the file system does: it is told, and
        tried again.
        """
        now = self._clock()
        reader.wary = True
        self.next_check_s = self._rescan_s
        self.caught_up = False
        failed = bool(reader.error)
        try:
            self._look(reader, watcher, at_eof, now)
            self.nothing_yet = self._current is None
            if self._current is not None and not reader.is_open:
                self.trouble = f"{self._current.path} is gone, and no later hour is there"
            elif not (failed or reader.error):
                self.trouble = ""  # not before the look, which may take long: /health asks meanwhile
        except OSError as error:
            self.trouble = f"cannot follow {self._data_dir}: {error}"
            self._complain("errors", f"{self.trouble}; trying again")
        if self._formers or self._holes:
            self.next_check_s = min(self.next_check_s, GRACE_RESCAN_S)
        if watcher.reason != self._reason_told:
            self._reason_told = watcher.reason
            self._notice("warning", f"{watcher.reason}; polling instead")

    def take_final_line(self) -> bytes | None:
        """An unterminated last line whose rest did not come. It precedes all that is read afterwards."""
        if not self._final:
            return None
        line, path, offset = self._final.pop(0)
        self.final_origin = (path, offset)
        return line

    def position(self, reader: Reader) -> Position | None:
        """Where to go on after all lines consumed so far; None before the first file."""
        if self._left is not None:
            return replace(self._left, formers=self._formers_left(reader), holes=self._holes_left(reader))
        if self._current is None or self._identity is None:
            return None
        try:
            first = mark(reader.peek(0, min(reader.tell(), MARK_BYTES)).partition(b"\0")[0])
        except OSError:
            first = ""
        before, formers, holes = mark(reader.before()), self._formers_left(reader), self._holes_left(reader)
        return Position(self._current.path, reader.tell(), *self._identity, first, before, formers, holes)

    def _formers_left(self, reader: Reader) -> tuple[Left, ...]:
        return tuple(self._as_left(former, reader) for former in self._formers)

    def _holes_left(self, reader: Reader) -> tuple[Hole, ...]:
        lefts = [(self._as_left(hole, reader), hole.end) for hole in self._holes]
        return tuple(Hole(**asdict(left), end=end) for left, end in lefts if end is not None)

    def _as_left(self, former: _Former, reader: Reader) -> Left:
        offset, before = former.offset, former.before
        if former is self._visited:
            offset, before = reader.tell(), mark(reader.before())
        seconds = max(0.0, former.deadline - self._clock())
        return Left(former.hour.path, offset, *former.identity, before, seconds)

    @property
    def path(self) -> str | None:
        """The file that is read now."""
        hour = self._visited.hour if self._visited else self._current
        return hour.path if hour else None

    # ---- one look ----

    def _look(self, reader: Reader, watcher: Watcher, at_eof: bool, now: float) -> None:
        if self._visited is not None:
            self.next_check_s = 0.0
            if at_eof:
                self._visit_read(reader, now)
            return
        # Watches before the listing, so that nothing can come between them unseen.
        self._watch_folders(watcher)
        if self.layout is None and not self._choose_layout():
            self.caught_up = True
            return
        assert self.layout is not None
        hourly = hourly_folder(self._data_dir, self.layout, self._stream)
        hours = hour_files(hourly, since=self._current.date if self._current else "")
        if self._current is None:
            self._begin(reader, watcher, hours)
        elif reader.error:
            self._reopen(reader, watcher)
        else:
            self._follow(reader, watcher, hours, at_eof, now)
        if self._current is None:
            self.caught_up = True
            self._tell_waiting(hourly)
        if at_eof and self._visited is None:
            self._look_elsewhere(reader, watcher, now)

    def _follow(
        self, reader: Reader, watcher: Watcher, hours: list[HourFile], at_eof: bool, now: float
    ) -> None:
        """Go on from the current file: nothing, another round on it, a former hour, or the next file."""
        following = self._next_file(hours)
        if not at_eof:
            if following is not None:
                self.next_check_s = 0.0
            return
        if reader.is_open and len(self._start_bytes) < min(reader.tell(), MARK_BYTES):
            self._know_start(reader)
        if following is not None and following == self._current:
            if reader.is_open and not reader.at_hole and reader.size() > reader.seen_to() and reader.verify():
                self.next_check_s = 0.0  # its last lines may stand in no copy
                return
            if self._replaced(reader, watcher, following, now):
                if self.next_check_s > 0 and reader.is_open:
                    self._visit_former(reader, now)  # the copy is waited for: their time goes on meanwhile
                return
        assert self._current is not None
        if reader.is_open:
            size = reader.size()  # after the look for the next file: counts what was written before that
            if size < reader.reach() or not reader.verify():
                self._truncated(reader, size, now)
                if self.next_check_s > 0:
                    self._visit_former(reader, now)  # as above
                return
            if following != self._current:
                self._comeback = None
            if reader.at_hole:
                assert self._identity is not None
                self._pass_hole(reader, self._current, self._identity, now)
                return
            if self._visit_former(reader, now):
                return
            if following is not None and size > reader.seen_to():
                self.next_check_s = 0.0
                return
            if reader.nuls_end and (size < reader.nuls_end or now - self._looked_again >= self._rescan_s):
                self._looked_again = now
                reader.look_again()
        if following is None:
            self.caught_up = True
            if reader.is_open and reader.stat().st_nlink == 0:
                self._outwait(reader, watcher, now)
        elif not reader.is_open or self._tail_done(reader, now):
            self._switch(reader, watcher, following, now)

    def _next_file(self, hours: list[HourFile]) -> HourFile | None:
        """The file after the current one: a new one of the same name, or else the next hour there is."""
        assert self._current is not None
        for hour in hours:
            if hour < self._current:
                continue
            try:
                status = os.stat(hour.path)
            except FileNotFoundError:
                continue
            if (status.st_dev, status.st_ino) != self._identity:
                return hour
            if hour != self._current:  # the very file, renamed to a later name
                self._holes = [
                    replace(hole, hour=hour) if hole.hour == self._current else hole for hole in self._holes
                ]
            self._current = hour
        return None

    # ---- opening and leaving files ----

    def _begin(self, reader: Reader, watcher: Watcher, hours: list[HourFile]) -> None:
        """Open the first file. `start` is about what is there at the first look; what comes later is new."""
        if not hours:
            self._start = "oldest"
            return
        if self._resume is not None:
            if self._take_up(reader, watcher, self._resume, hours):
                return
            self._resume = None
        if self._start == "oldest":
            self._open(reader, watcher, hours[0], 0)
        elif self._start == "hour":
            self._open(reader, watcher, hours[-1], 0)
        else:
            self._open(reader, watcher, hours[-1], last_line_start(hours[-1].path))

    def _take_up(self, reader: Reader, watcher: Watcher, resume: Position, hours: list[HourFile]) -> bool:
        """Go on where an earlier run stopped. False, with a notice: that place is no longer there."""
        place = locate(self._data_dir, resume.path, self._stream)
        if place is not None and place[0] != self.layout and self._after_block is not None:
            there = self._after_block(resume.path, resume.offset, hours)
            if there is not None:
                hour, offset, block = there
                text = (
                    f"{resume.path} is of layout {place[0]}: going on with {self.layout} after block {block}"
                )
                self._notice("warning", text)
                self._open(reader, watcher, hour, offset)
                return True
        if place is None or place[0] != self.layout:
            self.resume_losses += 1
            self._notice("warning", f"cannot go on in {resume.path}: it is not a file that is followed here")
            return False
        hour = place[1]
        self._formers = self._taken_up(resume.formers)
        self._holes = self._taken_up(resume.holes)
        if hour not in hours:
            # Its later hours are what comes next; before them nothing is left that could be read.
            self.resume_losses += 1
            self._notice("warning", f"cannot go on in {resume.path}: it is gone; taking the hours after it")
            self._current, self._left = hour, resume
            self.next_check_s = 0.0
            return True
        offset = resume.offset
        if offset and (fault := _not_there(hour.path, resume)):
            # What is there now has not been read: it is taken as any new file is.
            self.resume_losses += 1
            what = f"cannot go on in {resume.path} at byte {offset}: {fault}"
            self._notice("warning", f"{what}; reading it from its start")
            offset = 0
        self._open(reader, watcher, hour, offset)
        return True

    def _taken_up(self, lefts: tuple[Left, ...]) -> list[_Former]:
        found = []
        for left in lefts:
            known = locate(self._data_dir, left.path, self._stream)
            if known is not None and known[0] == self.layout:
                identity, at, end = (left.dev, left.ino), left.offset, getattr(left, "end", None)
                deadline = self._clock() + left.seconds
                before = left.before or _marks(left)[1]  # so that a later copy is known to be one
                found.append(_Former(known[1], identity, at, at, at, deadline, before, end))
        return found

    def _open(self, reader: Reader, watcher: Watcher, hour: HourFile, offset: int) -> None:
        reader.open(hour.path, offset)
        self._opened(reader, watcher, hour)
        self._start_bytes = b""
        if offset == 0:
            self._forget_holes(hour)
        self._notice("info", f"following {hour.path} from byte {offset}")

    def _opened(self, reader: Reader, watcher: Watcher, hour: HourFile) -> None:
        self._current = hour
        self._identity = reader.identity()
        status = reader.stat()
        self.written_ns = status.st_mtime_ns
        self._written = status.st_size, status.st_mtime_ns
        self._grown = self._clock() - max(0.0, time.time() - self.written_ns / 1e9)
        self._left = self._torn = None
        self._patience = self._comeback = None
        self.files_opened += 1
        self.next_check_s = 0.0
        watcher.watch_file(hour.path)

    def _replaced(self, reader: Reader, watcher: Watcher, hour: HourFile, now: float) -> bool:
        """Another file has the current one's name. True if this look is over: reading goes on in it, since it
        has the same content, or it may yet come to have it.
        """
        offset, before = reader.tell(), mark(reader.before())
        if self._left is not None:
            offset, before = self._left.offset, self._left.before
        with open_regular(hour.path) as file:
            fd = file.fileno()
            if self._left is not None and not self._start_bytes:  # gone before it was opened
                same: bool | None = bool(self._left.first and before) and not _not_there(
                    hour.path, self._left
                )
            else:
                size, first = os.fstat(fd).st_size, self._start_bytes
                if offset == 0:  # all that is known is what is held of the first line
                    first = reader.peek(0, min(reader.reach(), MARK_BYTES)).partition(b"\0")[0]
                same = self._is_same(lambda at, count: os.pread(fd, count, at), size, offset, first, before)
            if same is None and self._is_waited_for(now, offset):
                return True
            if not same:
                return False
            if self._torn is not None and os.pread(fd, 1, offset) not in (b"", b"\n"):
                offset = self._torn  # what was given out was only a piece of this line
            reader.open(fd, offset)
        self._opened(reader, watcher, hour)
        self._complain(
            "replaced", f"{hour.path} was replaced by a copy of it: going on at byte {offset}", "info"
        )
        return True

    @staticmethod
    def _is_same(
        peek: Callable[[int, int], bytes], size: int, offset: int, first: bytes, before: str
    ) -> bool | None:
        """Whether a file of that size holds what was read of the current one up to `offset`. OSError.

        first: the bytes with which that one begins, none if it begins with a hole. before: the mark of those
        before `offset`. None: it may hold them, once it has grown or a hole in it has been filled.
        """
        begin = peek(0, len(first)).partition(b"\0")[0]
        if not (first or before) or not first.startswith(begin):
            return False
        if len(begin) < len(first) or size < offset:
            return None
        count = int(before.partition("-")[0] or 0)
        there = peek(offset - count, count)
        if b"\0" in there:
            return None
        return mark(there) == before

    def _is_waited_for(self, now: float, offset: int) -> bool:
        """Whether there is time left for the current file to become again what it was."""
        if self._comeback is None or self._comeback[0] != offset:
            self._comeback = (offset, now + self._grace_s)
        if now >= self._comeback[1]:
            return False
        self.next_check_s = min(self.next_check_s, GRACE_RESCAN_S)
        return True

    def _know_start(self, reader: Reader) -> None:
        """Keep the first bytes of the current file, to know it again by them."""
        found = reader.before()
        if len(found) < reader.tell():
            try:
                found = reader.peek(0, MARK_BYTES).partition(b"\0")[0]
                if not reader.verify() or reader.size() < reader.tell():
                    return  # they need not be of what has been read
            except OSError:
                return
        self._start_bytes = found

    def _switch(self, reader: Reader, watcher: Watcher, following: HourFile, now: float) -> None:
        """From the current file, read to its end, to the next one."""
        assert self._current is not None
        former = None
        path, tail_offset, tail = self._current.path, reader.tell(), reader.take_tail()
        if reader.is_open and self._identity is not None and following != self._current:
            end, before = reader.tell(), mark(reader.before())
            seen, deadline = reader.seen_to(), now + self._grace_s
            former = _Former(self._current, self._identity, end, end, seen, deadline, before)
        try:
            self._open(reader, watcher, following, 0)
        finally:
            # Also when the next file cannot be opened yet: the reader has passed the tail.
            self._give_out(tail, path, tail_offset)
        if former is not None:
            self._formers.append(former)
            del self._formers[:-MOST_FORMERS]

    def _tail_done(self, reader: Reader, now: float) -> bool:
        """Whether the current file may be left: its last line is whole, or the rest of it did not come."""
        if reader.held == 0:
            return True
        if self._patience is None or self._patience[0] != reader.tell():
            self._patience = (reader.tell(), now + self._grace_s)
        if now >= self._patience[1]:
            return True
        self.next_check_s = min(TAIL_RESCAN_S, self._patience[1] - now)
        return False

    def _outwait(self, reader: Reader, watcher: Watcher, now: float) -> None:
        """The current file was deleted and is read: the writer has grace_s to go on, then it is let go."""
        if self._patience is None or self._patience[0] != reader.reach():
            self._patience = (reader.reach(), now + self._grace_s)
        if now < self._patience[1]:
            self.next_check_s = min(self.next_check_s, self._patience[1] - now)
        elif not self._formers:
            self._let_go(reader, watcher)

    def _let_go(self, reader: Reader, watcher: Watcher) -> None:
        """Close the current file, which is gone; only a new one is opened after it."""
        assert self._current is not None
        start = reader.tell()
        self._torn = start if self._give_out_tail(reader, self._current.path) else None
        self._left = self.position(reader)
        self._identity = None
        self._complain("deleted", f"{self._current.path} was deleted")
        reader.close()
        watcher.watch_file(None)

    def _truncated(self, reader: Reader, size: int, now: float) -> None:
        assert self._current is not None
        path, at, before = self._current.path, reader.tell(), reader.before()
        try:
            same = size < at and self._is_same(reader.peek, size, at, self._start_bytes, mark(before)) is None
        except OSError:
            same = False
        if same and self._is_waited_for(now, at):
            return  # perhaps it is copied over itself, as `cp` does
        self.next_check_s = 0.0
        self._patience = None
        if size >= at and reader.peek(at - len(before), len(before)) == before:
            # Only a torn line was cut off that has not been given out: nothing before it is read again.
            self._complain("cut off", f"the unfinished last line of {path} was cut off")
            reader.seek(at)
            return
        self.truncations += 1
        what = f"was truncated to {size} bytes" if size < at else f"was written anew and has {size} bytes"
        self._complain("truncated", f"{path} {what}, read up to {at}: going back to its start")
        self._from_start(reader)

    def _from_start(self, reader: Reader) -> None:
        assert self._current is not None
        self._start_bytes = b""
        self._forget_holes(self._current)
        reader.seek(0)

    def _reopen(self, reader: Reader, watcher: Watcher) -> None:
        """The last read failed (EIO, ESTALE): a new descriptor may do better."""
        assert self._current is not None
        self.read_errors += 1
        path, reason = self._current.path, os.strerror(reader.error)
        self.trouble = f"cannot read {path}: {reason}"
        self._complain("errors", f"{self.trouble}; opening it again")
        offset, identity, before = reader.tell(), self._identity, mark(reader.before())
        try:
            reader.open(path, offset)
        except FileNotFoundError:
            self._let_go(reader, watcher)
            return
        if reader.identity() != identity:
            with contextlib.suppress(OSError):
                if self._is_same(reader.peek, reader.size(), offset, self._start_bytes, before):
                    self._opened(reader, watcher, self._current)
                    return
            self._open(reader, watcher, self._current, 0)
        elif not _fits(before, reader, offset):
            self.truncations += 1
            self._complain("truncated", f"{path} was written anew meanwhile: going back to its start")
            self._from_start(reader)

    # ---- former hours and holes ----

    def _visit_former(self, reader: Reader, now: float) -> bool:
        """Turn to a former hour if one has grown, or has a torn line left when its time is over.

        Likewise to a hole that has been filled. False: there is none.
        """
        for former in [*self._holes, *self._formers]:
            expired = now >= former.deadline
            try:
                limit = self._visit_limit(former, expired)
                if limit is not None:
                    left = self.position(reader)
                    reader.visit(former.hour.path, former.offset, limit, former.end or former.seen)
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
            if not _fits(former.before, reader, former.offset) or (identity != former.identity and not known):
                reader.leave()
                self._drop(former)
                self._complain(
                    "former", f"{former.hour.path} was written anew after its hour: not read again"
                )
                continue
            former.identity = identity
            self._left = left
            self._visited = former
            self.late = True
            self.next_check_s = 0.0
            return True
        return False

    @staticmethod
    def _visit_limit(former: _Former, expired: bool) -> int | None:
        """Up to where it is to be read now; None: nothing new is there. OSError."""
        size = os.stat(former.hour.path).st_size
        filled = former.reach < former.seen or former.end is not None
        if size < former.offset or not (expired or filled or size > former.seen):
            return None
        with open_regular(former.hour.path) as file:
            fd = file.fileno()
            filled = filled and os.pread(fd, 1, former.reach) not in (b"", b"\0")
            if former.end is None:
                return NO_LIMIT if filled or size > (former.offset if expired else former.seen) else None
            limit = former.end
            if os.pread(fd, 1, limit - 1) not in (b"", b"\0", b"\n"):
                limit = _line_end(fd, limit)  # what stands behind the hole is the rest of its last line
            return limit if expired or (filled and former.reach < limit) else None

    def _visit_read(self, reader: Reader, now: float) -> None:
        """All that can be read of a former hour or a hole at present has been."""
        former = self._visited
        assert former is not None
        expired = now >= former.deadline and not _has_successor(former)
        if reader.at_hole and not reader.error:
            if former.end is None:
                self._pass_hole(reader, former.hour, former.identity, now)
                return
            if expired:
                self.late_lines += self._give_out_tail(reader, former.hour.path)
                reader.pass_hole()
                return
        elif (
            former.end is None
            and not reader.error
            and not reader.changed
            and reader.size() > reader.seen_to()
        ):
            return
        if reader.error:
            self._complain("errors", f"cannot read {former.hour.path}: {os.strerror(reader.error)}")
        former.reach, former.seen = reader.reach(), reader.seen_to()
        if expired:
            self._drop(former)
            self.late_lines += self._give_out_tail(reader, former.hour.path)
        former.offset, former.before = reader.tell(), mark(reader.before())
        if former.is_done:
            self._drop(former)
        reader.leave()
        self._visited = None
        self._left = None
        self.late = False

    def _drop(self, former: _Former) -> None:
        for kept in (self._formers, self._holes):
            if former in kept:
                kept.remove(former)

    def _pass_hole(self, reader: Reader, hour: HourFile, identity: tuple[int, int], now: float) -> None:
        """Go on behind a hole. The piece of a line in front of it is read again when it is filled."""
        start, reach, end, before = reader.tell(), reader.reach(), reader.nuls_end, mark(reader.before())
        self._holes.append(_Former(hour, identity, start, reach, end, now + HOLE_S, before, end))
        del self._holes[:-MOST_HOLES]
        self.passed.append(Hole(hour.path, start, *identity, before, HOLE_S, end))
        what = f"{hour.path} has no data from byte {reach} to {end}"
        self._complain("hole", f"{what}: going on behind that, and looking after it for {HOLE_S:g} s")
        reader.pass_hole()
        self.next_check_s = 0.0

    def _forget_holes(self, hour: HourFile) -> None:
        """The file is read from its start, what is in its holes as well."""
        kept = [hole for hole in self._holes if hole.hour != hour]
        if len(kept) < len(self._holes):
            self._holes = kept
            self.passed.append(hour.path)

    # ---- small things ----

    def _give_out_tail(self, reader: Reader, path: str) -> bool:
        offset = reader.tell()
        return self._give_out(reader.take_tail(), path, offset)

    def _give_out(self, tail: bytes, path: str, offset: int) -> bool:
        if not tail:
            return False
        self.torn_lines += 1
        self._complain("torn", f"{path} ends without a newline at byte {offset}: taking the line as it is")
        self._final.append((tail, path, offset))
        return True

    def _choose_layout(self) -> bool:
        if self._setting == "auto" and self._resume is not None:
            place = locate(self._data_dir, self._resume.path, self._stream)
            if place is not None and hour_files(hourly_folder(self._data_dir, place[0], self._stream)):
                self.layout = place[0]
                return True
        choice = choose_layout(self._data_dir, self._setting, self._stream)
        if choice.layout is None:
            self._start = "oldest"  # nothing is there: whatever comes is new
            plain = stream_folder(self._data_dir, "plain", self._stream)
            self._tell_waiting(plain + "{_streaming,_by_block,}/hourly")
            return False
        others = f" (also there, not followed: {', '.join(choice.others)})" if choice.others else ""
        self._notice("info", f"layout {choice.layout}{others}")
        self.layout = choice.layout
        return True

    def _look_elsewhere(self, reader: Reader, watcher: Watcher, now: float) -> None:
        """While the folder that is followed does not grow: whether that of another layout does."""
        if reader.is_open:
            status = reader.stat()
            if self._written != (status.st_size, status.st_mtime_ns):
                self._written, self._grown = (status.st_size, status.st_mtime_ns), now
        if self._current is not None and now - self._grown <= self._stale_after_s:
            self._elsewhere, self.grows = None, ""
            return
        if self._elsewhere is not None and now - self._looked_elsewhere < self._rescan_s:
            return
        before, self._elsewhere, self._looked_elsewhere = self._elsewhere, {}, now
        for layout in LAYOUTS:
            hourly = hourly_folder(self._data_dir, layout, self._stream)
            newest = None
            with contextlib.suppress(OSError):
                newest = newest_hour(hourly) if layout != self.layout else None
            if newest is None:
                continue
            with contextlib.suppress(OSError):
                status = os.stat(newest.path)
                seen = newest.date, newest.hour, status.st_size, status.st_mtime_ns
                self._elsewhere[layout] = seen
                if before is not None and seen > before.get(layout, ("", 0, 0, 0)):
                    self.grows = f"layout {layout} is being written: {hourly}"
                    if self._setting == "auto":
                        self._change_layout(reader, watcher, layout, hourly)
                    return

    def _change_layout(self, reader: Reader, watcher: Watcher, layout: str, hourly: str) -> None:
        """To the layout that is being written now."""
        before, position, hours = self.layout, self.position(reader), hour_files(hourly)
        if not hours:
            return
        there = None
        if position is not None and self._after_block is not None:
            there = self._after_block(position.path, position.offset, hours)
        hour, offset = there[:2] if there is not None else (hours[0], 0)
        if self._current is not None and reader.is_open:
            self._give_out_tail(reader, self._current.path)
        where = f"after block {there[2]}" if there is not None else f"at the first line of {hour.path}"
        text = f"{before} is not written any more: going on with layout {layout}, {where}"
        self._open(reader, watcher, hour, offset)
        self.layout, self.grows, self._elsewhere = layout, "", None
        self._formers, self._holes = [], []
        self._notice("warning", text)

    def _watch_folders(self, watcher: Watcher) -> None:
        """Watch every folder in which the next name can appear."""
        folders = [self._data_dir]
        for layout in (self.layout,) if self.layout else LAYOUTS:
            hourly = hourly_folder(self._data_dir, layout, self._stream)
            dates = date_folders(hourly, since=self._current.date if self._current else "")
            # Names appear in the current folder and in the newest one; the rescan finds those of any other.
            folders += [os.path.dirname(hourly), hourly]
            folders += [os.path.join(hourly, date) for date in sorted({*dates[:1], *dates[-1:]})]
        watcher.watch_dirs(folders)
        if folders != self._watched:
            # What appeared before there was a watch is seen by the listing that follows; what appeared in a
            # folder that came between the two only by another look.
            self._watched = folders
            self.next_check_s = 0.0

    def _tell_waiting(self, what: str) -> None:
        if not self._waiting_told:
            self._waiting_told = True
            self._notice("info", f"waiting for a file in {what}")

    def _complain(self, kind: str, text: str, level: str = "warning") -> None:
        """Tell it, unless something of this kind was told within the last minute."""
        now, told = self._clock(), self._complained.get(kind)
        if told is None or now - told >= COMPLAINT_S:
            self._complained[kind] = now
            self._notice(level, text)


def _line_end(fd: int, at: int) -> int:
    """Offset behind the first newline from `at` on; `at` itself if BACK_LIMIT bytes have none. OSError."""
    for begin in range(at, at + BACK_LIMIT, BACK_BYTES):
        data = os.pread(fd, BACK_BYTES, begin)
        newline = data.find(b"\n")
        if newline >= 0:
            return begin + newline + 1
        if not data:
            break
    return at


def _not_there(path: str, resume: Position) -> str:
    """Why a position does not hold in the file `path`; "" if it does. OSError."""
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size < resume.offset:
            return f"it has {status.st_size} bytes"
        known = resume.first and resume.before
        if not known and (status.st_dev, status.st_ino) != (resume.dev, resume.ino):
            return "it is another file now"
        # A copy, or the same disk under another number, holds what comes next as well.
        for text, end in ((resume.first, None), (resume.before, resume.offset)):
            size = int(text.partition("-")[0] or 0)
            at = 0 if end is None else max(0, end - size)
            if mark(os.pread(file.fileno(), size, at)) != text:
                return "it was written anew"
    return ""


def last_line_start(path: str) -> int:
    """Offset after the last newline of a file, so that a line that is being written now comes whole.

    0 if there is no newline; the size if none is found within BACK_LIMIT bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        at = size
        while at > 0 and size - at < BACK_LIMIT:
            begin = max(0, at - BACK_BYTES)
            data = os.pread(file.fileno(), at - begin, begin)
            newline = data.rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            if begin == at - len(data) and at == size and not data.strip(b"\0"):
                size = begin  # of a preallocated file the end is still to be written, however long it is
            at = begin
    return size if at > 0 else 0
