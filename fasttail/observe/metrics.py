"""`/metrics`: the numbers of pipeline, hub, log and memory watch as Prometheus text (format 0.0.4).

Nothing is counted here: at each scrape the sources are asked once. Names follow the Prometheus conventions
(base units, `_total` for counters); help texts say what a number means to an operator. The registry is our
own: the process-wide default one is left to whoever embeds us.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

NS_PER_S = 1_000_000_000

Buckets: TypeAlias = tuple[Sequence[tuple[float, int]], float]
"""[(bound in seconds, observations up to it), …, (infinity, all)], and their sum in seconds."""

# (key in the source, name without prefix and `_total`, help)
PIPELINE_COUNTERS = (
    ("batches", "batches", "Batches processed; each one is a snapshot of what was read."),
    ("lines", "lines", "Lines read from the node's files."),
    ("orders", "orders", "Order statuses parsed."),
    ("selected", "selected_orders", "Order statuses that passed the configured filters."),
    ("rejected", "rejected_lines", "Lines that were no valid order status."),
    ("bytes", "bytes_read", "Bytes read from the node's files."),
    ("failed_chunks", "failed_chunks", "Chunks of batches that a worker could not process."),
    ("oversize_lines", "oversize_lines", "Lines longer than the limit, skipped."),
    ("oversize_orders", "oversize_orders", "Orders too large for a message, not sent."),
    ("nul_bytes", "nul_bytes", "NUL bytes met where data should be."),
    ("torn_lines", "torn_lines", "Last lines without a newline that were taken as they were."),
    (
        "height_regressions",
        "height_regressions",
        "Times the block number went back: blocks written once more.",
    ),
    ("recut_batches", "recut_batches", "Batches cut again: a line could not be shared out to the workers."),
    (
        "late_lines",
        "late_lines",
        "Lines that came to an hour's file after the next hour had begun, or filled a hole.",
    ),
    ("truncations", "truncations", "Times a file was truncated or written anew, and read from its start."),
    ("read_errors", "read_errors", "Reads of the node's files that failed; each led to a new descriptor."),
    ("files_opened", "files_opened", "Files of the node opened."),
    ("resume_losses", "resume_losses", "Starts that could not go on where the last run ended."),
    (
        "topics_seconds",
        "topics_seconds",
        "Seconds that batches took from rows to messages, all topics together.",
    ),
    (
        "crowded_batches",
        "crowded_batches",
        "Batches whose messages had no room: the clients that asked for most have a gap.",
    ),
    ("inotify_overflows", "inotify_overflows", "Overflows of the inotify queue; each one led to a rescan."),
)
HUB_COUNTERS = (
    ("opened", "client_connections", "WebSocket connections accepted."),
    ("refused", "client_refused", "Connections refused, or cut off before their handshake."),
    ("closed_slow", "client_closed_slow", "Clients closed because their queue was full."),
    ("shed", "client_shed", "Clients cut off because memory was short and much waited for them."),
    (
        "subscriptions_refused",
        "subscriptions_refused",
        "Subscriptions refused because they would have cost too much.",
    ),
    ("gaps", "gaps", "Gaps told to clients that could not be given something."),
    ("gap_orders", "gap_orders", "Orders in these gaps, summed over the clients."),
    ("replays", "replays", "Replays from the node's files that have ended."),
    (
        "replayed_orders",
        "replayed_orders",
        "Orders given to clients that were behind, from the node's files, summed over the clients.",
    ),
    ("closed_idle", "client_closed_idle", "Clients closed: no subscription, and they said nothing for long."),
    ("closed_flooding", "client_closed_flooding", "Clients closed because they sent too many messages."),
    ("checkpoints", "checkpoints", "Checkpoints written."),
    ("checkpoint_failures", "checkpoint_failures", "Checkpoints that could not be written; tried again."),
    ("protocol_faults", "client_protocol_faults", "Clients closed for breaking the WebSocket protocol."),
)
CHANNEL_COUNTERS = (
    ("messages_sent", "messages_sent", "Messages handed to clients, summed over the clients."),
    ("orders_sent", "orders_sent", "Orders handed to clients, summed over the clients."),
    ("bytes_sent", "bytes_sent", "Bytes handed to clients, summed over the clients."),
)
HUB_GAUGES = (
    ("queued_bytes", "client_queued_bytes", "Bytes that wait for clients to read on."),
    ("topics", "topics", "Distinct subscriptions."),
    ("subscriptions", "subscriptions", "Subscriptions on /ws, summed over the clients."),
    ("subscription_cost", "subscription_cost", "Units that all subscriptions on /ws cost."),
    ("subscription_budget", "subscription_budget", "Units that they may cost."),
    (
        "client_subscription_cost",
        "client_subscription_cost",
        "Units of the client whose subscriptions cost most.",
    ),
    ("client_subscription_budget", "client_subscription_budget", "Units that those of one client may cost."),
    (
        "replays_running",
        "replays_running",
        "Subscriptions that are behind: they are given the rest from the files.",
    ),
    ("replay_readings", "replay_readings", "Readings of the files for them that run."),
    ("replay_bytes_behind", "replay_bytes_behind", "Bytes of the files that the last of them is behind."),
    ("replay_seconds_behind", "replay_seconds_behind", "Seconds that the last of them is behind."),
    ("checkpoint_age", "checkpoint_age_seconds", "Seconds since the checkpoint was up to date."),
)
PIPELINE_GAUGES = (
    ("worker_count", "workers", "Workers that parse in parallel."),
    ("offset", "file_offset_bytes", "How far the open file has been processed."),
    ("height", "block_height", "Newest block number seen, where the layout has them."),
)
# (key of a monotonic time in nanoseconds, name, help); absent while the time is 0
PIPELINE_AGES = (
    ("last_data_ns", "data_age_seconds", "Seconds since the last batch ended."),
    ("loop_ns", "pipeline_age_seconds", "Seconds since the pipeline last made progress."),
    ("in_batch_ns", "batch_running_seconds", "Seconds the running batch has taken; absent between batches."),
)
# (key in the memory watch's numbers, name, help)
MEMORY_GAUGES = (
    ("rss_bytes", "rss_bytes", "Resident memory of the process."),
    ("pss_bytes", "pss_bytes", "Resident memory with shared pages counted in part; once a minute."),
    ("limit_bytes", "memory_limit_bytes", "Resident memory past which the process restarts in place."),
    ("slope_bytes_per_second", "rss_slope_bytes_per_second", "Trend of the resident memory."),
    ("slope_low_bytes_per_second", "rss_slope_low_bytes_per_second", "Lower end of the trend's interval."),
    ("slope_high_bytes_per_second", "rss_slope_high_bytes_per_second", "Upper end of the trend's interval."),
    ("growth_confidence", "rss_growth_confidence", "How sure it is that the memory grows, 0 to 1."),
    ("growing", "rss_growing", "1 while the memory grows linearly."),
    ("left_seconds", "memory_left_seconds", "Time until the limit at the present pace; absent without one."),
    ("malloc_used_bytes", "malloc_used_bytes", "Bytes that malloc has given out; not Python's small blocks."),
    ("malloc_free_bytes", "malloc_free_bytes", "Bytes that are free but kept by malloc, resident or not."),
    ("python_blocks", "python_blocks", "Python's small blocks."),
    ("open_files", "open_files", "Open descriptors."),
    ("threads", "threads", "Threads of the process."),
    ("ring_bytes", "ring_bytes", "Bytes of messages between pipeline and main thread."),
    ("log_queue_bytes", "log_queue_bytes", "Bytes of log lines that wait to be written."),
)


STARTED = "Unix time at which the process began to count, by a start or a restart in place."
BATCH_SECONDS = "How long batches took, from their lines to messages, waits for the main thread included."
LAG_SECONDS = (
    "Once a batch: the age of its newest order, from the order's own time (consensus) to the clients' "
    "queues: the node's lag and fasttail's. Below 0 counts as 0."
)
DELIVERY_LAG_SECONDS = (
    "Once a batch: from the node's local_time of its newest line to the clients' queues: fasttail's own lag. "
    "The plain layout has no local_time. Below 0 counts as 0."
)


class Metrics:
    """Renders the text for `/metrics`.

    stats:       the pipeline's numbers.
    batch_times: how long each batch took. lags: the age of each batch's newest order when it was handed out,
                 from the order's own time; delivery_lags: from the time at which the node wrote its line.
    hub:         the hub's totals, and by channel `clients`, `messages_sent`, `orders_sent`, `bytes_sent`.
    memory:      the keys of MEMORY_GAUGES; None for what is not known yet.
    alerts:      alerts by kind. webhook: alerts that were posted, and given up; None without a webhook.
    log_dropped: log lines dropped so far because the log's queue was full.
    restarts:    how often the process has restarted itself in place.
    started:     when this image of the process began, in Unix seconds.
    clock, wall_clock: monotonic and Unix nanoseconds, the clocks of `stats`.

    A number that its source does not know (a missing key, or None) is left out of the text.
    """

    def __init__(
        self,
        *,
        stats: Callable[[], Mapping[str, Any]],
        batch_times: Callable[[], Buckets],
        lags: Callable[[], Buckets],
        delivery_lags: Callable[[], Buckets],
        hub: Callable[[], Mapping[str, Any]],
        memory: Callable[[], Mapping[str, float | None]],
        log_dropped: Callable[[], int],
        restarts: int = 0,
        started: float,
        alerts: Callable[[], Mapping[str, int]] = dict,
        webhook: Callable[[], tuple[int, int] | None] = lambda: None,
        version: str,
        commit: str,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._stats = stats
        self._batch_times = batch_times
        self._lags = lags
        self._delivery_lags = delivery_lags
        self._hub = hub
        self._memory = memory
        self._log_dropped = log_dropped
        self._restarts = restarts
        self._started = started
        self._alerts = alerts
        self._webhook = webhook
        self._build = {"version": version, "commit": commit}
        self._clock = clock
        self._wall_clock = wall_clock
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_CallbackCollector(self._collect))

    def render(self) -> bytes:
        """The whole text, UTF-8."""
        return generate_latest(self._registry)

    def _collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("fasttail_build", "Version and commit of the running build.", self._build)
        yield _counter("restarts", "Times the process has restarted itself in place.", self._restarts)
        yield _counter("log_lines_dropped", "Log lines dropped at a full queue.", self._log_dropped())
        yield from _gauge("start_time_seconds", STARTED, self._started)
        yield from self._pipeline(self._stats())
        yield _histogram("batch_seconds", BATCH_SECONDS, self._batch_times())
        yield _histogram("lag_seconds", LAG_SECONDS, self._lags())
        yield _histogram("delivery_lag_seconds", DELIVERY_LAG_SECONDS, self._delivery_lags())
        yield from _clients(self._hub())
        memory = self._memory()
        for key, name, text in MEMORY_GAUGES:
            yield from _gauge(name, text, memory.get(key))
        alerts = CounterMetricFamily("fasttail_alerts", "Alerts of the watchdog.", labels=["kind"])
        for kind, count in self._alerts().items():
            alerts.add_metric([kind], count)
        yield alerts
        if (webhook_counts := self._webhook()) is not None:
            yield _counter("webhook_sent", "Alerts that the webhook has taken.", webhook_counts[0])
            yield _counter(
                "webhook_failed", "Alerts that the webhook did not take, given up.", webhook_counts[1]
            )

    def _pipeline(self, stats: Mapping[str, Any]) -> Iterator[Metric]:
        for key, name, text in PIPELINE_COUNTERS:
            if stats.get(key) is not None:
                yield _counter(name, text, stats[key])
        for key, name, text in PIPELINE_GAUGES:
            yield from _gauge(name, text, stats.get(key))
        now = self._clock()
        for key, name, text in PIPELINE_AGES:
            yield from _gauge(name, text, _age(now, stats.get(key)))
        event_age = _age(self._wall_clock(), stats.get("last_event_ns"))
        yield from _gauge("event_age_seconds", "Age of the newest order by the node's time.", event_age)


class _CallbackCollector(Collector):
    """What the registry asks at each scrape."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def _clients(hub: Mapping[str, Any]) -> Iterator[Metric]:
    clients = GaugeMetricFamily("fasttail_clients", "Connected WebSocket clients.", labels=["channel"])
    for channel, count in hub["clients"].items():
        clients.add_metric([channel], count)
    yield clients
    for key, name, text in HUB_GAUGES:
        yield from _gauge(name, text, hub.get(key))
    for key, name, text in CHANNEL_COUNTERS:
        family = CounterMetricFamily(f"fasttail_{name}", text, labels=["channel"])
        for channel, count in hub[key].items():
            family.add_metric([channel], count)
        yield family
    for key, name, text in HUB_COUNTERS:
        if hub.get(key) is not None:
            yield _counter(name, text, hub[key])


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"fasttail_{name}", text, value=value)


def _gauge(name: str, text: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"fasttail_{name}", text, value=value)


def _histogram(name: str, text: str, observed: Buckets) -> Metric:
    buckets, total = observed
    return HistogramMetricFamily(
        f"fasttail_{name}",
        text,
        buckets=[("+Inf" if bound == math.inf else str(bound), count) for bound, count in buckets],
        sum_value=total,
    )


def _age(now_ns: int, then_ns: int | None) -> float | None:
    return max(0, now_ns - then_ns) / NS_PER_S if then_ns else None
