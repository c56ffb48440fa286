"""Provides what all benchmarks share: engines timed in turns, checked answers, a table and a JSON file.

Machines drift by a quarter within minutes, so the engines of one run take turns and each keeps its best
round. Ratios between rows of one table are meaningful; comparing absolute figures of two runs is not.
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
    """What an engine found: the number of orders, a sum per filled column, and the rejected lines."""

    orders: int
    sums: Mapping[str, int | float]
    rejected: int = 0


@dataclass(frozen=True)
class Engine:
    """`run` is timed; `finish` turns its result into an answer, untimed."""

    name: str
    run: Callable[[], Any]
    finish: Callable[[Any], Answer] = lambda answer: answer


class WrongAnswer(Exception):
    """An engine's answer differs from the expected one, so its time means nothing and the run fails."""


class OverBudget(Exception):
    """A figure exceeds what the recorded one allows."""


class CannotRun(Exception):
    """Something that the benchmark needs is missing."""


def check(name: str, got: Answer, expected: Answer) -> None:
    """Compare integers exactly and floats within 1e-9 relative, since the order of additions is free."""
    if got.orders != expected.orders:
        raise WrongAnswer(f"{name}: {got.orders} orders, expected {expected.orders}")
    if got.rejected != expected.rejected:
        raise WrongAnswer(f"{name}: {got.rejected} lines rejected, expected {expected.rejected}")
    if got.sums.keys() != expected.sums.keys():
        raise WrongAnswer(f"{name}: sums of {sorted(got.sums)}, expected {sorted(expected.sums)}")
    for column, right in expected.sums.items():
        value = got.sums[column]
        if not (value == right if isinstance(right, int) else math.isclose(value, right, rel_tol=1e-9)):
            raise WrongAnswer(f"{name}: the sum of {column} is {value!r}, expected {right!r}")


def take_turns(engines: Sequence[Engine], expected: Answer, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round, by engine. Every answer is checked, untimed."""
    seconds: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            gc.collect()
            gc.disable()
            try:
                begin = time.perf_counter()
                given = engine.run()
                seconds[engine.name].append(time.perf_counter() - begin)
            finally:
                gc.enable()
            check(engine.name, engine.finish(given), expected)
            del given  # lets a parser reuse its memory before the next one is timed
    return seconds


@dataclass(frozen=True)
class Row:
    engine: str
    seconds: list[float]  # one per round
    best: float
    median: float
    gb_per_s: float
    lines_per_s: float
    orders_per_s: float
    ratio: float  # speed relative to the base engine, best against best


@dataclass(frozen=True)
class Table:
    """Engines measured on the same input."""

    title: str
    base: str
    rows: list[Row]
    expected: Answer

    @classmethod
    def of(
        cls,
        title: str,
        seconds: Mapping[str, Sequence[float]],
        *,
        base: str,
        size: int,
        lines: int,
        expected: Answer,
    ) -> Table:
        """Make rows from the rounds, in which every engine processed `size` bytes in `lines` lines."""
        rows = [
            Row(
                engine=name,
                seconds=list(times),
                best=min(times),
                median=statistics.median(times),
                gb_per_s=size / min(times) / 1e9,
                lines_per_s=lines / min(times),
                orders_per_s=expected.orders / min(times),
                ratio=min(seconds[base]) / min(times),
            )
            for name, times in seconds.items()
        ]
        return cls(title, base, rows, expected)

    def text(self) -> str:
        width = max(len(row.engine) for row in self.rows)
        heads = f"{'best s':>8}  {'median s':>8}  {'GB/s':>7}  {'M lines/s':>10}  x {self.base}"
        lines = [self.title, f"{'engine':{width}}  {heads}"]
        lines += [
            f"{row.engine:{width}}  {row.best:8.4f}  {row.median:8.4f}  {row.gb_per_s:7.3f}  "
            f"{row.lines_per_s / 1e6:10.4f}  {row.ratio:.2f}"
            for row in self.rows
        ]
        rejected = f", {self.expected.rejected} lines rejected" if self.expected.rejected else ""
        orders, sums = self.expected.orders, dict(self.expected.sums)
        lines.append(f"answers checked: {orders} orders{rejected}, sums {sums}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """Tables of engines, with notes."""

    benchmark: str
    tables: list[Table]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=lambda: machine())

    def table(self) -> str:
        return "\n".join(["\n\n".join(table.text() for table in self.tables), *self.notes, load_text()])

    def write(self, folder: Path) -> Path:
        return write_json(self.benchmark, asdict(self), folder)


class Result(Protocol):
    """A benchmark's result: a table for the reader and a file for the record."""

    def table(self) -> str: ...
    def write(self, folder: Path) -> Path: ...


def write_json(benchmark: str, content: Mapping[str, Any], folder: Path) -> Path:
    """Write each run to a new dated file."""
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


def load_text() -> str:
    """Describe other load on the machine, for the foot of a table."""
    return f"load of the machine over the last minute: {os.getloadavg()[0]:.1f}"


def machine() -> dict[str, Any]:
    """Describe the machine on which the figures were measured."""
    from fasttail._build_info import COMMIT, VERSION

    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "cpu": cpu,
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9),
        "load": os.getloadavg(),  # shows other work on the machine
        "kernel": platform.release(),
        "python": platform.python_version(),
        "fasttail": VERSION,
        "commit": COMMIT,
    }
