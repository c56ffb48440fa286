"""Which file is read next, and when: change of hour and date, truncation, waiting, going on after a restart.

Plain policy without a thread of its own. The pipeline reads the open file to its end and asks
`Follower.check` in between; check looks at the folders and, where that is due, opens another file in the
Reader. inotify is only a hint that makes check come sooner: each call looks at everything again and would do
alone.

What is promised: each byte of each hour file that appears after the start is read once, from byte 0, files
oldest first. The next file is opened only when the one before has been read to an end seen *after* the next
was there. What can be lost: what was not read yet when the node truncated a file, or deleted it before it was
opened; lines added to an hour more than `grace_s` after it was left.

While it runs, a file is known again by its path, device and inode and, where these are the same, by its
content: its first bytes and those before the place of reading. At a resume the content decides, and device
and inode only where it is not known. A file that has others there was written anew and is read from byte 0.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .blocks import Reader
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
    stream_folder,
)

Start = Literal["end", "hour", "oldest"]

RESCAN_S = 1.0  # how often the folders are looked at without any event
GRACE_RESCAN_S = 0.1  # the same while a former hour may still grow, which nothing watches
TAIL_RESCAN_S = 0.02  # the same while the next file waits for the rest of a line
COMPLAINT_S = 60.0  # what happens again and again is told so often, each kind by itself
BACK_BYTES = 1 << 16  # read at once when looking for the last newline
BACK_LIMIT = 64 << 20  # as far back as that newline is looked for
MOST_FORMERS = 64  # former hours that are looked after; of more, the oldest is let go
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
                formers = data.get("formers", [])
                if _is_mark(first) and _is_mark(before) and isinstance(formers, list):
                    return cls(path, offset, dev, ino, first, before, tuple(map(_left, formers)))
        raise ValueError(f"not a position in a file: {data!r:.200}")

    def with_marks(self) -> Position:
        """With the marks of the files as they are now, of those that are still there under their names."""
        first, before = _marks(self)
        formers = tuple(replace(left, before=_marks(left)[1] or left.before) for left in self.formers)
        first, before, ino = first or self.first, before or self.before, self.ino
        if self.offset and not first and not before and _is_gone(self):
            ino = 0  # what has its name and its inode the next time is another
        return replace(self, ino=ino, first=first, before=before, formers=formers)


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


def mark(content: bytes) -> str:
    """A short text by which so many bytes are known again."""
    return f"{len(content)}-{hashlib.blake2b(content, digest_size=8).hexdigest()}" if content else ""


def _marks(place: Position | Left) -> tuple[str, str]:
    """Of the first bytes of its file and of those before it; "", "": it is not there any more."""
    with contextlib.suppress(OSError), open_regular(place.path) as file:
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) == (place.dev, place.ino) and status.st_size >= place.offset:
            size = min(MARK_BYTES, place.offset)
            return (
                mark(os.pread(file.fileno(), size, 0)),
                mark(os.pread(file.fileno(), size, place.offset - size)),
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
    """An hour that was left and may still grow."""

    hour: HourFile
    identity: tuple[int, int]
    offset: int  # read up to here
    seen: int  # size up to which there is nothing but a partial line after `offset`
    deadline: float  # of the grace time
    before: str  # mark of the bytes before `offset`


class Follower:
    """Follows the hour files of one stream. Used by one thread, together with one Reader and one Watcher.

    layout: "auto" or one of LAYOUTS. start: where to begin if there are files at the first check: at the last
    line start in the newest ("end"), at its byte 0 ("hour"), at byte 0 of the oldest ("oldest"). Files that
    come later are read from byte 0. grace_s: how long the rest of a torn line is waited for once the next
    file is there, and how long a former hour is looked after. rescan_s: how
    often the folders are looked at without any event. resume: where an earlier run stopped; replaces
    `start`. If it does not hold any more: its file is read from byte 0; if that is gone, the hours after it
    are; if it is none of this folder, `start` counts. notice(level, text): told what an operator should know;
    level is "info" or "warning". ValueError: unknown layout or start.
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
        self._formers: list[_Former] = []
        self._visited: _Former | None = None
        self._patience: tuple[int, float] | None = None  # (offset, how long more is waited for)
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
        if self._formers:
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
            return replace(self._left, formers=self._formers_left(reader))
        if self._current is None or self._identity is None:
            return None
        try:
            first = mark(reader.peek(0, min(reader.tell(), MARK_BYTES)))
        except OSError:
            first = ""
        before, formers = mark(reader.before()), self._formers_left(reader)
        return Position(self._current.path, reader.tell(), *self._identity, first, before, formers)

    def _formers_left(self, reader: Reader) -> tuple[Left, ...]:
        now, found = self._clock(), []
        for former in self._formers:
            offset, before = former.offset, former.before
            if former is self._visited:
                offset, before = reader.tell(), mark(reader.before())
            left = max(0.0, former.deadline - now)
            found.append(Left(former.hour.path, offset, *former.identity, before, left))
        return tuple(found)

    @property
    def path(self) -> str | None:
        """The file that is read now."""
        hour = self._visited.hour if self._visited else self._current
        return hour.path if hour else None

    # ---- one look ----

    def _look(self, reader: Reader, watcher: Watcher, at_eof: bool, now: float) -> None:
        if self._visited is not None:
            self.next_check_s = 0.0
            if at_eof and (reader.error or reader.changed or reader.size() <= reader.reach()):
                self._end_visit(reader, now)
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

    def _follow(
        self, reader: Reader, watcher: Watcher, hours: list[HourFile], at_eof: bool, now: float
    ) -> None:
        """Go on from the current file: nothing, another round on it, a former hour, or the next file."""
        following = self._next_file(hours)
        if not at_eof:
            if following is not None:
                self.next_check_s = 0.0
            return
        if reader.is_open:
            size = reader.size()  # after the look for the next file: counts what was written before that
            if size < reader.reach() or not reader.verify():
                self._truncated(reader, size)
                return
            if self._visit_former(reader, now):
                return
            if following is not None and size > reader.reach():
                self.next_check_s = 0.0
                return
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
            self._current = hour  # the very file; under a later name if it was renamed so
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
        if place is None or place[0] != self.layout:
            self.resume_losses += 1
            self._notice("warning", f"cannot go on in {resume.path}: it is not a file that is followed here")
            return False
        hour = place[1]
        self._formers = [
            _Former(
                known[1],
                (left.dev, left.ino),
                left.offset,
                left.offset,
                self._clock() + left.seconds,
                left.before,
            )
            for left in resume.formers
            if (known := locate(self._data_dir, left.path, self._stream)) is not None
            and known[0] == self.layout
        ]
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

    def _open(self, reader: Reader, watcher: Watcher, hour: HourFile, offset: int) -> None:
        reader.open(hour.path, offset)
        self._current = hour
        self._identity = reader.identity()
        self.written_ns = reader.stat().st_mtime_ns
        self._left = None
        self._patience = None
        self.files_opened += 1
        self.next_check_s = 0.0
        watcher.watch_file(hour.path)
        self._notice("info", f"following {hour.path} from byte {offset}")

    def _switch(self, reader: Reader, watcher: Watcher, following: HourFile, now: float) -> None:
        """From the current file, read to its end, to the next one."""
        assert self._current is not None
        former = None
        path, tail_offset, tail = self._current.path, reader.tell(), reader.take_tail()
        if reader.is_open and self._identity is not None and following != self._current:
            end, before = reader.tell(), mark(reader.before())
            former = _Former(self._current, self._identity, end, end, now + self._grace_s, before)
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
        self._give_out_tail(reader, self._current.path)
        self._left = self.position(reader)
        self._identity = None
        self._complain("deleted", f"{self._current.path} was deleted")
        reader.close()
        watcher.watch_file(None)

    def _truncated(self, reader: Reader, size: int) -> None:
        assert self._current is not None
        self.next_check_s = 0.0
        self._patience = None
        path, at, before = self._current.path, reader.tell(), reader.before()
        if size >= at and reader.peek(at - len(before), len(before)) == before:
            # Only a torn line was cut off that has not been given out: nothing before it is read again.
            self._complain("cut off", f"the unfinished last line of {path} was cut off")
            reader.seek(at)
            return
        self.truncations += 1
        what = f"was truncated to {size} bytes" if size < at else f"was written anew and has {size} bytes"
        self._complain("truncated", f"{path} {what}, read up to {at}: going back to its start")
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
            self._open(reader, watcher, self._current, 0)
        elif not _fits(before, reader, offset):
            self.truncations += 1
            self._complain("truncated", f"{path} was written anew meanwhile: going back to its start")
            reader.seek(0)

    # ---- former hours ----

    def _visit_former(self, reader: Reader, now: float) -> bool:
        """Turn to a former hour if one has grown, or has a torn line left when its time is over."""
        for former in list(self._formers):
            expired = now >= former.deadline
            try:
                status = os.stat(former.hour.path)
            except OSError:
                status = None
            if (
                status is None
                or (status.st_dev, status.st_ino) != former.identity
                or status.st_size < former.offset
            ):
                self._formers.remove(former)
            elif status.st_size > (former.offset if expired else former.seen):
                left = self.position(reader)
                try:
                    reader.visit(former.hour.path, former.offset)
                except OSError as error:
                    self._complain("errors", f"cannot look for late lines: {error}")
                    if expired:
                        self._formers.remove(former)
                    continue
                if not _fits(former.before, reader, former.offset):
                    reader.leave()
                    self._replaced(former)
                    continue
                self._left = left
                self._visited = former
                self.late = True
                self.next_check_s = 0.0
                return True
            elif expired:
                self._formers.remove(former)
        return False

    def _end_visit(self, reader: Reader, now: float) -> None:
        former = self._visited
        assert former is not None
        if reader.error:
            self._complain("errors", f"cannot read {former.hour.path}: {os.strerror(reader.error)}")
        former.seen = reader.reach()
        if now >= former.deadline:
            self._formers.remove(former)
            if self._give_out_tail(reader, former.hour.path):
                self.late_lines += 1
        former.offset, former.before = reader.tell(), mark(reader.before())
        reader.leave()
        self._visited = None
        self._left = None
        self.late = False

    def _replaced(self, former: _Former) -> None:
        self._formers.remove(former)
        self._complain("former", f"{former.hour.path} was written anew after its hour: not read again")

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

    def _complain(self, kind: str, text: str) -> None:
        """Tell it, unless something of this kind was told within the last minute."""
        now, told = self._clock(), self._complained.get(kind)
        if told is None or now - told >= COMPLAINT_S:
            self._complained[kind] = now
            self._notice("warning", text)


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
            newline = os.pread(file.fileno(), at - begin, begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            at = begin
    return size if at > 0 else 0
