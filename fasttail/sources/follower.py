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
after for HOLE_TIMEOUT_S: its lines are read as late lines once they are there.
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

from fasttail.monitoring.rate_limit import RateLimit

from .files import last_line_start, open_regular
from .fingerprint import FINGERPRINT_BYTES, before_hole, fingerprint, has_same_content, matches_fingerprint
from .layout import (
    LAYOUTS,
    ORDER_STATUSES,
    HourFile,
    choose_layout,
    date_folders,
    hour_files,
    hourly_folder,
    newest_hour,
    parse_hour_path,
    stream_folder,
)
from .position import Position
from .previous_hours import PreviousHours, TrackedHour
from .reader import Reader
from .watcher import Watcher

Start = Literal["end", "hour", "oldest"]
LocateAfterBlock = Callable[[str, int, list[HourFile]], tuple[HourFile, int, int] | None]

RESCAN_S = 1.0  # how often the folders are looked at without any event
PREVIOUS_HOUR_RESCAN_S = 0.1  # the same while a former hour may still grow, which nothing watches
PARTIAL_LINE_RESCAN_S = 0.02  # the same while the next file waits for the rest of a line
WARNING_INTERVAL_S = 60.0  # what happens again and again is told so often, each kind by itself


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
    locate_after_block(path, offset, hours): where to go on in the files of another layout, behind the block
    at that place of the present one (file, offset, block; None: not known); without it, at its first line.
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
        locate_after_block: LocateAfterBlock | None = None,
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
        self.growing_layout = ""  # which other layout's folder grows, while the one that is followed does not
        self.no_file_yet = False  # the folders were looked at, and no file has been there so far
        self.caught_up = False  # at the last check all was read, but for a partial last line
        self.next_check_s = 0.0  # when to call check again; 0: as soon as the reader is at the end
        self.final_origin: tuple[str, int] | None = None  # path, offset of take_final_line's last
        self._data_dir = os.path.abspath(data_dir)
        self._stream = stream
        self._layout_setting = layout
        self._start = start
        self._grace_s = grace_s
        self._rescan_s = rescan_s
        self._resume = resume
        self._notice = notice
        self._clock = clock
        self._waiting_logged = False
        self._logged_reason: str | None = None
        self._warning_limits = defaultdict[str, RateLimit](lambda: RateLimit(WARNING_INTERVAL_S, clock))
        self._watched_folders: list[str] = []
        self._current: HourFile | None = None
        self._identity: tuple[int, int] | None = None  # of the current file; None: it was let go
        # where the current file goes on while the reader is elsewhere
        self._saved_position: Position | None = None
        self._partial_line_start: int | None = (
            None  # where its unfinished last line began that was given out as it was let go
        )
        self._previous = PreviousHours(clock, self._warn_rate_limited, self._emit_late_partial_line)
        self.skipped_holes = self._previous.skipped_holes
        self._first_bytes = b""  # the first bytes of the current file, as far as they have been read
        self._stale_after_s = stale_after_s
        self._locate_after_block = locate_after_block
        self._last_size_mtime = (0, 0)  # size of the current file and when it was written to, as last seen, …
        self._last_growth = clock() - stale_after_s  # … and when that changed
        # the other layouts' newest files
        self._other_layouts: dict[str, tuple[str, int, int, int]] | None = None
        self._other_layouts_checked = 0.0
        self._nuls_rescanned = 0.0  # at the NUL bytes behind the place of reading
        self._grace_deadline: tuple[int, float] | None = None  # (offset, how long more is waited for)
        # the same for the content that was there before
        self._restore_deadline: tuple[int, float] | None = None
        self._final_lines: list[tuple[bytes, str, int]] = []

    # ---- what the pipeline calls ----

    def check(self, reader: Reader, watcher: Watcher, at_eof: bool) -> None:
        """Look at the folders and see to it that the right file is open.

        at_eof: the reader's last fill found nothing to read (end, no file or an error) and its lines are
        consumed. To be called at the start, after WAIT_DIRS, and when next_check_s have passed; after each
        call take_final_line is to be asked. Raises nothing for what the file system does: it is told, and
        tried again.
        """
        now = self._clock()
        reader.check_rewrites = True
        self.next_check_s = self._rescan_s
        self.caught_up = False
        failed = bool(reader.error)
        try:
            self._scan(reader, watcher, at_eof, now)
            self.no_file_yet = self._current is None
            if self._current is not None and not reader.is_open:
                self.trouble = f"{self._current.path} was removed, and there is no later hour"
            elif not (failed or reader.error):
                self.trouble = ""  # not before the look, which may take long: /health asks meanwhile
        except OSError as error:
            self.trouble = f"cannot follow {self._data_dir}: {error}"
            self._warn_rate_limited("errors", f"{self.trouble}; trying again")
        if self._previous:
            self.next_check_s = min(self.next_check_s, PREVIOUS_HOUR_RESCAN_S)
        if watcher.polling_reason != self._logged_reason:
            self._logged_reason = watcher.polling_reason
            self._notice("warning", f"{watcher.polling_reason}; polling instead")

    def take_final_line(self) -> bytes | None:
        """An unterminated last line whose rest did not come. It precedes all that is read afterwards."""
        if not self._final_lines:
            return None
        line, path, offset = self._final_lines.pop(0)
        self.final_origin = (path, offset)
        return line

    def position(self, reader: Reader) -> Position | None:
        """Where to go on after all lines consumed so far; None before the first file."""
        if self._saved_position is not None:
            previous_hours, holes = self._previous.records(reader)
            return replace(self._saved_position, previous_hours=previous_hours, holes=holes)
        if self._current is None or self._identity is None:
            return None
        try:
            first = fingerprint(before_hole(reader.pread_at(0, min(reader.tell(), FINGERPRINT_BYTES))))
        except OSError:
            first = ""
        records = self._previous.records(reader)
        return Position(
            self._current.path,
            reader.tell(),
            *self._identity,
            first,
            fingerprint(reader.preceding_bytes()),
            *records,
        )

    @property
    def path(self) -> str | None:
        """The file that is read now."""
        hour = self._previous.visiting.hour if self._previous.visiting else self._current
        return hour.path if hour else None

    @property
    def late(self) -> bool:
        """Whether the file that is open is a former hour."""
        return self._previous.visiting is not None

    # ---- one look ----

    def _scan(self, reader: Reader, watcher: Watcher, at_eof: bool, now: float) -> None:
        if self.late:
            self.next_check_s = 0.0
            if at_eof and self._previous.end_visit(reader, now):
                self._saved_position = None
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
            self._open_first(reader, watcher, hours)
        elif reader.error:
            self._reopen_after_error(reader, watcher)
        else:
            self._follow_current(reader, watcher, hours, at_eof, now)
        if self._current is None:
            self.caught_up = True
            self._log_waiting(hourly)
        if at_eof and not self.late:
            self._check_other_layouts(reader, watcher, now)

    def _follow_current(
        self, reader: Reader, watcher: Watcher, hours: list[HourFile], at_eof: bool, now: float
    ) -> None:
        """Go on from the current file: nothing, another round on it, a former hour, or the next file."""
        following = self._next_file(hours)
        if not at_eof:
            if following is not None:
                self.next_check_s = 0.0
            return
        if reader.is_open and len(self._first_bytes) < min(reader.tell(), FINGERPRINT_BYTES):
            self._load_first_bytes(reader)
        if following is not None and following == self._current:
            if (
                reader.is_open
                and not reader.at_hole
                and reader.size() > reader.scanned_to()
                and reader.verify_unchanged()
            ):
                self.next_check_s = 0.0  # its last lines may stand in no copy
                return
            if self._handle_replacement(reader, watcher, following, now):
                if self.next_check_s > 0 and reader.is_open:
                    self._begin_due_visit(reader, now)  # the copy is waited for: their time goes on meanwhile
                return
        assert self._current is not None
        if reader.is_open:
            size = reader.size()  # after the look for the next file: counts what was written before that
            if size < reader.read_offset() or not reader.verify_unchanged():
                self._handle_truncation(reader, size, now)
                if self.next_check_s > 0:
                    self._begin_due_visit(reader, now)  # as above
                return
            if following != self._current:
                self._restore_deadline = None
            if reader.at_hole:
                assert self._identity is not None
                self._previous.skip_hole(reader, self._current, self._identity, now)
                self.next_check_s = 0.0
                return
            if self._begin_due_visit(reader, now):
                return
            if following is not None and size > reader.scanned_to():
                self.next_check_s = 0.0
                return
            if reader.nul_run_end and (
                size < reader.nul_run_end or now - self._nuls_rescanned >= self._rescan_s
            ):
                self._nuls_rescanned = now
                reader.rescan_nuls()
        if following is None:
            self.caught_up = True
            if reader.is_open and reader.stat().st_nlink == 0:
                self._handle_deletion(reader, watcher, now)
        elif not reader.is_open or self._partial_line_settled(reader, now):
            self._switch_to_next(reader, watcher, following, now)

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

    def _open_first(self, reader: Reader, watcher: Watcher, hours: list[HourFile]) -> None:
        """Open the first file. `start` is about what is there at the first look; what comes later is new."""
        if not hours:
            self._start = "oldest"
            return
        if self._resume is not None:
            if self._resume_at(reader, watcher, self._resume, hours):
                return
            self._resume = None
        if self._start == "oldest":
            self._open_hour(reader, watcher, hours[0], 0)
        elif self._start == "hour":
            self._open_hour(reader, watcher, hours[-1], 0)
        else:
            self._open_hour(reader, watcher, hours[-1], last_line_start(hours[-1].path))

    def _resume_at(self, reader: Reader, watcher: Watcher, resume: Position, hours: list[HourFile]) -> bool:
        """Go on where an earlier run stopped. False, with a notice: that place is no longer there."""
        located = parse_hour_path(self._data_dir, resume.path, self._stream)
        if located is not None and located[0] != self.layout and self._locate_after_block is not None:
            target = self._locate_after_block(resume.path, resume.offset, hours)
            if target is not None:
                hour, offset, block = target
                text = (
                    f"{resume.path} has layout {located[0]}; continuing with {self.layout} "
                    f"after block {block}"
                )
                self._notice("warning", text)
                self._open_hour(reader, watcher, hour, offset)
                return True
        if located is None or located[0] != self.layout:
            self.resume_losses += 1
            self._notice("warning", f"cannot resume {resume.path}: it is not a file of the followed stream")
            return False
        hour = located[1]
        self._previous.restore((*resume.previous_hours, *resume.holes), self._followed_hour)
        if hour not in hours:
            # Its later hours are what comes next; before them nothing is left that could be read.
            self.resume_losses += 1
            self._notice(
                "warning", f"cannot resume {resume.path}: it was removed; continuing with the next hour"
            )
            self._current, self._saved_position = hour, resume
            self.next_check_s = 0.0
            return True
        offset = resume.offset
        if offset and (fault := resume.mismatch(hour.path)):
            # What is there now has not been read: it is taken as any new file is.
            self.resume_losses += 1
            what = f"cannot resume {resume.path} at byte {offset}: {fault}"
            self._notice("warning", f"{what}; reading it from the start")
            offset = 0
        self._open_hour(reader, watcher, hour, offset)
        return True

    def _followed_hour(self, path: str) -> HourFile | None:
        """The hour that a path names; None: it is not one of the layout that is followed."""
        known = parse_hour_path(self._data_dir, path, self._stream)
        return known[1] if known is not None and known[0] == self.layout else None

    def _open_hour(self, reader: Reader, watcher: Watcher, hour: HourFile, offset: int) -> None:
        reader.open(hour.path, offset)
        self._on_opened(reader, watcher, hour)
        self._first_bytes = b""
        if offset == 0:
            self._previous.drop_holes(hour)
        self._notice("info", f"following {hour.path} from byte {offset}")

    def _on_opened(self, reader: Reader, watcher: Watcher, hour: HourFile) -> None:
        self._current = hour
        self._identity = reader.identity()
        status = reader.stat()
        self.written_ns = status.st_mtime_ns
        self._last_size_mtime = status.st_size, status.st_mtime_ns
        self._last_growth = self._clock() - max(0.0, time.time() - self.written_ns / 1e9)
        self._saved_position = self._partial_line_start = None
        self._grace_deadline = self._restore_deadline = None
        self.files_opened += 1
        self.next_check_s = 0.0
        watcher.watch_file(hour.path)

    def _handle_replacement(self, reader: Reader, watcher: Watcher, hour: HourFile, now: float) -> bool:
        """Another file has the current one's name. True if this look is over: reading goes on in it, since it
        has the same content, or it may yet come to have it.
        """
        offset, before = reader.tell(), fingerprint(reader.preceding_bytes())
        if self._saved_position is not None:
            offset, before = self._saved_position.offset, self._saved_position.tail_fingerprint
        with open_regular(hour.path) as file:
            fd = file.fileno()
            if self._saved_position is not None and not self._first_bytes:  # gone before it was opened
                same: bool | None = bool(
                    self._saved_position.head_fingerprint and before
                ) and not self._saved_position.mismatch(hour.path)
            else:
                size, first = os.fstat(fd).st_size, self._first_bytes
                if offset == 0:  # all that is known is what is held of the first line
                    first = before_hole(reader.pread_at(0, min(reader.read_offset(), FINGERPRINT_BYTES)))
                same = has_same_content(
                    lambda at, count: os.pread(fd, count, at), size, offset, first, before
                )
            if same is None and self._within_restore_grace(now, offset):
                return True
            if not same:
                return False
            if self._partial_line_start is not None and os.pread(fd, 1, offset) not in (b"", b"\n"):
                offset = self._partial_line_start  # what was given out was only a piece of this line
            reader.open(fd, offset)
        self._on_opened(reader, watcher, hour)
        self._warn_rate_limited(
            "replaced", f"{hour.path} was replaced by a copy; continuing at byte {offset}", "info"
        )
        return True

    def _within_restore_grace(self, now: float, offset: int) -> bool:
        """Whether there is time left for the current file to become again what it was."""
        if self._restore_deadline is None or self._restore_deadline[0] != offset:
            self._restore_deadline = (offset, now + self._grace_s)
        if now >= self._restore_deadline[1]:
            return False
        self.next_check_s = min(self.next_check_s, PREVIOUS_HOUR_RESCAN_S)
        return True

    def _load_first_bytes(self, reader: Reader) -> None:
        """Keep the first bytes of the current file, to know it again by them."""
        found = reader.preceding_bytes()
        if len(found) < reader.tell():
            try:
                found = before_hole(reader.pread_at(0, FINGERPRINT_BYTES))
                if not reader.verify_unchanged() or reader.size() < reader.tell():
                    return  # they need not be of what has been read
            except OSError:
                return
        self._first_bytes = found

    def _switch_to_next(self, reader: Reader, watcher: Watcher, following: HourFile, now: float) -> None:
        """From the current file, read to its end, to the next one."""
        assert self._current is not None
        tracked = None
        path, tail_offset, tail = self._current.path, reader.tell(), reader.take_partial_line()
        if reader.is_open and self._identity is not None and following != self._current:
            end, before = reader.tell(), fingerprint(reader.preceding_bytes())
            scanned_to, deadline = reader.scanned_to(), now + self._grace_s
            tracked = TrackedHour(self._current, self._identity, end, end, scanned_to, deadline, before)
        try:
            self._open_hour(reader, watcher, following, 0)
        finally:
            # Also when the next file cannot be opened yet: the reader has passed the tail.
            self._emit_final_line(tail, path, tail_offset)
        if tracked is not None:
            self._previous.add(tracked)

    def _partial_line_settled(self, reader: Reader, now: float) -> bool:
        """Whether the current file may be left: its last line is whole, or the rest of it did not come."""
        if reader.partial_bytes == 0:
            return True
        if self._grace_deadline is None or self._grace_deadline[0] != reader.tell():
            self._grace_deadline = (reader.tell(), now + self._grace_s)
        if now >= self._grace_deadline[1]:
            return True
        self.next_check_s = min(PARTIAL_LINE_RESCAN_S, self._grace_deadline[1] - now)
        return False

    def _handle_deletion(self, reader: Reader, watcher: Watcher, now: float) -> None:
        """The current file was deleted and is read: the writer has grace_s to go on, then it is let go."""
        if self._grace_deadline is None or self._grace_deadline[0] != reader.read_offset():
            self._grace_deadline = (reader.read_offset(), now + self._grace_s)
        if now < self._grace_deadline[1]:
            self.next_check_s = min(self.next_check_s, self._grace_deadline[1] - now)
        elif not self._previous.previous_hours:
            self._close_deleted(reader, watcher)

    def _close_deleted(self, reader: Reader, watcher: Watcher) -> None:
        """Close the current file, which is gone; only a new one is opened after it."""
        assert self._current is not None
        start = reader.tell()
        self._partial_line_start = start if self._emit_partial_line(reader, self._current.path) else None
        self._saved_position = self.position(reader)
        self._identity = None
        self._warn_rate_limited("deleted", f"{self._current.path} was deleted")
        reader.close()
        watcher.watch_file(None)

    def _handle_truncation(self, reader: Reader, size: int, now: float) -> None:
        assert self._current is not None
        path, at, before = self._current.path, reader.tell(), reader.preceding_bytes()
        try:
            same = (
                size < at
                and has_same_content(reader.pread_at, size, at, self._first_bytes, fingerprint(before))
                is None
            )
        except OSError:
            same = False
        if same and self._within_restore_grace(now, at):
            return  # perhaps it is copied over itself, as `cp` does
        self.next_check_s = 0.0
        self._grace_deadline = None
        if size >= at and reader.pread_at(at - len(before), len(before)) == before:
            # Only a torn line was cut off that has not been given out: nothing before it is read again.
            self._warn_rate_limited("cut off", f"the partial last line of {path} was truncated")
            reader.seek(at)
            return
        self.truncations += 1
        what = f"was truncated to {size} bytes" if size < at else f"was rewritten and has {size} bytes"
        self._warn_rate_limited(
            "truncated", f"{path} {what} after {at} bytes were read; reading it from the start"
        )
        self._restart_file(reader)

    def _restart_file(self, reader: Reader) -> None:
        assert self._current is not None
        self._first_bytes = b""
        self._previous.drop_holes(self._current)
        reader.seek(0)

    def _reopen_after_error(self, reader: Reader, watcher: Watcher) -> None:
        """The last read failed (EIO, ESTALE): a new descriptor may do better."""
        assert self._current is not None
        self.read_errors += 1
        path, reason = self._current.path, os.strerror(reader.error)
        self.trouble = f"cannot read {path}: {reason}"
        self._warn_rate_limited("errors", f"{self.trouble}; reopening it")
        offset, identity, before = reader.tell(), self._identity, fingerprint(reader.preceding_bytes())
        try:
            reader.open(path, offset)
        except FileNotFoundError:
            self._close_deleted(reader, watcher)
            return
        if reader.identity() != identity:
            with contextlib.suppress(OSError):
                if has_same_content(reader.pread_at, reader.size(), offset, self._first_bytes, before):
                    self._on_opened(reader, watcher, self._current)
                    return
            self._open_hour(reader, watcher, self._current, 0)
        elif not matches_fingerprint(before, reader, offset):
            self.truncations += 1
            self._warn_rate_limited("truncated", f"{path} was rewritten meanwhile; reading it from the start")
            self._restart_file(reader)

    # ---- small things ----

    def _begin_due_visit(self, reader: Reader, now: float) -> bool:
        """Turn to a former hour or a hole in which there is something to be read. False: there is none."""
        saved_position = self._previous.visit(reader, now, self.position)
        if saved_position is None:
            return False
        self._saved_position = saved_position
        self.next_check_s = 0.0
        return True

    def _emit_partial_line(self, reader: Reader, path: str) -> bool:
        offset = reader.tell()
        return self._emit_final_line(reader.take_partial_line(), path, offset)

    def _emit_late_partial_line(self, reader: Reader, path: str) -> None:
        self.late_lines += self._emit_partial_line(reader, path)

    def _emit_final_line(self, tail: bytes, path: str, offset: int) -> bool:
        if not tail:
            return False
        self.torn_lines += 1
        self._warn_rate_limited(
            "torn", f"{path} ends without a newline at byte {offset}; delivering the line as it is"
        )
        self._final_lines.append((tail, path, offset))
        return True

    def _choose_layout(self) -> bool:
        if self._layout_setting == "auto" and self._resume is not None:
            located = parse_hour_path(self._data_dir, self._resume.path, self._stream)
            if located is not None and hour_files(hourly_folder(self._data_dir, located[0], self._stream)):
                self.layout = located[0]
                return True
        choice = choose_layout(self._data_dir, self._layout_setting, self._stream)
        if choice.layout is None:
            self._start = "oldest"  # nothing is there: whatever comes is new
            plain = stream_folder(self._data_dir, "plain", self._stream)
            self._log_waiting(plain + "{_streaming,_by_block,}/hourly")
            return False
        others = f" (also present, not followed: {', '.join(choice.others)})" if choice.others else ""
        self._notice("info", f"layout {choice.layout}{others}")
        self.layout = choice.layout
        return True

    def _check_other_layouts(self, reader: Reader, watcher: Watcher, now: float) -> None:
        """While the folder that is followed does not grow: whether that of another layout does."""
        if reader.is_open:
            status = reader.stat()
            if self._last_size_mtime != (status.st_size, status.st_mtime_ns):
                self._last_size_mtime, self._last_growth = (status.st_size, status.st_mtime_ns), now
        if self._current is not None and now - self._last_growth <= self._stale_after_s:
            self._other_layouts, self.growing_layout = None, ""
            return
        if self._other_layouts is not None and now - self._other_layouts_checked < self._rescan_s:
            return
        before, self._other_layouts, self._other_layouts_checked = self._other_layouts, {}, now
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
                self._other_layouts[layout] = seen
                if before is not None and seen > before.get(layout, ("", 0, 0, 0)):
                    self.growing_layout = f"layout {layout} is being written: {hourly}"
                    if self._layout_setting == "auto":
                        self._switch_layout(reader, watcher, layout, hourly)
                    return

    def _switch_layout(self, reader: Reader, watcher: Watcher, layout: str, hourly: str) -> None:
        """To the layout that is being written now."""
        before, position, hours = self.layout, self.position(reader), hour_files(hourly)
        if not hours:
            return
        target = None
        if position is not None and self._locate_after_block is not None:
            target = self._locate_after_block(position.path, position.offset, hours)
        hour, offset = target[:2] if target is not None else (hours[0], 0)
        if self._current is not None and reader.is_open:
            self._emit_partial_line(reader, self._current.path)
        where = f"after block {target[2]}" if target is not None else f"at the first line of {hour.path}"
        text = f"layout {before} is no longer written; continuing with layout {layout}, {where}"
        self._open_hour(reader, watcher, hour, offset)
        self.layout, self.growing_layout, self._other_layouts = layout, "", None
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
        if folders != self._watched_folders:
            # What appeared before there was a watch is seen by the listing that follows; what appeared in a
            # folder that came between the two only by another look.
            self._watched_folders = folders
            self.next_check_s = 0.0

    def _log_waiting(self, what: str) -> None:
        if not self._waiting_logged:
            self._waiting_logged = True
            self._notice("info", f"waiting for a file in {what}")

    def _warn_rate_limited(self, kind: str, text: str, level: str = "warning") -> None:
        """Tell it, unless something of this kind was told within the last minute."""
        if self._warning_limits[kind].ready():
            self._notice(level, text)
