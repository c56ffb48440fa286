"""Draws the report's plots as SVG; equal results give equal files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.delay import QUANTILES
from bench.figures import Figure, figures, spread
from bench.measure import CannotRun

Entries = Mapping[str, Mapping[str, Any]]


def draw(entries: Entries, folder: Path) -> None:
    """Draw the plots that the page shows. Raise CannotRun without matplotlib."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise CannotRun("matplotlib is not installed: pip install '.[bench]'") from error
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "bench"
    matplotlib.rcParams["svg.fonttype"] = "none"  # text instead of paths: half the size
    folder.mkdir(parents=True, exist_ok=True)
    for name, (what, kind) in planned(entries).items():
        figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
        kind(axes, what)
        figure.savefig(folder / name, metadata={"Date": None})
        pyplot.close(figure)


def planned(entries: Entries) -> dict[str, tuple[Any, Callable[[Any, Any], None]]]:
    """Return, by file name, the data and the function that draws it."""
    found: dict[str, tuple[Any, Callable[[Any, Any], None]]] = {}
    for name, kind in DRAWN.items():
        if (entry := entries.get(name)) and entry["results"]:
            found[name.replace("/", "-") + ".svg"] = (entry, kind)
    fanouts = [entry for name, entry in entries.items() if name.startswith("fanout/") and entry["results"]]
    if len(fanouts) > 1:
        found["fanout.svg"] = (fanouts, _fanouts)
    for curve in curves(entries):
        found[curve_file(curve)] = (curve, _curve)
    return found


def curves(entries: Entries) -> list[Any]:
    entry = entries.get("growth/all")
    return list(entry["results"][0]["curves"]) if entry and entry["results"] else []


def curve_file(curve: Mapping[str, Any]) -> str:
    return f"growth-{curve['name'].replace(' ', '-')}.svg"


def _bars(axes: Any, found: list[tuple[str, float, tuple[float, float]]], label: str, log: bool) -> None:
    """Draw values with their spreads: bars, or points on a log axis, where a bar's length means nothing."""
    for at, (_, value, (low, high)) in enumerate(reversed(found)):
        if log:
            axes.scatter(value, at, color="tab:blue")
        else:
            axes.barh(at, value, color="tab:blue")
        axes.plot((low, high), (at, at), color="black", linewidth=1.5)
    axes.set_yticks(range(len(found)), [name for name, *_ in reversed(found)])
    if log:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
        axes.grid(axis="x", linewidth=0.3)
    axes.set_xlabel(label)


def _plain_ticks(axis: Any) -> None:
    """Label 1, 2, 5, 10 instead of powers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _ratios(axes: Any, entry: Mapping[str, Any]) -> None:
    """Draw the ratios of the entry's first table, or all ratios if it has no tables."""
    all_of_them = [figure for figure in figures(entry) if figure.ratios]
    tables = entry["results"][0].get("tables")
    title = tables[0]["title"].partition(":")[0] + ": " if tables else ""
    shown = [each for each in all_of_them if each.name.startswith(title)]
    found = [_ratio(each, title) for each in shown]
    _bars(axes, [(shown[0].base, 1.0, (1.0, 1.0)), *found], f"times as fast as {shown[0].base}", log=True)


def _ratio(figure: Figure, title: str) -> tuple[str, float, tuple[float, float]]:
    return figure.name.removeprefix(title), statistics.median(figure.ratios), spread(figure.ratios)


def _fanouts(axes: Any, found: list[Any]) -> None:
    rows = []
    for entry in found:
        (delivered,) = (each for each in figures(entry) if each.name == "delivered")
        low, high = delivered.spread
        rows.append((entry["name"].removeprefix("fanout/"), delivered.value / 1e6, (low / 1e6, high / 1e6)))
    _bars(axes, rows, "million orders delivered a second", log=False)


def _catchup(axes: Any, entry: Mapping[str, Any]) -> None:
    shown = [each for each in figures(entry) if each.target]
    rows = [(each.name, each.value / 1e6, (each.spread[0] / 1e6, each.spread[1] / 1e6)) for each in shown]
    _bars(axes, rows, "million lines a second; wanted: the line", log=False)
    axes.axvline((shown[0].target or 0) / 1e6, color="tab:red", linewidth=1)


def _sustained(axes: Any, entry: Mapping[str, Any]) -> None:
    result = entry["results"][0]
    for held, color in ((True, "tab:blue"), (False, "tab:red")):
        probes = [each for each in result["probes"] if each["held"] is held]
        axes.scatter(
            [each["rate"] / 1e6 for each in probes],
            [each["p99"] for each in probes],
            color=color,
            label="held" if held else "not held",
        )
    axes.axhline(result["settings"]["bound"], color="black", linewidth=0.6, linestyle="--")
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    axes.set_xlabel("million lines a second")
    axes.set_ylabel("p99, ms")
    axes.legend()


def _delay(axes: Any, entry: Mapping[str, Any]) -> None:
    """Plot the share of orders that took longer; all runs of a rate share a colour."""
    for repeat, result in enumerate(entry["results"]):
        for index, run in enumerate(result.get("runs", [result])):
            shares = [1 - at for at in QUANTILES[:-1]]
            label = f"{run['rate']:,.0f} lines/s" if not repeat else None
            axes.plot(run["quantiles"][:-1], shares, color=f"C{index}", linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_xlabel("write to receipt, ms")
    axes.set_ylabel("share of orders that took longer")
    axes.legend()


def _alternatives(axes: Any, entry: Mapping[str, Any]) -> None:
    shown = [each for each in figures(entry) if each.name.endswith(", backlog")]
    rows = [(each.name.removesuffix(", backlog"), each.value, each.spread) for each in shown]
    _bars(axes, rows, "lines a second of a backlog", log=True)


def _curve(axes: Any, curve: Mapping[str, Any]) -> None:
    xs = [point["x"] for point in curve["points"]]
    middles = [statistics.median(point["seconds"]) for point in curve["points"]]
    for point in curve["points"]:
        axes.scatter([point["x"]] * len(point["seconds"]), point["seconds"], color="tab:blue", s=8)
    # The fitted line passes through the mean of the logarithms.
    log_x = statistics.fmean(map(_log, xs))
    log_y = statistics.fmean(_log(each) for point in curve["points"] for each in point["seconds"])
    fitted = [2 ** (log_y + curve["exponent"] * (_log(x) - log_x)) for x in xs]
    axes.plot(xs, fitted, color="tab:red", linewidth=1, label=f"exponent {curve['exponent']:.2f}")
    axes.plot(xs, middles, color="tab:blue", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes.xaxis)
    _plain_ticks(axes.yaxis)
    axes.set_xlabel(curve["of"])
    axes.set_ylabel(curve["cost"])
    axes.legend()


def _log(value: float) -> float:
    return math.log2(value)


DRAWN: dict[str, Callable[[Any, Any], None]] = {
    "split/lines": _ratios,
    "parse/plain": _ratios,
    "parse/shapes": _ratios,
    "end-to-end/catchup": _catchup,
    "end-to-end/sustained": _sustained,
    "end-to-end/delay": _delay,
    "end-to-end/delay-blocks": _delay,
    "end-to-end/instead": _alternatives,
}
