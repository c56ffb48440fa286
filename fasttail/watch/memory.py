"""Watches the memory that the process occupies (RSS): says how it goes, warns of linear growth, asks for a
restart.

Linear growth is what a leak looks like. A burst of clients levels off, a sawtooth comes back, a step stays:
none of them grows at the same pace all along, and that is what is asked of each third of the window here.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

MB = 1024 * 1024  # as `docker stats` counts

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a history tells: `slope` in bytes per second (None while it is too short), over `span` seconds."""

    slope: float | None
    span: float
    growing: bool


class Trend:
    """A sliding window over the history of a size, kept in at most `POINTS` points. No clock: times come with
    the samples.

    The first `warmup_s` seconds are left out: what is loaded and allocated at the start is no trend.
    """

    POINTS = 60
    MIN_GROWTH = 8 * MB  # over the whole window; below it, growth is noise

    def __init__(self, window_s: float = 600.0, warmup_s: float = 120.0) -> None:
        self._window_s = window_s
        self._warmup_s = warmup_s
        self._first: float | None = None
        self._points: deque[tuple[float, int]] = deque()

    def add(self, now: float, size: int) -> None:
        """Takes the sample `size` (bytes) at the time `now` (seconds, never going back)."""
        if self._first is None:
            self._first = now
        if now < self._first + self._warmup_s:
            return
        if self._points and now < self._points[-1][0] + self._window_s / self.POINTS:
            # The least of a moment is nearest to what is really kept; peaks are work in progress.
            start, least = self._points[-1]
            self._points[-1] = (start, min(least, size))
        else:
            self._points.append((now, size))
        while self._points[0][0] < now - self._window_s:
            self._points.popleft()

    def report(self) -> Report:
        """The slope over the window; growing only once the window is full."""
        points = list(self._points)
        count = len(points)
        if count < self.POINTS // 10:
            return Report(None, 0.0, False)
        span = points[-1][0] - points[0][0]
        slope = _theil_sen(points)
        growing = span >= 0.9 * self._window_s and slope * span >= self.MIN_GROWTH
        if growing:
            thirds = (points[: count // 3], points[count // 3 : 2 * count // 3], points[2 * count // 3 :])
            growing = all(_theil_sen(third) >= slope / 3 for third in thirds)
        return Report(slope, span, growing)


def _theil_sen(points: Sequence[tuple[float, int]]) -> float:
    """The median of the slopes between all pairs: up to a quarter of the points may lie anywhere."""
    return statistics.median(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
    )


@dataclass(frozen=True)
class Verdict:
    """What to do now, and why."""

    action: Literal["ok", "warn", "restart"]
    reason: str = ""


def restart_limit(setting_mb: float | None, cgroup_limit: int | None) -> int | None:
    """Bytes of RSS past which to restart: the setting (0: never), else 4/5 of the control group's limit."""
    if setting_mb is not None:
        return int(setting_mb * MB) or None
    return cgroup_limit * 4 // 5 if cgroup_limit is not None else None


def rss() -> int:
    """Bytes of memory this process occupies."""
    return int(psutil.Process().memory_info().rss)


class MemoryWatch:
    """Judges the memory at each `sample`; its owner calls that every few seconds and obeys the verdict.

    Logs one line a minute, and 🚨 when the growth is linear (again every five minutes while it is) or past
    `limit` bytes. `rss` and `slope` (bytes per second, None when not known yet) hold the latest numbers, for
    the metrics.
    """

    LOG_EVERY_S = 60.0
    WARN_EVERY_S = 300.0

    def __init__(
        self,
        limit: int | None,
        *,
        window_s: float = 600.0,
        warmup_s: float = 120.0,
        measure: Callable[[], int] = rss,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rss = measure()
        self.slope: float | None = None
        self._limit = limit
        self._measure = measure
        self._clock = clock
        self._trend = Trend(window_s, warmup_s)
        self._report = Report(None, 0.0, False)
        # The fit costs a millisecond: it is made when the window has a new point, not at each sample.
        self._fit_every_s = window_s / Trend.POINTS
        self._fit_at = self._log_at = clock()
        self._warn_at = float("-inf")
        if limit is not None and self.rss > limit:
            _log.warning(
                "🚨 memory: the limit of %.1f MB is below the %.1f MB occupied at the start: "
                "no restart could help, none will be made",
                limit / MB,
                self.rss / MB,
            )
            self._limit = None

    def sample(self) -> Verdict:
        """Measures, logs what is due, and says what to do."""
        now = self._clock()
        self.rss = self._measure()
        self._trend.add(now, self.rss)
        if now >= self._fit_at:
            self._fit_at = now + self._fit_every_s
            self._report = self._trend.report()
            self.slope = self._report.slope
        if now >= self._log_at:
            self._log_at = now + self.LOG_EVERY_S
            _log.info("memory: %s", self._describe())
        return self._judge(now)

    def _judge(self, now: float) -> Verdict:
        if self._limit is not None and self.rss > self._limit:
            reason = f"RSS {self.rss / MB:.1f} MB is past the limit of {self._limit / MB:.1f} MB"
            _log.warning("🚨 memory: %s", reason)
            return Verdict("restart", reason)
        if not self._report.growing:
            return Verdict("ok")
        reason = f"linear growth: {self._describe()}{self._time_left()}"
        if now >= self._warn_at:
            self._warn_at = now + self.WARN_EVERY_S
            _log.warning("🚨 memory: %s", reason)
        return Verdict("warn", reason)

    def _describe(self) -> str:
        report = self._report
        occupied = f"RSS {self.rss / MB:.1f} MB"
        if report.slope is None:
            return f"{occupied}, slope not known yet"
        length = f"{report.span / 60:.0f} min" if report.span >= 90 else f"{report.span:.0f} s"
        return f"{occupied}, slope {report.slope * 60 / MB:+.2f} MB/min over {length}"

    def _time_left(self) -> str:
        slope = self._report.slope
        if self._limit is None or slope is None or slope <= 0:
            return ""
        minutes = max(self._limit - self.rss, 0) / slope / 60
        return f", the limit of {self._limit / MB:.1f} MB is {minutes:.0f} min away"


class Leak:
    """Leaks, to try the watch out: each `tick` keeps what came due since the one before, all touched."""

    def __init__(self, mb_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes = 0
        self._rate = mb_per_s * MB
        self._clock = clock
        self._start = clock()
        self._kept: list[bytes] = []

    def tick(self) -> None:
        """Leaks what is due by now."""
        due = int((self._clock() - self._start) * self._rate) - self.bytes
        if due > 0:
            self._kept.append(b"\xa5" * due)  # not zeros: those would stay unmapped
            self.bytes += due
