"""At most once in so many seconds: what others can cause at will, or what lasts, does not fill the log."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """Says when something that happens again and again is due: the first time, then once in `interval_s`."""

    def __init__(self, interval_s: float, clock: Callable[[], float] | None = None) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._next = float("-inf")

    def ready(self) -> bool:
        """Whether it is due now. If so, it is not again for `interval_s`."""
        now = time.monotonic() if self._clock is None else self._clock()
        if now < self._next:
            return False
        self._next = now + self._interval_s
        return True

    def reset(self) -> None:
        """The next time is the first again."""
        self._next = float("-inf")
