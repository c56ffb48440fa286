"""Turns findings about memory and stalls into alerts and actions.

memory ─┐                    ┌─ log (🚨, ⏰)                  ┌─ shed: slow clients, caches, malloc_trim
stall ──┴─► alert, in order ─┼─ metric                ─► then ┼─ restart in place
                             ├─ message to clients            └─ neither: too many restarts in an hour
                             └─ webhook
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fasttail.monitoring.memory import MemoryWatch
from fasttail.monitoring.stacks import dump_stacks
from fasttail.monitoring.stall import StallWatch
from fasttail.monitoring.webhook import Webhook
from fasttail.state.restart import RestartLimiter

_log = logging.getLogger(__name__)

KINDS = ("memory", "stall")


class Watchdog:
    """The owner calls `sample` every few seconds.

    restart_limiter: limits the number of restarts per hour.
    restarts:        restarts so far.
    shed:            frees what can be spared and describes it.
    restart:         begins a restart in place, for a reason.
    publish_alert:   sends an alert to the clients that subscribed to the status.
    restart_blocker: returns why the next process image could not start, or "".
    """

    REPEAT_ALERT_S = 300.0
    """Interval after which a lasting stall, or a refused restart, is reported again."""

    def __init__(
        self,
        memory: MemoryWatch,
        stall: StallWatch,
        restart_limiter: RestartLimiter,
        *,
        restarts: int,
        shed: Callable[[], str],
        restart: Callable[[str], None],
        publish_alert: Callable[[dict[str, Any]], None],
        restart_blocker: Callable[[], str] = str,
        webhook: Webhook | None = None,
    ) -> None:
        self.memory = memory
        self.alerts = Counter(dict.fromkeys(KINDS, 0))
        self._stall = stall
        self._restart_limiter = restart_limiter
        self._restarts = restarts
        self._shed = shed
        self._restart = restart
        self._restart_blocker = restart_blocker
        self._publish_alert = publish_alert
        self._webhook = webhook
        self._next_stall_alert_at = float("-inf")
        self._restarting = False
        self._last_refusal_at = float("-inf")

    def sample(self) -> None:
        """Check memory and pipeline, then alert and act."""
        self._check_memory()
        self._check_stall()

    def webhook_counts(self) -> tuple[int, int] | None:
        """Alerts that the webhook has delivered and given up; None without a webhook."""
        return (self._webhook.sent, self._webhook.failed) if self._webhook is not None else None

    def close(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for the webhook to deliver pending alerts."""
        if self._webhook is not None:
            self._webhook.close(timeout_s)

    def _check_memory(self) -> None:
        verdict = self.memory.sample()  # logs its own 🚨
        if verdict.alert:
            self._alert("memory", verdict.reason, verdict.action)
        if verdict.action == "shed":
            _log.warning("🚨 memory: shed %s", self._shed())
        elif verdict.action == "restart":
            self._request_restart("🚨 memory", verdict.reason)

    def _check_stall(self) -> None:
        reason = self._stall.sample()
        if reason is None:
            self._next_stall_alert_at = float("-inf")
            return
        if time.monotonic() < self._next_stall_alert_at:
            return
        self._next_stall_alert_at = time.monotonic() + self.REPEAT_ALERT_S
        _log.error("⏰ pipeline: stalled: %s", reason)
        try:
            _log.warning("thread stacks:\n%s", dump_stacks())
        except OSError as error:  # no descriptors left, for example; the restart matters more
            _log.warning("cannot dump thread stacks: %s", error.strerror)
        self._alert("stall", reason, "restart")
        self._request_restart("⏰ pipeline", reason)

    def _alert(self, kind: str, text: str, action: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.alerts[kind] += 1
        alert = {"kind": kind, "text": text, "action": action, "time": now}
        self._publish_alert(alert)
        if self._webhook is not None:
            context = {"service": "fasttail", "host": socket.gethostname(), "pid": os.getpid()}
            self._webhook.post(context | {"restarts": self._restarts} | alert)

    def _request_restart(self, marker: str, reason: str) -> None:
        if self._restarting:
            return
        restart_count = len(self._restart_limiter.recent)
        exhausted = (
            f"{restart_count} restarts within the last hour, the maximum"
            if self._restart_limiter.exhausted
            else ""
        )
        fault = exhausted or self._restart_blocker()
        if not fault:
            self._restart_limiter.try_acquire()
            self._restarting = True
            _log.warning("%s: restarting in place (restart %d)", marker, self._restarts + 1)
            self._restart(reason)
        elif time.monotonic() >= self._last_refusal_at + self.REPEAT_ALERT_S:
            self._last_refusal_at = time.monotonic()
            _log.error("%s: no restart: %s", marker, fault)
