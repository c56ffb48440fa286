"""Limits how often a recurring event is reported, so that it cannot fill the log."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """Lets the first event pass, then at most one per `interval_s`."""

    def __init__(self, interval_s: float, clock: Callable[[], float] | None = None) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._next = float("-inf")

    def ready(self) -> bool:
        """Return whether an event may pass now; if so, start a new interval."""
        now = time.monotonic() if self._clock is None else self._clock()
        if now < self._next:
            return False
        self._next = now + self._interval_s
        return True

    def reset(self) -> None:
        """Let the next event pass."""
        self._next = float("-inf")
