"""Makes docs/benchmarks.md and its plots from recorded results only (`python -m bench report`).

The newest result of each definition is kept in bench/results/recorded, so that the page can be made again.
The same results, definitions and costs.md give the same page.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import plots
from bench.definitions import LAYERS, Definition, Definitions, load
from bench.figures import Figure, figures, spread
from bench.measure import CannotRun

COSTS = Path(__file__).resolve().parent / "costs.md"
OURS = ("fasttail", "Reader")
Entry = Mapping[str, Any]
Run = Mapping[str, Any]
HEAD = """\
# Benchmarks

For readers who compare fasttail with what else there is, and for contributors who change its speed.

Made by `python -m bench report` of what stands in `bench/results/recorded`: do not edit it. What is run
stands in `bench/definitions.toml`. Every answer is checked in the timed run; a wrong one fails it.

Figures are medians, with the quartiles of the rounds in brackets (of fewer than five: least and most; of one:
nothing). Ratios are of rounds side by side.
"""
REPEAT = """\
## How to repeat

```bash
scripts/test                                  # makes .venv
.venv/bin/pip install '.[bench]'              # the rivals, and matplotlib
sudo apt-get install rsyslog valgrind         # more of them
.venv/bin/python -m bench list
.venv/bin/python -m bench run                 # all, a quarter of an hour; --quick: two minutes, small inputs
.venv/bin/python -m bench run 'parse/*'       # some
.venv/bin/python -m bench compare A.json B.json
.venv/bin/python -m bench report              # this page, of the newest results
```

On a quiet machine: a run says where others kept more than half of the cores busy. Each module has options of
its own: `.venv/bin/python -m bench run catchup --help`.
"""


def make(files: Sequence[Path], results: Path, docs: Path, quick: bool) -> Path:
    """Return the page's path. Raise CannotRun if there are no results."""
    recorded = results / "recorded"
    definitions = load()
    sources = list(files) or [*recorded.glob("*.json"), *results.glob("run-*.json")]
    runs = newest(sources, definitions, quick)
    if not runs:
        raise CannotRun(f"no {'quick ' if quick else ''}results in {results}: python -m bench run")
    if not quick:
        record(runs, recorded)
    entries = {entry["name"]: entry for run in runs.values() for entry in run["entries"]}
    plots.draw(entries, docs / "benchmarks")
    page = docs / "benchmarks.md"
    page.write_text(render(list(runs.values()), definitions, costs()))
    return page


def costs() -> str:
    return COSTS.read_text() if COSTS.exists() else ""


def newest(sources: Iterable[Path], definitions: Definitions, quick: bool) -> dict[str, Run]:
    """Return the runs, by file name and date, reduced to the newest entry of each definition."""
    runs = {path.name: json.loads(path.read_text()) for path in sources}
    ordered = sorted(runs.items(), key=lambda item: (item[1]["machine"]["date"], item[0]))
    chosen: dict[str, tuple[str, Entry]] = {}
    for name, run in ordered:
        for entry in run["entries"] if run["quick"] == quick else ():
            known = entry["name"] in definitions.entries and not entry["failed"]
            if known and (entry["results"] or entry["name"] not in chosen):
                chosen[entry["name"]] = (name, entry)
    return {
        name: {**run, "entries": mine}
        for name, run in ordered
        if (mine := [entry for source, entry in chosen.values() if source == name])
    }


def record(runs: Mapping[str, Run], folder: Path) -> None:
    """Replace all recorded runs by these."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    for name, run in runs.items():
        (folder / name).write_text(json.dumps(run, indent=None, separators=(",", ":")) + "\n")


# ---------------------------------------------------------------- the page
def render(runs: Sequence[Run], definitions: Definitions, costs: str) -> str:
    entries = {entry["name"]: entry for run in runs for entry in run["entries"]}
    parts = [HEAD, *_machines(runs), *_headline(entries), *_losses(entries)]
    for layer in LAYERS:
        members = [each for each in definitions.entries.values() if each.layer == layer]
        if members:
            parts.append(f"## {layer[0].upper()}{layer[1:]}\n")
        if layer == "fan-out" and "fanout.svg" in plots.planned(entries):
            parts.append(_image("fanout.svg", "orders delivered a second"))
        for definition in members:
            parts += _one(definition, entries.get(definition.name), entries)
    if costs:
        heading = "" if costs.startswith("#") else "## The three largest costs left\n\n"
        parts.append(f"{heading}{costs.strip()}\n")
    parts += ["## What is unfair\n", *(f"* {each}" for each in definitions.unfair), "", REPEAT]
    return "\n".join(parts)


def _machines(runs: Sequence[Run]) -> Iterator[str]:
    yield "| taken | machine | kernel | Python | fasttail | beside it |"
    yield "|---|---|---|---|---|---|"
    for run in runs:
        machine = run["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        cores = f"{machine['usable_cores']} cores, {machine['memory_gb']} GB"
        yield (
            f"| {machine['date']} | {machine['cpu']}, {cores} | {machine['kernel']} | {machine['python']} "
            f"| {machine['fasttail']}, {machine['commit'][:12]} | {versions} |"
        )
    if busy := [entry["name"] for run in runs for entry in run["entries"] if entry["busy"]]:
        told = "**Others kept more than half of the cores busy** before, during or after"
        yield f"\n{told}: {', '.join(busy)}."
    yield ""


def _headline(entries: Mapping[str, Entry]) -> Iterator[str]:
    rows = [
        (name, figure)
        for name, entry in entries.items()
        if name.startswith("end-to-end/")
        for figure in figures(entry)
        if figure.target is not None
    ]
    if not rows:
        return
    yield "## What was wanted\n"
    yield "| | wanted | measured | |"
    yield "|---|---:|---:|---|"
    for name, figure in rows:
        target = figure.target
        assert target is not None
        sign = "≤" if figure.less else "≥"
        verdict = "met" if figure.met else "**missed**"
        wanted = f"{sign} {_number(target)} {figure.unit}"
        yield f"| {name}: {figure.name} | {wanted} | {_with_spread(figure)} | {verdict} |"
    yield ""


def _losses(entries: Mapping[str, Entry]) -> Iterator[str]:
    found = [line for name, entry in entries.items() for line in _lost(name, entry)]
    yield "## Where fasttail loses\n"
    yield "Everything measured here in which something else does better, or a wanted figure is missed.\n"
    yield from (f"* {line}" for line in found or ["Nothing of what was measured."])
    yield ""


def _lost(name: str, entry: Entry) -> Iterator[str]:
    for figure in figures(entry):
        if figure.target is not None and not figure.met:
            sign = "≤" if figure.less else "≥"
            wanted = f"{sign} {_number(figure.target)} {figure.unit} wanted"
            yield f"`{name}`, {figure.name}: {_with_spread(figure)} {figure.unit}, {wanted}"
    for result in entry["results"][:1]:
        for table in result.get("tables", ()):
            medians = {row["engine"]: row["median"] for row in table["rows"]}
            ours = min(value for engine, value in medians.items() if engine.startswith(OURS))
            title = table["title"].partition(":")[0]
            for engine, value in medians.items():
                if not engine.startswith(OURS) and value < ours:
                    times = f"{ours / value:.2f} times as fast as the best of ours"
                    yield f"`{name}`, {title}: {engine} is {times}"
        if "standings" in result:
            yield from _behind(name, result["standings"])


def _behind(name: str, standings: Sequence[Any]) -> Iterator[str]:
    """Yield the rivals that beat fasttail where both deliver the same."""
    looked_at = (
        ("backlog", "rate", 1.0, "lines/s of the backlog", False),
        ("delay", "p50", 1.0, "ms in the median", True),
        ("delay", "p99", 1.0, "ms at p99", True),
        ("delay", "cores", 1.0, "cores", True),
        ("delay", "rss", 1e6, "MB", True),
    )
    for rival in standings:
        if rival["name"].startswith(OURS):
            continue
        for ours in standings:
            kind = rival["delivers"] == "orders"
            if not ours["name"].startswith(OURS) or (ours["delivers"] == "orders") != kind:
                continue
            for phase, key, divisor, unit, less in looked_at:
                one, other = rival[phase][key] / divisor, ours[phase][key] / divisor
                if rival[phase]["rate"] < ours[phase]["rate"] and phase == "delay":
                    # Figures at a lower rate are not comparable.
                    continue
                if (one < other) if less else (one > other):
                    yield f"`{name}`: {rival['name']} {_number(one)} {unit}, {ours['name']} {_number(other)}"


def _one(definition: Definition, entry: Entry | None, entries: Mapping[str, Entry]) -> Iterator[str]:
    yield f"### {definition.name}\n"
    yield f"{definition.input[0].upper()}{definition.input[1:]}.\n"
    if entry is None or not entry["results"]:
        why = f": {entry['cannot_run']}" if entry and entry["cannot_run"] else ""
        yield f"Not measured{why}.\n"
    else:
        yield from _tables(definition, entry)
        image = definition.name.replace("/", "-") + ".svg"
        if image in plots.planned(entries):
            yield _image(image, definition.name)
        if entry["left_out"]:
            yield f"Left out, for it is not installed: {', '.join(entry['left_out'])}.\n"
        if entry["arguments"] != definition.all_arguments(quick=False):
            yield f"Taken with other arguments: `{' '.join(entry['arguments'])}`.\n"
    yield f"*Shows*: {definition.shows}\n"
    yield f"*Does not show*: {definition.does_not_show}\n"
    arguments = entry["arguments"] if entry else definition.arguments
    yield f"`python -m bench run {' '.join([definition.module, *map(_quoted, arguments)])}`\n"


def _quoted(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument


def _image(name: str, what: str) -> str:
    return f"![{what}](benchmarks/{name})\n"


def _tables(definition: Definition, entry: Entry) -> Iterator[str]:
    first = entry["results"][0]
    if "standings" in first:
        yield from _standings(first)
    elif "curves" in first:
        yield from _curves(first)
    elif "tables" in first:
        yield from _compared(entry)
    else:
        yield from _plain(figures(entry))


def _compared(entry: Entry) -> Iterator[str]:
    found = figures(entry)
    for table in entry["results"][0]["tables"]:
        title = table["title"].partition(":")[0]
        unit = next(each.unit for each in found if each.name.startswith(f"{title}: "))
        yield f"| {title} | M {unit} | times {table['base']} |"
        yield "|---|---:|---:|"
        for row in table["rows"]:
            figure = next(each for each in found if each.name == f"{title}: {row['engine']}")
            rate = _text([each / 1e6 for each in figure.samples])
            ratio = _text(figure.ratios) if figure.ratios else "1"
            name = f"**{row['engine']}**" if row["engine"].startswith(OURS) else row["engine"]
            yield f"| {name} | {rate} | {ratio} |"
        expected = table["expected"]
        rejected = f", {expected['rejected']:,} lines rejected" if expected["rejected"] else ""
        what = "lines" if title == "split" else "orders"
        yield f"\nEach gave {expected['orders']:,} {what}{rejected}, and the same sums.\n"
    if others := [each for each in found if each.unit == "MB"]:
        yield from _plain(others)


def _plain(found: Sequence[Figure]) -> Iterator[str]:
    base = next((each.base for each in found if each.base), "")
    wants = any(each.target is not None for each in found)
    yield f"| | | |{f' times {base} |' if base else ''}{' wanted |' if wants else ''}"
    yield f"|---|---:|---|{'---:|' if base else ''}{'---|' if wants else ''}"
    for figure in found:
        wanted = ""
        if figure.target is not None:
            sign, verdict = "≤" if figure.less else "≥", "met" if figure.met else "**missed**"
            wanted = f"{sign} {_number(figure.target)}: {verdict}"
        cells = [figure.name, _with_spread(figure), figure.unit]
        cells += [_text(figure.ratios) if figure.ratios else ""] if base else []
        cells += [wanted] if wants else []
        yield f"| {' | '.join(cells)} |"
    yield ""


def _standings(result: Mapping[str, Any]) -> Iterator[str]:
    settings = result["settings"]
    yield (
        "| | gives | backlog, lines/s | at lines/s | p50 ms | p99 ms | cores | MB | at the change of the "
        f"hour, of {settings['change_lines']:,} lines |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---|"
    for each in result["standings"]:
        delay = each["delay"]
        name = f"**{each['name']}**" if each["name"].startswith(OURS) else each["name"]
        figures = [delay["rate"], delay["p50"], delay["p99"], delay["cores"], delay["rss"] / 1e6]
        cells = " | ".join(_number(figure) for figure in figures)
        gives = "orders" if each["delivers"] == "orders" else "lines"
        rate = _number(each["backlog"]["rate"])
        yield f"| {name} | {gives} | {rate} | {cells} | {_faults(each['change'])} |"
    yield ""
    for each in result["standings"]:
        yield f"* {each['name']}: {each['versions']}"
    yield from (f"* {name} left out: {why}" for name, why in result["left_out"].items())
    yield ""


def _faults(change: Mapping[str, Any]) -> str:
    kinds = ((change["lost"], "lost"), (change["twice"], "twice"), (change["late"], "out of order"),
             (change["broken"], "broken"))  # fmt: skip
    told = ", ".join(f"{count:,} {kind}" for count, kind in kinds if count)
    return f"{told or 'nothing lost'} of {change['expected']:,}"


def _curves(result: Mapping[str, Any]) -> Iterator[str]:
    yield "| more | exponent, interval of 95 % | of the last step | points: seconds |"
    yield "|---|---:|---:|---|"
    for curve in result["curves"]:
        points = ", ".join(
            f"{point['x']:,.0f}: {_number(statistics.median(point['seconds']))}" for point in curve["points"]
        )
        interval = f"{curve['exponent']:.2f} ({curve['low']:.2f} … {curve['high']:.2f})"
        yield f"| {curve['of']} | {interval} | {curve['last']:.2f} | {points} |"
    yield ""
    for curve in result["curves"]:
        yield _image(plots.curve_file(curve), f"cost with {curve['name']}")


def _with_spread(figure: Figure) -> str:
    low, high = figure.spread
    bounds = f" ({_number(low)} … {_number(high)})" if low != high else ""
    return _number(figure.value) + bounds


def _text(samples: list[float]) -> str:
    low, high = spread(samples)
    bounds = f" ({_number(low)} … {_number(high)})" if low != high else ""
    return _number(statistics.median(samples)) + bounds


def _number(value: float) -> str:
    """Format with three significant digits."""
    if not value:
        return "0"
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
