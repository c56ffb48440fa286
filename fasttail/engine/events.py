"""The events that the main thread drains from the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fasttail.engine.topics import TopicMessage


class BatchStart(NamedTuple):
    """A logged batch of order statuses has begun."""

    number: int
    lines: int


class WorkerState(NamedTuple):
    """What one worker, once started, has done of a batch so far."""

    lines: int
    orders: int
    completed: bool


class BatchEnd(NamedTuple):
    """A batch of lines of one stream has ended.

    reject: (path, offset in the file, reason) of the first rejected line, or None
    workers: filled only if `logged`
    published: largest number of orders that one topic, or all `orderUpdates` together, received
    file: (path, device, inode)
    hour, begin, end: the file (YYYYMMDDHH; 0: not an hourly file), the batch's offset and its end
    late: the lines are those of a previous hour, and reading does not continue at `end`
    height, events: `end` is after so many events of this block, the highest so far; height 0: unknown
    last_height, last_events: the last line ends after so many events of this block, which may be lower where
                              the node writes blocks again
    event_ns: the newest order's own time, Unix nanoseconds; 0: no order
    local_ns: when the node wrote the newest line, by its own clock; 0: no order, or not in this layout
    messages: those of each topic are in order
    """

    stream: str
    number: int
    logged: bool
    lines: int
    orders: int
    selected: int
    published: int
    failed: int
    rejected: int
    reject: tuple[str | None, int, str] | None
    seconds: float
    workers: list[WorkerState]
    hour: int
    begin: int
    end: int
    late: bool
    height: int
    events: int
    last_height: int
    last_events: int
    file: tuple[str, int, int] | None
    event_ns: int
    local_ns: int
    messages: list[TopicMessage]


class TopicsChanged(NamedTuple):
    """All commands for the stream up to `number` apply from its next batch on.

    Reading continues at `end` of the hour's file, unless `late`. The blocks are as in BatchEnd.
    """

    stream: str
    number: int
    hour: int
    end: int
    late: bool
    height: int
    events: int
    last_height: int
    last_events: int


class FileOpened(NamedTuple):
    """Reading continues at `end` of `file` (path, device, inode), even if there is no data yet.

    It is another file than before, or the same one after a truncation. The blocks are as in BatchEnd.
    """

    stream: str
    number: int
    end: int
    height: int
    events: int
    last_height: int
    last_events: int
    file: tuple[str, int, int]


class StreamOpened(NamedTuple):
    """The pipeline has begun to follow the stream, at `end` of `file`; None: it has no file yet.

    The blocks are as in BatchEnd.
    """

    stream: str
    number: int
    end: int
    height: int
    events: int
    last_height: int
    last_events: int
    file: tuple[str, int, int] | None
