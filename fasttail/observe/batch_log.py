"""The nine lines that a batch leaves in the log, as the operators know them.

Five when it starts and four when it ends, so that a batch which hangs shows its beginning and no end. Which
batches are logged is the caller's choice; that an end belongs to each beginning is seen to here: operators
compare the two counts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeAlias

from fasttail.observe.log import LogService

States: TypeAlias = Sequence[tuple[int, int, bool]]
"""What each worker of a batch has done so far: its lines, its orders, and whether it has completed."""


class BatchLog:
    """Writes the batches of one pipeline, one batch at a time. Used by one thread."""

    def __init__(self, log: LogService) -> None:
        self._log = log
        self._started = False

    def start(self, lines: int, workers: int, chunks: int) -> bool:
        """Logs the beginning of a batch of `lines` lines; False if the log did not take it."""
        self._started = self._log.group(_beginning(lines, workers, chunks))
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
        whole: bool = False,
        states: States = (),
    ) -> bool:
        """Logs the end of a batch if its beginning was logged.

        `orders` were parsed in `workers` chunks, `failed` chunks of these failed; `sent` of `selected` orders
        went to `clients`. `whole` logs all nine lines if the beginning was not logged. `states` are shown at
        the debug level. Returns whether the end was logged.
        """
        ending = [
            f"✅ All parallel tasks completed: {workers} results received",
            f"📦 Combining results from {workers} chunks...",
            f"✅ Parallel COMPLETED: {lines} lines → {orders} orders ({workers} chunks, {failed} failed)",
            f"📡 WebSocket: {sent}/{selected} orders → {clients} clients",
        ]
        started, self._started = self._started, False
        if not started and not whole:
            return False
        if states:
            self._log.group(_worker_lines(states), level=logging.DEBUG)
        if started:
            return self._log.group(ending, reserve=True)
        return self._log.group(_beginning(lines, workers, workers) + ending)

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
        text = (
            f"Σ {seconds:.0f} s: {batches} batches, largest {largest} lines, {lines} lines → "
            f"{orders} orders ({failed} chunks failed), {sent}/{selected} orders → {clients} clients"
        )
        return self._log.group([text])

    def timed_out(self, seconds: float, states: States) -> None:
        """Logs that the batch is not done after `seconds`, its limit, and how far each worker is."""
        self._log.group(
            [f"⏰ Parallel batch timed out after {seconds:g} seconds"], level=logging.ERROR, reserve=True
        )
        if states:
            self._log.group(_worker_lines(states), level=logging.WARNING, reserve=True)

    def failed(self, reason: str) -> None:
        """Logs that the batch failed as a whole; it has no end then."""
        self._started = False
        self._log.group([f"❌ Parallel batch processing FAILED: {reason}"], level=logging.ERROR, reserve=True)


def _beginning(lines: int, workers: int, chunks: int) -> list[str]:
    share = lines // max(chunks, 1)
    return [
        f"📦 Processing batch snapshot: {lines} lines (buffer cleared)",
        f"🔄 Parallel processing START: {lines} lines, {workers} workers",
        f"📊 Chunks created: {chunks} chunks, ~{share} lines per chunk (workers: {workers})",
        f"🚀 Starting parallel execution: {chunks} tasks (executor: {workers} max workers)",
        f"⏳ Waiting for all {chunks} tasks to complete...",
    ]


def _worker_lines(states: States) -> list[str]:
    text = []
    for number, (lines, orders, completed) in enumerate(states, 1):
        text.append(f"🔧 Worker START: {number} of {len(states)}, {lines} lines")
        if completed:
            text.append(f"✅ Worker COMPLETED: {number} of {len(states)}, {orders} orders")
    return text
