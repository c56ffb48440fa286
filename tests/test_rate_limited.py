"""Rate-limited messages: the first is logged at once, the next with what was held back meanwhile."""

from __future__ import annotations

import logging
import time

import pytest

from fasttail.monitoring.rate_limited import LOG_INTERVAL_S, RateLimitedLog


def test_a_line_is_told_at_once_and_then_seldom(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    log = logging.getLogger("fasttail.test")
    line = RateLimitedLog(log, logging.WARNING, "client %s is odd: 100%%")
    line.emit("a")
    for _ in range(1000):
        now += LOG_INTERVAL_S / 1001
        line.emit("b")
    assert [record.getMessage() for record in caplog.records] == ["client a is odd: 100%"]
    now = 1000.0 + LOG_INTERVAL_S
    line.emit("c")
    now += LOG_INTERVAL_S
    line.emit("d")
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "client c is odd: 100% (1000 similar lines suppressed)",
        "client d is odd: 100%",
    ]


def test_a_traceback_goes_with_the_line(caplog: pytest.LogCaptureFixture) -> None:
    line = RateLimitedLog(logging.getLogger("fasttail.test"), logging.ERROR, "failed")
    for _ in range(3):
        try:
            raise ValueError("why")
        except ValueError:
            line.emit(exc_info=True)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
