"""Puts objects of class ARGV[2] in cycles with younger ones; the collector clears the oldest first.

Prints by how much malloc's used bytes and the number of descriptors have grown. ARGV[1] is a folder.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

from driving import Drive
from lines import event, plain

from fasttail import parse
from fasttail.engine.topics import Topic
from fasttail.monitoring.resources import malloc_usage
from fasttail.replay.replay_reader import ReplayReader


class Holder:
    held: Any


class Key(str):
    holder: Any


def with_pipeline() -> None:
    drive = Drive(folder, workers=2, window=1 << 20, log_every_s=None)
    drive.pipeline.start()
    while not drive.pipeline.stats()["orders"]:
        drive.ready(0.01)  # nothing is drained: the messages stay in the ring
    drive.pipeline.stop()
    while not drive.pipeline.stopped:
        drive.ready(0.01)
    assert drive.pipeline.ring_bytes()[1] > 1 << 20
    # pipeline -> its topics -> the topic -> the key -> pipeline: all but the pipeline are younger
    key = Key()
    key.holder = drive.pipeline
    drive.pipeline.add_topic(Topic("orders", key=key))
    drive.close()


def with_batch() -> None:
    batch = parse(b"no order" * 100)
    holder = Holder()
    holder.held = batch
    batch.rejected.append(holder)  # type: ignore[arg-type]


def with_rereader() -> None:
    key = Key()
    replay_reader = ReplayReader()
    replay_reader.attach_topic(Topic("orders", key=key))
    replay_reader.open(str(path), "plain", 0)
    replay_reader.read_step(path.stat().st_size)
    key.holder = replay_reader


def measured() -> tuple[int, int]:
    use = malloc_usage()
    assert use is not None
    return use[0], len(os.listdir("/proc/self/fd"))


folder = Path(sys.argv[1])
path = folder / "node_order_statuses" / "hourly" / "20260505" / "9"
path.parent.mkdir(parents=True)
path.write_bytes(plain(*(event(oid=i) for i in range(4000))))
make = {"Pipeline": with_pipeline, "Batch": with_batch, "ReplayReader": with_rereader}[sys.argv[2]]
for _ in range(3):
    make()
gc.collect()
gc.disable()
size, descriptors = measured()
for _ in range(8):
    make()
    assert gc.collect() > 0
more_size, more_descriptors = measured()
print(more_size - size, more_descriptors - descriptors)
