"""The monitoring of a run: watchdog, health and metrics, fed with the numbers of all other parts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fasttail.app.dispatch import Dispatcher
from fasttail.app.publishing import Publishing
from fasttail.config import ServeSettings
from fasttail.engine.pipeline import Pipeline
from fasttail.monitoring.health import Health
from fasttail.monitoring.log import LogService
from fasttail.monitoring.memory import MemoryWatch, restart_limit
from fasttail.monitoring.metrics import Metrics
from fasttail.monitoring.resources import ResourceProbe, ResourceSnapshot, release_free_memory
from fasttail.monitoring.stall import StallWatch
from fasttail.monitoring.watchdog import Watchdog
from fasttail.monitoring.webhook import Webhook
from fasttail.sources.reader import Reader
from fasttail.state.checkpoint import Checkpoint
from fasttail.state.restart import RestartLimiter
from fasttail.system.cgroup import memory_limit
from fasttail.version import commit, version

if TYPE_CHECKING:
    from fasttail.app.nats import NatsTasks


RECENT_ALERTS = 10


class Monitoring:
    """The watchdog, health, and the sources of the metrics.

    guard: the watchdog's restart_limiter. restarts, restart, restart_blocker: see `Watchdog`.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pipeline: Pipeline,
        reader: Reader,
        publishing: Publishing,
        log_service: LogService,
        *,
        guard: RestartLimiter,
        restarts: int,
        restart: Callable[[str], None],
        restart_blocker: Callable[[], str],
        nats: NatsTasks | None,
    ) -> None:
        self.period_s = min(5.0, settings.memory_window_s / 60)
        self._pipeline = pipeline
        self._reader = reader
        self._publishing = publishing
        self._log_service = log_service
        self._restarts = restarts
        self._nats = nats
        self._alerts: deque[dict[str, Any]] = deque(maxlen=RECENT_ALERTS)
        self._resource_probe = probe = ResourceProbe(self._resource_snapshot)
        memory = MemoryWatch(
            restart_limit(settings.memory_limit_mb, memory_limit()),
            window_s=settings.memory_window_s,
            warmup_s=settings.memory_warmup_s,
            measure=probe.rss,
            pss=probe.pss,
            take_snapshot=probe.take_snapshot,
        )
        self.health = Health(
            pipeline.stats,
            stale_after_s=settings.stale_after_s,
            stall_after_s=settings.stall_after_s,
            batch_timeout_s=settings.batch_timeout_s,
            memory=memory.metrics,
            streams=self._stream_stats,
            nats=self._nats_states if nats is not None else None,
        )
        self.watchdog = Watchdog(
            memory,
            StallWatch(
                pipeline.stats,
                stall_after_s=settings.stall_after_s,
                batch_timeout_s=settings.batch_timeout_s,
            ),
            guard,
            restarts=restarts,
            shed=self._shed_memory,
            restart=restart,
            restart_blocker=restart_blocker,
            publish_alert=self._publish_alert,
            webhook=Webhook(settings.alert_webhook) if settings.alert_webhook else None,
        )

    def metrics(self, dispatcher: Dispatcher, checkpoint: Checkpoint | None) -> Metrics:
        """Return the metrics of all parts."""
        counts = self._publishing.counts
        return Metrics(
            stats=self._pipeline.stats,
            batch_times=self._pipeline.batch_times.snapshot,
            lags=dispatcher.lags.snapshot,
            delivery_lags=dispatcher.delivery_lags.snapshot,
            streams=self._stream_stats,
            publishers=self._nats.publishers if self._nats is not None else dict,
            relays=self._nats.relays if self._nats is not None else dict,
            hub=lambda: counts() | (checkpoint.counts() if checkpoint else {}),
            memory=self._memory_numbers,
            log_dropped=lambda: self._log_service.dropped,
            restarts=self._restarts,
            started=time.time(),
            alerts=lambda: self.watchdog.alerts,
            webhook=self.watchdog.webhook_counts,
            version=version(),
            commit=commit(),
        )

    def _stream_stats(self) -> dict[str, dict[str, Any]]:
        return {source.stream: source.stats() for source in self._pipeline.sources}

    def _nats_states(self) -> dict[str, dict[str, Any]]:
        """Return what each stream's publisher or relay does, for `/health`."""
        assert self._nats is not None
        return {
            stream: {
                "nats": stats["state"],
                "height": (stats.get("acknowledged") or stats.get("written") or (None,))[0],
                "lagMs": round(1000 * stats.get("behind_s", stats.get("delay_s", 0.0))),
                "reason": stats["error"] or None,
            }
            for stream, stats in {**self._nats.publishers(), **self._nats.relays()}.items()
        }

    def publish_status(self) -> None:
        """Send the status to its subscribers; call it once a second."""
        self._publishing.tick()
        self._publishing.public.publish_status(self.health.freshness)

    def figures(self) -> dict[str, Any]:
        """Return what a summary shows of the server: counts since its start, and the state now."""
        counts = self._publishing.counts()
        streams = {
            stream: {
                **{key: stats[key] for key in ("lines", "orders", "rejected", "bytes", "offset")},
                "trades": stats.get("trades"),
                "hour": "/".join(str(stats["file"]).split("/")[-2:]) if stats["file"] else None,
            }
            for stream, stats in self._stream_stats().items()
        }
        return {
            "time": time.time_ns() // 1_000_000,
            "version": version(),
            "commit": commit(),
            "restarts": self._restarts,
            "health": self.health.health()[1],
            "streams": streams,
            "clients": {
                "connections": counts["connections"],
                "subscriptions": counts["subscriptions"],
                "queuedBytes": counts["queued_bytes"],
                "replays": counts["replays_running"],
                "bytesBehind": counts["replay_bytes_behind"],
            },
            "alerts": list(self._alerts),
        }

    def _publish_alert(self, alert: dict[str, Any]) -> None:
        self._alerts.append(alert)
        self._publishing.public.publish_status(lambda: {**self.health.freshness(), "alert": alert})

    def _resource_snapshot(self) -> ResourceSnapshot:
        """Return what the process holds, named as in an alert."""
        counts = self._publishing.counts()
        waiting, kept = self._pipeline.ring_bytes()
        return ResourceSnapshot(
            {
                "client queues": counts["queued_bytes"],
                "ring": waiting,
                "ring buffers": kept,
                "block": self._reader.resident_bytes,
                "replay buffers": self._publishing.replay_bytes,
                "log queue": self._log_service.queued_bytes,
            },
            {
                "clients": counts["connections"],
                "topics": counts["topics"],
                "subscriptions": counts["subscriptions"],
                "replays": int(counts["replays_running"]),
            },
        )

    def _memory_numbers(self) -> dict[str, float | None]:
        return {
            **self.watchdog.memory.metrics(),
            **self._resource_probe.allocator_metrics(),
            "open_files": self._resource_probe.open_files(),
            "threads": self._resource_probe.threads(),
            "ring_bytes": self._pipeline.ring_bytes()[0],
            "log_queue_bytes": self._log_service.queued_bytes,
        }

    def _shed_memory(self) -> str:
        """Disconnect slow clients and drop caches. Return a description of what was freed."""
        clients, freed = self._publishing.hub.shed_slowest()
        if self._publishing.compression is not None:
            self._publishing.compression.clear_cache()
        self._pipeline.trim()
        # Connections free their queues in the loop's next turns; but it must be before the next sample.
        asyncio.get_running_loop().call_later(self.period_s / 2, release_free_memory)
        return f"{clients} slow clients with {freed} queued bytes, and caches"
