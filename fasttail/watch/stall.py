"""Does the pipeline stand still?

in a batch ──► for longer than both limits ─────────────────────────────────► stall
between    ──► did not come by for `stall_after_s` ─────────────────────────► stall
comes by   ──► is where it was `stall_after_s` ago, with a whole line ahead ─► stall
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

NS = 1_000_000_000

TAIL = 64 << 10
"""Bytes at the end of the node's file in which a newline is looked for."""

LOOK = "fasttail-look"
"""The name of the thread that looks ahead, while it does."""

Stats = Callable[[], Mapping[str, Any]]
Mark = tuple[Any, ...]


class _Unread(NamedTuple):
    """Bytes with a whole line that lay ahead of a place at a time."""

    place: Mark
    since_ns: int
    size: int


class StallWatch:
    """`sample`, called every few seconds, says why the pipeline counts as stalled; None while it does not.

    stats: the pipeline's numbers. stall_after_s: how long it may be away, or stay where it is with lines to
    read. batch_timeout_s: a batch may take this long, if that is more. clock: the monotonic one of `stats`.

    Two samples in a row must find the same: if the process itself did not run for a while (SIGSTOP, a paused
    container), the first one after that finds everything late.
    """

    def __init__(
        self,
        stats: Stats,
        *,
        stall_after_s: float,
        batch_timeout_s: float,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._stats = stats
        self._stall_after_s = stall_after_s
        self._batch_s = max(batch_timeout_s, stall_after_s)
        self._clock = clock
        self._started_ns = clock()
        self._place: Mark = ()
        self._unread: _Unread | None = None
        self._look: threading.Thread | None = None
        self._suspect: Mark = ()

    def sample(self) -> str | None:
        """Never waits, whatever the node's file system does."""
        reason, mark = self._find()
        before, self._suspect = self._suspect, mark if reason is not None else ()
        return reason if before == mark else None

    def _find(self) -> tuple[str | None, Mark]:
        """Why it seems to be stalled, and what will have changed when it is not."""
        stats = self._stats()
        now = self._clock()
        began, came_by = stats["in_batch_ns"], stats["loop_ns"] or self._started_ns
        # Oversize lines are passed over without a batch, truncations bring it back: both are progress. A file
        # that cannot be read is opened again and again: no restart would help there.
        place = (
            stats["file"],
            stats["offset"],
            stats["identity"],
            stats["batch_number"],
            stats["oversize_lines"],
            stats["read_errors"],
        )
        if began:
            age = (now - began) / NS
            return (f"a batch has run for {age:.1f} s" if age > self._batch_s else None), (began, *place)
        away = (now - came_by) / NS
        if away > self._stall_after_s:
            return f"the pipeline has made no progress for {away:.1f} s", (came_by, *place)
        if place != self._place:
            self._place, self._unread = place, None
            return None, place
        unread = self._unread
        if unread is not None and unread.place == place:
            stood = (now - unread.since_ns) / NS
            if stood > self._stall_after_s:
                return f"{unread.size} bytes with whole lines have not been read for {stood:.1f} s", place
        elif stats["file"] and (self._look is None or not self._look.is_alive()):
            # A file system that hangs must not hang the main thread, too.
            self._look = threading.Thread(
                target=self._look_ahead, args=(place, now), name=LOOK, daemon=True
            )
            self._look.start()
        return None, place

    def _look_ahead(self, place: Mark, now: int) -> None:
        size = unread_lines(place[0], place[1], place[2])
        if size:
            self._unread = _Unread(place, now, size)


def unread_lines(path: str, offset: int, identity: tuple[int, int] | None = None) -> int:
    """Bytes of the file behind `offset`, if a line's end is among the last `TAIL` of them; else 0.

    A line without its end is no work to be done yet; nor is a file that cannot be read, or that is not the
    one (device, inode) which is read: others tell of that.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if identity is not None and (status.st_dev, status.st_ino) != identity:
                return 0
            size = status.st_size
            tail = os.pread(file.fileno(), TAIL, max(offset, size - TAIL))
    except OSError:
        return 0
    return size - offset if size > offset and b"\n" in tail else 0
