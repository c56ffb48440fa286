"""Extracts figures from recorded entries: named samples with a unit, and ratios to a base of the same run.

Ratios pair the same round of both engines, so whatever slows the machine affects both sides. Only ratios can
be compared between runs; absolute figures drift with the machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Content = Mapping[str, Any]


@dataclass
class Figure:
    """less: lower is better. base: the engine that `ratios` refer to; higher ratios are better.

    target: the wanted value, if any. bounds: of the interval, unless it comes from the samples.
    """

    name: str
    unit: str
    samples: list[float]
    less: bool = False
    base: str = ""
    ratios: list[float] = field(default_factory=list)
    target: float | None = None
    bounds: tuple[float, float] | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        return self.bounds or spread(self.samples)

    @property
    def met(self) -> bool:
        assert self.target is not None
        return self.value <= self.target if self.less else self.value >= self.target


def spread(samples: list[float]) -> tuple[float, float]:
    """Return the quartiles, or minimum and maximum of fewer than five samples."""
    if len(samples) < 5:
        return min(samples), max(samples)
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def figures(entry: Content) -> list[Figure]:
    """Return the figures of all the entry's runs, merged by name."""
    found: dict[str, Figure] = {}
    for result in entry["results"]:
        for figure in OF_MODULE[entry["module"]](result):
            if figure.name in found:
                found[figure.name].samples += figure.samples
                found[figure.name].ratios += figure.ratios
            else:
                found[figure.name] = figure
    return list(found.values())


def _tables(result: Content) -> Iterator[Figure]:
    for table in result["tables"]:
        base = next(row for row in table["rows"] if row["engine"] == table["base"])
        title = table["title"].partition(":")[0]
        # A by_block line holds many orders, so lines per second say little.
        unit = "orders" if base["orders_per_s"] > base["lines_per_s"] else "lines"
        count = base[f"{unit}_per_s"] * base["best"]
        for row in table["rows"]:
            yield Figure(
                f"{title}: {row['engine']}",
                f"{unit}/s",
                [count / each for each in row["seconds"]],
                base="" if row is base else base["engine"],
                ratios=[]
                if row is base
                else [one / other for one, other in zip(base["seconds"], row["seconds"], strict=True)],
            )


def _file(result: Content) -> Iterator[Figure]:
    yield from _tables(result)
    for workers, peak in result["settings"]["peak_rss"].items():
        yield Figure(f"most memory, {workers} w", "MB", [peak / 1e6], less=True)


def _shapes(result: Content) -> Iterator[Figure]:
    for row in result["speeds"]:
        yield Figure(
            f"{row['shape']}: fasttail, 1 w", "GB/s", [row["fasttail"]], base="orjson", ratios=row["ratios"]
        )
    for row in result["costs"]:
        yield Figure(
            f"one long line, {row['shape']}, {row['workers']} w: cost of a byte to short lines",
            "times",
            [row["ratio"]],
            less=True,
            target=row["target"],
        )


def _instructions(result: Content) -> Iterator[Figure]:
    for shape, counts in result["per_order"].items():
        for name, count in counts.items():
            yield Figure(f"{shape}, {name}", "instructions", [count], less=True)


def _fanout(result: Content) -> Iterator[Figure]:
    orders = result["orders"] * result["clients"]
    rounds = result["rounds"]
    yield Figure("delivered", "orders/s", [orders / each["seconds"] for each in rounds])
    yield Figure("server's cores", "cores", [each["cores"] for each in rounds], less=True)
    yield Figure("memory", "MB", [each["rss"] / 1e6 for each in rounds], less=True)


def _catchup(result: Content) -> Iterator[Figure]:
    for way in result["rates"]:
        rounds = [each for each in result["rounds"] if each["way"] == way]
        rates = [result["lines"] / each["seconds"] for each in rounds]
        yield Figure(f"{way}", "lines/s", rates, target=2e6)
        yield Figure(f"{way}, memory", "MB", [each["rss"] / 1e6 for each in rounds], less=True)


def _sustained(result: Content) -> Iterator[Figure]:
    yield Figure("held", "lines/s", [result["held"]], target=1e6)
    if held := [each for each in result["probes"] if each["rate"] == result["held"]]:
        yield Figure("p99 at it", "ms", [held[-1]["p99"]], less=True)
        yield Figure("memory at it", "MB", [held[-1]["rss"] / 1e6], less=True)


def _delays(run: Content, name: str, targets: bool = False) -> Iterator[Figure]:
    for key, told in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
        yield Figure(f"{name}, {told}", "ms", [run[key]], less=True)
    share, memory = (0.10, 120.0) if targets else (None, None)
    yield Figure(f"{name}, server's cores", "cores", [run["cpu"]], less=True, target=share)
    yield Figure(f"{name}, memory", "MB", [run["rss_end"] / 1e6], less=True, target=memory)


def _delay(result: Content) -> Iterator[Figure]:
    for run in result.get("runs", [result]):
        yield from _delays(run, f"{run['rate']:,.0f} lines/s")


def _contention(result: Content) -> Iterator[Figure]:
    yield from _delays(result["alone"], "alone")
    yield from _delays(result["busy"], "beside neighbours", targets=True)


def _alternatives(result: Content) -> Iterator[Figure]:
    for each in result["standings"]:
        name, delay = each["name"], each["delay"]
        yield Figure(f"{name}, backlog", "lines/s", [each["backlog"]["rate"]])
        yield Figure(f"{name}, p50", "ms", [delay["p50"]], less=True)
        yield Figure(f"{name}, p99", "ms", [delay["p99"]], less=True)
        yield Figure(f"{name}, cores", "cores", [delay["cores"]], less=True)
        yield Figure(f"{name}, memory", "MB", [delay["rss"] / 1e6], less=True)


def _growth(result: Content) -> Iterator[Figure]:
    for curve in result["curves"]:
        bounds = (curve["low"], curve["high"])
        yield Figure(f"{curve['name']}", "exponent", [curve["exponent"]], less=True, bounds=bounds)


OF_MODULE: dict[str, Callable[[Content], Iterator[Figure]]] = {
    "layers": _tables,
    "parse": _tables,
    "file": _file,
    "shapes": _shapes,
    "instructions": _instructions,
    "fanout": _fanout,
    "catchup": _catchup,
    "sustained": _sustained,
    "delay": _delay,
    "contention": _contention,
    "alternatives": _alternatives,
    "growth": _growth,
    # Recorded results hold the former names of two modules.
    "beside": _contention,
    "instead": _alternatives,
}
