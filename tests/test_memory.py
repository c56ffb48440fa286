"""The memory watch: which histories are linear growth, what it logs, and a real leak."""

from __future__ import annotations

import logging
import random
import subprocess
import threading
from collections.abc import Callable

import pytest
from running import program, wait_for

from fasttail.monitoring import memory
from fasttail.monitoring.growth import MB
from fasttail.monitoring.memory import MemoryWatch, Trend, Verdict, restart_limit

WINDOW = 600.0


def noisy(size: float, mb_per_min: float) -> Callable[[float], float]:
    generator = random.Random(1)
    return lambda t: 80 + t / 60 * mb_per_min + generator.gauss(0, size)


def history(
    shape: Callable[[float], float], seconds: float = 1800, warmup: float = 120, every: float = 5
) -> Trend:
    """Return a trend fed with `shape`, which maps seconds since the start to MB."""
    trend = Trend(WINDOW, warmup)
    for step in range(int(seconds / every)):
        trend.add(1000 + step * every, int(shape(step * every) * MB))
    return trend


SHAPES: dict[str, tuple[Callable[[float], float], bool]] = {
    "flat": (lambda t: 80, False),
    "flat, noisy": (noisy(3, 0), False),
    "leak": (lambda t: 80 + t / 60 * 2, True),
    "leak, noisy": (noisy(1, 3), True),
    "leak under a sawtooth": (lambda t: 80 + t / 60 * 3 + t % 45 / 3, True),
    "leak with outliers": (lambda t: 80 + t / 60 * 3 + (500 if int(t) % 100 == 0 else 0), True),
    "leak in stairs": (lambda t: 80 + t // 40 * 4, True),
    "leak too slow to tell": (lambda t: 80 + t / 60 * 0.5, False),
    "peaks that grow over a flat base": (lambda t: 80 + (t / 60 * 3 if t % 10 else 0), False),
    "sawtooth": (lambda t: 80 + t % 300 / 3, False),
    "one step": (lambda t: 80 if t < 1500 else 200, False),
    "two steps": (lambda t: 80 + 60 * (t > 1350) + 60 * (t > 1600), False),
    "burst that levels off": (lambda t: 80 + min(max(t - 1200, 0), 200) * 0.5, False),
    "growth at the start only": (lambda t: 80 + min(t, 100), False),
    "shrinking": (lambda t: 300 - t / 60 * 3, False),
}


@pytest.mark.parametrize("name", SHAPES)
def test_which_histories_are_linear_growth(name: str) -> None:
    shape, growing = SHAPES[name]
    assert history(shape).report().growing is growing


def test_slope_is_exact_on_a_line() -> None:
    report = history(lambda t: 80 + t / 60 * 2).report()
    assert report.slope == pytest.approx(2 * MB / 60, rel=0.01)
    assert report.span == pytest.approx(WINDOW, abs=20)


def test_a_burst_hardly_moves_the_slope() -> None:
    report = history(lambda t: 80 + t / 60 * 2 + (500 if t > 1740 else 0)).report()
    assert report.slope == pytest.approx(2 * MB / 60, rel=0.3)


def test_nothing_is_said_before_there_is_a_history() -> None:
    assert history(lambda t: 80 + t, seconds=120).report().slope is None  # warming up
    early = history(lambda t: 80 + t, seconds=400).report()
    assert early.slope is not None
    assert not early.growing, "the window is not full yet"
    assert history(lambda t: 80 + t, seconds=750).report().growing


def test_the_window_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    monkeypatch.setattr(memory, "estimate_growth", lambda points, window_s: judged.append(len(points)))
    history(lambda t: 80, seconds=100_000, every=0.5).report()
    assert 0 < judged[0] <= Trend.POINTS + 1


@pytest.mark.parametrize(
    ("setting", "group", "limit"),
    [(None, None, None), (None, 1000, 800), (0, 1000, None), (1, 1000, MB), (0.5, None, MB // 2)],
)
def test_limit(setting: float | None, group: int | None, limit: int | None) -> None:
    assert restart_limit(setting, group) == limit


def test_a_slow_answer_to_pss_holds_nobody_up() -> None:
    """The event loop does not wait for PSS, which the kernel may be slow to report."""
    answer = threading.Event()

    def pss() -> int:
        assert answer.wait(120)
        return 12345

    now = iter(range(0, 100_000, 100))
    watch = MemoryWatch(None, measure=lambda: MB, pss=pss, clock=lambda: next(now))
    threads = threading.active_count()
    for _ in range(5):
        watch.sample()
        assert watch.metrics()["pss_bytes"] is None
    assert threading.active_count() == threads + 1, "one question at a time"
    answer.set()
    wait_for("the answer", lambda: watch.metrics()["pss_bytes"] == 12345)


class Process:
    """A process whose clock and memory the test controls."""

    def __init__(self, size_mb: float = 80) -> None:
        self.now = 5000.0
        self.size_mb = size_mb

    def watch(self, limit_mb: float | None = None) -> MemoryWatch:
        limit = None if limit_mb is None else int(limit_mb * MB)
        return MemoryWatch(limit, measure=lambda: int(self.size_mb * MB), clock=lambda: self.now)

    def run(self, watch: MemoryWatch, seconds: float, mb_per_min: float = 0) -> list[Verdict]:
        verdicts = []
        for _ in range(int(seconds / 5)):
            self.now += 5
            self.size_mb += mb_per_min / 12
            verdicts.append(watch.sample())
        return verdicts


def messages(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


def test_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    process = Process(84.06)
    watch = process.watch()
    assert {verdict.action for verdict in process.run(watch, 1200)} == {"ok"}
    lines = messages(caplog, "memory: ")
    assert len(lines) == 20
    assert lines[0] == "memory: RSS 84.1 MB, slope not known yet"
    assert lines[-1] == (
        "memory: RSS 84.1 MB, slope +0.00 MB/min over 10 min (+0.00 to +0.00, 50.0% sure that it grows)"
    )
    assert watch.growth.slope == 0
    assert watch.seconds_to_limit is None
    assert not messages(caplog, "🚨")


def test_growth_warns_and_says_how_long_it_can_last(caplog: pytest.LogCaptureFixture) -> None:
    process = Process()
    watch = process.watch(limit_mb=400)
    verdicts = process.run(watch, 1500, mb_per_min=6)
    actions = [verdict.action for verdict in verdicts]
    assert actions[:120] == ["ok"] * 120
    assert set(actions[-100:]) == {"warn"}
    assert 2 <= sum(verdict.alert for verdict in verdicts) <= 4
    lines = messages(caplog, "🚨")
    assert lines[0].startswith("🚨 memory: linear growth: RSS ")
    assert "slope +6.00 MB/min over 9 min (+6.00 to +6.00, 100.0% sure that it grows)" in lines[0]
    assert "the limit of 400.0 MB is 4" in lines[0]
    assert 2 <= len(lines) <= 4, "not at every sample"


def test_past_the_limit_it_asks_for_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    process = Process()
    watch = process.watch(limit_mb=100)
    verdicts = process.run(watch, 60, mb_per_min=24)
    assert [verdict.action for verdict in verdicts] == ["ok"] * 10 + ["shed", "restart"]
    assert verdicts[-1].reason.startswith("RSS 104.0 MB exceeds the limit of 100.0 MB; grew most: ")
    assert messages(caplog, "🚨")[-1] == f"🚨 memory: {verdicts[-1].reason}"


def test_a_limit_that_no_restart_can_reach_is_not_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    process = Process(80)
    watch = process.watch(limit_mb=50)
    assert {verdict.action for verdict in process.run(watch, 60)} == {"ok"}
    (line,) = messages(caplog, "🚨")
    assert "the limit of 50.0 MB is below the 80.0 MB in use at startup" in line


def test_a_real_leak_is_seen_in_the_real_rss() -> None:
    """The leak runs in a separate process, whose RSS other tests do not distort."""
    subprocess.run(program("leak"), check=True)
