"""Up to where everything has been handed out: what a checkpoint and a restart in place go by.

The reader's own place would not do: between it and the clients stand the ring and the running batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fasttail.pipeline import BatchEnd, FileOpened
from fasttail.tail.follower import MOST_FORMERS, Left, Position

File = tuple[str, int, int]  # path, device, inode


class HandedOut:
    """Moves with the pipeline's notes, as the main thread takes them.

    begin: where the run began, None if there was no file yet. grace_s: how long an hour that was left may
    still grow.
    """

    def __init__(
        self, begin: Position | None, grace_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._file: File | None = (begin.path, begin.dev, begin.ino) if begin else None
        self._end = begin.offset if begin else 0
        self._begin = begin  # until a note says more: its marks are known
        self._formers: dict[File, tuple[int, float]] = {}  # offset, deadline
        for left in begin.formers if begin else ():
            self._formers[left.path, left.dev, left.ino] = left.offset, clock() + left.seconds

    def opened(self, note: FileOpened) -> None:
        """Reading goes on in this file; the one before becomes an hour that was left."""
        if self._file is not None and self._file != note.file:
            self._forget()  # without a checkpoint nobody asks for the position, which forgets them as well
            self._formers[self._file] = self._end, self._clock() + self._grace_s
            while len(self._formers) > MOST_FORMERS:
                del self._formers[next(iter(self._formers))]
        self._formers.pop(note.file, None)
        self._file, self._end, self._begin = note.file, note.end, None

    def _forget(self) -> float:
        """The hours that grow no more. Answers the time."""
        now = self._clock()
        self._formers = {file: left for file, left in self._formers.items() if left[1] > now}
        return now

    def ended(self, note: BatchEnd) -> None:
        """A batch's messages are in each client's queue, or a gap is owed."""
        file = note.file
        if file is None:
            return
        if not note.late:
            self._file, self._end, self._begin = file, note.end, None
        elif file in self._formers:
            self._formers[file] = note.end, self._formers[file][1]

    def position(self) -> Position | None:
        """Where the next run is to go on; None before the first file. Marks are known only where it began."""
        if self._file is None:
            return None
        now = self._forget()
        path, dev, ino = self._file
        first, before = (self._begin.first, self._begin.before) if self._begin else ("", "")
        formers = tuple(
            Left(path, offset, dev, ino, "", deadline - now)
            for (path, dev, ino), (offset, deadline) in self._formers.items()
        )
        return Position(path, self._end, dev, ino, first, before, formers)
