"""Up to where everything has been handed out: what a checkpoint and a restart in place go by.

The reader's own place would not do: between it and the clients stand the ring and the running batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from fasttail.pipeline_events import BatchEnd, FileOpened
from fasttail.tail.position import Hole, Left, Position
from fasttail.tail.previous_hours import MOST_FORMERS, MOST_HOLES

FileKey = tuple[str, int, int]  # path, device, inode


class DeliveredPosition:
    """Moves with the pipeline's notes, as the main thread takes them.

    start_position: where the run began, None if there was no file yet. grace_s: how long an hour that was
    left may still grow. passed: holes that the follower has passed over, and paths of files whose holes count
    no more; it appends them and this takes them out.
    """

    def __init__(
        self,
        start_position: Position | None,
        grace_s: float,
        clock: Callable[[], float] = time.monotonic,
        passed: deque[Hole | str] | None = None,
    ) -> None:
        self._passed: deque[Hole | str] = deque() if passed is None else passed
        self._clock = clock
        self._grace_s = grace_s
        self._file: FileKey | None = (
            (start_position.path, start_position.dev, start_position.ino) if start_position else None
        )
        self._offset = start_position.offset if start_position else 0
        self._start_position = start_position  # until a note says more: its marks are known
        # By path: a copy may take the place of a file, and is the same hour.
        self._formers: dict[str, tuple[int, int, int, float]] = {}  # device, inode, offset, deadline
        for previous in start_position.formers if start_position else ():
            self._formers[previous.path] = (
                previous.dev,
                previous.ino,
                previous.offset,
                clock() + previous.seconds,
            )
        self._holes: list[tuple[Hole, float]] = []  # and deadline
        for hole in start_position.holes if start_position else ():
            self._holes.append((hole, clock() + hole.seconds))

    def on_file_opened(self, event: FileOpened) -> None:
        """Reading goes on in this file; the one before becomes an hour that was left."""
        path = event.file[0]
        if self._file is not None and self._file[0] != path:
            # Without a checkpoint nobody asks for the position, which forgets them as well.
            self._drop_expired()
            self._formers[self._file[0]] = *self._file[1:], self._offset, self._clock() + self._grace_s
            while len(self._formers) > MOST_FORMERS:
                del self._formers[next(iter(self._formers))]
        self._formers.pop(path, None)
        self._file, self._offset, self._start_position = event.file, event.end, None

    def _drop_expired(self) -> float:
        """The hours that grow no more, and the holes that are not filled any more. Answers the time."""
        now = self._clock()
        self._formers = {path: previous for path, previous in self._formers.items() if previous[3] > now}
        self._collect_holes()
        self._holes = [each for each in self._holes if each[1] > now][-MOST_HOLES:]
        return now

    def _collect_holes(self) -> None:
        while self._passed:
            hole = self._passed.popleft()
            if isinstance(hole, str):
                self._holes = [each for each in self._holes if each[0].path != hole]
            else:
                self._holes.append((hole, self._clock() + hole.seconds))

    def on_batch_end(self, event: BatchEnd) -> None:
        """A batch's messages are in each client's queue, or a gap is owed."""
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
                self._holes[i] = replace(hole, offset=event.end, before=""), deadline
                return
        # The last line of a hole may reach beyond its end.
        candidates = [each for each in self._holes if each[0].path == path and each[0].offset <= event.end]
        if path in self._formers and event.end > self._formers[path][2]:
            self._formers[path] = dev, ino, event.end, self._formers[path][3]
        elif candidates:
            self._holes.remove(max(candidates, key=lambda each: each[0].offset))

    def position(self) -> Position | None:
        """Where the next run is to go on; None before the first file. Marks are known only where it began."""
        if self._file is None:
            return None
        now = self._drop_expired()
        path, dev, ino = self._file
        first, before = (
            (self._start_position.first, self._start_position.before) if self._start_position else ("", "")
        )
        formers = tuple(
            Left(path, offset, dev, ino, "", deadline - now)
            for path, (dev, ino, offset, deadline) in self._formers.items()
        )
        holes = tuple(replace(hole, seconds=deadline - now) for hole, deadline in self._holes)
        return Position(path, self._offset, dev, ino, first, before, formers, holes)
