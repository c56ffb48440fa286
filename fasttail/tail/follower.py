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
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fasttail.observe.rate_limit import RateLimit

from .blocks import Reader
from .files import last_line_start, open_regular
from .fingerprint import MARK_BYTES, before_hole, fits, is_same, mark
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
from .position import Position
from .previous_hours import PreviousHours, TrackedHour

Start = Literal["end", "hour", "oldest"]
AfterBlock = Callable[[str, int, list[HourFile]], tuple[HourFile, int, int] | None]

RESCAN_S = 1.0  # how often the folders are looked at without any event
GRACE_RESCAN_S = 0.1  # the same while a former hour may still grow, which nothing watches
TAIL_RESCAN_S = 0.02  # the same while the next file waits for the rest of a line
COMPLAINT_S = 60.0  # what happens again and again is told so often, each kind by itself


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
        self._complaints = defaultdict[str, RateLimit](lambda: RateLimit(COMPLAINT_S, clock))
        self._watched: list[str] = []
        self._current: HourFile | None = None
        self._identity: tuple[int, int] | None = None  # of the current file; None: it was let go
        self._left: Position | None = None  # where the current file goes on while the reader is elsewhere
        self._torn: int | None = (
            None  # where its unfinished last line began that was given out as it was let go
        )
        self._previous = PreviousHours(clock, self._complain, self._give_out_late_tail)
        self.passed = self._previous.passed
        self._start_bytes = b""  # the first bytes of the current file, as far as they have been read
        self._stale_after_s = stale_after_s
        self._after_block = after_block
        self._written = (0, 0)  # size of the current file and when it was written to, as last seen, …
        self._grown = clock() - stale_after_s  # … and when that changed
        self._elsewhere: dict[str, tuple[str, int, int, int]] | None = None  # the other layouts' newest files
        self._looked_elsewhere = 0.0
        self._looked_again = 0.0  # at the NUL bytes behind the place of reading
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
        if self._previous:
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
            formers, holes = self._previous.lefts(reader)
            return replace(self._left, formers=formers, holes=holes)
        if self._current is None or self._identity is None:
            return None
        try:
            first = mark(before_hole(reader.peek(0, min(reader.tell(), MARK_BYTES))))
        except OSError:
            first = ""
        lefts = self._previous.lefts(reader)
        return Position(
            self._current.path, reader.tell(), *self._identity, first, mark(reader.before()), *lefts
        )

    @property
    def path(self) -> str | None:
        """The file that is read now."""
        hour = self._previous.visited.hour if self._previous.visited else self._current
        return hour.path if hour else None

    @property
    def late(self) -> bool:
        """Whether the file that is open is a former hour."""
        return self._previous.visited is not None

    # ---- one look ----

    def _look(self, reader: Reader, watcher: Watcher, at_eof: bool, now: float) -> None:
        if self.late:
            self.next_check_s = 0.0
            if at_eof and self._previous.end_visit(reader, now):
                self._left = None
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
        if at_eof and not self.late:
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
                self._previous.pass_hole(reader, self._current, self._identity, now)
                self.next_check_s = 0.0
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
                self._previous.renamed(self._current, hour)
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
        self._previous.restore((*resume.formers, *resume.holes), self._followed_hour)
        if hour not in hours:
            # Its later hours are what comes next; before them nothing is left that could be read.
            self.resume_losses += 1
            self._notice("warning", f"cannot go on in {resume.path}: it is gone; taking the hours after it")
            self._current, self._left = hour, resume
            self.next_check_s = 0.0
            return True
        offset = resume.offset
        if offset and (fault := resume.mismatch(hour.path)):
            # What is there now has not been read: it is taken as any new file is.
            self.resume_losses += 1
            what = f"cannot go on in {resume.path} at byte {offset}: {fault}"
            self._notice("warning", f"{what}; reading it from its start")
            offset = 0
        self._open(reader, watcher, hour, offset)
        return True

    def _followed_hour(self, path: str) -> HourFile | None:
        """The hour that a path names; None: it is not one of the layout that is followed."""
        known = locate(self._data_dir, path, self._stream)
        return known[1] if known is not None and known[0] == self.layout else None

    def _open(self, reader: Reader, watcher: Watcher, hour: HourFile, offset: int) -> None:
        reader.open(hour.path, offset)
        self._opened(reader, watcher, hour)
        self._start_bytes = b""
        if offset == 0:
            self._previous.forget_holes(hour)
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
                same: bool | None = bool(self._left.first and before) and not self._left.mismatch(hour.path)
            else:
                size, first = os.fstat(fd).st_size, self._start_bytes
                if offset == 0:  # all that is known is what is held of the first line
                    first = before_hole(reader.peek(0, min(reader.reach(), MARK_BYTES)))
                same = is_same(lambda at, count: os.pread(fd, count, at), size, offset, first, before)
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
                found = before_hole(reader.peek(0, MARK_BYTES))
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
            former = TrackedHour(self._current, self._identity, end, end, seen, deadline, before)
        try:
            self._open(reader, watcher, following, 0)
        finally:
            # Also when the next file cannot be opened yet: the reader has passed the tail.
            self._give_out(tail, path, tail_offset)
        if former is not None:
            self._previous.add(former)

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
        elif not self._previous.formers:
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
            same = size < at and is_same(reader.peek, size, at, self._start_bytes, mark(before)) is None
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
        self._previous.forget_holes(self._current)
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
                if is_same(reader.peek, reader.size(), offset, self._start_bytes, before):
                    self._opened(reader, watcher, self._current)
                    return
            self._open(reader, watcher, self._current, 0)
        elif not fits(before, reader, offset):
            self.truncations += 1
            self._complain("truncated", f"{path} was written anew meanwhile: going back to its start")
            self._from_start(reader)

    # ---- small things ----

    def _visit_former(self, reader: Reader, now: float) -> bool:
        """Turn to a former hour or a hole in which there is something to be read. False: there is none."""
        came_from = self._previous.visit(reader, now, self.position)
        if came_from is None:
            return False
        self._left = came_from
        self.next_check_s = 0.0
        return True

    def _give_out_tail(self, reader: Reader, path: str) -> bool:
        offset = reader.tell()
        return self._give_out(reader.take_tail(), path, offset)

    def _give_out_late_tail(self, reader: Reader, path: str) -> None:
        self.late_lines += self._give_out_tail(reader, path)

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
        self._previous.clear()
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
        if self._complaints[kind].ready():
            self._notice(level, text)
