"""Detects a stalled pipeline.

in a batch ─► for longer than both limits ─────────────────────────────────► stall
between    ─► no loop iteration for `stall_after_s` ───────────────────────► stall
looping    ─► same position for `stall_after_s`, with a complete line ahead ─► stall
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

NS_PER_S = 1_000_000_000

TAIL_BYTES = 64 << 10
"""Bytes at the end of the node's file that are searched for a newline."""

PROBE_THREAD = "fasttail-look"
"""Name of the thread that checks for unread lines."""

Stats = Callable[[], Mapping[str, Any]]
ProgressKey = tuple[Any, ...]


class _UnreadLines(NamedTuple):
    """Bytes that include a complete line and were found ahead of a position."""

    progress: ProgressKey
    since_ns: int
    size: int


class StallWatch:
    """`sample`, called every few seconds, returns why the pipeline counts as stalled, or None.

    stats:           the pipeline's statistics.
    stall_after_s:   longest time without a loop iteration, or at one position with lines to read.
    batch_timeout_s: longest duration of a batch, if more than `stall_after_s`.
    clock:           the monotonic clock of `stats`.

    Two consecutive samples must find the same stall: if the process itself was suspended (SIGSTOP, a paused
    container), everything seems late at the first sample after it.
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
        """Return the reason for a stall. Never blocks, whatever the node's file system does."""
        reason, key = self._diagnose()
        previous, self._suspected_key = self._suspected_key, key if reason is not None else ()
        return reason if previous == key else None

    def _diagnose(self) -> tuple[str | None, ProgressKey]:
        """Return the apparent reason for a stall, and a key that changes with any progress."""
        stats = self._stats()
        now = self._clock()
        batch_started_ns, last_loop_ns = stats["in_batch_ns"], stats["loop_ns"] or self._started_ns
        # Oversize lines are skipped without a batch, and a truncation moves the position back; both are
        # progress. So are read errors: an unreadable file is reopened repeatedly, and a restart would not
        # help.
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
            # Use a thread, so that a hanging file system cannot block the main thread.
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
    """Return the bytes after `offset` if a newline is among the last `TAIL_BYTES` of them, else 0.

    A partial line is not pending work. Files that cannot be read, or whose (device, inode) is not `identity`,
    also return 0, because they are reported elsewhere.
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
