"""Is the service well? Two questions with two answers: is the data fresh, and does the process make progress?

Both are computed from the pipeline's numbers at the moment of asking; nothing here has a timer or a state
that could go stale itself. `/health` tells about the node as much as about fasttail, so an orchestrator
must restart on `/health/live` alone.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

Stats = Callable[[], Mapping[str, int | float | str | None]]

NS_PER_S = 1_000_000_000


class Health:
    """Answers for `/health` and `/health/live`: an HTTP status and a JSON object. Callable from any thread.

    stats:           the pipeline's numbers: `state`, `height`, `last_event_ns`, and on the monotonic clock
                     `last_data_ns`, `loop_ns`, `in_batch_ns` (each 0: never, or not now); and perhaps
                     `trouble` (why nothing can be read), `file` and `written_ns` (Unix time at which it had
                     last been written to when it was opened), `grows` (which other layout is being written),
                     `last_local_ns` and `last_event_seen_ns`.
    stale_after_s:   data older than this is stale, once there has been any.
    stall_after_s:   the pipeline must come by at least this often outside a batch.
    batch_timeout_s: how long one batch may take.
    clock:           monotonic nanoseconds, the same clock as in `stats`.
    wall_clock:      Unix time in nanoseconds, for the age of the newest event.
    memory:          the memory watch's numbers, which are told as they are.
    """

    def __init__(
        self,
        stats: Stats,
        *,
        stale_after_s: float = 60.0,
        stall_after_s: float = 30.0,
        batch_timeout_s: float = 30.0,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
        memory: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._stats = stats
        self._memory = memory
        self._stale_after_s = stale_after_s
        self._stall_after_s = stall_after_s
        self._batch_timeout_s = batch_timeout_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._started_ns = clock()  # counts as progress until the pipeline has come by for the first time

    def health(self) -> tuple[int, dict[str, Any]]:
        """200 while waiting for data or live; 503 once the newest data is older than the limit, or while
        nothing can be read and nothing has been.
        """
        stats = self._stats()
        data_age = _age(self._clock(), stats["last_data_ns"])
        if data_age is None:
            data_age = _age(self._wall_clock(), stats.get("written_ns"))
        trouble = str(stats.get("trouble") or "")
        stale = bool(trouble) if data_age is None else data_age > self._stale_after_s
        reason = trouble or None
        if stale and not trouble:
            stale_reason = (
                f"the node has written nothing for {data_age:.0f} s, more than {self._stale_after_s:g} s"
            )
            grows = stats.get("grows")
            reason = self.live()[1].get("reason", f"{stale_reason}; {grows}" if grows else stale_reason)
        elif stats["state"] == "waiting" and not trouble:
            reason = "no line since the start" if stats.get("file") else "no file yet"
            if stats.get("grows"):
                reason = f"{reason}; {stats['grows']}"
        return 503 if stale else 200, {
            "status": "stale" if stale else "ok",
            "reason": reason,
            "state": stats["state"],
            "data_age_s": data_age,
            "stale_after_s": self._stale_after_s,
            "event_age_s": _age(self._wall_clock(), stats["last_event_ns"]),
            **self.freshness(),
            "deliveryLagMs": self._delivery_lag_ms(stats),
            **({"memory": dict(self._memory())} if self._memory is not None else {}),
        }

    def freshness(self) -> dict[str, Any]:
        """How old the data is, as clients are told: milliseconds, None where it is not known yet.

        lagMs: from the newest order's own time to the moment it was published, so the node's lag and ours
        together. lastEventAgeMs: from that time to now.
        """
        stats = self._stats()
        event, published = int(stats["last_event_ns"] or 0), int(stats.get("last_event_seen_ns") or 0)
        return {
            "lagMs": (published - event) // 1_000_000 if event else None,
            "lastEventAgeMs": (self._wall_clock() - event) // 1_000_000 if event else None,
            "height": stats["height"],
        }

    def _delivery_lag_ms(self, stats: Mapping[str, Any]) -> int | None:
        """From the moment at which the node wrote the newest order's line to that at which it was published;
        None in the plain layout, whose lines do not tell.
        """
        written, published = int(stats.get("last_local_ns") or 0), int(stats.get("last_event_seen_ns") or 0)
        return (published - written) // 1_000_000 if written else None

    def live(self) -> tuple[int, dict[str, Any]]:
        """200 while the pipeline makes progress; 503, with the reason, when it does not."""
        stats = self._stats()
        now = self._clock()
        batch_age = _age(now, stats["in_batch_ns"])
        progress_age = _age(now, stats["loop_ns"] or self._started_ns)
        reason = None
        if batch_age is not None:
            # Within a batch only the batch's own limit holds: it may be longer than the other one.
            if batch_age > self._batch_timeout_s:
                reason = f"a batch has run for {batch_age:.1f} s, more than {self._batch_timeout_s:g} s"
        elif progress_age is not None and progress_age > self._stall_after_s:
            limit = self._stall_after_s
            reason = f"the pipeline has made no progress for {progress_age:.1f} s, more than {limit:g} s"
        body: dict[str, Any] = {"status": "ok" if reason is None else "stalled"}
        if reason is not None:
            body["reason"] = reason
        body |= {"progress_age_s": progress_age, "batch_age_s": batch_age}
        return 200 if reason is None else 503, body


def _age(now_ns: int, then_ns: int | float | str | None) -> float | None:
    """Seconds since `then_ns`, to the millisecond and never negative; None if it never happened (0, None)."""
    if not then_ns:
        return None
    return round(max(0, now_ns - int(then_ns)) / NS_PER_S, 3)
