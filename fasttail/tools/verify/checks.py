"""Derives the checklist, PASS or FAIL with a figure for each check, by pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from fasttail.monitoring.growth import MB, MIN_POINTS, Points, estimate_growth, median
from fasttail.tools.verify.log_stats import LogStats, Occurrences, SizeHistory
from fasttail.tools.verify.observations import Observations

GRACE_S = 5.0
"""A batch that started more recently need not be finished."""

MIN_RISE = 5000
"""Minimum growth of batch sizes, in lines; smaller differences vary with the market."""
MIN_FACTOR = 2.0
MIN_TREND_BATCHES = 4
"""Minimum number of batches for a trend. Few batches must grow each time, and fourfold in total."""
MIN_SHORT_FACTOR = 4.0
BACKLOG_LINES = 100_000
"""Batch size at which the old service began to fail, in lines. A block has some thousands, so batches that
end this large, and at least twice as large as at first, are a backlog, however it came about.
"""

DOCKER_STATS = "docker stats"
"""Covers the whole container, including its tmpfs and the file pages that it was first to read."""

NO_LOG = "no log: give --container or --log"
NO_SERVER = "no server: give --url"
NO_BATCH = "no batch"


class Status(StrEnum):
    """WARN asks for a person's attention, and is not a failure."""

    PASS = "PASS"
    FAIL = "FAIL"
    WARN = "WARN"
    SKIP = "SKIP"


class Check(NamedTuple):
    """One item of the checklist."""

    name: str
    status: Status
    figure: str


def checklist(
    log_stats: LogStats | None, observations: Observations, now: float | None = None
) -> list[Check]:
    """Return all checks.

    log_stats: None without a log.
    now:       end of a live log, on the clock of its lines.
    """
    rows = [
        ("version", _version(log_stats, observations)),
        ("batches", _batches(log_stats, observations)),
        ("order", _order(log_stats)),
        ("completed", _completed(log_stats, now)),
        ("chunks", _chunks(log_stats, observations)),
        ("sizes", _sizes(log_stats)),
        ("broadcasts", _broadcasts(log_stats)),
        ("timeouts", _expect_none("⏰", log_stats.timeouts if log_stats else None)),
        ("errors", _expect_none("❌ or ERROR", log_stats.errors if log_stats else None)),
        ("alerts", _alerts(log_stats, observations)),
        ("memory", _memory(log_stats, observations)),
        ("health", _health(observations)),
        ("metrics", _metrics(observations)),
        ("restarts", _restarts(log_stats, observations)),
        ("rejected", _rejected(log_stats, observations)),
        ("log", _log(log_stats, observations)),
    ]
    if (nats := _nats(observations)) is not None:
        rows.append(("nats", nats))
    return [Check(name, *found) for name, found in rows]


def verdict(checks: Sequence[Check]) -> bool:
    """Return whether no check failed."""
    return all(check.status is not Status.FAIL for check in checks)


_Result = tuple[Status, str]


def _pass_or_fail(good: bool, figure: str) -> _Result:
    return (Status.PASS if good else Status.FAIL), figure


def _skip(reason: str) -> _Result:
    return Status.SKIP, reason


def _version(log_stats: LogStats | None, observations: Observations) -> _Result:
    found = observations.version or (log_stats and log_stats.version)
    reason = (
        observations.missing.get("/metrics", "/metrics does not tell it")
        if observations.server
        else NO_SERVER
    )
    return (Status.PASS, found) if found else _skip(f"{reason}; nor does the log tell it")


def _batches(log_stats: LogStats | None, observations: Observations) -> _Result:
    """Never skipped: without evidence of a batch, nothing can pass."""
    if log_stats is not None:
        if log_stats.started:
            return Status.PASS, f"{log_stats.started} of 📦 in {log_stats.lines} lines"
        if log_stats.summary_batches:
            return (
                Status.FAIL,
                f"no 📦 but {log_stats.summary_batches} batches in Σ lines: log_batches is summary",
            )
        if more := observations.increased["fasttail_batches_total"]:
            figure = f"no 📦 in {log_stats.lines} lines, {more:.0f} batches by /metrics: log_level?"
            return Status.FAIL, figure
        return Status.FAIL, f"no 📦 in {log_stats.lines} lines: does the node write?"
    if observations.server is None:
        return Status.FAIL, "nothing tells of batches: give --container, --log or --url"
    total = observations.metrics.get("fasttail_batches_total")
    if total is None:
        reason = observations.missing.get("/metrics", "/metrics does not tell")
        return Status.FAIL, f"nothing tells of batches: {reason}"
    if observations.samples < 2:
        return _pass_or_fail(total > 0, f"{total:.0f} since the server's start")
    more = observations.increased["fasttail_batches_total"]
    return _pass_or_fail(
        more > 0, f"{more:.0f} more by /metrics" + ("" if more else ": does the node write?")
    )


def _order(log_stats: LogStats | None) -> _Result:
    if log_stats is None or not log_stats.started:
        return _skip(NO_LOG if log_stats is None else NO_BATCH)
    if log_stats.out_of_order.count:
        return Status.FAIL, _describe(log_stats.out_of_order)
    if not log_stats.broadcasts:
        return Status.FAIL, "no batch went the whole way from 📦 to 📡"
    return Status.PASS, f"📦 🔄 📊 🚀 ⏳ ✅ All ✅ Parallel 📡, {log_stats.broadcasts} times"


def _completed(log_stats: LogStats | None, now: float | None) -> _Result:
    if log_stats is None or not log_stats.started:
        return _skip(NO_LOG if log_stats is None else NO_BATCH)
    age = log_stats.running_batch_age(now)
    figure = f"📦 {log_stats.started}, ✅ All {log_stats.completed}"
    if log_stats.unfinished.count:
        return Status.FAIL, f"{figure}; {_describe(log_stats.unfinished)}"
    if age is not None and age > GRACE_S:
        return Status.FAIL, f"{figure}; the last one has run for {age:.0f} s"
    running = 0 if age is None else 1
    return _pass_or_fail(
        log_stats.started == log_stats.completed + running, figure + (", one runs" if running else "")
    )


def _chunks(log_stats: LogStats | None, observations: Observations) -> _Result:
    failed = observations.increased["fasttail_failed_chunks_total"]
    if failed:
        return Status.FAIL, f"{failed:.0f} chunks failed by /metrics"
    if log_stats is None or not log_stats.started:
        return _skip(NO_LOG if log_stats is None else NO_BATCH)
    if log_stats.mismatched_chunks.count:
        return Status.FAIL, _describe(log_stats.mismatched_chunks)
    if not log_stats.workers:
        return _skip("no line tells the workers")
    return (
        Status.PASS,
        f"{' or '.join(map(str, sorted(log_stats.workers)))} in each batch, as many as workers",
    )


def _sizes(log_stats: LogStats | None) -> _Result:
    if log_stats is None or not log_stats.started:
        return _skip(NO_LOG if log_stats is None else NO_BATCH)
    sizes = log_stats.sizes
    figure = f"{sizes.smallest:,} to {sizes.largest:,} lines"
    first, last = median_ends(sizes)
    if sizes.count < MIN_TREND_BATCHES and not is_growing(sizes):
        return _skip(f"{figure}; {sizes.count} batches are too few for a trend")
    return _pass_or_fail(not is_growing(sizes), f"{figure}; {first:,.0f} at first, {last:,.0f} at the end")


def median_ends(sizes: SizeHistory) -> tuple[float, float]:
    """Return the medians of the first and the last third."""
    values = [size for _, size in sizes.points()]
    third = max(1, len(values) // 3)
    return median(sorted(values[:third])), median(sorted(values[-third:]))


def is_growing(sizes: SizeHistory) -> bool:
    """Return whether batches keep growing: linearly, by a factor, or to a size that must be a backlog.

    As for memory, steady variation, a step, or a catch-up that ends is not a trend.
    """
    points = sizes.points()
    values = [size for _, size in points]
    first, last = median_ends(sizes)
    if last >= max(BACKLOG_LINES, MIN_FACTOR * first):
        return True
    if len(points) < MIN_TREND_BATCHES or max(values) - min(values) < MIN_RISE:
        return False
    if last - first < MIN_RISE or last < MIN_FACTOR * first:
        return False
    if len(points) < 2 * MIN_POINTS:
        rising = all(one < two for one, two in pairwise(values))
        return rising and values[-1] >= MIN_SHORT_FACTOR * max(values[0], 1)
    span = points[-1][0] - points[0][0]
    # Logarithms show both kinds of growth; linear growth only slows in them towards the end.
    ratios = [(at, math.log(max(size, 1.0))) for at, size in points]
    return estimate_growth(ratios, span, math.log(MIN_FACTOR)).growing


def _broadcasts(log_stats: LogStats | None) -> _Result:
    if log_stats is None or not log_stats.started:
        return _skip(NO_LOG if log_stats is None else NO_BATCH)
    if not log_stats.broadcasts:
        return Status.FAIL, "no 📡"
    figure = f"{log_stats.broadcasts} of 📡, the last {log_stats.last_broadcast}"
    return _pass_or_fail(log_stats.broadcasts >= log_stats.completed - 1, figure)


def _expect_none(what: str, found: Occurrences | None) -> _Result:
    if found is None:
        return _skip(NO_LOG)
    return _pass_or_fail(not found.count, _describe(found) if found.count else f"no {what}")


def _alerts(log_stats: LogStats | None, observations: Observations) -> _Result:
    alert_count = sum(
        by for name, by in observations.increased.items() if name.startswith("fasttail_alerts_total")
    )
    if log_stats is not None and log_stats.alerts.count:
        return Status.FAIL, _describe(log_stats.alerts)
    if alert_count:
        return Status.FAIL, f"{alert_count:.0f} by /metrics"
    return _skip(NO_LOG) if log_stats is None and not observations.metrics else (Status.PASS, "no 🚨")


def _memory(log_stats: LogStats | None, observations: Observations) -> _Result:
    histories: dict[str, Points] = dict(observations.memory)
    if log_stats is not None and log_stats.memory:
        histories["RSS by the log"] = log_stats.memory
    status, figures = Status.SKIP, []
    steady = False  # whether the process's own memory is steady
    for source, points in sorted(histories.items(), key=lambda history: history[0] == DOCKER_STATS):
        now = f"{source} {points[-1][1] / MB:.1f} MB"
        thinned = minima(points)
        if len(thinned) < MIN_POINTS:
            figures.append(f"{now}, {len(points)} samples are too few for a trend")
            continue
        growth = estimate_growth(thinned, thinned[-1][0] - thinned[0][0])
        assert growth.slope is not None
        pace = f"{growth.slope * 60 / MB:+.2f} MB/min"
        figures.append(f"{now}, {pace}{', linear growth' if growth.growing else ''}")
        if growth.growing and steady and source == DOCKER_STATS:
            figures[-1] += ", of files in the container's memory and not of the process"
            status = Status.WARN
            continue
        steady = status is not Status.FAIL and not growth.growing
        status = Status.PASS if steady else Status.FAIL
    if not histories:
        return _skip(next(iter(observations.missing.values()), "no source: give --container, --url or --pid"))
    return status, "; ".join(figures)


def minima(points: Points, max_points: int = 60) -> Points:
    """Reduce to at most `max_points` points.

    Each is the minimum of a group of neighbours, which is closest to the memory that is retained.
    """
    each = -(-len(points) // max_points)
    groups = [points[at : at + each] for at in range(0, len(points) - len(points) % each, each)]
    return [(group[0][0], min(size for _, size in group)) for group in groups]


def _health(observations: Observations) -> _Result:
    if observations.server is None:
        return _skip(NO_SERVER)
    figure = f"{observations.live} of {observations.live + observations.not_live.count} answers are healthy"
    if observations.not_live.count:
        return Status.FAIL, f"{figure}; {_describe(observations.not_live)}"
    if observations.stale:
        return (
            Status.WARN,
            f"{figure}; {observations.stale} times stale data: the node may have stopped writing",
        )
    return _pass_or_fail(observations.live > 0, figure)


def _metrics(observations: Observations) -> _Result:
    """Without /metrics, a warning: alerts, restarts, rejected lines and memory rely on it too."""
    if observations.server is None:
        return _skip(NO_SERVER)
    if reason := observations.missing.get("/metrics"):
        return Status.WARN, reason
    return Status.PASS, f"{len(observations.metrics)} figures"


def _restarts(log_stats: LogStats | None, observations: Observations) -> _Result:
    if observations.ended:
        return Status.FAIL, observations.ended
    restarts = observations.increased["fasttail_restarts_total"]
    if restarts:
        return Status.FAIL, f"{restarts:.0f} in place by /metrics"
    if log_stats is not None and log_stats.restarts.count:
        return Status.FAIL, _describe(log_stats.restarts)
    no_source = (
        log_stats is None
        and not observations.metrics
        and observations.container is None
        and observations.pid is None
    )
    return _skip(NO_LOG) if no_source else (Status.PASS, "none seen")


def _rejected(log_stats: LogStats | None, observations: Observations) -> _Result:
    if observations.metrics:
        more = observations.increased["fasttail_rejected_lines_total"]
        total = observations.metrics.get("fasttail_rejected_lines_total", 0)
        figure = f"{more:.0f} lines more, {total:.0f} since the start, by /metrics"
    elif log_stats is not None:
        more = log_stats.rejected
        figure = f"{more:.0f} lines, by the log"
    else:
        return _skip(observations.missing.get("/metrics", NO_SERVER))
    return (Status.WARN if more else Status.PASS), figure


def _nats(observations: Observations) -> _Result | None:
    """None for a server that neither publishes to NATS nor relays from it."""
    behind = _labelled(observations, "fasttail_nats_behind_seconds")
    connected = _labelled(observations, "fasttail_relay_connected")
    if not behind and not connected:
        return None
    disagreements = sum(_labelled(observations, "fasttail_nats_disagreements_total").values())
    gaps = sum(_labelled(observations, "fasttail_relay_gaps_total").values())
    faults = [f"{name} not in NATS for {seconds:.0f} s" for name, seconds in behind.items() if seconds > 10]
    faults += [f"{name} not connected" for name, value in connected.items() if not value]
    faults += [f"{disagreements:.0f} entries of another node differ"] if disagreements else []
    if faults:
        return Status.FAIL, "; ".join(faults)
    streams = ", ".join({**behind, **connected})
    return (Status.WARN, f"{gaps:.0f} gaps") if gaps else (Status.PASS, f"{streams}: no gap")


def _labelled(observations: Observations, name: str) -> dict[str, float]:
    """Return a metric's values by stream."""
    begin = f'{name}{{stream="'
    return {
        key[len(begin) : -2]: value for key, value in observations.metrics.items() if key.startswith(begin)
    }


def _log(log_stats: LogStats | None, observations: Observations) -> _Result:
    if log_stats is None:
        return _skip(NO_LOG)
    dropped = max(log_stats.dropped, int(observations.increased["fasttail_log_lines_dropped_total"]))
    if dropped:
        return Status.WARN, f"{dropped} lines were dropped: counts from the log may be wrong"
    return Status.PASS, f"{log_stats.lines} lines, none dropped"


def _describe(found: Occurrences) -> str:
    return f"{found.count}, the first: {found.first}"
