"""The thread that writes the log, and its bounded queue.

Logging must never wait for the reader of the log. `put` only queues an item, or counts it as dropped if the
queue is full; one daemon thread writes. If the output does not accept data (a full pipe or disk, a closed
reader), the thread retries until it recovers. After a loss, a log line reports how many lines were dropped.

Lines are lost if they are put while the queue is full, or if `stop` times out before they are written.
"""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections.abc import Callable

from fasttail.monitoring.rate_limit import RateLimit

# POSIX: a write of up to PIPE_BUF bytes to a pipe is atomic. It does not block once poll reports space, and
# neither another writer of the pipe nor the end of the process can tear a line.
_MAX_ATOMIC_WRITE = select.PIPE_BUF
_RETRY_S = 0.2
_BUSY_S = 0.01
_REPORT_S = 1.0


class LogWriter:
    """Writes items (whole lines, as bytes) to `fd` in order. Thread-safe.

    The queue holds `capacity` items and `max_bytes` bytes. Ordinary items may use nine tenths of both; items
    put with `reserve=True` may use all of it.

    format_dropped: returns the line that reports a number of dropped lines.
    dropped:        lines lost.
    write_errors:   failed writes.
    """

    def __init__(
        self,
        fd: int,
        format_dropped: Callable[[int], bytes],
        *,
        capacity: int = 10_000,
        max_bytes: int = 8 << 20,
    ) -> None:
        self.dropped = 0
        self.write_errors = 0
        self._fd = fd
        self._format_dropped = format_dropped
        self._capacity = max(capacity, 1)
        self._max_bytes = max_bytes
        # A signal handler or a finalizer may log while its own thread is in `put`, so the queue and the lock
        # must be reentrant.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._changed = threading.Condition(threading.RLock())
        self._items = 0  # queued or being written
        self._bytes = 0
        self._lines = 0
        self._deadline: float | None = None  # set by stop: when to give up
        self._reported = 0
        self._reports = RateLimit(_REPORT_S)
        self._thread = threading.Thread(target=self._run, name="fasttail-log", daemon=True)
        self._thread.start()

    def put(self, data: bytes, *, reserve: bool = False) -> bool:
        """Queue one or more complete lines. Return False if there is no space. Never waits."""
        lines = data.count(b"\n")
        fraction = 1.0 if reserve else 0.9
        with self._changed:
            if (
                self._deadline is not None
                or self._items + 1 > max(self._capacity * fraction, 1)
                or self._bytes + len(data) > self._max_bytes * fraction
            ):
                self.dropped += lines
                return False
            self._items += 1
            self._bytes += len(data)
            self._lines += lines
            self._queue.put(data)
        return True

    @property
    def queued_bytes(self) -> int:
        return self._bytes

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until everything queued is written. Return False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._items == 0, timeout)

    def stop(self, timeout: float = 1.0) -> bool:
        """Reject new items, write for about `timeout` seconds, then stop. Return True if nothing was left."""
        with self._changed:
            first = self._deadline is None
            if first:
                self._deadline = time.monotonic() + timeout
        if first:
            self._queue.put(None)
        self._thread.join(timeout + 2 * _RETRY_S)
        with self._changed:
            unwritten = self._lines
            self.dropped += unwritten
            self._lines = 0
        return unwritten == 0

    # The methods below run on the writer thread only.

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if not self._write(item):
                return
            with self._changed:
                self._items -= 1
                self._bytes -= len(item)
                self._lines -= item.count(b"\n")
                self._changed.notify_all()
            self._report()
        self._report(last=True)

    def _write(self, data: bytes) -> bool:
        """Write `data`, retrying as needed. Return False once the deadline of `stop` has passed."""
        writable = select.poll()
        writable.register(self._fd, select.POLLOUT)
        while data and not self._deadline_passed():
            try:
                # poll also reports a broken output, and the write then raises its error.
                if writable.poll(_RETRY_S * 1000):
                    data = data[os.write(self._fd, _atomic_prefix(data)) :]
            except BlockingIOError:
                time.sleep(_BUSY_S)
            except OSError:
                self.write_errors += 1
                time.sleep(_RETRY_S)
        return not data

    def _report(self, last: bool = False) -> None:
        dropped = self.dropped
        if dropped > self._reported and (last or self._reports.ready()):
            self._write(self._format_dropped(dropped - self._reported))
            self._reported = dropped

    def _deadline_passed(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline


def _atomic_prefix(data: bytes) -> bytes:
    """Return as many whole lines as fit in one atomic write, or part of the first line if it is longer."""
    if len(data) <= _MAX_ATOMIC_WRITE:
        return data
    end = data.rfind(b"\n", 0, _MAX_ATOMIC_WRITE) + 1
    return data[: end or _MAX_ATOMIC_WRITE]
