"""The metrics text, read back with prometheus_client's own parser."""

from __future__ import annotations

from typing import Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fasttail.monitoring.metrics import Metrics

S = 1_000_000_000

STATS: dict[str, Any] = {
    "batches": 3,
    "lines": 2**53 - 1,
    "orders": 12,
    "selected": 11,
    "rejected": 10,
    "bytes": 9,
    "failed_chunks": 8,
    "oversize_lines": 7,
    "oversize_orders": 6,
    "late_lines": 5,
    "truncations": 4,
    "files_opened": 2,
    "inotify_overflows": 1,
    "worker_count": 4,
    "height": 983_000_000,
    "last_data_ns": 90 * S,
    "loop_ns": 99 * S,
    "in_batch_ns": 0,
    "batch_number": 3,
    "file": "/data/16",
    "offset": 77,
    "last_event_ns": 5000 * S,
    "state": "live",
}
HUB: dict[str, Any] = {
    "connections": 3,
    "clients": {"orderUpdate": 2, "orderBatch": 1},
    "messages_sent": {"orderUpdate": 20, "orderBatch": 10},
    "orders_sent": {"orderUpdate": 20, "orderBatch": 40},
    "bytes_sent": {"orderUpdate": 200, "orderBatch": 100},
    "queued_bytes": 17,
    "opened": 13,
    "refused": 14,
    "closed_slow": 15,
    "shed": 22,
    "closed_idle": 18,
    "closed_flooding": 19,
    "protocol_faults": 16,
}

MEMORY: dict[str, float | None] = {
    "rss_bytes": 84e6,
    "pss_bytes": 83e6,
    "limit_bytes": 200e6,
    "left_seconds": 3600.0,
    "slope_bytes_per_second": -12.5,
    "slope_low_bytes_per_second": -13.5,
    "slope_high_bytes_per_second": -11.5,
    "growth_confidence": 0.25,
    "growing": 0.0,
    "malloc_used_bytes": 12e6,
    "malloc_free_bytes": 2e6,
    "python_blocks": 134_000,
    "open_files": 31,
    "threads": 7,
    "ring_bytes": 8,
    "log_queue_bytes": 9,
}


BATCH_TIMES = [(0.001, 2), (30.0, 3), (float("inf"), 4)], 61.5
LAGS = [(0.001, 0), (30.0, 4), (float("inf"), 4)], 0.25
DELIVERY_LAGS = [(0.001, 3), (30.0, 4), (float("inf"), 4)], 0.01


def render(stats: dict[str, Any] = STATS, memory: dict[str, float | None] | None = None) -> str:
    metrics = Metrics(
        stats=lambda: stats,
        batch_times=lambda: BATCH_TIMES,
        lags=lambda: LAGS,
        delivery_lags=lambda: DELIVERY_LAGS,
        hub=lambda: HUB,
        memory=lambda: MEMORY if memory is None else memory,
        log_dropped=lambda: 21,
        restarts=2,
        started=1.78e9,
        alerts=lambda: {"memory": 3, "stall": 0},
        webhook=lambda: (4, 5),
        version="0.1.0",
        commit='ab"c\\1',
        clock=lambda: 100 * S,
        wall_clock=lambda: 5007 * S,
    )
    assert metrics.render() == metrics.render()  # rendering does not change the counters
    return metrics.render().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def test_every_number_is_told_under_its_name() -> None:
    plain: dict[str, float] = {
        "fasttail_batches_total": 3,
        "fasttail_lines_total": 2**53 - 1,
        "fasttail_orders_total": 12,
        "fasttail_selected_orders_total": 11,
        "fasttail_rejected_lines_total": 10,
        "fasttail_bytes_read_total": 9,
        "fasttail_failed_chunks_total": 8,
        "fasttail_oversize_lines_total": 7,
        "fasttail_oversize_orders_total": 6,
        "fasttail_late_lines_total": 5,
        "fasttail_truncations_total": 4,
        "fasttail_files_opened_total": 2,
        "fasttail_inotify_overflows_total": 1,
        "fasttail_workers": 4,
        "fasttail_file_offset_bytes": 77,
        "fasttail_block_height": 983_000_000,
        "fasttail_data_age_seconds": 10,
        "fasttail_pipeline_age_seconds": 1,
        "fasttail_event_age_seconds": 7,
        "fasttail_client_queued_bytes": 17,
        "fasttail_client_connections_total": 13,
        "fasttail_client_refused_total": 14,
        "fasttail_client_closed_slow_total": 15,
        "fasttail_client_shed_total": 22,
        "fasttail_client_closed_idle_total": 18,
        "fasttail_client_closed_flooding_total": 19,
        "fasttail_client_protocol_faults_total": 16,
        "fasttail_log_lines_dropped_total": 21,
        "fasttail_restarts_total": 2,
        "fasttail_start_time_seconds": 1.78e9,
        "fasttail_webhook_sent_total": 4,
        "fasttail_webhook_failed_total": 5,
        "fasttail_rss_bytes": 84e6,
        "fasttail_pss_bytes": 83e6,
        "fasttail_memory_limit_bytes": 200e6,
        "fasttail_memory_left_seconds": 3600,
        "fasttail_rss_slope_bytes_per_second": -12.5,
        "fasttail_rss_slope_low_bytes_per_second": -13.5,
        "fasttail_rss_slope_high_bytes_per_second": -11.5,
        "fasttail_rss_growth_confidence": 0.25,
        "fasttail_rss_growing": 0,
        "fasttail_malloc_used_bytes": 12e6,
        "fasttail_malloc_free_bytes": 2e6,
        "fasttail_python_blocks": 134_000,
        "fasttail_open_files": 31,
        "fasttail_threads": 7,
        "fasttail_ring_bytes": 8,
        "fasttail_log_queue_bytes": 9,
    }
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
        (name, ()): value for name, value in plain.items()
    }
    for name, key in (
        ("fasttail_clients", "clients"),
        ("fasttail_messages_sent_total", "messages_sent"),
        ("fasttail_orders_sent_total", "orders_sent"),
        ("fasttail_bytes_sent_total", "bytes_sent"),
    ):
        for channel, value in HUB[key].items():
            expected[name, (("channel", channel),)] = value
    expected["fasttail_alerts_total", (("kind", "memory"),)] = 3
    expected["fasttail_alerts_total", (("kind", "stall"),)] = 0
    expected["fasttail_build_info", (("commit", 'ab"c\\1'), ("version", "0.1.0"))] = 1
    for name, buckets, total in (("batch", *BATCH_TIMES), ("lag", *LAGS), ("delivery_lag", *DELIVERY_LAGS)):
        for (_, count), bound in zip(buckets, ("0.001", "30.0", "+Inf"), strict=True):
            expected[f"fasttail_{name}_seconds_bucket", (("le", bound),)] = count
        expected[f"fasttail_{name}_seconds_count", ()] = 4
        expected[f"fasttail_{name}_seconds_sum", ()] = total
    assert samples(render()) == expected


def test_what_is_not_known_is_left_out() -> None:
    stats = STATS | {"last_data_ns": 0, "last_event_ns": 0, "height": None}
    del stats["late_lines"]
    text = render(stats, MEMORY | {"slope_bytes_per_second": None, "left_seconds": None})
    missing = {name for name, _ in samples(render())} - {name for name, _ in samples(text)}
    assert missing == {
        "fasttail_data_age_seconds",
        "fasttail_event_age_seconds",
        "fasttail_block_height",
        "fasttail_late_lines_total",
        "fasttail_rss_slope_bytes_per_second",
        "fasttail_memory_left_seconds",
    }


def test_a_running_batch_shows() -> None:
    assert samples(render(STATS | {"in_batch_ns": 58 * S}))["fasttail_batch_running_seconds", ()] == 42


@pytest.mark.parametrize("key", ["lines", "opened"])
def test_counters_are_typed(key: str) -> None:
    text = render()
    name = {"lines": "fasttail_lines_total", "opened": "fasttail_client_connections_total"}[key]
    assert f"# TYPE {name} counter\n" in text
    assert f"# HELP {name} " in text
    assert "# TYPE fasttail_clients gauge\n" in text
    assert "# TYPE fasttail_lag_seconds histogram\n" in text


def test_the_default_registry_stays_untouched() -> None:
    render()
    assert b"fasttail" not in prometheus_client.generate_latest()
