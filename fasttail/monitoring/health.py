"""Answers whether the data is fresh and whether the process makes progress.

Both answers are computed from the pipeline's statistics on request, so no timer or state can become stale.
`/health` also depends on the node, so an orchestrator must restart on `/health/live` alone.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

Stats = Callable[[], Mapping[str, int | float | str | None]]

NS_PER_S = 1_000_000_000


class Health:
    """Answers `/health` and `/health/live` with an HTTP status and a JSON object. Thread-safe.

    stats:           the pipeline's statistics. Required: `state`, `height`, `last_event_ns`, and the
                     monotonic times `last_data_ns`, `loop_ns` and `in_batch_ns` (0: never, or not now).
                     Optional: `trouble` (why nothing can be read), `file`, `written_ns` (the file's
                     modification time when it was opened, Unix), `grows` (another layout that is being
                     written), `last_local_ns` and `last_event_seen_ns`.
    stale_after_s:   age at which data becomes stale, once there has been any.
    stall_after_s:   longest time between two loop iterations of the pipeline outside a batch.
    batch_timeout_s: longest duration of one batch.
    clock:           monotonic nanoseconds, the clock of `stats`.
    wall_clock:      Unix nanoseconds, for the age of the newest event.
    memory:          the memory watch's numbers, included unchanged.
    streams:         the statistics of each stream, by its name.
    nats:            what is published to NATS or relayed from it, by the stream's name.
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
        streams: Callable[[], Mapping[str, Mapping[str, Any]]] | None = None,
        nats: Callable[[], Mapping[str, Mapping[str, Any]]] | None = None,
    ) -> None:
        self._stats = stats
        self._memory = memory
        self._streams = streams
        self._nats = nats
        self._stale_after_s = stale_after_s
        self._stall_after_s = stall_after_s
        self._batch_timeout_s = batch_timeout_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._started_ns = clock()  # counts as progress until the pipeline's first loop iteration

    def health(self) -> tuple[int, dict[str, Any]]:
        """Return 503 if the newest data is too old, or if nothing could be read so far; else 200."""
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
            **({"streams": self._stream_states()} if self._streams is not None else {}),
            **({"nats": dict(self._nats())} if self._nats is not None else {}),
        }

    def _stream_states(self) -> dict[str, dict[str, Any]]:
        """Return for each stream whether it is read (`reading` is "idle" if not), and how old its data is."""
        assert self._streams is not None
        return {
            name: {
                "reading": stats["state"],  # not `state`: scripts search the body for that of the orders
                "data_age_s": _age(self._clock(), stats["last_data_ns"])
                if stats["state"] != "idle"
                else None,
                "height": stats["height"],
                "reason": str(stats.get("trouble") or "") or None,
            }
            for name, stats in self._streams().items()
        }

    def freshness(self) -> dict[str, Any]:
        """Return the age of the data as sent to clients, in milliseconds; None where it is not yet known.

        lagMs:          from the newest order's own time to its publication, so it includes the node's lag.
        lastEventAgeMs: from the newest order's own time until now.
        """
        stats = self._stats()
        event, published = int(stats["last_event_ns"] or 0), int(stats.get("last_event_seen_ns") or 0)
        return {
            "lagMs": (published - event) // 1_000_000 if event else None,
            "lastEventAgeMs": (self._wall_clock() - event) // 1_000_000 if event else None,
            "height": stats["height"],
        }

    def _delivery_lag_ms(self, stats: Mapping[str, Any]) -> int | None:
        """Return the milliseconds from the node's write of the newest order's line to its publication.

        None in the plain layout, whose lines have no such time.
        """
        written, published = int(stats.get("last_local_ns") or 0), int(stats.get("last_event_seen_ns") or 0)
        return (published - written) // 1_000_000 if written else None

    def live(self) -> tuple[int, dict[str, Any]]:
        """Return 200 while the pipeline makes progress, else 503 with the reason."""
        stats = self._stats()
        now = self._clock()
        batch_age = _age(now, stats["in_batch_ns"])
        progress_age = _age(now, stats["loop_ns"] or self._started_ns)
        reason = None
        if batch_age is not None:
            # Only the batch limit applies within a batch, since it may be the longer one.
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
    """Return the seconds since `then_ns`, in whole milliseconds and never negative; None for 0 or None."""
    if not then_ns:
        return None
    return round(max(0, now_ns - int(then_ns)) / NS_PER_S, 3)
