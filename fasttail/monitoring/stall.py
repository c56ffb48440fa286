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

NS_PER_S = 1_000_000_000

TAIL_BYTES = 64 << 10
"""Bytes at the end of the node's file in which a newline is looked for."""

PROBE_THREAD = "fasttail-look"
"""The name of the thread that looks ahead, while it does."""

Stats = Callable[[], Mapping[str, Any]]
ProgressKey = tuple[Any, ...]


class _UnreadLines(NamedTuple):
    """Bytes with a whole line that lay ahead of a place at a time."""

    progress: ProgressKey
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
        self._batch_limit_s = max(batch_timeout_s, stall_after_s)
        self._clock = clock
        self._started_ns = clock()
        self._last_progress: ProgressKey = ()
        self._unread: _UnreadLines | None = None
        self._probe_thread: threading.Thread | None = None
        self._suspected_key: ProgressKey = ()

    def sample(self) -> str | None:
        """Never waits, whatever the node's file system does."""
        reason, key = self._diagnose()
        previous, self._suspected_key = self._suspected_key, key if reason is not None else ()
        return reason if previous == key else None

    def _diagnose(self) -> tuple[str | None, ProgressKey]:
        """Why it seems to be stalled, and what will have changed when it is not."""
        stats = self._stats()
        now = self._clock()
        batch_started_ns, last_loop_ns = stats["in_batch_ns"], stats["loop_ns"] or self._started_ns
        # Oversize lines are passed over without a batch, truncations bring it back: both are progress. A file
        # that cannot be read is opened again and again: no restart would help there.
        progress = (
            stats["file"],
            stats["offset"],
            stats["identity"],
            stats["batch_number"],
            stats["oversize_lines"],
            stats["read_errors"],
        )
        if batch_started_ns:
            age = (now - batch_started_ns) / NS_PER_S
            return (f"a batch has run for {age:.1f} s" if age > self._batch_limit_s else None), (
                batch_started_ns,
                *progress,
            )
        idle_s = (now - last_loop_ns) / NS_PER_S
        if idle_s > self._stall_after_s:
            return f"the pipeline has made no progress for {idle_s:.1f} s", (last_loop_ns, *progress)
        if progress != self._last_progress:
            self._last_progress, self._unread = progress, None
            return None, progress
        unread = self._unread
        if unread is not None and unread.progress == progress:
            unread_for_s = (now - unread.since_ns) / NS_PER_S
            if unread_for_s > self._stall_after_s:
                return (
                    f"{unread.size} bytes of complete lines have been unread for {unread_for_s:.1f} s",
                    progress,
                )
        elif stats["file"] and (self._probe_thread is None or not self._probe_thread.is_alive()):
            # A file system that hangs must not hang the main thread, too.
            self._probe_thread = threading.Thread(
                target=self._probe_unread_lines, args=(progress, now), name=PROBE_THREAD, daemon=True
            )
            self._probe_thread.start()
        return None, progress

    def _probe_unread_lines(self, progress: ProgressKey, now: int) -> None:
        size = unread_lines(progress[0], progress[1], progress[2])
        if size:
            self._unread = _UnreadLines(progress, now, size)


def unread_lines(path: str, offset: int, identity: tuple[int, int] | None = None) -> int:
    """Bytes of the file behind `offset`, if a line's end is among the last `TAIL_BYTES` of them; else 0.

    A line without its end is no work to be done yet; nor is a file that cannot be read, or that is not the
    one (device, inode) which is read: others tell of that.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if identity is not None and (status.st_dev, status.st_ino) != identity:
                return 0
            size = status.st_size
            tail = os.pread(file.fileno(), TAIL_BYTES, max(offset, size - TAIL_BYTES))
    except OSError:
        return 0
    return size - offset if size > offset and b"\n" in tail else 0
