"""The thread that writes the log, behind a bounded queue.

Whoever logs must never wait for whoever reads the log. `put` therefore only takes a place in a queue, or
counts what found none; one daemon thread of its own writes. When the output does not take the bytes (a pipe
nobody reads, a full disk, a reader that left), that thread tries again until the output recovers, and
meanwhile the queue fills and the rest is counted. Once something was lost, a line in the log says how much.

What can be lost, and when: lines put while the queue is full, and lines not yet written when `stop` runs out
of time.
"""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections.abc import Callable

from fasttail.monitoring.rate_limit import RateLimit

# A write of at most this many bytes (POSIX: PIPE_BUF) goes into a pipe whole or not at all: it does not block
# once poll says that there is room, and a line is not torn by another writer of the same pipe or by the end
# of the process.
_MAX_ATOMIC_WRITE = select.PIPE_BUF
_RETRY_S = 0.2
_BUSY_S = 0.01
_REPORT_S = 1.0


class LogWriter:
    """Writes items (whole lines, as bytes) to `fd`, in order.

    The queue holds `capacity` items and `max_bytes` bytes. Ordinary items may fill nine tenths of it; those
    put with `reserve=True` may use the rest. `dropped` counts lines lost, `write_errors` failed writes. Any
    thread may call any method.

    `format_dropped` makes the line which says that a number of lines was dropped.
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
        # SimpleQueue and the reentrant lock: a signal handler or a finalizer may log while its own thread is
        # in `put`.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._changed = threading.Condition(threading.RLock())
        self._items = 0  # in the queue or being written
        self._bytes = 0
        self._lines = 0
        self._deadline: float | None = None  # set by stop: when to give up
        self._reported = 0
        self._reports = RateLimit(_REPORT_S)
        self._thread = threading.Thread(target=self._run, name="fasttail-log", daemon=True)
        self._thread.start()

    def put(self, data: bytes, *, reserve: bool = False) -> bool:
        """Queues `data`, one or more lines with their newlines; False if there was no place. Never waits."""
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
        """Bytes in the queue."""
        return self._bytes

    def flush(self, timeout: float = 1.0) -> bool:
        """Waits until all that was put is written; False when that took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._items == 0, timeout)

    def stop(self, timeout: float = 1.0) -> bool:
        """Takes no more, writes what it can in about `timeout` seconds, ends. True if nothing was left."""
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

    # Below: the writing thread only.

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
        """Writes `data`, however long the output takes; False if `stop` ran out of time first."""
        writable = select.poll()
        writable.register(self._fd, select.POLLOUT)
        while data and not self._deadline_passed():
            try:
                # A broken output answers too, and the write then says what is wrong with it.
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
    """As many lines from the front as one write takes whole; a part of the first if that is longer."""
    if len(data) <= _MAX_ATOMIC_WRITE:
        return data
    end = data.rfind(b"\n", 0, _MAX_ATOMIC_WRITE) + 1
    return data[: end or _MAX_ATOMIC_WRITE]
