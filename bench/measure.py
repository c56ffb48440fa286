"""What every benchmark shares: engines timed in turns, answers checked, one table, one JSON file.

Machines drift by a quarter within minutes, so the engines of one run take turns and each keeps its best
round: ratios between rows of one table mean something, figures of two runs side by side mean little.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Answer:
    """What an engine found: how many orders, and a sum for each column it filled."""

    orders: int
    sums: Mapping[str, int | float]


@dataclass(frozen=True)
class Engine:
    name: str
    run: Callable[[], Answer]


class WrongAnswer(Exception):
    """An engine's answer differs from the expected one: its time means nothing, and the run fails."""


def check(name: str, got: Answer, expected: Answer) -> None:
    """Integers must be equal; floats may differ by 1e-9 relative, for the order of additions is free."""
    if got.orders != expected.orders:
        raise WrongAnswer(f"{name}: {got.orders} orders, expected {expected.orders}")
    if got.sums.keys() != expected.sums.keys():
        raise WrongAnswer(f"{name}: sums of {sorted(got.sums)}, expected {sorted(expected.sums)}")
    for column, right in expected.sums.items():
        value = got.sums[column]
        if not (value == right if isinstance(right, int) else math.isclose(value, right, rel_tol=1e-9)):
            raise WrongAnswer(f"{name}: the sum of {column} is {value!r}, expected {right!r}")


def take_turns(engines: Sequence[Engine], expected: Answer, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, by engine. Every answer is checked, outside the time taken."""
    seconds: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            gc.collect()
            gc.disable()
            try:
                begin = time.perf_counter()
                answer = engine.run()
                seconds[engine.name].append(time.perf_counter() - begin)
            finally:
                gc.enable()
            check(engine.name, answer, expected)
    return seconds


@dataclass(frozen=True)
class Row:
    engine: str
    seconds: list[float]  # every round, as taken
    best: float
    median: float
    gb_per_s: float
    orders_per_s: float
    ratio: float  # how many times as fast as the base engine, best against best


@dataclass(frozen=True)
class Report:
    benchmark: str
    title: str
    base: str
    rows: list[Row]
    settings: dict[str, Any]
    expected: Answer
    machine: dict[str, Any] = field(default_factory=lambda: machine())

    @classmethod
    def of(
        cls,
        benchmark: str,
        title: str,
        seconds: Mapping[str, Sequence[float]],
        *,
        base: str,
        size: int,
        expected: Answer,
        settings: dict[str, Any],
    ) -> Report:
        """Rows from the rounds: `size` is the bytes that every engine went through in one round."""
        rows = [
            Row(
                engine=name,
                seconds=list(times),
                best=min(times),
                median=statistics.median(times),
                gb_per_s=size / min(times) / 1e9,
                orders_per_s=expected.orders / min(times),
                ratio=min(seconds[base]) / min(times),
            )
            for name, times in seconds.items()
        ]
        return cls(benchmark, title, base, rows, settings, expected)

    def table(self) -> str:
        width = max(len(row.engine) for row in self.rows)
        heads = f"{'best s':>8}  {'median s':>8}  {'GB/s':>7}  {'M orders/s':>10}  x {self.base}"
        lines = [self.title, f"{'engine':{width}}  {heads}"]
        lines += [
            f"{row.engine:{width}}  {row.best:8.4f}  {row.median:8.4f}  {row.gb_per_s:7.3f}  "
            f"{row.orders_per_s / 1e6:10.3f}  {row.ratio:.2f}"
            for row in self.rows
        ]
        lines.append(f"answers checked: {self.expected.orders} orders, sums {dict(self.expected.sums)}")
        return "\n".join(lines)

    def write(self, folder: Path) -> Path:
        return write_json(self.benchmark, asdict(self), folder)


class Result(Protocol):
    """What a benchmark gives: a table for the reader, and a file for the record."""

    def table(self) -> str: ...
    def write(self, folder: Path) -> Path: ...


def write_json(benchmark: str, content: Mapping[str, Any], folder: Path) -> Path:
    """A dated file of its own for each run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{benchmark}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


@dataclass(frozen=True)
class Benchmark:
    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Result]


def machine() -> dict[str, Any]:
    """What a reader of the figures needs to know about where they were taken."""
    from fasttail._build_info import COMMIT, VERSION

    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "cpu": cpu,
        "usable_cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),  # other work on the machine shows here
        "kernel": platform.release(),
        "python": platform.python_version(),
        "fasttail": VERSION,
        "commit": COMMIT,
    }
