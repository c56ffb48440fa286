"""Is this history of a size linear growth? A pure function of at most some sixty points.

    points ─► slopes of all pairs ─► median: the slope (Theil–Sen)
                                 └─► ranks by Kendall's S: its interval, and how sure "it grows" is
           ─► slope and least size of each third: a leak grows in all of them, and so does what is kept

Linear growth is what a leak looks like. A burst of clients levels off, a sawtooth comes back, a step stays:
none of them grows at the same pace all along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MB = 1024 * 1024  # as `docker stats` counts

MIN_GROWTH = 8 * MB
"""Over the whole window; below it, growth is noise."""

MIN_POINTS = 6
"""Of a history that has a slope at all."""

_CONFIDENCE_Z = 3.291  # of the normal distribution: 99.9 % lie within so many standard deviations

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Growth:
    """What a history tells. All None while it is too short.

    slope:      bytes per second; `low` and `high`: its interval of 99.9 %.
    confidence: 0 to 1, that it goes up rather than down or nowhere.

    Both take the points as independent of each other, which those of a process's memory are not: the interval
    is narrower than it should be. So they are told, and needed for growth, but not enough for it.
    """

    slope: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    span: float = 0.0
    growing: bool = False


def estimate_growth(points: Points, window_s: float, min_growth: float = MIN_GROWTH) -> Growth:
    """Judge (time in seconds, bytes), oldest first, of a sliding window of `window_s` seconds.

    min_growth: growth over the whole window that is none. Other sizes than bytes may be judged by it,
    and along another axis than time.
    """
    count = len(points)
    if count < MIN_POINTS:
        return Growth()
    slopes = _slopes(points)
    slope = median(slopes)
    # Kendall's S: pairs that go up less pairs that go down. Its deviation if there were no trend; ties would
    # make it smaller, so that this errs on the side of no alert.
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    s = sum(each > 0 for each in slopes) - sum(each < 0 for each in slopes)
    confidence = 0.5 * (1 + math.erf(s / deviation / math.sqrt(2)))
    # Sen's interval: so many ranks to both sides of the median.
    rank_interval = _CONFIDENCE_Z * deviation
    low = slopes[max(0, math.floor((len(slopes) - rank_interval) / 2))]
    high = slopes[min(len(slopes) - 1, math.ceil((len(slopes) + rank_interval) / 2))]
    span = points[-1][0] - points[0][0]
    growing = span >= 0.9 * window_s and slope * span >= min_growth and low > 0
    if growing:
        thirds = (points[: count // 3], points[count // 3 : 2 * count // 3], points[2 * count // 3 :])
        growing = all(median(_slopes(third)) >= slope / 3 for third in thirds)
        # What a sawtooth keeps does not rise, wherever the window happens to begin.
        minima = [min(size for _, size in third) for third in thirds]
        min_rise = slope * span / 9
        growing = growing and minima[1] - minima[0] >= min_rise and minima[2] - minima[1] >= min_rise
    return Growth(slope, low, high, confidence, span, growing)


def _slopes(points: Points) -> list[float]:
    """Of all pairs, in ascending order."""
    return sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
    )


def median(ordered: Sequence[float]) -> float:
    """The median of sorted numbers. Importing `statistics` instead would make a start slower."""
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
