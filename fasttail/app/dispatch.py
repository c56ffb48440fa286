"""What the pipeline hands over: to the feeds, to the checkpoint, and to the log."""

from __future__ import annotations

import logging
import time

from fasttail.app.publishing import Publishing
from fasttail.checkpoint import Checkpoint
from fasttail.config import ServeSettings
from fasttail.handed_out import HandedOut
from fasttail.histogram import Histogram
from fasttail.observe.batch_log import BatchLog
from fasttail.observe.log import LogService
from fasttail.observe.now_and_then import Oddities, Rejects, Seldom, Summary
from fasttail.pipeline import BatchEnd, BatchStart, FileOpened, Pipeline, TopicsChanged
from fasttail.publish.cursor import Place
from fasttail.resume import hour_number
from fasttail.tail.follower import Follower, Position
from fasttail.tail.layout import locate

log = logging.getLogger(__name__)

LONG_BATCH_S = 1.0
"""A batch that takes longer is always logged."""


class Dispatcher:
    """Takes the pipeline's notes, on the main thread.

    resume: where the run goes on. lags: from the orders' own time. delivery_lags: from the node's writing of
    the line.
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
        self._follower = follower
        self._publishing = publishing
        self._checkpoint = checkpoint
        self._handed_out = HandedOut(resume, settings.grace_s, passed=follower.passed)
        self._sent_to = resume  # before what waits for the next message of orderBatch
        self._batch_log = BatchLog(log_service)
        self._logged_start = 0  # number of the batch whose beginning stands in the log
        self._timed_out = 0  # number of the batch that was reported as hanging
        self._rejects = Rejects()
        self._not_handed_over = Seldom(log, logging.ERROR, "batch %d: handing over failed")
        self._oddities = Oddities()
        self._summary = Summary()

    def drain_events(self) -> bool:
        """Send what the pipeline has made. True if there was anything."""
        notes = self._pipeline.drain(16)
        for note in notes:
            try:
                self._dispatch(note)
            except Exception:  # the other notes are not its fault
                self._not_handed_over.tell(note.number, exc_info=True)
        return bool(notes)

    def _dispatch(self, note: BatchStart | BatchEnd | TopicsChanged | FileOpened) -> None:
        feeds = self._publishing.feeds
        if isinstance(note, BatchStart):
            self._log_start(note.number, note.lines)
        elif isinstance(note, TopicsChanged):
            feeds.changed(note.number, note)
        elif isinstance(note, FileOpened):
            found = locate(self._data_dir, note.file[0])
            if found is None:
                feeds.read_in(None, None)
            else:
                feeds.read_in(found[0], Place(hour_number(found[1]), note.end))
            self._handed_out.opened(note)
        else:
            self._publish(note)

    def _publish(self, note: BatchEnd) -> None:
        publishing = self._publishing
        clients = len(publishing.hub.clients)
        if self._checkpoint is not None and publishing.old.collects and not publishing.old.pending:
            self._sent_to = self._handed_out.position()
        publishing.feeds.take(note.messages, note)
        publishing.queue_limit.enforce()
        now_ns = time.time_ns()
        if note.event_ns:
            self.lags.observe(now_ns - note.event_ns)
        if note.local_ns:
            self.delivery_lags.observe(now_ns - note.local_ns)
        self._handed_out.ended(note)  # only now: each client has it in its queue, or is owed a gap
        if note.rejected:
            self._rejects.add(note.rejected, note.reject)
        if note.failed:
            self._batch_log.failed(f"{note.failed} chunks: memory is out, or an array's bound did not hold")
        else:
            self._log_end(note, clients)

    # ---- the checkpoint

    def position(self) -> Position | None:
        """Up to where everything has been handed out."""
        return self._handed_out.position()

    def save_checkpoint(self) -> None:
        """The checkpoint: everything before this place has been handed out."""
        # Without a place after the first look: the node has not written anything, whatever comes is new. Not
        # if the folders could not be looked at: then nothing is known.
        if self._checkpoint is None:
            return
        # What waits for the next message of orderBatch has not been handed out yet.
        position = self._sent_to if self._publishing.old.pending else self._handed_out.position()
        if position is not None or self._follower.nothing_yet:
            self._checkpoint.put(position)

    # ---- the log

    def _log_start(self, number: int, lines: int) -> None:
        if self._batch_log.start(lines, self._settings.workers, self._settings.workers):
            self._logged_start = number

    def _log_end(self, note: BatchEnd, clients: int) -> None:
        sent = note.published if clients else 0
        long = note.seconds >= LONG_BATCH_S
        if self._logged_start == note.number or long:
            self._batch_log.end(
                note.lines,
                self._settings.workers,
                note.selected,
                note.failed,
                sent,
                note.published,
                clients,
                whole=long and self._logged_start != note.number,
                states=note.workers,
            )
        if self._settings.log_batches == "summary":
            self._summary.add(
                lines=note.lines,
                orders=note.selected,
                failed=note.failed,
                sent=sent,
                due=note.published,
                clients=clients,
            )

    def log_failure(self, failure: BaseException) -> None:
        """The pipeline has ended by a bug."""
        self._batch_log.failed(f"{type(failure).__name__}: {failure}")
        log.error("the pipeline has failed", exc_info=failure)

    def check_batches(self) -> None:
        """A batch that takes long, lines that were rejected, the summary line."""
        stats = self._pipeline.stats()
        number, began = int(stats["batch_number"]), int(stats["in_batch_ns"])
        age = (time.monotonic_ns() - began) / 1e9 if began else 0.0
        if age >= LONG_BATCH_S and self._logged_start != number:
            lines = self._pipeline.running_lines()
            if lines is not None:
                self._log_start(number, lines)
        if age >= self._settings.batch_timeout_s and self._timed_out != number:
            self._timed_out = number
            self._batch_log.timed_out(self._settings.batch_timeout_s, self._pipeline.workers())
        self._rejects.tell()
        self._oddities.tell(stats)
        if self._settings.log_batches == "summary":
            self._summary.tell(self._batch_log)
