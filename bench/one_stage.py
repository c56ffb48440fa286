"""Runs one stage for `instructions`: `python -P one_stage.py split WINDOW FOLDER` or `encode FORMAT FOLDER`.

Under callgrind only the stage's function is counted, not Python or the other stages.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from fasttail.engine.events import BatchEnd
from fasttail.engine.filters import Selector
from fasttail.engine.pipeline import Pipeline
from fasttail.engine.source import StreamSource
from fasttail.engine.topics import Topic
from fasttail.sources.follower import Follower
from fasttail.sources.reader import FILL_LINES, Reader
from fasttail.sources.watcher import Watcher
from fasttail.streams import isa

HOUR = "node_order_statuses/hourly/20260505/9"
WINDOW = 1 << 16  # enough batches to reuse the ring's slots, as in a long run
PATIENCE_S = 300.0


def split(window: int, folder: Path) -> int:
    """Read the file as blocks of whole lines and discard them."""
    reader = Reader(window=window)
    reader.open(folder / HOUR)
    orders = 0
    while reader.fill_once() == FILL_LINES or reader.read_offset() < reader.size():
        orders += reader.take_lines().count(b"\n")
    return orders


def encode(form: str, folder: Path) -> int:
    """Run the pipeline with one topic and no subscribers."""
    topic = Topic("orderUpdate") if form == "orderUpdate" else Topic("orders", format=form)  # type: ignore[arg-type]
    expected = (folder / HOUR).read_bytes().count(b"\n")
    wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    follower = Follower(
        folder, start="oldest", resume=None, grace_s=0.2, rescan_s=1.0, notice=lambda *_: None
    )
    pipeline = Pipeline(
        [StreamSource("orders", Reader(window=WINDOW), lambda: follower, 1)],
        Watcher(wake_fd=wake_fd),
        Selector(),
        1,
        wake_fd=wake_fd,
        log_every_s=None,
    )
    pipeline.add_topic(topic)
    pipeline.start()
    lines = published = 0
    deadline = time.monotonic() + PATIENCE_S
    while lines < expected and pipeline.failure is None and time.monotonic() < deadline:
        select.select([pipeline.ready_fd], [], [], 1.0)
        for note in pipeline.drain():
            if isinstance(note, BatchEnd):
                lines += note.lines
                published += sum(message.orders for message in note.messages)
    pipeline.stop()
    while not pipeline.stopped:
        pipeline.drain()
        time.sleep(0.001)
    return published


def main() -> None:
    stage, how, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    orders = split(int(how), folder) if stage == "split" else encode(how, folder)
    answer: dict[str, Any] = {"isa": isa.name(), "orders": orders, "rejected": 0}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
