"""The nine log lines of a batch.

Five lines mark the start of a batch and four its end, so a batch that hangs shows a start without an end. The
caller chooses which batches are logged; `BatchLog` logs an end for every logged start, because operators
compare the two counts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeAlias

from fasttail.monitoring.log import Event, LogService

TEXTS = {
    # The nine lines that operators know, in their order.
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
    "batch_summary": "Σ {seconds:.0f} s: {batches} batches, largest {largest} lines, {lines} lines → "
    "{orders} orders ({failed} chunks failed), {sent}/{selected} orders → {clients} clients",
    "batch_timed_out": "⏰ Parallel batch timed out after {seconds:g} seconds",
    "batch_failed": "❌ Parallel batch processing FAILED: {reason}",
    "worker_started": "🔧 Worker START: {worker} of {workers}, {lines} lines",
    "worker_completed": "✅ Worker COMPLETED: {worker} of {workers}, {orders} orders",
}
"""Event name -> message text. The placeholders are also the event's fields."""

States: TypeAlias = Sequence[tuple[int, int, bool]]
"""Progress of each worker in a batch: lines, orders, and whether it has finished."""


class BatchLog:
    """Logs the batches of one pipeline, one batch at a time. Not thread-safe."""

    def __init__(self, log: LogService) -> None:
        self._log = log
        self._started = False

    def start(self, lines: int, workers: int, chunks: int) -> bool:
        """Log the start of a batch of `lines` lines. Return False if the log did not accept it."""
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
        """Log the end of a batch whose start was logged, and return whether it was logged.

        lines, orders:           parsed lines and orders, in `workers` chunks, of which `failed` failed.
        sent, selected, clients: `sent` of the `selected` orders went to `clients` clients.
        with_start:              log all nine lines if the start was not logged.
        states:                  progress of the workers, logged at the debug level.
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
        """Log one line for all batches of the last `seconds`; `largest` is the lines of the largest batch."""
        summary = _event(
            "batch_summary", seconds=seconds, batches=batches, largest=largest, lines=lines, orders=orders,
            failed=failed, sent=sent, selected=selected, clients=clients,
        )  # fmt: skip
        return self._log.log_lines([summary])

    def timed_out(self, seconds: float, states: States) -> None:
        """Log that the batch has exceeded its limit of `seconds`, and the progress of each worker."""
        self._log.log_lines([_event("batch_timed_out", seconds=seconds)], level=logging.ERROR, reserve=True)
        if states:
            self._log.log_lines(_worker_lines(states), level=logging.WARNING, reserve=True)

    def failed(self, reason: str) -> None:
        """Log that the batch failed as a whole. No end is logged for it."""
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
