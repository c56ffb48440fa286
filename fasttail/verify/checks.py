"""The checklist: what was read and seen, to PASS or FAIL with the figure behind it. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from fasttail.verify.looks import Looks
from fasttail.verify.reading import Found, Reading, Sizes
from fasttail.watch.growth import LEAST_POINTS, MB, Points, judge, median

GRACE_S = 5.0
"""A batch that began so recently need not be done."""

LEAST_RISE = 5000
"""Lines by which sizes have to rise to count as growing; batches of less vary with the market."""
LEAST_FACTOR = 2.0
FEW = 4
"""Batches of which a trend can be told at all; so few have to grow each time, and fourfold in all."""
FEW_FACTOR = 4.0
PILED = 100_000
"""Lines of a batch where the old service began to fail. A block holds some thousands: so many at the end, and
at least twofold, have piled up, however they came to be."""

STATS = "docker stats"
"""Counts the whole container, with what it has in a tmpfs and pages of files that it was first to read."""

NO_LOG = "no log: give --container or --log"
NO_SERVER = "no server: give --url"
NO_BATCH = "no batch"


class Status(StrEnum):
    """WARN is for people to look at, and no failure."""

    PASS = "PASS"
    FAIL = "FAIL"
    WARN = "WARN"
    SKIP = "SKIP"


class Check(NamedTuple):
    """One point of the checklist."""

    name: str
    status: Status
    figure: str


def checklist(reading: Reading | None, looks: Looks, now: float | None = None) -> list[Check]:
    """Every point. reading: None without a log. now: the end of a live log, on the clock of its lines."""
    rows = [
        ("version", _version(reading, looks)),
        ("batches", _batches(reading, looks)),
        ("order", _order(reading)),
        ("completed", _completed(reading, now)),
        ("chunks", _chunks(reading, looks)),
        ("sizes", _sizes(reading)),
        ("broadcasts", _broadcasts(reading)),
        ("timeouts", _none("⏰", reading.timeouts if reading else None)),
        ("errors", _none("❌ or ERROR", reading.errors if reading else None)),
        ("alerts", _alerts(reading, looks)),
        ("memory", _memory(reading, looks)),
        ("health", _health(looks)),
        ("metrics", _metrics(looks)),
        ("restarts", _restarts(reading, looks)),
        ("rejected", _rejected(reading, looks)),
        ("log", _log(reading, looks)),
    ]
    return [Check(name, *found) for name, found in rows]


def verdict(checks: Sequence[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.status is not Status.FAIL for check in checks)


_Found = tuple[Status, str]


def _good(good: bool, figure: str) -> _Found:
    return (Status.PASS if good else Status.FAIL), figure


def _skip(why: str) -> _Found:
    return Status.SKIP, why


def _version(reading: Reading | None, looks: Looks) -> _Found:
    found = looks.version or (reading and reading.version)
    why = looks.missing.get("/metrics", "/metrics does not tell it") if looks.server else NO_SERVER
    return (Status.PASS, found) if found else _skip(f"{why}; nor does the log tell it")


def _batches(reading: Reading | None, looks: Looks) -> _Found:
    """Never skipped: where nothing tells of a batch, nobody can say that all is well."""
    if reading is not None:
        if reading.started:
            return Status.PASS, f"{reading.started} of 📦 in {reading.lines} lines"
        if reading.summed:
            return Status.FAIL, f"no 📦 but {reading.summed} batches in Σ lines: log_batches is summary"
        if more := looks.increased["fasttail_batches_total"]:
            figure = f"no 📦 in {reading.lines} lines, {more:.0f} batches by /metrics: log_level?"
            return Status.FAIL, figure
        return Status.FAIL, f"no 📦 in {reading.lines} lines: does the node write?"
    if looks.server is None:
        return Status.FAIL, "nothing tells of batches: give --container, --log or --url"
    total = looks.metrics.get("fasttail_batches_total")
    if total is None:
        why = looks.missing.get("/metrics", "/metrics does not tell")
        return Status.FAIL, f"nothing tells of batches: {why}"
    if looks.count < 2:
        return _good(total > 0, f"{total:.0f} since the server's start")
    more = looks.increased["fasttail_batches_total"]
    return _good(more > 0, f"{more:.0f} more by /metrics" + ("" if more else ": does the node write?"))


def _order(reading: Reading | None) -> _Found:
    if reading is None or not reading.started:
        return _skip(NO_LOG if reading is None else NO_BATCH)
    if reading.disorder.count:
        return Status.FAIL, _shown(reading.disorder)
    if not reading.broadcasts:
        return Status.FAIL, "no batch went the whole way from 📦 to 📡"
    return Status.PASS, f"📦 🔄 📊 🚀 ⏳ ✅ All ✅ Parallel 📡, {reading.broadcasts} times"


def _completed(reading: Reading | None, now: float | None) -> _Found:
    if reading is None or not reading.started:
        return _skip(NO_LOG if reading is None else NO_BATCH)
    age = reading.open_age(now)
    figure = f"📦 {reading.started}, ✅ All {reading.completed}"
    if reading.unfinished.count:
        return Status.FAIL, f"{figure}; {_shown(reading.unfinished)}"
    if age is not None and age > GRACE_S:
        return Status.FAIL, f"{figure}; the last one has run for {age:.0f} s"
    running = 0 if age is None else 1
    return _good(reading.started == reading.completed + running, figure + (", one runs" if running else ""))


def _chunks(reading: Reading | None, looks: Looks) -> _Found:
    failed = looks.increased["fasttail_failed_chunks_total"]
    if failed:
        return Status.FAIL, f"{failed:.0f} chunks failed by /metrics"
    if reading is None or not reading.started:
        return _skip(NO_LOG if reading is None else NO_BATCH)
    if reading.misfits.count:
        return Status.FAIL, _shown(reading.misfits)
    if not reading.workers:
        return _skip("no line tells the workers")
    return Status.PASS, f"{' or '.join(map(str, sorted(reading.workers)))} in each batch, as many as workers"


def _sizes(reading: Reading | None) -> _Found:
    if reading is None or not reading.started:
        return _skip(NO_LOG if reading is None else NO_BATCH)
    sizes = reading.sizes
    figure = f"{sizes.least:,} to {sizes.most:,} lines"
    first, last = ends(sizes)
    if sizes.count < FEW and not grow(sizes):
        return _skip(f"{figure}; {sizes.count} batches are too few for a trend")
    return _good(not grow(sizes), f"{figure}; {first:,.0f} at first, {last:,.0f} at the end")


def ends(sizes: Sizes) -> tuple[float, float]:
    """The median of the first and of the last third."""
    values = [size for _, size in sizes.points()]
    third = max(1, len(values) // 3)
    return median(sorted(values[:third])), median(sorted(values[-third:]))


def grow(sizes: Sizes) -> bool:
    """Whether batches get ever larger: at one pace, or by a factor each time; or so large at last that
    lines must have piled up.

    What varies at a steady rate has no trend; a catch-up that ends, or a step, is none either: as for memory.
    """
    points = sizes.points()
    values = [size for _, size in points]
    first, last = ends(sizes)
    if last >= max(PILED, LEAST_FACTOR * first):
        return True
    if len(points) < FEW or max(values) - min(values) < LEAST_RISE:
        return False
    if last - first < LEAST_RISE or last < LEAST_FACTOR * first:
        return False
    if len(points) < 2 * LEAST_POINTS:
        rising = all(one < two for one, two in pairwise(values))
        return rising and values[-1] >= FEW_FACTOR * max(values[0], 1)
    span = points[-1][0] - points[0][0]
    # Ratios show both: growth by the same each time is only slower in them towards the end.
    ratios = [(at, math.log(max(size, 1.0))) for at, size in points]
    return judge(ratios, span, math.log(LEAST_FACTOR)).growing


def _broadcasts(reading: Reading | None) -> _Found:
    if reading is None or not reading.started:
        return _skip(NO_LOG if reading is None else NO_BATCH)
    if not reading.broadcasts:
        return Status.FAIL, "no 📡"
    figure = f"{reading.broadcasts} of 📡, the last {reading.last_broadcast}"
    return _good(reading.broadcasts >= reading.completed - 1, figure)


def _none(what: str, found: Found | None) -> _Found:
    if found is None:
        return _skip(NO_LOG)
    return _good(not found.count, _shown(found) if found.count else f"no {what}")


def _alerts(reading: Reading | None, looks: Looks) -> _Found:
    told = sum(by for name, by in looks.increased.items() if name.startswith("fasttail_alerts_total"))
    if reading is not None and reading.alerts.count:
        return Status.FAIL, _shown(reading.alerts)
    if told:
        return Status.FAIL, f"{told:.0f} by /metrics"
    return _skip(NO_LOG) if reading is None and not looks.metrics else (Status.PASS, "no 🚨")


def _memory(reading: Reading | None, looks: Looks) -> _Found:
    histories: dict[str, Points] = dict(looks.memory)
    if reading is not None and reading.memory:
        histories["RSS by the log"] = reading.memory
    status, figures = Status.SKIP, []
    steady = False  # of the process itself
    for source, points in sorted(histories.items(), key=lambda history: history[0] == STATS):
        now = f"{source} {points[-1][1] / MB:.1f} MB"
        thinned = least(points)
        if len(thinned) < LEAST_POINTS:
            figures.append(f"{now}, {len(points)} looks are too few for a trend")
            continue
        growth = judge(thinned, thinned[-1][0] - thinned[0][0])
        assert growth.slope is not None
        pace = f"{growth.slope * 60 / MB:+.2f} MB/min"
        figures.append(f"{now}, {pace}{', linear growth' if growth.growing else ''}")
        if growth.growing and steady and source == STATS:
            figures[-1] += ", of files in the container's memory and not of the process"
            status = Status.WARN
            continue
        steady = status is not Status.FAIL and not growth.growing
        status = Status.PASS if steady else Status.FAIL
    if not histories:
        return _skip(next(iter(looks.missing.values()), "no source: give --container, --url or --pid"))
    return status, "; ".join(figures)


def least(points: Points, most: int = 60) -> Points:
    """At most `most` points: the least of each few neighbours, which is nearest to what is really kept."""
    each = -(-len(points) // most)
    groups = [points[at : at + each] for at in range(0, len(points) - len(points) % each, each)]
    return [(group[0][0], min(size for _, size in group)) for group in groups]


def _health(looks: Looks) -> _Found:
    if looks.server is None:
        return _skip(NO_SERVER)
    figure = f"{looks.live} of {looks.live + looks.not_live.count} answers are well"
    if looks.not_live.count:
        return Status.FAIL, f"{figure}; {_shown(looks.not_live)}"
    if looks.stale:
        return Status.WARN, f"{figure}; {looks.stale} times old data: the node may have stopped writing"
    return _good(looks.live > 0, figure)


def _metrics(looks: Looks) -> _Found:
    """Alerts, restarts, rejected lines and memory are told by it, too: without it they stand on one leg."""
    if looks.server is None:
        return _skip(NO_SERVER)
    if why := looks.missing.get("/metrics"):
        return Status.WARN, why
    return Status.PASS, f"{len(looks.metrics)} figures"


def _restarts(reading: Reading | None, looks: Looks) -> _Found:
    if looks.ended:
        return Status.FAIL, looks.ended
    again = looks.increased["fasttail_restarts_total"]
    if again:
        return Status.FAIL, f"{again:.0f} in place by /metrics"
    if reading is not None and reading.restarts.count:
        return Status.FAIL, _shown(reading.restarts)
    nothing = reading is None and not looks.metrics and looks.container is None and looks.pid is None
    return _skip(NO_LOG) if nothing else (Status.PASS, "none seen")


def _rejected(reading: Reading | None, looks: Looks) -> _Found:
    if looks.metrics:
        more = looks.increased["fasttail_rejected_lines_total"]
        total = looks.metrics.get("fasttail_rejected_lines_total", 0)
        figure = f"{more:.0f} lines more, {total:.0f} since the start, by /metrics"
    elif reading is not None:
        more = reading.rejected
        figure = f"{more:.0f} lines, by the log"
    else:
        return _skip(looks.missing.get("/metrics", NO_SERVER))
    return (Status.WARN if more else Status.PASS), figure


def _log(reading: Reading | None, looks: Looks) -> _Found:
    if reading is None:
        return _skip(NO_LOG)
    dropped = max(reading.dropped, int(looks.increased["fasttail_log_lines_dropped_total"]))
    if dropped:
        return Status.WARN, f"{dropped} lines found no place: counts by the log may be wrong"
    return Status.PASS, f"{reading.lines} lines, none dropped"


def _shown(found: Found) -> str:
    return f"{found.count}, the first: {found.first}"
