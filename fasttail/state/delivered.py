"""The position up to which everything has been delivered, for checkpoints and restarts in place.

The reader's own position is ahead of it by the ring and the current batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from fasttail.engine.events import BatchEnd, FileOpened
from fasttail.sources.position import Hole, Position, PreviousHour
from fasttail.sources.previous_hours import MAX_HOLES, MAX_PREVIOUS_HOURS

FileKey = tuple[str, int, int]  # path, device, inode


class DeliveredPosition:
    """Follows the pipeline's events as the main thread handles them.

    start_position: where the run began; None if there was no file yet. grace_s: how long a previous hour may
    still grow. skipped_holes: holes that the follower skipped, and paths of files whose holes no longer
    count; it appends them, and this removes them.
    """

    def __init__(
        self,
        start_position: Position | None,
        grace_s: float,
        clock: Callable[[], float] = time.monotonic,
        skipped_holes: deque[Hole | str] | None = None,
    ) -> None:
        self._skipped_holes: deque[Hole | str] = deque() if skipped_holes is None else skipped_holes
        self._clock = clock
        self._grace_s = grace_s
        self._file: FileKey | None = (
            (start_position.path, start_position.dev, start_position.ino) if start_position else None
        )
        self._offset = start_position.offset if start_position else 0
        self._start_position = start_position  # until an event replaces it; has fingerprints
        # By path: a copy that replaces a file is the same hour.
        self._previous_hours: dict[str, tuple[int, int, int, float]] = {}  # device, inode, offset, deadline
        for previous in start_position.previous_hours if start_position else ():
            self._previous_hours[previous.path] = (
                previous.dev,
                previous.ino,
                previous.offset,
                clock() + previous.grace_left_s,
            )
        self._holes: list[tuple[Hole, float]] = []  # with deadlines
        for hole in start_position.holes if start_position else ():
            self._holes.append((hole, clock() + hole.grace_left_s))

    def on_file_opened(self, event: FileOpened) -> None:
        """Continue in this file. The one before becomes a previous hour."""
        path = event.file[0]
        if self._file is not None and self._file[0] != path:
            # Expire here too: without a checkpoint, nobody calls `position`.
            self._drop_expired()
            self._previous_hours[self._file[0]] = *self._file[1:], self._offset, self._clock() + self._grace_s
            while len(self._previous_hours) > MAX_PREVIOUS_HOURS:
                del self._previous_hours[next(iter(self._previous_hours))]
        self._previous_hours.pop(path, None)
        self._file, self._offset, self._start_position = event.file, event.end, None

    def _drop_expired(self) -> float:
        """Drop previous hours and holes whose time is over. Return the current time."""
        now = self._clock()
        self._previous_hours = {
            path: previous for path, previous in self._previous_hours.items() if previous[3] > now
        }
        self._collect_holes()
        self._holes = [each for each in self._holes if each[1] > now][-MAX_HOLES:]
        return now

    def _collect_holes(self) -> None:
        while self._skipped_holes:
            hole = self._skipped_holes.popleft()
            if isinstance(hole, str):
                self._holes = [each for each in self._holes if each[0].path != hole]
            else:
                self._holes.append((hole, self._clock() + hole.grace_left_s))

    def on_batch_end(self, event: BatchEnd) -> None:
        """Advance past a batch whose messages are in the clients' queues, or are recorded as missed."""
        file = event.file
        if file is None:
            return
        if not event.late:
            self._file, self._offset, self._start_position = file, event.end, None
            return
        path, dev, ino = file
        self._collect_holes()
        for i, (hole, deadline) in enumerate(self._holes):
            if hole.path == path and hole.offset < event.end <= hole.end:
                self._holes[i] = replace(hole, offset=event.end, tail_fingerprint=""), deadline
                return
        # The last line of a hole may extend beyond its end.
        candidates = [each for each in self._holes if each[0].path == path and each[0].offset <= event.end]
        if path in self._previous_hours and event.end > self._previous_hours[path][2]:
            self._previous_hours[path] = dev, ino, event.end, self._previous_hours[path][3]
        elif candidates:
            self._holes.remove(max(candidates, key=lambda each: each[0].offset))

    def position(self) -> Position | None:
        """Return where the next run resumes; None before the first file.

        The fingerprints of the current file are included only while this is still the start position.
        """
        if self._file is None:
            return None
        now = self._drop_expired()
        path, dev, ino = self._file
        first, before = (
            (self._start_position.head_fingerprint, self._start_position.tail_fingerprint)
            if self._start_position
            else ("", "")
        )
        previous_hours = tuple(
            PreviousHour(path, offset, dev, ino, "", deadline - now)
            for path, (dev, ino, offset, deadline) in self._previous_hours.items()
        )
        holes = tuple(replace(hole, grace_left_s=deadline - now) for hole, deadline in self._holes)
        return Position(path, self._offset, dev, ino, first, before, previous_hours, holes)
