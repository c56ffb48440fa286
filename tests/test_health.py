"""Freshness and progress, on a clock that the test controls."""

from __future__ import annotations

from typing import Any

import pytest

from fasttail.monitoring.health import Health

S = 1_000_000_000
WALL = 1_777_000_000 * S


class Pipeline:
    """Adjustable stats and clocks; the monotonic clock starts at 1000 s."""

    def __init__(self) -> None:
        self.now = 1000 * S
        self.stats: dict[str, Any] = {
            "state": "waiting",
            "last_data_ns": 0,
            "loop_ns": self.now,
            "in_batch_ns": 0,
            "last_event_ns": 0,
            "height": None,
        }
        self.health = Health(
            lambda: self.stats,
            stale_after_s=60,
            stall_after_s=30,
            batch_timeout_s=45,
            clock=lambda: self.now,
            wall_clock=lambda: WALL + self.now,
        )


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


def test_waiting_for_data_is_healthy_however_long(pipeline: Pipeline) -> None:
    pipeline.now += 100_000 * S
    assert pipeline.health.health() == (
        200,
        {
            "status": "ok",
            "reason": "no file yet",
            "state": "waiting",
            "data_age_s": None,
            "stale_after_s": 60,
            "event_age_s": None,
            "lagMs": None,
            "lastEventAgeMs": None,
            "height": None,
            "deliveryLagMs": None,
        },
    )


def test_the_lag_is_told_from_the_order_and_from_the_line(pipeline: Pipeline) -> None:
    now = WALL + pipeline.now
    times = {"last_event_ns": now - 2 * S, "last_local_ns": now - S // 2, "last_event_seen_ns": now - S // 4}
    pipeline.stats |= {"state": "live", "last_data_ns": pipeline.now, "height": 983, **times}
    body = pipeline.health.health()[1]
    assert (body["lagMs"], body["deliveryLagMs"], body["lastEventAgeMs"]) == (1750, 250, 2000)
    assert set(pipeline.health.freshness()) == {"lagMs", "lastEventAgeMs", "height"}, "what clients are told"
    pipeline.stats["last_local_ns"] = 0
    assert pipeline.health.health()[1]["deliveryLagMs"] is None, "the plain layout does not tell"


@pytest.mark.fault(35)
def test_data_turns_stale_past_the_limit_and_fresh_again(pipeline: Pipeline) -> None:
    pipeline.stats |= {"state": "live", "last_data_ns": pipeline.now, "height": 983}
    pipeline.stats["last_event_ns"] = WALL + pipeline.now - 2 * S
    status, body = pipeline.health.health()
    assert (status, body["status"], body["state"], body["height"]) == (200, "ok", "live", 983)
    assert (body["data_age_s"], body["event_age_s"]) == (0.0, 2.0)
    pipeline.now += 60 * S
    assert pipeline.health.health()[0] == 200
    pipeline.now += S // 100
    status, body = pipeline.health.health()
    assert (status, body["status"]) == (503, "stale")
    assert (body["data_age_s"], body["event_age_s"]) == (60.01, 62.01)
    pipeline.stats["last_data_ns"] = pipeline.now
    assert pipeline.health.health()[0] == 200


def test_what_cannot_be_read_is_told(pipeline: Pipeline) -> None:
    """A read error makes the state stale at once if nothing was read, otherwise when the data is too old."""
    why = "cannot follow /data: [Errno 13] Permission denied"
    pipeline.stats["trouble"] = why
    status, body = pipeline.health.health()
    assert (status, body["status"], body["reason"], body["data_age_s"]) == (503, "stale", why, None)
    pipeline.stats["last_data_ns"] = pipeline.now
    status, body = pipeline.health.health()
    assert (status, body["status"], body["reason"]) == (200, "ok", why)
    pipeline.now += 61 * S
    status, body = pipeline.health.health()
    assert (status, body["status"], body["reason"]) == (503, "stale", why)
    pipeline.stats |= {"trouble": "", "loop_ns": pipeline.now}
    assert pipeline.health.health()[1]["reason"] == "the node has written nothing for 61 s, more than 60 s"


def test_a_stall_of_ours_is_not_the_nodes(pipeline: Pipeline) -> None:
    pipeline.stats |= {"state": "live", "last_data_ns": pipeline.now, "in_batch_ns": pipeline.now}
    pipeline.now += 61 * S
    status, body = pipeline.health.health()
    assert (status, body["status"]) == (503, "stale")
    assert body["reason"].startswith("a batch has run for 61.0 s")


def test_a_file_is_as_old_as_it_is_also_to_a_process_that_has_just_begun(pipeline: Pipeline) -> None:
    pipeline.stats |= {"file": "/data/9", "written_ns": WALL + pipeline.now - 5 * S}
    status, body = pipeline.health.health()
    assert (status, body["status"], body["state"]) == (200, "ok", "waiting")
    assert (body["data_age_s"], body["reason"]) == (5.0, "no line since the start")
    pipeline.now += 56 * S
    pipeline.stats["loop_ns"] = pipeline.now
    status, body = pipeline.health.health()
    assert (status, body["status"], body["state"], body["data_age_s"]) == (503, "stale", "waiting", 61.0)
    assert body["reason"].startswith("the node has written nothing for 61 s")


def test_an_event_from_the_future_has_no_negative_age(pipeline: Pipeline) -> None:
    pipeline.stats |= {"last_data_ns": pipeline.now, "last_event_ns": WALL + pipeline.now + 5 * S}
    assert pipeline.health.health()[1]["event_age_s"] == 0.0


@pytest.mark.fault(35)
def test_stale_data_is_no_reason_to_restart(pipeline: Pipeline) -> None:
    pipeline.stats["last_data_ns"] = pipeline.now
    pipeline.now += 3600 * S
    pipeline.stats["loop_ns"] = pipeline.now
    assert pipeline.health.health()[0] == 503
    assert pipeline.health.live() == (200, {"status": "ok", "progress_age_s": 0.0, "batch_age_s": None})


def test_a_pipeline_that_does_not_come_by_is_not_live(pipeline: Pipeline) -> None:
    pipeline.now += 30 * S
    assert pipeline.health.live()[0] == 200
    pipeline.now += S
    status, body = pipeline.health.live()
    assert status == 503
    assert body == {
        "status": "stalled",
        "reason": "the pipeline has made no progress for 31.0 s, more than 30 s",
        "progress_age_s": 31.0,
        "batch_age_s": None,
    }
    pipeline.stats["loop_ns"] = pipeline.now
    assert pipeline.health.live()[0] == 200


def test_a_pipeline_that_never_started_is_not_live_after_a_while(pipeline: Pipeline) -> None:
    pipeline.stats["loop_ns"] = 0
    assert pipeline.health.live()[0] == 200
    pipeline.now += 31 * S
    assert pipeline.health.live()[0] == 503


def test_a_long_batch_has_its_own_limit(pipeline: Pipeline) -> None:
    pipeline.stats["in_batch_ns"] = pipeline.now
    pipeline.now += 45 * S
    assert pipeline.health.live()[0] == 200  # longer than the limit between batches, and allowed
    pipeline.now += S
    status, body = pipeline.health.live()
    assert (status, body["reason"]) == (503, "a batch has run for 46.0 s, more than 45 s")
    assert body["batch_age_s"] == 46.0
    pipeline.stats |= {"in_batch_ns": 0, "loop_ns": pipeline.now}
    assert pipeline.health.live()[0] == 200


def test_the_memory_is_told_as_it_is() -> None:
    stats = Pipeline().stats
    health = Health(lambda: stats, memory=lambda: {"rss_bytes": 7, "left_seconds": None})
    status, body = health.health()
    assert (status, body["memory"]) == (200, {"rss_bytes": 7, "left_seconds": None})
