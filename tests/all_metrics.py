"""Renders /metrics with every metric present."""

from __future__ import annotations

from fasttail.engine.histogram import Histogram
from fasttail.monitoring import metrics
from fasttail.sources.cursor import BlockPosition


def everything() -> bytes:
    return metrics.Metrics(
        stats=lambda: {
            key: 1
            for key, _, _ in (
                *metrics.PIPELINE_COUNTERS, *metrics.PIPELINE_GAUGES, *metrics.PIPELINE_AGES,
                ("last_event_ns", "", ""),
            )
        },
        batch_times=Histogram().snapshot,
        lags=Histogram().snapshot,
        delivery_lags=Histogram().snapshot,
        started=1.0,
        hub=lambda: {
            "clients": {"c": 1},
            **{key: {"c": 1} for key, _, _ in metrics.CHANNEL_COUNTERS},
            **{key: 1 for key, _, _ in (*metrics.HUB_COUNTERS, *metrics.HUB_GAUGES)},
        },
        streams=lambda: {
            "fills": {
                "state": "live", "last_data_ns": 1,
                **{key: 1 for key, _, _ in (*metrics.STREAM_COUNTERS, *metrics.STAGE_COUNTERS)},
            },
        },
        publishers=lambda: {
            "orders": {
                "state": "publishing", "acknowledged": BlockPosition(1, 1), "behind_s": 0.0,
                **{key: 1 for key, _, _ in metrics.PUBLISHER_COUNTERS},
            },
        },
        relays=lambda: {
            "orders": {
                "state": "relaying", "written": BlockPosition(1, 1), "delay_s": 0.0,
                **{key: 1 for key, _, _ in metrics.RELAY_COUNTERS},
            },
        },
        memory=lambda: {key: 1 for key, _, _ in metrics.MEMORY_GAUGES},
        alerts=lambda: {"memory": 1},
        webhook=lambda: (1, 1),
        log_dropped=lambda: 0,
        version="1",
        commit="c",
    ).render()  # fmt: skip
