"""Dispatches the pipeline's events to the feeds, the delivered position and checkpoint, and the log."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from fasttail.app.publishing import Publishing
from fasttail.config import ServeSettings
from fasttail.engine.events import BatchEnd, BatchStart, FileOpened, StreamOpened, TopicsChanged
from fasttail.engine.histogram import Histogram
from fasttail.engine.pipeline import Pipeline
from fasttail.monitoring.batch_log import BatchLog
from fasttail.monitoring.log import LogService
from fasttail.monitoring.rate_limited import (
    AnomalyCounters,
    BatchSummary,
    RateLimitedLog,
    RejectedLines,
    StreamSummary,
)
from fasttail.sources.cursor import BlockPosition, CursorPosition
from fasttail.sources.follower import Follower
from fasttail.sources.layout import parse_hour_path
from fasttail.sources.position import Position
from fasttail.sources.relay_state import RelayState
from fasttail.state.checkpoint import Checkpoint
from fasttail.state.delivered import DeliveredPosition

log = logging.getLogger(__name__)

SLOW_BATCH_S = 1.0
"""Longer batches are always logged."""


class Dispatcher:
    """Handles the pipeline's events on the main thread.

    resume: the position that the run resumes from. lags: from the orders' own time to delivery, in
    nanoseconds.
    delivery_lags: from the node's writing of the line.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pipeline: Pipeline,
        follower: Follower,
        publishing: Publishing,
        checkpoint: Checkpoint | None,
        resume: Position | None,
        log_service: LogService,
    ) -> None:
        self.lags = Histogram()
        self.delivery_lags = Histogram()
        self._settings = settings
        self._data_dir = settings.data_dir.absolute()
        self._pipeline = pipeline
        self._primary = pipeline.sources[0].stream
        self._follower = follower
        self._publishing = publishing
        self._checkpoint = checkpoint
        self._delivered = DeliveredPosition(resume, settings.grace_s, skipped_holes=follower.skipped_holes)
        states = [_relay_state(self._data_dir, source.stream) for source in pipeline.sources]
        self._relay_gaps = {state.stream: state.gaps for state in states if state is not None}
        self._order_batch_position = resume  # before the orders pending for orderBatch
        self._batch_log = BatchLog(log_service)
        self._logged_batch = 0  # the last batch whose start was logged
        self._timed_out_batch = 0  # the last batch that was reported as too slow
        self._rejected_lines = RejectedLines()
        self._publish_failures = RateLimitedLog(log, logging.ERROR, "batch %d: publishing failed")
        self._failed_chunks = RateLimitedLog(
            log, logging.ERROR, "stream %s: %d chunks: out of memory, or an array bound was exceeded"
        )
        self._anomalies = AnomalyCounters()
        self._batch_summary = BatchSummary()
        self._stream_summary = StreamSummary()

    def drain_events(self) -> bool:
        """Handle the pipeline's pending events. Return whether there were any."""
        events = self._pipeline.drain(16)
        for event in events:
            try:
                self._dispatch(event)
            except Exception:  # the other events are unaffected
                self._publish_failures.emit(event.number, exc_info=True)
        return bool(events)

    def _dispatch(self, event: BatchStart | BatchEnd | TopicsChanged | FileOpened | StreamOpened) -> None:
        if isinstance(event, BatchStart):
            self._log_start(event.number, event.lines)
            return
        feeds = self._publishing.streams[event.stream].feeds
        if isinstance(event, TopicsChanged):
            feeds.on_commands_applied(event.number, event)
        elif isinstance(event, StreamOpened):
            feeds.restart(*self._opened_at(event))
        elif isinstance(event, FileOpened):
            opened = self._opened_at(event)
            feeds.set_source(*opened)
            self._report_relay_gap(event.stream, *opened[1:])
            if event.stream == self._primary:
                self._delivered.on_file_opened(event)
        elif event.stream == self._primary:
            self._publish(event)
        else:
            self._publish_other(event)

    def _opened_at(
        self, event: FileOpened | StreamOpened
    ) -> tuple[str | None, CursorPosition | None, BlockPosition | None]:
        """Return the layout, position and block at which reading continues, None if the file is no hour's."""
        found = parse_hour_path(self._data_dir, event.file[0], event.stream) if event.file else None
        if found is None:
            return None, None, None
        return found[0], CursorPosition(found[1].number, event.end), event.block

    def _report_relay_gap(
        self, stream: str, position: CursorPosition | None, block: BlockPosition | None
    ) -> None:
        """Tell clients of a gap if the folder's relay has begun anew with the file at `position`."""
        state = _relay_state(self._data_dir, stream)
        if state is None or position is None or state.gaps == self._relay_gaps.get(stream, 0):
            return
        self._relay_gaps[stream] = state.gaps
        # Cursors name blocks only where those of the pipeline do.
        begin = BlockPosition(state.begin, 0) if block is not None else None
        self._publishing.streams[stream].feeds.report_gap(position, state.begin_offset, begin)

    def _publish_other(self, event: BatchEnd) -> None:
        """Deliver a batch of another stream than the first."""
        self._publishing.streams[event.stream].feeds.deliver_batch(event.messages, event)
        self._publishing.queue_limit.enforce()
        if event.rejected:
            self._rejected_lines.record(event.rejected, event.reject)
        if event.failed:
            self._failed_chunks.emit(event.stream, event.failed)

    def _publish(self, event: BatchEnd) -> None:
        publishing = self._publishing
        clients = len(publishing.hub.clients)
        if (
            self._checkpoint is not None
            and publishing.legacy.has_batch_clients
            and not publishing.legacy.has_pending
        ):
            self._order_batch_position = self._delivered.position()
        publishing.streams[event.stream].feeds.deliver_batch(event.messages, event)
        publishing.queue_limit.enforce()
        now_ns = time.time_ns()
        if event.event_ns:
            self.lags.observe(now_ns - event.event_ns)
        if event.local_ns:
            self.delivery_lags.observe(now_ns - event.local_ns)
        self._delivered.on_batch_end(event)  # now they are in each client's queue, or recorded as missed
        if event.rejected:
            self._rejected_lines.record(event.rejected, event.reject)
        if event.failed:
            self._batch_log.failed(f"{event.failed} chunks: out of memory, or an array bound was exceeded")
        else:
            self._log_end(event, clients)

    # ---- the checkpoint

    def position(self) -> Position | None:
        """Return the position up to which everything has been delivered."""
        return self._delivered.position()

    def save_checkpoint(self) -> None:
        """Save the position up to which everything has been delivered."""
        # No position after the first scan: the node has written nothing yet, and whatever comes is new. If
        # the folders could not be scanned, nothing is known.
        if self._checkpoint is None:
            return
        # Orders that are pending for orderBatch have not been delivered yet.
        position = (
            self._order_batch_position if self._publishing.legacy.has_pending else self._delivered.position()
        )
        if position is not None or self._follower.no_file_yet:
            self._checkpoint.save(position)

    # ---- the log

    def _log_start(self, number: int, lines: int) -> None:
        if self._batch_log.start(lines, self._settings.workers, self._settings.workers):
            self._logged_batch = number

    def _log_end(self, event: BatchEnd, clients: int) -> None:
        sent = event.published if clients else 0
        slow = event.seconds >= SLOW_BATCH_S
        if self._logged_batch == event.number or slow:
            self._batch_log.end(
                event.lines,
                self._settings.workers,
                event.selected,
                event.failed,
                sent,
                event.published,
                clients,
                with_start=slow and self._logged_batch != event.number,
                states=event.workers,
            )
        if self._settings.log_batches == "summary":
            self._batch_summary.add_batch(
                lines=event.lines,
                orders=event.selected,
                failed=event.failed,
                sent=sent,
                published=event.published,
                clients=clients,
            )

    def log_failure(self, failure: BaseException) -> None:
        """Log the exception that ended the pipeline, which is a bug."""
        self._batch_log.failed(f"{type(failure).__name__}: {failure}")
        log.error("the pipeline has failed", exc_info=failure)

    def check_batches(self) -> None:
        """Log a slow batch, rejected lines, anomalies and the summary line, where due."""
        stats = self._pipeline.stats()
        number, batch_started_ns = int(stats["batch_number"]), int(stats["in_batch_ns"])
        age = (time.monotonic_ns() - batch_started_ns) / 1e9 if batch_started_ns else 0.0
        if age >= SLOW_BATCH_S and self._logged_batch != number:
            lines = self._pipeline.running_lines()
            if lines is not None:
                self._log_start(number, lines)
        if age >= self._settings.batch_timeout_s and self._timed_out_batch != number:
            self._timed_out_batch = number
            self._batch_log.timed_out(self._settings.batch_timeout_s, self._pipeline.workers())
        self._rejected_lines.log_pending()
        self._anomalies.log_changes(stats)
        self._stream_summary.log_if_due(
            {source.stream: source.stats() for source in self._pipeline.sources[1:]}
        )
        if self._settings.log_batches == "summary":
            self._batch_summary.log_if_due(self._batch_log)


def _relay_state(data_dir: Path, stream: str) -> RelayState | None:
    """Return the state of the relay that writes to the folder, None if it is a node's."""
    try:
        return RelayState.read(data_dir, stream)
    except (OSError, ValueError) as error:
        log.warning("cannot read the state of the relay: %s", error)
        return None
