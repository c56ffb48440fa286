"""Up to where everything has been handed out: what a checkpoint and a restart in place go by.

The reader's own place would not do: between it and the clients stand the ring and the running batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from fasttail.pipeline import BatchEnd, FileOpened
from fasttail.tail.follower import Left, Position


class Place:
    """Moves with the pipeline's notes, as the main thread takes them.

    begin: where the run began, None if there was no file yet. grace_s: how long an hour that was left may
    still grow.
    """

    def __init__(
        self, begin: Position | None, grace_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._current = begin and replace(begin, formers=())
        self._formers: dict[tuple[str, int, int], tuple[int, float]] = {}  # offset, deadline
        for left in begin.formers if begin else ():
            self._formers[left.path, left.dev, left.ino] = left.offset, clock() + left.seconds

    def opened(self, note: FileOpened) -> None:
        """Reading goes on in this file; the one before becomes an hour that was left."""
        path, dev, ino = note.file
        if (left := self._current) is not None and (left.path, left.dev, left.ino) != note.file:
            self._formers[left.path, left.dev, left.ino] = left.offset, self._clock() + self._grace_s
        self._formers.pop(note.file, None)
        self._current = Position(path, note.end, dev, ino)

    def ended(self, note: BatchEnd) -> None:
        """A batch's messages are in each client's queue, or a gap is owed."""
        if note.file is None:
            return
        if not note.late:
            path, dev, ino = note.file
            self._current = Position(path, note.end, dev, ino)
        elif note.file in self._formers:
            self._formers[note.file] = note.end, self._formers[note.file][1]

    def position(self) -> Position | None:
        """Where the next run is to go on; None before the first file. Its marks are not known yet."""
        if self._current is None:
            return None
        now = self._clock()
        self._formers = {file: left for file, left in self._formers.items() if left[1] > now}
        return replace(
            self._current,
            formers=tuple(
                Left(path, offset, dev, ino, "", deadline - now)
                for (path, dev, ino), (offset, deadline) in self._formers.items()
            ),
        )
