"""Drives the pipeline from Python as the main thread does, on a real folder, without a server."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from running import PATIENCE_S

from fasttail.engine.events import BatchEnd, BatchStart, FileOpened, StreamOpened, TopicsChanged
from fasttail.engine.filters import Selector
from fasttail.engine.pipeline import Pipeline
from fasttail.engine.source import StreamSource
from fasttail.engine.topics import Topic, TopicMessage
from fasttail.sources.follower import Follower
from fasttail.sources.position import Position
from fasttail.sources.reader import Reader
from fasttail.sources.watcher import Watcher


class Drive:
    """A pipeline with its parts, and topics for the old channels (`frames`, `pieces`) if wanted.

    What `take` drains is kept: topic changes in `changes`, opened files in `files`, the rest in `notes`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        window: int = 1 << 16,
        start: Literal["end", "hour", "oldest"] = "oldest",
        resume: Position | None = None,
        grace_s: float = 0.2,
        rescan_s: float = 1.0,
        notice: Callable[[str, str], None] | None = None,
        selector: Selector | None = None,
        frames: bool = True,
        pieces: bool = True,
        max_line: int = 1 << 20,
        inotify: bool = True,
        **options: Any,
    ) -> None:
        self.changes: list[TopicsChanged] = []
        self.notes: list[BatchStart | BatchEnd] = []
        self.files: list[FileOpened | StreamOpened] = []
        self.told: list[str] = []
        others = options.pop("streams", ())
        self.reader = Reader(window=window, max_line=max_line)
        self.follower = Follower(
            folder,
            start=start,
            resume=resume,
            grace_s=grace_s,
            rescan_s=rescan_s,
            notice=notice or (lambda level, text: self.told.append(text)),
        )
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        limits = {name: options.pop(name) for name in ("max_topics", "deliver_replayed") if name in options}
        self.pipeline = Pipeline(
            [
                StreamSource("orders", self.reader, lambda: self.follower, workers, **limits),
                *(self._source(folder, stream, window, workers, rescan_s) for stream in others),
            ],
            Watcher(wake_fd=self._wake_fd, use_inotify=inotify),
            selector or Selector(),
            workers,
            wake_fd=self._wake_fd,
            **{name: value for name, value in options.items() if name != "max_message"},
        )
        most = options.get("max_message", 256 << 10)
        self._commands = 0
        self.old_updates = Topic("orderUpdate", max_message=most)
        self.old_batches = Topic("orderBatch", max_message=most)
        for topic, wanted in ((self.old_updates, frames), (self.old_batches, pieces)):
            if wanted:
                self._commands = self.pipeline.add_topic(topic)

    def _source(self, folder: Path, stream: str, window: int, workers: int, rescan_s: float) -> StreamSource:
        def follow() -> Follower:
            return Follower(
                folder,
                start="oldest",
                grace_s=0.2,
                rescan_s=rescan_s,
                stream=stream,
                notice=lambda level, text: self.told.append(text),
            )

        return StreamSource(stream, Reader(window=window, max_line=1 << 20), follow, workers)

    def __enter__(self) -> Drive:
        self.pipeline.start()
        if self._commands:
            self.until(lambda: bool(self.changes), most=1)  # always the first event
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.close()

    def close(self) -> None:
        """Release what remains of a stopped pipeline."""
        os.close(self._wake_fd)

    @property
    def ends(self) -> list[BatchEnd]:
        return [note for note in self.notes if isinstance(note, BatchEnd)]

    @property
    def starts(self) -> list[BatchStart]:
        return [note for note in self.notes if isinstance(note, BatchStart)]

    @property
    def lines(self) -> int:
        """Lines in all drained batches."""
        return sum(end.lines for end in self.ends)

    def ready(self, seconds: float = 0.0) -> bool:
        """Return whether the pipeline requests a `drain`, now or within `seconds`."""
        return bool(select.select([self.pipeline.ready_fd], [], [], seconds)[0])

    def take(self, most: int = 16) -> int:
        """Drain once and return the number of events."""
        notes = self.pipeline.drain(most)
        for note in notes:
            if isinstance(note, TopicsChanged):
                self.changes.append(note)
            elif isinstance(note, FileOpened | StreamOpened):
                self.files.append(note)
            else:
                self.notes.append(note)
        return len(notes)

    def until_applied(self, number: int) -> None:
        """Wait until the pipeline has executed its commands up to this one."""
        self.until(lambda: bool(self.changes) and self.changes[-1].number >= number)

    def messages(self, topic: Topic) -> list[TopicMessage]:
        """Return the messages made for a topic, in order."""
        return [message for end in self.ends for message in end.messages if message.topic == topic.id]

    def until(self, what: Callable[[], bool], most: int = 16) -> None:
        """Drain, as the main thread does, until `what` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            assert self.pipeline.failure is None, self.pipeline.failure
            assert time.monotonic() < deadline, (self.pipeline.stats(), self.told)
            if self.ready(0.01):
                self.take(most)

    def until_lines(self, count: int) -> None:
        self.until(lambda: self.lines >= count)
        assert self.lines == count

    def stop(self) -> None:
        """Stop like the service: the last batch's messages are still drained."""
        self.pipeline.stop()
        deadline = time.monotonic() + PATIENCE_S
        while not self.pipeline.stopped:
            assert time.monotonic() < deadline
            self.take()
            time.sleep(0.001)
        while self.take():
            pass

    def payloads(self) -> list[bytes]:
        """Return the payloads for orderUpdate, in order."""
        return [payload for each in self.messages(self.old_updates) for payload in split_frames(each.data)]

    def updates(self) -> list[dict[str, Any]]:
        """Return the Orders for orderUpdate."""
        return [json.loads(payload)["data"] for payload in self.payloads()]

    def batched(self) -> list[dict[str, Any]]:
        """Return the Orders for orderBatch, checking each piece."""
        orders = []
        for piece in self.messages(self.old_batches):
            held = json.loads(b"[" + piece.data + b"]")
            assert len(held) == piece.orders > 0
            orders += held
        return orders


def split_frames(data: bytes) -> list[bytes]:
    """Split `data` into the payloads of its text frames: whole, unmasked, sizes in their shortest form."""
    payloads = []
    at = 0
    while at < len(data):
        assert data[at] == 0x81, "FIN, no reserved bit, text"
        size, head = data[at + 1], 2
        if size == 126:
            size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            assert size >= 126
        elif size == 127:
            size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            assert size >= 1 << 16
        assert head > 2 or size < 126, "not masked"
        assert at + head + size <= len(data)
        payloads.append(data[at + head : at + head + size])
        at += head + size
    return payloads
