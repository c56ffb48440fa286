"""Compares two result files: which figures of B are faster, slower, or within the noise of A.

Figures with a ratio to a base of the same run are compared by that ratio, because the machine's drift affects
both sides of it. Overlapping spreads count as noise; with a single sample, so does a change of up to a
quarter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.figures import Figure, figures, spread
from bench.measure import CannotRun

DRIFT = 0.25
SAME_MACHINE = ("cpu", "usable_cores", "memory_gb")


def compare(one: Path, other: Path, anyway: bool) -> str:
    """Return a table. Raise CannotRun if the machines differ or the runs have no benchmark in common."""
    runs = [json.loads(path.read_text()) for path in (one, other)]
    machines = [{key: run["machine"].get(key) for key in SAME_MACHINE} for run in runs]
    if machines[0] != machines[1] and not anyway:
        raise CannotRun(f"other machines: {machines[0]} and {machines[1]}; --anyway compares all the same")
    before, after = (_all(run) for run in runs)
    common = [name for name in after if name in before]
    if not common:
        raise CannotRun("the runs have no benchmark with the same arguments in common")
    width = max(len(_told(name, after[name])) for name in common)
    rows = [
        f"{'figure':{width}} {'A':>11} {'B':>11} {'B / A':>6}  {'spread of B / A':>15}",
        *(f"{_told(name, after[name]):{width}} {_row(before[name], after[name])}" for name in common),
    ]
    if machines[0] != machines[1]:
        rows.append("OTHER MACHINES: only ratios within a run mean something")
    rows += [
        f"BUSY MACHINE in {label}: {entry['name']}"
        for label, run in zip("AB", runs, strict=True)
        for entry in run["entries"]
        if entry["busy"]
    ]
    return "\n".join(rows)


def _all(run: Mapping[str, Any]) -> dict[str, Figure]:
    """Key figures by entry, name and arguments, since other arguments make another benchmark."""
    return {
        f"{entry['name']}  {figure.name}\0{entry['arguments']}": figure
        for entry in run["entries"]
        for figure in figures(entry)
    }


def _told(name: str, figure: Figure) -> str:
    return name.partition("\0")[0] + (f", x {figure.base}" if figure.ratios else f", {figure.unit}")


def _row(one: Figure, other: Figure) -> str:
    less = other.less
    if one.ratios and other.ratios:
        less = False
        values, spreads = _middle(one.ratios, other.ratios)
        single = min(len(one.ratios), len(other.ratios)) < 2
    else:
        values, spreads = (one.value, other.value), (one.spread, other.spread)
        single = one.spread[0] == one.spread[1] or other.spread[0] == other.spread[1]
    return f"{values[0]:11,.4g} {values[1]:11,.4g} {_verdict(values, spreads, single, less)}"


def _middle(
    one: list[float], other: list[float]
) -> tuple[tuple[float, float], tuple[tuple[float, float], tuple[float, float]]]:
    return (Figure("", "", one).value, Figure("", "", other).value), (spread(one), spread(other))


def _verdict(
    values: tuple[float, float],
    spreads: tuple[tuple[float, float], tuple[float, float]],
    single: bool,
    less: bool,
) -> str:
    (low, high), (other_low, other_high) = spreads
    if not values[0] or not low or not high:
        same = values[0] == values[1]
        return f"{'':>6}  {'':>15}  {'the same' if same else 'WORSE' if less else 'better'}"
    change = values[1] / values[0]
    interval = f"{other_low / high:.2f} … {other_high / low:.2f}"
    if single:
        inside = 1 - DRIFT <= change <= 1 / (1 - DRIFT)
        interval = "one sample"
    else:
        inside = other_low <= high and low <= other_high
    better = (change < 1) == less
    verdict = "inside the noise" if inside else "better" if better else "WORSE"
    return f"{change:6.2f}  {interval:>15}  {verdict}"
