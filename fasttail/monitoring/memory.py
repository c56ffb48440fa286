"""Watches resident memory (RSS) and decides when to warn, shed memory or restart.

sample ─► over the limit? ──► shed ─► still over it at the next sample? ─► restart
      └─► linear growth? ──► warn; limit less than one window away? ─► shed
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import psutil

from fasttail.monitoring.growth import MB, Growth, estimate_growth
from fasttail.monitoring.resources import GrowthReport, ResourceSnapshot

_log = logging.getLogger(__name__)


class Trend:
    """A sliding window over the history of a size, in at most `POINTS` points.

    Times come with the samples. The first `warmup_s` seconds are ignored, because loading and the initial
    allocations are not a trend.
    """

    POINTS = 60

    def __init__(self, window_s: float = 600.0, warmup_s: float = 120.0) -> None:
        self._window_s = window_s
        self._warmup_s = warmup_s
        self._first: float | None = None
        self._points: deque[tuple[float, int]] = deque()

    def add(self, now: float, size: int) -> None:
        """Add a sample of `size` bytes at `now` (monotonic seconds)."""
        if self._first is None:
            self._first = now
        if now < self._first + self._warmup_s:
            return
        if self._points and now < self._points[-1][0] + self._window_s / self.POINTS:
            # Keep the minimum of each interval: peaks are work in progress, not retained memory.
            start, smallest = self._points[-1]
            self._points[-1] = (start, min(smallest, size))
        else:
            self._points.append((now, size))
        while self._points[0][0] < now - self._window_s:
            self._points.popleft()

    def report(self) -> Growth:
        """Estimate the growth; it counts as growing only once the window is nearly full."""
        return estimate_growth(list(self._points), self._window_s)


@dataclass(frozen=True)
class Verdict:
    """The action to take and its reason; `alert` says whether to raise an alert."""

    action: Literal["ok", "warn", "shed", "restart"]
    reason: str = ""
    alert: bool = False


def restart_limit(setting_mb: float | None, cgroup_limit: int | None) -> int | None:
    """Return the RSS in bytes above which to restart, or None for no limit.

    The setting takes precedence (0: no limit), else the limit is 4/5 of the cgroup's.
    """
    if setting_mb is not None:
        return int(setting_mb * MB) or None
    return cgroup_limit * 4 // 5 if cgroup_limit is not None else None


def rss() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(psutil.Process().memory_info().rss)


class MemoryWatch:
    """Judges the memory at each `sample`. The owner calls it every few seconds and acts on the verdict.

    Logs one line per minute, and 🚨 while memory grows linearly or exceeds `limit` bytes: every five minutes,
    and at once when the action changes to shed or restart. `take_snapshot` reports what the process holds.
    `pss` is called once a minute on a thread of its own, because it is slow.
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
        pss: Callable[[], int | None] = lambda: None,
        take_snapshot: Callable[[], ResourceSnapshot] = lambda: ResourceSnapshot({}, {}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rss = measure()
        self.pss: int | None = None
        self._pss_thread: threading.Thread | None = None
        self.growth = Growth()
        self.snapshot = take_snapshot()
        self.limit = limit
        self._measure = measure
        self._measure_pss = pss
        self._take_snapshot = take_snapshot
        self._clock = clock
        self._window_s = window_s
        self._trend = Trend(window_s, warmup_s)
        self._growth_report = GrowthReport(Trend.POINTS)
        # The fit takes about a millisecond, so it runs once per new point instead of at each sample.
        self._fit_every_s = window_s / Trend.POINTS
        self._next_fit_at = self._next_log_at = clock()
        self._next_warning_at = self._last_shed_at = float("-inf")
        self._action: str = "ok"
        if limit is not None and self.rss > limit:
            _log.warning(
                "🚨 memory: the limit of %.1f MB is below the %.1f MB in use at startup; "
                "a restart could not help, none will be made",
                limit / MB,
                self.rss / MB,
            )
            self.limit = None

    @property
    def seconds_to_limit(self) -> float | None:
        """Seconds until the limit at the current slope; None without a limit or an upward trend."""
        low, slope = self.growth.low, self.growth.slope
        if self.limit is None or slope is None or low is None or low <= 0:
            return None
        return max(self.limit - self.rss, 0) / slope

    def metrics(self) -> dict[str, float | None]:
        """Return the numbers for `/metrics` and `/health`; None means unknown, or no limit in sight."""
        growth, seconds_left = self.growth, self.seconds_to_limit
        return {
            "rss_bytes": self.rss,
            "pss_bytes": self.pss,
            "limit_bytes": self.limit,
            "slope_bytes_per_second": growth.slope,
            "slope_low_bytes_per_second": growth.low,
            "slope_high_bytes_per_second": growth.high,
            "growth_confidence": growth.confidence,
            "growing": float(growth.growing),
            "left_seconds": seconds_left,
        }

    def sample(self) -> Verdict:
        """Measure memory, log what is due, and return the action to take."""
        now = self._clock()
        self.rss = self._measure()
        self._trend.add(now, self.rss)
        if now >= self._next_fit_at:
            self._next_fit_at = now + self._fit_every_s
            self.growth = self._trend.report()
            self.snapshot = self._take_snapshot()
            self._growth_report.add_snapshot(self.snapshot)
        if now >= self._next_log_at:
            self._next_log_at = now + self.LOG_EVERY_S
            self._start_pss_thread()
            fields = {"rss_mb": round(self.rss / MB, 1)}
            _log.info("memory: %s", self._describe(), extra={"event": "memory", "fields": fields})
        return self._decide(now)

    def _start_pss_thread(self) -> None:
        if (
            self._pss_thread is None or not self._pss_thread.is_alive()
        ):  # the last measurement is still running
            self._pss_thread = threading.Thread(target=self._update_pss, name="fasttail-pss", daemon=True)
            self._pss_thread.start()

    def _update_pss(self) -> None:
        self.pss = self._measure_pss()

    def _decide(self, now: float) -> Verdict:
        over_limit = self.limit is not None and self.rss > self.limit
        if not over_limit and not self.growth.growing:
            self._action = "ok"
            return Verdict("ok")
        if over_limit:
            assert self.limit is not None
            reason = f"RSS {self.rss / MB:.1f} MB exceeds the limit of {self.limit / MB:.1f} MB"
        else:
            reason = f"linear growth: {self._describe()}"
        seconds_left = self.seconds_to_limit
        action: Literal["warn", "shed", "restart"] = "warn"
        if over_limit or (seconds_left is not None and seconds_left <= self._window_s):
            if now >= self._last_shed_at + self._window_s:
                self._last_shed_at = now
                action = "shed"
            elif over_limit:
                action = "restart"
        alert = now >= self._next_warning_at or (action != self._action and action != "warn")
        self._action = action
        if alert:
            self._next_warning_at = now + self.WARN_EVERY_S
            reason += f"; grew most: {self._growth_report.describe()}"
            _log.warning("🚨 memory: %s", reason)
        return Verdict(action, reason, alert)

    def _describe(self) -> str:
        growth = self.growth
        rss_text = f"RSS {self.rss / MB:.1f} MB"
        if growth.slope is None or growth.low is None or growth.high is None:
            return f"{rss_text}, slope not known yet"
        window_text = f"{growth.span / 60:.0f} min" if growth.span >= 90 else f"{growth.span:.0f} s"
        low, slope, high = (each * 60 / MB for each in (growth.low, growth.slope, growth.high))
        seconds_left = self.seconds_to_limit
        limit_text = ""
        if seconds_left is not None and self.limit is not None:
            time_to_limit = (
                f"{seconds_left / 60:.0f} min"
                if seconds_left < 172_800
                else f"{seconds_left / 86_400:.0f} days"
            )
            limit_text = f", the limit of {self.limit / MB:.1f} MB is {time_to_limit} away"
        return (
            f"{rss_text}, slope {slope:+.2f} MB/min over {window_text} "
            f"({low:+.2f} to {high:+.2f}, {growth.confidence:.1%} sure that it grows){limit_text}"
        )
