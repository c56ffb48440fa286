"""Deliberate faults to test the watchdog: `--debug-leak`, `--debug-leak-c`. Imported only for them."""

from __future__ import annotations

import time
from collections.abc import Callable

from fasttail.config import ServeSettings
from fasttail.engine.pipeline import leak
from fasttail.monitoring.growth import MB

TICK_S = 0.1
"""Interval between ticks, so short that the growth has no steps between two samples of the watchdog."""


def leaks(settings: ServeSettings) -> list[LeakInjector]:
    """Return the leaks to inject, in Python and in C; call `tick` of each every `TICK_S`."""
    found: list[LeakInjector] = []
    if settings.debug_leak:
        found.append(LeakInjector(settings.debug_leak))
    if settings.debug_leak_c:
        found.append(LeakInjector(settings.debug_leak_c, allocate=leak))
    return found


class LeakInjector:
    """Leaks memory at a constant rate, on each `tick`, and touches it.

    allocate: leaks a number of bytes; by default they are kept here, in Python.
    """

    def __init__(
        self,
        mb_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        allocate: Callable[[int], None] | None = None,
    ) -> None:
        self.bytes = 0
        self._rate = mb_per_s * MB
        self._clock = clock
        self._start = clock()
        self._leaked: list[bytes] = []
        self._allocate = allocate or self._allocate_in_python

    def tick(self) -> None:
        """Leak what is due since the last call."""
        due = int((self._clock() - self._start) * self._rate) - self.bytes
        if due > 0:
            self._allocate(due)
            self.bytes += due

    def _allocate_in_python(self, due: int) -> None:
        self._leaked.append(b"\xa5" * due)  # not zeros, which would stay unmapped
