"""Counts events at once and logs them at intervals: rejected lines, anomalies, batch summaries."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from fasttail.monitoring.batch_log import BatchLog
from fasttail.monitoring.log import extra
from fasttail.monitoring.rate_limit import RateLimit

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 60.0
"""Minimum interval between two lines of the same kind."""

ANOMALIES = {
    "oversize_lines": "lines longer than max_line skipped",
    "nul_bytes": "NUL bytes skipped",
    "height_regressions": "block number regressions (the node replayed blocks)",
    "late_lines": "late lines delivered, after their hour had ended",
    "oversize_orders": "orders not sent because they exceed the maximum message size",
    "inotify_overflows": "inotify queue overflows, each followed by a rescan",
}


class RateLimitedLog:
    """A log line that others can trigger at will, such as clients in a reconnect loop.

    The first one is written at once. Further ones within LOG_INTERVAL_S are only counted, and the next line
    that is written reports how many.
    """

    def __init__(self, log: logging.Logger, level: int, text: str) -> None:
        self._log = log
        self._level = level
        self._text = text
        self._suppressed = 0
        self._limit = RateLimit(LOG_INTERVAL_S)

    def emit(self, *args: object, exc_info: bool = False) -> None:
        """Log the line with `args` for its placeholders if it is due; `exc_info` adds the traceback."""
        if not self._limit.ready():
            self._suppressed += 1
            return
        more = f" ({self._suppressed} similar lines suppressed)" if self._suppressed else ""
        self._log.log(self._level, f"{self._text}%s", *args, more, exc_info=exc_info)
        self._suppressed = 0


class RejectedLines:
    """Counts rejected lines and keeps the position of the first."""

    def __init__(self) -> None:
        self._count = 0
        self._first: tuple[str | None, int, str] | None = None
        self._limit = RateLimit(LOG_INTERVAL_S)

    def record(self, count: int, first: tuple[str | None, int, str] | None) -> None:
        """Add `count` lines; `first` is (path, offset of the line, reason)."""
        self._count += count
        self._first = self._first or first

    def log_pending(self) -> None:
        if self._first is not None and self._limit.ready():
            path, offset, reason = self._first
            log.warning(
                "%d lines rejected; the first in %s at byte %d: %s", self._count, path, offset, reason,
                extra=extra("lines_rejected", lines=self._count, file=path, offset=offset, reason=reason),
            )  # fmt: skip
            self._count, self._first = 0, None


class AnomalyCounters:
    """Logs increases of the counters that should hardly ever change."""

    def __init__(self) -> None:
        self._reported = dict.fromkeys(ANOMALIES, 0)
        self._limit = RateLimit(LOG_INTERVAL_S)

    def log_changes(self, stats: Mapping[str, Any]) -> None:
        increases = {
            name: stats[name] - reported
            for name, reported in self._reported.items()
            if stats[name] > reported
        }
        if increases and self._limit.ready():
            log.warning("%s", ", ".join(f"{count} {ANOMALIES[name]}" for name, count in increases.items()))
            self._reported |= {name: stats[name] for name in increases}


class StreamSummary:
    """Logs once a minute what was read of the streams that the batch log does not show."""

    def __init__(self) -> None:
        self._reported: dict[str, dict[str, int]] = {}
        self._limit = RateLimit(LOG_INTERVAL_S)
        self._limit.ready()  # the first minute begins now

    def log_if_due(self, streams: Mapping[str, Mapping[str, Any]]) -> None:
        if not self._limit.ready():
            return
        for stream, stats in streams.items():
            before = self._reported.get(stream, {})
            now = {key: int(stats[key]) for key in ("lines", "orders", "rejected")}
            self._reported[stream] = now
            lines, events, rejected = (now[key] - before.get(key, 0) for key in now)
            if lines:
                log.info(
                    "stream %s: %d lines, %d events, %d lines rejected in a minute",
                    stream,
                    lines,
                    events,
                    rejected,
                    extra=extra(
                        "stream_summary", stream=stream, lines=lines, events=events, rejected=rejected
                    ),
                )


class BatchSummary:
    """Summarizes the batches of about one second, for `--log-batches summary`."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._since = time.monotonic()
        self._batches = self._lines = self._largest = 0
        self._orders = self._failed = self._sent = self._published = self._clients = 0

    def add_batch(
        self, *, lines: int, orders: int, failed: int, sent: int, published: int, clients: int
    ) -> None:
        """Add one batch; the numbers are those of `BatchLog.end`."""
        self._batches += 1
        self._lines += lines
        self._largest = max(self._largest, lines)
        self._orders += orders
        self._failed += failed
        self._sent += sent
        self._published += published
        self._clients = clients

    def log_if_due(self, batch_log: BatchLog) -> None:
        seconds = time.monotonic() - self._since
        if seconds >= 1.0 and self._batches:
            batch_log.summary(
                seconds, self._batches, self._lines, self._largest, self._orders, self._failed, self._sent,
                self._published, self._clients,
            )  # fmt: skip
            self._clear()
