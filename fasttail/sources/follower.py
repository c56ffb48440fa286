"""Decides which file is read next and when: new hours, truncation, replacement, waiting and resuming.

The pipeline reads the open file to its end and calls `Follower.check` in between, which scans the folders and
opens another file in the Reader when due. inotify only makes a check happen sooner: each check scans
everything again and would be sufficient alone.

Every byte of every hour file that appears after the start is read once, oldest file first. The next file is
opened only after the current one was read to an end seen *after* the next one existed. docs/architecture.md
lists what can be lost.

Content identifies a file: its first bytes and those before the read position. Device and inode decide only
while the content is unknown. When a mirror replaces the file with a longer copy, reading continues at the
same offset. A shorter file with the same content may be a copy in progress, and has `grace_s` to grow. A file
with other content was rewritten and is read from byte 0.

A hole of NUL bytes at the end of a file is waited for. One with data behind it is skipped and watched for
HOLE_TIMEOUT_S: its lines are read as late lines once they are written.
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
from .watcher import StreamWatch

Start = Literal["end", "hour", "oldest"]
LocateAfterBlock = Callable[[str, int, list[HourFile]], tuple[HourFile, int, int] | None]

RESCAN_S = 1.0  # between scans of the folders without any event
PREVIOUS_HOUR_RESCAN_S = 0.1  # the same while a previous hour may still grow, which inotify does not cover
PARTIAL_LINE_RESCAN_S = 0.02  # the same while the next file waits for the rest of a line
WARNING_INTERVAL_S = 60.0  # between two warnings of one kind


class Follower:
    """Follows the hour files of one stream. Used by one thread, together with one Reader and one StreamWatch.

    layout: "auto" or one of LAYOUTS.
    start: where to begin if there are files at the first check: at the last line start of the newest ("end"),
        at its byte 0 ("hour"), or at byte 0 of the oldest ("oldest"). Files that appear later are read from
        byte 0.
    grace_s: how long to wait for the rest of a partial line once the next file exists, for a shortened file
        to grow again, for more data in a deleted file, and for late lines in a previous hour.
    rescan_s: seconds between scans of the folders without any event.
    resume: where an earlier run stopped; replaces `start`. If it is no longer valid, its file is read from
        byte 0; if the file is gone, reading continues with the next hour; if the file is not one of the
        followed stream, `start` applies.
    stale_after_s: after this time without growth, the other layouts' folders are checked too. With "auto",
        the follower switches to one that grows.
    locate_after_block(path, offset, hours): returns where to continue in the files of another layout, after
        the block at `offset` of `path`, as (hour, offset, block), or None if unknown. Without a result,
        reading starts at the first line.
    notice(level, text): receives what an operator should know; level is "info" or "warning".

    Raise ValueError if the layout or start is unknown.
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
        stream: str = "orders",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if layout not in ("auto", *LAYOUTS):
            raise ValueError(f"unknown layout {layout!r}: expected auto or one of {', '.join(LAYOUTS)}")
        if start not in ("end", "hour", "oldest"):
            raise ValueError(f"unknown start {start!r}: expected end, hour or oldest")
        self.layout: str | None = None  # known from the first check on, with "auto" once a file exists
        self.truncations = 0
        self.read_errors = 0  # after each, the file was opened again
        self.torn_lines = 0  # last lines delivered without a newline
        self.late_lines = 0  # lines of previous hours and holes; the pipeline adds those read while `late`
        self.files_opened = 0
        self.resume_losses = 0  # times that `resume` was invalid, so that lines after it may never be read
        self.trouble = ""  # why nothing can be read at present
        self.written_ns = 0  # Unix time of the current file's last write before it was opened
        self.growing_layout = ""  # another layout that grows while the followed one does not
        self.no_file_yet = False  # the folders were scanned, but no file has been found
        self.caught_up = False  # the last check found everything read but for a partial last line
        self.next_check_s = 0.0  # when to call check again; 0: as soon as the reader is at the end
        self.final_origin: tuple[str, int] | None = None  # path and offset of the last take_final_line
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
        self._identity: tuple[int, int] | None = None  # of the current file; None: it was closed
        # where to resume in the current file while the reader is not in it
        self._saved_position: Position | None = None
        self._partial_line_start: int | None = (
            None  # start of the partial line that was delivered when the current file was closed
        )
        self._previous = PreviousHours(clock, self._warn_rate_limited, self._emit_late_partial_line)
        self.skipped_holes = self._previous.skipped_holes
        self._first_bytes = b""  # the first bytes of the current file, as far as they have been read
        self._stale_after_s = stale_after_s
        self._locate_after_block = locate_after_block
        self._last_size_mtime = (0, 0)  # size and modification time of the current file as last seen
        self._last_growth = clock() - stale_after_s  # when that changed
        # newest file of each other layout: date, hour, size, modification time
        self._other_layouts: dict[str, tuple[str, int, int, int]] | None = None
        self._other_layouts_checked = 0.0
        self._nuls_rescanned = 0.0  # last rescan of the NUL bytes after the read position
        self._grace_deadline: tuple[int, float] | None = None  # (offset, until when to wait for more)
        # the same for a file to get its former content back
        self._restore_deadline: tuple[int, float] | None = None
        self._final_lines: list[tuple[bytes, str, int]] = []

    # ---- what the pipeline calls ----

    def check(self, reader: Reader, watcher: StreamWatch, at_eof: bool) -> None:
        """Scan the folders and make sure that the right file is open.

        at_eof: the reader's last fill found nothing to read (end, no file or an error) and its lines are
        consumed. Call this at the start, after WAIT_DIRS, and when next_check_s have passed, and
        take_final_line after each call. File system errors do not raise: they are reported and retried.
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
                self.trouble = ""  # only after the scan, which may take long while /health reads this
        except OSError as error:
            self.trouble = f"cannot follow {self._data_dir}: {error}"
            self._warn_rate_limited("errors", f"{self.trouble}; trying again")
        if self._previous:
            self.next_check_s = min(self.next_check_s, PREVIOUS_HOUR_RESCAN_S)
        if watcher.polling_reason != self._logged_reason:
            self._logged_reason = watcher.polling_reason
            self._notice("warning", f"{watcher.polling_reason}; polling instead")

    def take_final_line(self) -> bytes | None:
        """Remove and return a last line whose rest never came. It precedes everything read afterwards."""
        if not self._final_lines:
            return None
        line, path, offset = self._final_lines.pop(0)
        self.final_origin = (path, offset)
        return line

    def position(self, reader: Reader) -> Position | None:
        """Return the position after all lines consumed so far, None before the first file."""
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
        """The path of the open file, None if there is none."""
        hour = self._previous.visiting.hour if self._previous.visiting else self._current
        return hour.path if hour else None

    @property
    def late(self) -> bool:
        """Whether the reader is visiting a previous hour or a hole."""
        return self._previous.visiting is not None

    # ---- one scan ----

    def _scan(self, reader: Reader, watcher: StreamWatch, at_eof: bool, now: float) -> None:
        if self.late:
            self.next_check_s = 0.0
            if at_eof and self._previous.end_visit(reader, now):
                self._saved_position = None
            return
        # Watch before listing, so that nothing can appear unseen between the two.
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
        self, reader: Reader, watcher: StreamWatch, hours: list[HourFile], at_eof: bool, now: float
    ) -> None:
        """Decide what to read after the current file: more of it, a previous hour, the next file, nothing."""
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
                self.next_check_s = 0.0  # read it to the end: a copy may lack its last lines
                return
            if self._handle_replacement(reader, watcher, following, now):
                if self.next_check_s > 0 and reader.is_open:
                    self._begin_due_visit(reader, now)  # their deadlines run while the copy is awaited
                return
        assert self._current is not None
        if reader.is_open:
            size = reader.size()  # after the listing: includes all that was written before the next file
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
        """Return the file after the current one: another file of the same name, or else the next hour."""
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
            if hour != self._current:  # the same file, renamed to a later hour
                self._previous.renamed(self._current, hour)
            self._current = hour
        return None

    # ---- opening and leaving files ----

    def _open_first(self, reader: Reader, watcher: StreamWatch, hours: list[HourFile]) -> None:
        """Open the first file. `start` refers to what exists at the first scan; anything later is new."""
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

    def _resume_at(
        self, reader: Reader, watcher: StreamWatch, resume: Position, hours: list[HourFile]
    ) -> bool:
        """Resume where an earlier run stopped. Return False, with a notice, if that is not possible."""
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
            # Continue with the later hours: nothing before them is left to read.
            self.resume_losses += 1
            self._notice(
                "warning", f"cannot resume {resume.path}: it was removed; continuing with the next hour"
            )
            self._current, self._saved_position = hour, resume
            self.next_check_s = 0.0
            return True
        offset = resume.offset
        if offset and (fault := resume.mismatch(hour.path)):
            # The content is not the one that was read, so treat the file as new.
            self.resume_losses += 1
            what = f"cannot resume {resume.path} at byte {offset}: {fault}"
            self._notice("warning", f"{what}; reading it from the start")
            offset = 0
        self._open_hour(reader, watcher, hour, offset)
        return True

    def _followed_hour(self, path: str) -> HourFile | None:
        """Return the hour that a path names, None if it is not in the followed layout."""
        known = parse_hour_path(self._data_dir, path, self._stream)
        return known[1] if known is not None and known[0] == self.layout else None

    def _open_hour(self, reader: Reader, watcher: StreamWatch, hour: HourFile, offset: int) -> None:
        reader.open(hour.path, offset)
        self._on_opened(reader, watcher, hour)
        self._first_bytes = b""
        if offset == 0:
            self._previous.drop_holes(hour)
        self._notice("info", f"following {hour.path} from byte {offset}")

    def _on_opened(self, reader: Reader, watcher: StreamWatch, hour: HourFile) -> None:
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

    def _handle_replacement(self, reader: Reader, watcher: StreamWatch, hour: HourFile, now: float) -> bool:
        """Handle another file that has taken the current one's name.

        Return True if the scan is over: reading continues in it because it has the same content, or it may
        still get that content.
        """
        offset, before = reader.tell(), fingerprint(reader.preceding_bytes())
        if self._saved_position is not None:
            offset, before = self._saved_position.offset, self._saved_position.tail_fingerprint
        with open_regular(hour.path) as file:
            fd = file.fileno()
            if self._saved_position is not None and not self._first_bytes:  # deleted before it was opened
                same: bool | None = bool(
                    self._saved_position.head_fingerprint and before
                ) and not self._saved_position.mismatch(hour.path)
            else:
                size, first = os.fstat(fd).st_size, self._first_bytes
                if offset == 0:  # only the part of the first line in the buffer is known
                    first = before_hole(reader.pread_at(0, min(reader.read_offset(), FINGERPRINT_BYTES)))
                same = has_same_content(
                    lambda at, count: os.pread(fd, count, at), size, offset, first, before
                )
            if same is None and self._within_restore_grace(now, offset):
                return True
            if not same:
                return False
            if self._partial_line_start is not None and os.pread(fd, 1, offset) not in (b"", b"\n"):
                offset = self._partial_line_start  # what was delivered was only part of this line
            reader.open(fd, offset)
        self._on_opened(reader, watcher, hour)
        self._warn_rate_limited(
            "replaced", f"{hour.path} was replaced by a copy; continuing at byte {offset}", "info"
        )
        return True

    def _within_restore_grace(self, now: float, offset: int) -> bool:
        """Return whether the current file still has time to get its former content back."""
        if self._restore_deadline is None or self._restore_deadline[0] != offset:
            self._restore_deadline = (offset, now + self._grace_s)
        if now >= self._restore_deadline[1]:
            return False
        self.next_check_s = min(self.next_check_s, PREVIOUS_HOUR_RESCAN_S)
        return True

    def _load_first_bytes(self, reader: Reader) -> None:
        """Keep the first bytes of the current file, to recognise it by them."""
        found = reader.preceding_bytes()
        if len(found) < reader.tell():
            try:
                found = before_hole(reader.pread_at(0, FINGERPRINT_BYTES))
                if not reader.verify_unchanged() or reader.size() < reader.tell():
                    return  # they may not belong to what has been read
            except OSError:
                return
        self._first_bytes = found

    def _switch_to_next(self, reader: Reader, watcher: StreamWatch, following: HourFile, now: float) -> None:
        """Switch from the current file, which was read to its end, to the next one."""
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
            # Even if the next file cannot be opened yet: the reader has given up the tail.
            self._emit_final_line(tail, path, tail_offset)
        if tracked is not None:
            self._previous.add(tracked)

    def _partial_line_settled(self, reader: Reader, now: float) -> bool:
        """Return whether the current file may be left: its last line is whole, or waiting for it is over."""
        if reader.partial_bytes == 0:
            return True
        if self._grace_deadline is None or self._grace_deadline[0] != reader.tell():
            self._grace_deadline = (reader.tell(), now + self._grace_s)
        if now >= self._grace_deadline[1]:
            return True
        self.next_check_s = min(PARTIAL_LINE_RESCAN_S, self._grace_deadline[1] - now)
        return False

    def _handle_deletion(self, reader: Reader, watcher: StreamWatch, now: float) -> None:
        """Close the current file, deleted and read to its end, once nothing was added to it for grace_s."""
        if self._grace_deadline is None or self._grace_deadline[0] != reader.read_offset():
            self._grace_deadline = (reader.read_offset(), now + self._grace_s)
        if now < self._grace_deadline[1]:
            self.next_check_s = min(self.next_check_s, self._grace_deadline[1] - now)
        elif not self._previous.previous_hours:
            self._close_deleted(reader, watcher)

    def _close_deleted(self, reader: Reader, watcher: StreamWatch) -> None:
        """Close the current file, which was deleted. Only another file is opened after it."""
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
            return  # perhaps a copy over the same file is in progress, as by `cp`
        self.next_check_s = 0.0
        self._grace_deadline = None
        if size >= at and reader.pread_at(at - len(before), len(before)) == before:
            # Only a partial line that was not delivered was cut off, so nothing before it is read again.
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

    def _reopen_after_error(self, reader: Reader, watcher: StreamWatch) -> None:
        """Open the file again after a failed read (EIO, ESTALE), because a new descriptor may work."""
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

    # ---- helpers ----

    def _begin_due_visit(self, reader: Reader, now: float) -> bool:
        """Visit a previous hour or a hole that has something to read. Return False if there is none."""
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
            self._start = "oldest"  # whatever appears from now on is new
            plain = stream_folder(self._data_dir, "plain", self._stream)
            self._log_waiting(plain + "{_streaming,_by_block,}/hourly")
            return False
        others = f" (also present, not followed: {', '.join(choice.others)})" if choice.others else ""
        self._notice("info", f"layout {choice.layout}{others}")
        self.layout = choice.layout
        return True

    def _check_other_layouts(self, reader: Reader, watcher: StreamWatch, now: float) -> None:
        """Find out whether another layout grows while the followed one does not, and switch if it does."""
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

    def _switch_layout(self, reader: Reader, watcher: StreamWatch, layout: str, hourly: str) -> None:
        """Switch to the layout that is being written, after the last block read if it is found there."""
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

    def _watch_folders(self, watcher: StreamWatch) -> None:
        """Watch every folder in which the next name can appear."""
        folders = [self._data_dir]
        for layout in (self.layout,) if self.layout else LAYOUTS:
            hourly = hourly_folder(self._data_dir, layout, self._stream)
            dates = date_folders(hourly, since=self._current.date if self._current else "")
            # Names appear in the current date's folder and the newest one; the rescan covers all others.
            folders += [os.path.dirname(hourly), hourly]
            folders += [os.path.join(hourly, date) for date in sorted({*dates[:1], *dates[-1:]})]
        watcher.watch_dirs(folders)
        if folders != self._watched_folders:
            # The listing that follows finds what appeared before the watches. Only another scan finds what
            # appeared in a folder that was created between the two.
            self._watched_folders = folders
            self.next_check_s = 0.0

    def _log_waiting(self, what: str) -> None:
        if not self._waiting_logged:
            self._waiting_logged = True
            self._notice("info", f"waiting for a file in {what}")

    def _warn_rate_limited(self, kind: str, text: str, level: str = "warning") -> None:
        """Report `text`, unless something of this kind was reported within WARNING_INTERVAL_S."""
        if self._warning_limits[kind].ready():
            self._notice(level, text)
