"""Durations in buckets: bounds, clocks that differ, and the guarantees of `snapshot`."""

from __future__ import annotations

import itertools
import json
import math
import re
import threading
import time
from pathlib import Path

import pytest
from lines import envelope, event, plain
from running import hour_file, serve, wait_for

from fasttail.engine.histogram import Histogram

BOUNDS = [bound for bound, _ in Histogram().snapshot()[0]]
NS = 1_000_000_000


def counts(histogram: Histogram) -> list[int]:
    """Return the count of each bucket, not cumulative."""
    cumulative = [count for _, count in histogram.snapshot()[0]]
    return [now - before for before, now in itertools.pairwise([0, *cumulative])]


def test_bounds_rise_from_a_tenth_of_a_millisecond_to_half_a_minute() -> None:
    assert BOUNDS[0] == 0.0001
    assert BOUNDS[-2:] == [30, math.inf]
    assert sorted(set(BOUNDS)) == BOUNDS


def test_bounds_are_documented() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "operations.md").read_text()
    found = re.search(r"Buckets of all histograms, in seconds: ([\d.,\s]+)\.\n", text)
    assert found is not None
    assert [float(each) for each in found[1].split(",")] == BOUNDS[:-1]


@pytest.mark.parametrize("place", range(len(BOUNDS) - 1))
def test_a_bound_belongs_to_its_bucket(place: int) -> None:
    bound = round(BOUNDS[place] * NS)
    for ns, expected in ((bound - 1, place), (bound, place), (bound + 1, place + 1)):
        histogram = Histogram()
        histogram.observe(ns)
        assert counts(histogram) == [int(i == expected) for i in range(len(BOUNDS))]
        assert histogram.snapshot()[1] == pytest.approx(ns / NS, rel=1e-12)


@pytest.mark.parametrize("ns", [0, -1, -5 * NS, -(2**63)])
def test_below_zero_counts_as_zero(ns: int) -> None:
    histogram = Histogram()
    histogram.observe(ns)
    assert counts(histogram) == [1] + [0] * (len(BOUNDS) - 1)
    assert histogram.snapshot()[1] == 0


def test_the_longest_time_is_counted() -> None:
    histogram = Histogram()
    histogram.observe(2**63 - 1)
    assert counts(histogram)[-1] == 1


def test_what_is_read_never_contradicts_itself_nor_goes_back() -> None:
    histogram, done = Histogram(), threading.Event()

    def add() -> None:
        for number in range(100_000):
            histogram.observe(number % 40 * NS)
        done.set()

    thread = threading.Thread(target=add)
    thread.start()
    last = [0] * len(BOUNDS)
    while not done.is_set():
        cumulative = [count for _, count in histogram.snapshot()[0]]
        assert cumulative == sorted(cumulative)
        assert all(now >= before for before, now in zip(last, cumulative, strict=True))
        last = cumulative
    thread.join()
    assert histogram.snapshot()[0][-1] == (math.inf, 100_000)


@pytest.mark.plain_build
def test_an_observation_costs_less_than_a_microsecond() -> None:
    """An observation costs less than 1 µs of CPU time, including the clock, in the best of some tries."""
    histogram, observe, clock = Histogram(), Histogram().observe, time.time_ns
    assert histogram.snapshot()[1] == 0

    def once() -> float:
        began = time.thread_time()
        for _ in range(10_000):
            observe(clock() - 1_000)
        return (time.thread_time() - began) / 10_000

    assert min(once() for _ in range(20)) < 1e-6


def test_a_server_counts_each_batch_and_how_late_it_is(tmp_path: Path) -> None:
    """Batches with orders of now, an hour ago and tomorrow are counted in the right buckets."""
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.touch()

    def write(age_s: float) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - age_s))
        with path.open("ab") as file:
            file.write(plain(event(time=f"{when}.000000000")))

    with serve(tmp_path) as server:
        for number, age_s in enumerate((2, 3600, -86400, 3), 1):
            write(age_s)
            server.wait_metric("fasttail_lag_seconds_count", number)
        with path.open("ab") as file:
            file.write(b"no order\n")
        server.wait_metric("fasttail_batch_seconds_count", 5)
        found = {
            bound: int(value)
            for bound, value in re.findall(
                r'^fasttail_lag_seconds_bucket\{le="([^"]+)"\} (\d+)', server.get("/metrics")[1], re.MULTILINE
            )
        }
        assert (found["0.0001"], found["1.0"], found["30.0"], found["+Inf"]) == (1, 1, 3, 4)
        assert 3600 < server.metric("fasttail_lag_seconds_sum") < 3700
        took = server.metric("fasttail_batch_seconds_sum")
        assert 0 < took < 5
        assert wait_for("the counts", lambda: server.metric("fasttail_batches_total") == 5)
        assert server.metric("fasttail_delivery_lag_seconds_count") == 0, "a plain line does not say when"
        assert server.metric("fasttail_start_time_seconds") == pytest.approx(time.time(), abs=120)


def test_the_node_s_lag_is_not_ours(tmp_path: Path) -> None:
    """An old order whose line is written now is late in only one of the two histograms."""

    def stamp(age_s: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - age_s)) + ".000000000"

    path = hour_file(tmp_path, "streaming", "20260505", 9)
    path.touch()
    with serve(tmp_path) as server:
        for number, written_s in enumerate((2, 600), 1):
            with path.open("ab") as file:
                file.write(envelope([event(time=stamp(3600))], local_time=stamp(written_s)))
            server.wait_metric("fasttail_delivery_lag_seconds_count", number)
            health = json.loads(server.get("/health")[1])
            assert 3600_000 <= health["lagMs"] < 3700_000
        assert server.metric("fasttail_lag_seconds_count") == 2
        assert 2 * 3600 <= server.metric("fasttail_lag_seconds_sum") < 2 * 3700
        assert 602 <= server.metric("fasttail_delivery_lag_seconds_sum") < 802
        assert 0 <= health["deliveryLagMs"] < 800_000
