"""Decides whether the history of a size is linear growth, as of a leak.

    points ─► slopes of all pairs ─► median: the slope (Theil–Sen)
                                 └─► Kendall's S: interval of the slope, confidence in growth
           ─► median slope and minimum of each third: a leak grows in all of them

A burst of clients levels off, a sawtooth falls again and a step stays flat, so none of them grows at the same
rate throughout. The cost is quadratic in the number of points, which is about sixty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MB = 1024 * 1024  # the unit of `docker stats`

MIN_GROWTH = 8 * MB
"""Minimum growth over the whole window; less is noise."""

MIN_POINTS = 6
"""Points below which no slope is estimated."""

_CONFIDENCE_Z = 3.291  # normal quantile of a two-sided 99.9 % interval

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Growth:
    """Result for one history. The estimates are None while the history is too short.

    slope:      bytes per second.
    low, high:  99.9 % confidence interval of `slope`.
    confidence: probability, 0 to 1, that the trend is upward.
    span:       seconds between the first and the last point.
    growing:    whether the history counts as linear growth.

    The interval and the confidence assume independent points. Memory samples are correlated, so the true
    interval is wider; growth therefore requires `low` > 0 but is not concluded from it alone.
    """

    slope: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    span: float = 0.0
    growing: bool = False


def estimate_growth(points: Points, window_s: float, min_growth: float = MIN_GROWTH) -> Growth:
    """Estimate the growth over a sliding window of `window_s` seconds.

    points:     (time in seconds, size in bytes), oldest first. Other units work for both axes.
    min_growth: growth over the whole window below which the history does not count as growing.
    """
    count = len(points)
    if count < MIN_POINTS:
        return Growth()
    slopes = _slopes(points)
    slope = median(slopes)
    # Kendall's S: increasing pairs minus decreasing pairs. The deviation is that of the no-trend hypothesis
    # without ties; ties would make it smaller, so ignoring them errs on the side of no alert.
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    s = sum(each > 0 for each in slopes) - sum(each < 0 for each in slopes)
    confidence = 0.5 * (1 + math.erf(s / deviation / math.sqrt(2)))
    # Sen's interval: this many ranks around the median.
    rank_interval = _CONFIDENCE_Z * deviation
    low = slopes[max(0, math.floor((len(slopes) - rank_interval) / 2))]
    high = slopes[min(len(slopes) - 1, math.ceil((len(slopes) + rank_interval) / 2))]
    span = points[-1][0] - points[0][0]
    growing = span >= 0.9 * window_s and slope * span >= min_growth and low > 0
    if growing:
        thirds = (points[: count // 3], points[count // 3 : 2 * count // 3], points[2 * count // 3 :])
        growing = all(median(_slopes(third)) >= slope / 3 for third in thirds)
        # The minima of a sawtooth do not rise, wherever the window begins.
        minima = [min(size for _, size in third) for third in thirds]
        min_rise = slope * span / 9
        growing = growing and minima[1] - minima[0] >= min_rise and minima[2] - minima[1] >= min_rise
    return Growth(slope, low, high, confidence, span, growing)


def _slopes(points: Points) -> list[float]:
    """Return the slopes of all pairs, in ascending order."""
    return sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
    )


def median(ordered: Sequence[float]) -> float:
    """Return the median of sorted numbers. Importing `statistics` would slow down the start."""
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
