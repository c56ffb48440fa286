"""Which histories are linear growth, and how the memory watch reacts: synthetic and recorded ones.

tests/histories holds the resident memory of `fasttail serve`, once a second for two minutes, under the load
that each file names.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttail.monitoring.growth import MB, estimate_growth
from fasttail.monitoring.memory import MemoryWatch

HISTORIES = Path(__file__).with_name("histories")
WINDOW, WARMUP, LIMIT_MB = 600.0, 120.0, 250
Shape = Callable[[float], float]


def noisy(size: float, mb_per_min: float) -> Shape:
    chance = random.Random(1)
    return lambda t: 80 + t / 60 * mb_per_min + chance.gauss(0, size)


def steps(count: int, every: float, size: float, first: float = 900) -> Shape:
    return lambda t: 80 + size * sum(t > first + i * every for i in range(count))


def ramp(begin: float, seconds: float, size: float) -> Shape:
    return lambda t: 80 + size * min(max((t - begin) / seconds, 0), 1)


# name: (MB as a function of seconds, over two hours; expected outcome)
TABLE: dict[str, tuple[Shape, str]] = {
    "flat": (lambda t: 80, "nothing"),
    "flat, noise of 3 MB": (noisy(3, 0), "nothing"),
    "flat, noise of 20 MB": (noisy(20, 0), "nothing"),
    "growth in the warm-up only": (lambda t: 80 + min(t, 100), "nothing"),
    "one step of 120 MB": (steps(1, 1, 120), "nothing"),
    "two steps": (steps(2, 300, 60), "nothing"),
    "a step every 20 minutes": (steps(4, 1200, 30), "nothing"),
    "a burst of clients, levels off in a minute": (ramp(2000, 60, 120), "nothing"),
    "a burst of clients, levels off in five minutes": (ramp(2000, 300, 120), "nothing"),
    "bursts that come and go": (lambda t: 80 + (100 if t % 900 < 200 else 0), "nothing"),
    "sawtooth of a minute": (lambda t: 80 + t % 60, "nothing"),
    "sawtooth of five minutes": (lambda t: 80 + t % 300 / 3, "nothing"),
    "rise and fall of a day": (lambda t: 150 + 70 * math.sin(t / 86_400 * 2 * math.pi), "nothing"),
    "peaks that grow over a flat base": (lambda t: 80 + (t / 60 if t % 10 else 0), "nothing"),
    "shrinking": (lambda t: 240 - t / 60, "nothing"),
    "a leak too slow to tell within the window": (lambda t: 80 + t / 60 * 0.5, "nothing"),
    # While these rise, nothing distinguishes them from a leak. An alert costs nobody anything.
    "caches that fill for hours, ever more slowly": (lambda t: 80 + 8 * math.log1p(t / 60), "alert"),
    "sawtooth longer than the window": (lambda t: 80 + t % 1800 / 20, "alert"),
    "a leak that will not reach the limit in time": (lambda t: 80 + t / 60, "alert"),
    "a leak that stops": (lambda t: 80 + min(t, 3600) / 60 * 2, "alert"),
    "a leak": (lambda t: 80 + t / 60 * 2, "restart"),
    "a leak, noise of 1 MB": (noisy(1, 3), "restart"),
    "a leak under a sawtooth": (lambda t: 80 + t / 60 * 3 + t % 45 / 3, "restart"),
    "a leak with outliers": (lambda t: 80 + t / 60 * 3 + (100 if int(t) % 100 == 0 else 0), "restart"),
    "a leak in small stairs": (lambda t: 80 + t // 40 * 2, "restart"),
    "a leak that begins after an hour": (lambda t: 80 + max(t - 3600, 0) / 60 * 4, "restart"),
    # No growth in the window, but no memory left either.
    "a step past the limit": (steps(1, 1, 200), "restart"),
    "a leak of 200 MB a minute": (lambda t: 80 + max(t - 3000, 0) / 60 * 200, "restart"),
}


def outcome(samples: list[tuple[float, float]], window: float, warmup: float, limit_mb: float) -> list[str]:
    """Return the watch's distinct actions on (seconds, MB) samples, in order of first occurrence."""
    now, size = samples[0]
    watch = MemoryWatch(
        int(limit_mb * MB),
        window_s=window,
        warmup_s=warmup,
        measure=lambda: int(size * MB),
        clock=lambda: now,
    )
    seen: list[str] = []
    for now, size in samples:  # noqa: B007 (read by the watch)
        action = watch.sample().action
        if action not in seen:
            seen.append(action)
        if action == "restart":
            break
    return seen


@pytest.mark.parametrize("name", TABLE)
def test_made_up_histories(name: str) -> None:
    shape, expected = TABLE[name]
    times = [5.0 * i for i in range(2 * 3600 // 5)]
    seen = outcome([(1000 + t, shape(t)) for t in times], WINDOW, WARMUP, LIMIT_MB)
    if expected == "nothing":
        assert seen == ["ok"]
    elif expected == "alert":
        assert "warn" in seen
        assert "restart" not in seen
    else:
        assert seen[-2:] == ["shed", "restart"] or seen[-1] == "restart"
        assert seen.index("shed") < seen.index("restart")


REAL = {
    "idle": "nothing",
    "steady": "nothing",
    "hours": "nothing",
    "burst-of-clients": "nothing",
    "catching-up": "nothing",
    "slow-clients-come-and-go": "nothing",
    "leak-in-C": "growth",
    "leak-in-Python": "growth",
}


def test_each_recorded_history_is_judged() -> None:
    assert {path.stem for path in HISTORIES.glob("*.json")} == set(REAL)


@pytest.mark.parametrize("name", REAL)
def test_recorded_histories(name: str) -> None:
    """With a window of a minute and a warm-up of ten seconds, only leaks warn at a limit of 80 MB above the
    start, and restart at a limit they reach.
    """
    recorded = json.loads((HISTORIES / f"{name}.json").read_text())
    samples = [(t, kib / 1024) for t, kib in zip(recorded["seconds"], recorded["rss_kib"], strict=True)]
    assert len(samples) >= 110
    seen = outcome(samples, 60, 10, samples[0][1] + 80)
    assert seen == (["ok"] if REAL[name] == "nothing" else ["ok", "warn"])
    if REAL[name] == "growth":
        assert outcome(samples, 60, 10, samples[0][1] + 40)[-1] == "restart"


def points(shape: Shape, seconds: float = WINDOW, count: int = 60) -> list[tuple[float, float]]:
    return [(i * seconds / count, shape(i * seconds / count) * MB) for i in range(count)]


def test_slope_interval_and_confidence_on_a_line() -> None:
    growth = estimate_growth(points(lambda t: 80 + t / 60 * 2), WINDOW)
    slope = 2 * MB / 60
    assert growth.growing
    for each in (growth.slope, growth.low, growth.high):
        assert each == pytest.approx(slope)
    assert growth.confidence == pytest.approx(1)
    assert growth.span == pytest.approx(590)


def test_a_flat_line_is_half_sure() -> None:
    growth = estimate_growth(points(lambda t: 80), WINDOW)
    assert (growth.slope, growth.low, growth.high, growth.confidence) == (0, 0, 0, 0.5)
    assert estimate_growth(points(lambda t: 80 - t), WINDOW).confidence == pytest.approx(0)


def test_the_interval_holds_the_true_slope_as_often_as_it_says() -> None:
    """With independent noise, the 99.9 % interval contains the true slope in nearly all of 300 histories."""
    chance = random.Random(7)
    missed = 0
    for _ in range(300):
        growth = estimate_growth(points(lambda t: 80 + t / 60 + chance.gauss(0, 2)), WINDOW)
        assert growth.low is not None
        assert growth.high is not None
        missed += not growth.low <= MB / 60 <= growth.high
    assert missed <= 4


def test_too_short_is_nothing() -> None:
    assert estimate_growth(points(lambda t: t)[:5], WINDOW).slope is None
    half = estimate_growth(points(lambda t: 80 + t)[:30], WINDOW)
    assert half.slope == pytest.approx(MB)
    assert not half.growing, "the window is not full"


def test_one_step_is_hardly_ever_growth() -> None:
    """At most 1 % of single steps count as growth, in noise of up to 10 % of the step.

    It cannot be none: noise may rise by chance, before the step and after it.
    """
    chance = random.Random(1)
    growing = 0
    for _ in range(400):
        at, size, noise = chance.uniform(0, 600), 10 ** chance.uniform(0, 4), chance.uniform(0, 0.1)
        sizes = [80 + (size if t * 10 > at else 0) + chance.gauss(0, noise * size) for t in range(60)]
        history = [(t * 10.0, each * MB) for t, each in enumerate(sizes)]
        growing += estimate_growth(history, WINDOW).growing
    assert growing <= 4


@given(period=st.floats(30, 300), phase=st.floats(0, 300), size=st.floats(1, 10_000))
@settings(max_examples=300, deadline=None)
def test_a_sawtooth_of_at_most_half_a_window_is_never_growth(
    period: float, phase: float, size: float
) -> None:
    assert not estimate_growth(points(lambda t: 80 + (t + phase) % period / period * size), WINDOW).growing


@given(at=st.floats(-300, 600), seconds=st.floats(1, 250), size=st.floats(1, 10_000))
@settings(max_examples=200, deadline=None)
def test_a_burst_that_levels_off_is_never_growth(at: float, seconds: float, size: float) -> None:
    assert not estimate_growth(points(ramp(at, seconds, size)), WINDOW).growing


@given(
    mb_per_min=st.floats(1.5, 1000),
    noise=st.floats(0, 0.3),
    every=st.integers(4, 60),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_a_leak_is_growth_whatever_stands_out_of_it(
    mb_per_min: float, noise: float, every: int, seed: int
) -> None:
    """A leak is growth despite noise proportional to it and one outlier in `every` points, of any height."""
    chance = random.Random(seed)

    def shape(t: float) -> float:
        outlier = 5000 * chance.random() if int(t / 10) % every == every - 1 else 0
        return 80 + t / 60 * mb_per_min + chance.gauss(0, noise * mb_per_min) + outlier

    if every >= 10:
        assert estimate_growth(points(shape), WINDOW).growing
    else:  # up to a quarter: the slope holds, but not every third must show it
        slope = estimate_growth(points(shape), WINDOW).slope
        assert slope is not None
        assert slope > 0
