"""The nine lines that a batch leaves in the log, as the operators know them.

Five when it starts and four when it ends, so that a batch which hangs shows its beginning and no end. Which
batches are logged is the caller's choice; that an end belongs to each beginning is seen to here: operators
compare the two counts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeAlias

from fasttail.monitoring.log import Event, LogService

TEXTS = {
    # The operators' nine, in their order.
    "batch_started": "📦 Processing batch snapshot: {lines} lines (buffer cleared)",
    "batch_parallel": "🔄 Parallel processing START: {lines} lines, {workers} workers",
    "batch_chunks": "📊 Chunks created: {chunks} chunks, ~{share} lines per chunk (workers: {workers})",
    "batch_tasks": "🚀 Starting parallel execution: {chunks} tasks (executor: {workers} max workers)",
    "batch_waiting": "⏳ Waiting for all {chunks} tasks to complete...",
    "batch_results": "✅ All parallel tasks completed: {chunks} results received",
    "batch_combining": "📦 Combining results from {chunks} chunks...",
    "batch_completed": "✅ Parallel COMPLETED: {lines} lines → {orders} orders "
    "({chunks} chunks, {failed} failed)",
    "batch_broadcast": "📡 WebSocket: {sent}/{selected} orders → {clients} clients",
    # The others.
    "batch_summary": "Σ {seconds:.0f} s: {batches} batches, largest {largest} lines, {lines} lines → "
    "{orders} orders ({failed} chunks failed), {sent}/{selected} orders → {clients} clients",
    "batch_timed_out": "⏰ Parallel batch timed out after {seconds:g} seconds",
    "batch_failed": "❌ Parallel batch processing FAILED: {reason}",
    "worker_started": "🔧 Worker START: {worker} of {workers}, {lines} lines",
    "worker_completed": "✅ Worker COMPLETED: {worker} of {workers}, {orders} orders",
}
"""What is logged of batches: an event's name -> its text, whose numbers are the event's fields."""

States: TypeAlias = Sequence[tuple[int, int, bool]]
"""What each worker of a batch has done so far: its lines, its orders, and whether it has completed."""


class BatchLog:
    """Writes the batches of one pipeline, one batch at a time. Used by one thread."""

    def __init__(self, log: LogService) -> None:
        self._log = log
        self._started = False

    def start(self, lines: int, workers: int, chunks: int) -> bool:
        """Logs the beginning of a batch of `lines` lines; False if the log did not take it."""
        self._started = self._log.log_lines(_start_lines(lines, workers, chunks))
        return self._started

    def end(
        self,
        lines: int,
        workers: int,
        orders: int,
        failed: int,
        sent: int,
        selected: int,
        clients: int,
        *,
        with_start: bool = False,
        states: States = (),
    ) -> bool:
        """Logs the end of a batch if its beginning was logged.

        `orders` were parsed in `workers` chunks, `failed` chunks of these failed; `sent` of `selected` orders
        went to `clients`. `with_start` logs all nine lines if the beginning was not logged. `states` are
        shown at the debug level. Returns whether the end was logged.
        """
        end_lines = [
            _event("batch_results", chunks=workers),
            _event("batch_combining", chunks=workers),
            _event("batch_completed", lines=lines, orders=orders, chunks=workers, failed=failed),
            _event("batch_broadcast", sent=sent, selected=selected, clients=clients),
        ]
        started, self._started = self._started, False
        if not started and not with_start:
            return False
        if states:
            self._log.log_lines(_worker_lines(states), level=logging.DEBUG)
        if started:
            return self._log.log_lines(end_lines, reserve=True)
        return self._log.log_lines(_start_lines(lines, workers, workers) + end_lines)

    def summary(
        self,
        seconds: float,
        batches: int,
        lines: int,
        largest: int,
        orders: int,
        failed: int,
        sent: int,
        selected: int,
        clients: int,
    ) -> bool:
        """One line for all batches of the last `seconds`; `largest` is the largest batch, in lines."""
        summary = _event(
            "batch_summary", seconds=seconds, batches=batches, largest=largest, lines=lines, orders=orders,
            failed=failed, sent=sent, selected=selected, clients=clients,
        )  # fmt: skip
        return self._log.log_lines([summary])

    def timed_out(self, seconds: float, states: States) -> None:
        """Logs that the batch is not done after `seconds`, its limit, and how far each worker is."""
        self._log.log_lines([_event("batch_timed_out", seconds=seconds)], level=logging.ERROR, reserve=True)
        if states:
            self._log.log_lines(_worker_lines(states), level=logging.WARNING, reserve=True)

    def failed(self, reason: str) -> None:
        """Logs that the batch failed as a whole; it has no end then."""
        self._started = False
        self._log.log_lines([_event("batch_failed", reason=reason)], level=logging.ERROR, reserve=True)


def _event(name: str, **fields: object) -> Event:
    return Event(name, TEXTS[name].format(**fields), fields)


def _start_lines(lines: int, workers: int, chunks: int) -> list[Event]:
    return [
        _event("batch_started", lines=lines),
        _event("batch_parallel", lines=lines, workers=workers),
        _event("batch_chunks", chunks=chunks, share=lines // max(chunks, 1), workers=workers),
        _event("batch_tasks", chunks=chunks, workers=workers),
        _event("batch_waiting", chunks=chunks),
    ]


def _worker_lines(states: States) -> list[Event]:
    events = []
    for number, (lines, orders, completed) in enumerate(states, 1):
        events.append(_event("worker_started", worker=number, workers=len(states), lines=lines))
        if completed:
            events.append(_event("worker_completed", worker=number, workers=len(states), orders=orders))
    return events
