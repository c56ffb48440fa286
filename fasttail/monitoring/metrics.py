"""Renders `/metrics`: statistics of the pipeline, hub, log and memory watch in Prometheus format 0.0.4.

Nothing is counted here; each scrape queries the sources once. Names follow the Prometheus conventions (base
units, `_total` for counters). The registry is private, so an embedding process keeps its default one.
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
"""Cumulative [(bound in seconds, count), …, (infinity, total)], and the sum in seconds."""

# (key in the source, name without prefix and `_total`, help)
PIPELINE_COUNTERS = (
    ("batches", "batches", "Batches processed; each is a snapshot of the data read."),
    ("lines", "lines", "Lines read from the node's files."),
    ("orders", "orders", "Order statuses parsed."),
    ("selected", "selected_orders", "Order statuses that passed the configured filters."),
    ("rejected", "rejected_lines", "Lines that are not a valid order status."),
    ("bytes", "bytes_read", "Bytes read from the node's files."),
    ("failed_chunks", "failed_chunks", "Chunks of batches that a worker could not process."),
    ("oversize_lines", "oversize_lines", "Lines longer than the limit, skipped."),
    ("oversize_orders", "oversize_orders", "Orders not sent because they exceed the maximum message size."),
    ("nul_bytes", "nul_bytes", "NUL bytes found in place of data."),
    ("torn_lines", "torn_lines", "Last lines of a file without a newline, delivered as they are."),
    (
        "height_regressions",
        "height_regressions",
        "Block number regressions: the node replayed blocks.",
    ),
    (
        "replayed_events",
        "replayed_events",
        "Events of replayed blocks that were dropped, because they had been delivered before.",
    ),
    (
        "recut_batches",
        "recut_batches",
        "Batches split again because a line could not be divided between workers.",
    ),
    (
        "late_lines",
        "late_lines",
        "Lines written to an hour's file after the next hour had begun, or into a hole.",
    ),
    ("truncations", "truncations", "Times a file was truncated or rewritten, and read from the start."),
    ("read_errors", "read_errors", "Failed reads of the node's files; the file is reopened after each."),
    ("files_opened", "files_opened", "Files of the node opened."),
    ("resume_losses", "resume_losses", "Starts that could not resume where the last run ended."),
    (
        "topics_seconds",
        "topics_seconds",
        "Seconds spent turning rows into messages, summed over all topics.",
    ),
    (
        "crowded_batches",
        "crowded_batches",
        "Batches whose messages exceeded the limit: the clients with the most subscribed data get a gap.",
    ),
    ("inotify_overflows", "inotify_overflows", "Overflows of the inotify queue; each one led to a rescan."),
)
HUB_COUNTERS = (
    ("opened", "client_connections", "WebSocket connections accepted."),
    ("refused", "client_refused", "Connections refused, or closed before their handshake."),
    ("closed_slow", "client_closed_slow", "Clients closed because their queue was full."),
    ("shed", "client_shed", "Clients disconnected because memory was low and their queue was long."),
    (
        "subscriptions_refused",
        "subscriptions_refused",
        "Subscriptions refused because they exceed the cost limit.",
    ),
    ("gaps", "gaps", "Gaps reported to clients."),
    ("gap_orders", "gap_orders", "Orders in the reported gaps, summed over all clients."),
    ("replays", "replays", "Replays from the node's files that have finished."),
    (
        "replayed_orders",
        "replayed_orders",
        "Orders replayed from the node's files to clients that were behind, summed over all clients.",
    ),
    ("closed_idle", "client_closed_idle", "Idle clients without subscriptions that were closed."),
    ("closed_flooding", "client_closed_flooding", "Clients closed because they sent too many messages."),
    ("checkpoints", "checkpoints", "Checkpoints written."),
    ("checkpoint_failures", "checkpoint_failures", "Failed attempts to write a checkpoint; each is retried."),
    ("protocol_faults", "client_protocol_faults", "Clients closed for violating the WebSocket protocol."),
)
CHANNEL_COUNTERS = (
    ("messages_sent", "messages_sent", "Messages sent, summed over all clients."),
    ("orders_sent", "orders_sent", "Orders sent, summed over all clients."),
    ("bytes_sent", "bytes_sent", "Bytes sent, summed over all clients."),
)
HUB_GAUGES = (
    ("queued_bytes", "client_queued_bytes", "Bytes queued for clients."),
    ("topics", "topics", "Distinct subscriptions."),
    ("subscriptions", "subscriptions", "Subscriptions on /ws, summed over all clients."),
    ("subscription_cost", "subscription_cost", "Cost of all subscriptions on /ws, in units."),
    ("subscription_budget", "subscription_budget", "Cost limit of all subscriptions on /ws, in units."),
    (
        "client_subscription_cost",
        "client_subscription_cost",
        "Cost of the client whose subscriptions cost most, in units.",
    ),
    ("client_subscription_budget", "client_subscription_budget", "Cost limit of one client, in units."),
    (
        "replays_running",
        "replays_running",
        "Subscriptions that are behind and are replayed from the files.",
    ),
    ("replay_readings", "replay_readings", "Running scans of the files for replays."),
    ("replay_bytes_behind", "replay_bytes_behind", "Bytes by which the furthest subscription is behind."),
    (
        "replay_seconds_behind",
        "replay_seconds_behind",
        "Seconds by which the furthest subscription is behind.",
    ),
    ("checkpoint_age", "checkpoint_age_seconds", "Seconds since the checkpoint was last up to date."),
)
STREAM_COUNTERS = (
    ("lines", "stream_lines", "Lines read from the stream's files."),
    ("orders", "stream_events", "Events of the stream parsed."),
    ("rejected", "stream_rejected_lines", "Lines that are no valid event of the stream."),
    ("bytes", "stream_bytes_read", "Bytes read from the stream's files."),
    ("height_regressions", "stream_height_regressions", "Block number regressions in the stream."),
    ("replayed_events", "stream_replayed_events", "Events of replayed blocks that were dropped."),
    ("late_lines", "stream_late_lines", "Lines written to an hour's file after the next hour had begun."),
    ("oversize_lines", "stream_oversize_lines", "Lines longer than the limit, skipped."),
    ("truncations", "stream_truncations", "Times a file was truncated or rewritten."),
    ("failed_chunks", "stream_failed_chunks", "Chunks of batches that a worker could not process."),
    ("crowded_batches", "stream_crowded_batches", "Batches whose messages exceeded the limit."),
)
"""With a label `stream`, for every stream that can be followed."""

STAGE_COUNTERS = (
    ("trades", "trades", "Trades made of fills."),
    ("unpaired_fills", "unpaired_fills", "Fills without another side in their block, which make no trade."),
)
PUBLISHER_COUNTERS = (
    ("entries", "nats_entries", "Entries that NATS JetStream has acknowledged."),
    ("bytes", "nats_bytes", "Compressed bytes of these entries."),
    ("events", "nats_events", "Events in these entries."),
    ("conflicts", "nats_conflicts", "Entries refused because another node had appended one."),
    ("takeovers", "nats_takeovers", "Times this node took over because another one had stopped appending."),
    ("failures", "nats_failures", "Failed sessions with NATS; each is retried."),
    ("gaps", "nats_gaps", "Gaps in what was published, because no node had the lines."),
    ("compared", "nats_compared_entries", "Another node's entries compared with this node's lines."),
    ("disagreements", "nats_disagreements", "Another node's entries that differ from this node's lines."),
)
RELAY_COUNTERS = (
    ("entries", "relay_entries", "Entries of NATS JetStream written to files."),
    ("bytes", "relay_bytes", "Bytes of lines written."),
    ("events", "relay_events", "Events in these entries."),
    ("gaps", "relay_gaps", "Gaps after which the folder began anew."),
    ("damaged", "relay_damaged_entries", "Messages left out because they are no intact entries."),
    ("failures", "relay_failures", "Failed sessions with NATS, or failed writes; each is retried."),
)
PIPELINE_GAUGES = (
    ("worker_count", "workers", "Parser threads."),
    ("offset", "file_offset_bytes", "Offset up to which the open file has been processed."),
    ("height", "block_height", "Newest block number seen; only in layouts that have block numbers."),
)
# (key of a monotonic time in nanoseconds, name, help); absent while the time is 0
PIPELINE_AGES = (
    ("last_data_ns", "data_age_seconds", "Seconds since the last batch ended."),
    ("loop_ns", "pipeline_age_seconds", "Seconds since the pipeline last made progress."),
    (
        "in_batch_ns",
        "batch_running_seconds",
        "Seconds that the current batch has been running; absent between batches.",
    ),
)
# (key in the memory watch's numbers, name, help)
MEMORY_GAUGES = (
    ("rss_bytes", "rss_bytes", "Resident memory of the process."),
    ("pss_bytes", "pss_bytes", "Proportional set size (PSS) of the process; updated once a minute."),
    ("limit_bytes", "memory_limit_bytes", "Resident memory above which the process restarts in place."),
    ("slope_bytes_per_second", "rss_slope_bytes_per_second", "Trend of the resident memory."),
    (
        "slope_low_bytes_per_second",
        "rss_slope_low_bytes_per_second",
        "Lower bound of the trend's confidence interval.",
    ),
    (
        "slope_high_bytes_per_second",
        "rss_slope_high_bytes_per_second",
        "Upper bound of the trend's confidence interval.",
    ),
    ("growth_confidence", "rss_growth_confidence", "Confidence that memory is growing, 0 to 1."),
    ("growing", "rss_growing", "1 while memory grows linearly."),
    (
        "left_seconds",
        "memory_left_seconds",
        "Seconds until the memory limit at the current growth; absent without a limit.",
    ),
    (
        "malloc_used_bytes",
        "malloc_used_bytes",
        "Bytes allocated with malloc, without Python's small objects.",
    ),
    ("malloc_free_bytes", "malloc_free_bytes", "Free bytes that malloc retains, resident or not."),
    ("python_blocks", "python_blocks", "Memory blocks allocated by the Python interpreter."),
    ("open_files", "open_files", "Open file descriptors."),
    ("threads", "threads", "Threads of the process."),
    ("ring_bytes", "ring_bytes", "Bytes of messages queued between the pipeline and the main thread."),
    ("log_queue_bytes", "log_queue_bytes", "Bytes of log lines waiting to be written."),
)


STARTED = "Unix time of the last start or restart in place."
BATCH_SECONDS = "Duration of batches from lines to messages, including waits for the main thread."
LAG_SECONDS = (
    "Per batch: time from the newest order's own (consensus) timestamp until it is queued for clients; "
    "includes the node's lag. Negative values count as 0."
)
DELIVERY_LAG_SECONDS = (
    "Per batch: time from the node's local_time of the newest line until it is queued for clients, "
    "fasttail's own lag. The plain layout has no local_time. Negative values count as 0."
)


class Metrics:
    """Renders the text of `/metrics`.

    stats:             the pipeline's statistics.
    batch_times:       durations of the batches.
    lags:              age of each batch's newest order when it was queued for clients, by the order's own
                       time.
    delivery_lags:     the same, by the time at which the node wrote the line.
    streams:           the statistics of each stream, by its name; the first one's are in `stats` too.
    publishers:        those of each stream's publisher to NATS. relays: those of each stream's relay.
    hub:               totals of the hub, and per channel `clients`, `messages_sent`, `orders_sent` and
                       `bytes_sent`.
    memory:            the keys of MEMORY_GAUGES; None for unknown values.
    alerts:            alerts by kind.
    webhook:           (alerts delivered, alerts given up); None without a webhook.
    log_dropped:       log lines dropped.
    restarts:          restarts in place so far.
    started:           start of this process image, in Unix seconds.
    clock, wall_clock: monotonic and Unix nanoseconds, the clocks of `stats`.

    Values that a source does not know (a missing key or None) are omitted.
    """

    def __init__(
        self,
        *,
        stats: Callable[[], Mapping[str, Any]],
        batch_times: Callable[[], Buckets],
        lags: Callable[[], Buckets],
        delivery_lags: Callable[[], Buckets],
        streams: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
        publishers: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
        relays: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
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
        self._streams = streams
        self._publishers = publishers
        self._relays = relays
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
        """Return the metrics as UTF-8 text."""
        return generate_latest(self._registry)

    def _collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("fasttail_build", "Version and commit of the running build.", self._build)
        yield _counter("restarts", "Times the process has restarted itself in place.", self._restarts)
        yield _counter(
            "log_lines_dropped", "Log lines dropped because the log queue was full.", self._log_dropped()
        )
        yield from _gauge("start_time_seconds", STARTED, self._started)
        yield from self._pipeline(self._stats())
        yield from self._per_stream(self._streams())
        yield from _publishers(self._publishers())
        yield from _relays(self._relays())
        yield _histogram("batch_seconds", BATCH_SECONDS, self._batch_times())
        yield _histogram("lag_seconds", LAG_SECONDS, self._lags())
        yield _histogram("delivery_lag_seconds", DELIVERY_LAG_SECONDS, self._delivery_lags())
        yield from _clients(self._hub())
        memory = self._memory()
        for key, name, text in MEMORY_GAUGES:
            yield from _gauge(name, text, memory.get(key))
        alerts = CounterMetricFamily("fasttail_alerts", "Alerts raised by the watchdog.", labels=["kind"])
        for kind, count in self._alerts().items():
            alerts.add_metric([kind], count)
        yield alerts
        if (webhook_counts := self._webhook()) is not None:
            yield _counter("webhook_sent", "Alerts delivered to the webhook.", webhook_counts[0])
            yield _counter(
                "webhook_failed", "Alerts that could not be delivered to the webhook.", webhook_counts[1]
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
        yield from _gauge("event_age_seconds", "Age of the newest order, by the order's own time.", event_age)

    def _per_stream(self, streams: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
        yield from _by_stream(STREAM_COUNTERS, streams)
        followed = _stream_gauge("stream_followed", "Whether the stream is being read: 1 or 0.")
        age = _stream_gauge("stream_data_age_seconds", "Seconds since the stream's last batch.")
        now = self._clock()
        for stream, stats in streams.items():
            followed.add_metric([stream], stats["state"] != "idle")
            seconds = _age(now, stats["last_data_ns"])
            if seconds is not None and stats["state"] != "idle":
                age.add_metric([stream], seconds)
        yield followed
        yield age
        for key, name, text in STAGE_COUNTERS:
            for stats in streams.values():
                if key in stats:
                    yield _counter(name, text, stats[key])


def _publishers(publishers: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    if not publishers:
        return
    yield from _by_stream(PUBLISHER_COUNTERS, publishers)
    publishing = _stream_gauge("nats_publishing", "Whether this node publishes the stream to NATS: 1 or 0.")
    block = _stream_gauge("nats_acknowledged_block", "Newest block that this node has published.")
    behind = _stream_gauge(
        "nats_behind_seconds", "Seconds for which lines of the node have not been in NATS."
    )
    for stream, stats in publishers.items():
        publishing.add_metric([stream], stats["state"] == "publishing")
        behind.add_metric([stream], stats["behind_s"])
        if stats["acknowledged"] is not None:
            block.add_metric([stream], stats["acknowledged"].height)
    yield from (publishing, block, behind)


def _relays(relays: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    if not relays:
        return
    yield from _by_stream(RELAY_COUNTERS, relays)
    connected = _stream_gauge("relay_connected", "Whether the relay reads from NATS: 1 or 0.")
    block = _stream_gauge("relay_block", "Newest block that the relay has written.")
    delay = _stream_gauge("relay_delay_seconds", "From the last entry's publication until it was written.")
    for stream, stats in relays.items():
        connected.add_metric([stream], stats["state"] == "relaying")
        delay.add_metric([stream], stats["delay_s"])
        if stats["written"] is not None:
            block.add_metric([stream], stats["written"].height)
    yield from (connected, block, delay)


def _by_stream(
    counters: Sequence[tuple[str, str, str]], sources: Mapping[str, Mapping[str, Any]]
) -> Iterator[Metric]:
    for key, name, text in counters:
        counter = CounterMetricFamily(f"fasttail_{name}", text, labels=["stream"])
        for stream, stats in sources.items():
            counter.add_metric([stream], stats[key])
        yield counter


def _stream_gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"fasttail_{name}", text, labels=["stream"])


class _CallbackCollector(Collector):
    """Adapts a callback to the registry's collector interface."""

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
