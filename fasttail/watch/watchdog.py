"""What the watches find, to whoever has to know, and to what has to be done.

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

from fasttail.watch.memory import MemoryWatch
from fasttail.watch.restart import StormGuard
from fasttail.watch.stacks import stacks
from fasttail.watch.stall import StallWatch
from fasttail.watch.webhook import Webhook

_log = logging.getLogger(__name__)

KINDS = ("memory", "stall")


class Watchdog:
    """Its owner calls `sample` every few seconds.

    guard:    how many restarts may be made.
    restarts: how many were made.
    shed:     frees what can be spared; says in words what that was.
    restart:  begins a restart in place, for a reason.
    unfit:    why the next image could not start; "" if it can.
    tell:     an alert to the clients who want to know.
    """

    AGAIN_S = 300.0
    """A stall that lasts, and a restart that is refused, are told again after so long."""

    def __init__(
        self,
        memory: MemoryWatch,
        stall: StallWatch,
        guard: StormGuard,
        *,
        restarts: int,
        shed: Callable[[], str],
        restart: Callable[[str], None],
        tell: Callable[[dict[str, Any]], None],
        unfit: Callable[[], str] = str,
        webhook: Webhook | None = None,
    ) -> None:
        self.memory = memory
        self.alerts = Counter(dict.fromkeys(KINDS, 0))
        self._stall = stall
        self._guard = guard
        self._restarts = restarts
        self._shed = shed
        self._restart = restart
        self._unfit = unfit
        self._tell = tell
        self._webhook = webhook
        self._tell_stall_at = float("-inf")
        self._restarting = False
        self._refused_at = float("-inf")

    def sample(self) -> None:
        """Look, tell, act."""
        self._look_at_memory()
        self._look_for_a_stall()

    def posted(self) -> tuple[int, int] | None:
        """Alerts that the webhook has sent, and given up; None: there is no webhook."""
        return (self._webhook.sent, self._webhook.failed) if self._webhook is not None else None

    def close(self, timeout_s: float) -> None:
        """The end: the last alerts have so long to get out."""
        if self._webhook is not None:
            self._webhook.close(timeout_s)

    def _look_at_memory(self) -> None:
        verdict = self.memory.sample()  # has logged its 🚨
        if verdict.alert:
            self._alert("memory", verdict.reason, verdict.action)
        if verdict.action == "shed":
            _log.warning("🚨 memory: shed %s", self._shed())
        elif verdict.action == "restart":
            self._ask_restart("🚨 memory", verdict.reason)

    def _look_for_a_stall(self) -> None:
        reason = self._stall.sample()
        if reason is None:
            self._tell_stall_at = float("-inf")
            return
        if time.monotonic() < self._tell_stall_at:
            return
        self._tell_stall_at = time.monotonic() + self.AGAIN_S
        _log.error("⏰ pipeline: stalled: %s", reason)
        try:
            _log.warning("what each thread does:\n%s", stacks())
        except OSError as error:  # no descriptor is left, say: the restart matters more
            _log.warning("what each thread does cannot be told: %s", error.strerror)
        self._alert("stall", reason, "restart")
        self._ask_restart("⏰ pipeline", reason)

    def _alert(self, kind: str, text: str, action: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.alerts[kind] += 1
        alert = {"kind": kind, "text": text, "action": action, "time": now}
        self._tell(alert)
        if self._webhook is not None:
            about = {"service": "fasttail", "host": socket.gethostname(), "pid": os.getpid()}
            self._webhook.post(about | {"restarts": self._restarts} | alert)

    def _ask_restart(self, marker: str, reason: str) -> None:
        if self._restarting:
            return
        made = len(self._guard.recent)
        full = f"there were {made} within an hour, as many as may be" if self._guard.full else ""
        fault = full or self._unfit()
        if not fault:
            self._guard.take()
            self._restarting = True
            _log.warning("%s: restarting in place (restart %d)", marker, self._restarts + 1)
            self._restart(reason)
        elif time.monotonic() >= self._refused_at + self.AGAIN_S:
            self._refused_at = time.monotonic()
            _log.error("%s: no restart: %s", marker, fault)
