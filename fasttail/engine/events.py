"""The events that the main thread drains from the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fasttail.sources.cursor import BlockPosition

if TYPE_CHECKING:
    from fasttail.engine.topics import TopicMessage


class FlowCounts(NamedTuple):
    """What a `Flow` has counted.

    words: rows by the code of the event's word, for orders that of the status; 0: a word that is not known
    coins: (text in the line, rows, notional) of each coin, but for more than 4,096 and names over 46 bytes
    largest: (number of the row, its side, JSON of the event) of those with the largest notional; a trade's
        side is the taker's, its event the later fill
    """

    rows: int
    notional: float
    words: dict[int, int]
    coins: list[tuple[bytes, int, float]]
    largest: list[tuple[int, str, bytes]]


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
    block: everything up to there has been read; None: unknown, or cursors cannot name it
    last_line: where the last line ends, which is before `block` where the node writes blocks again
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
    block: BlockPosition | None
    last_line: BlockPosition | None
    file: tuple[str, int, int] | None
    event_ns: int
    local_ns: int
    messages: list[TopicMessage]


class TopicsChanged(NamedTuple):
    """All commands for the stream up to `number` apply from its next batch on.

    Reading continues at `end` of the hour's file, unless `late`. block, last_line: as in BatchEnd.
    """

    stream: str
    number: int
    hour: int
    end: int
    late: bool
    block: BlockPosition | None
    last_line: BlockPosition | None


class FileOpened(NamedTuple):
    """Reading continues at `end` of `file` (path, device, inode), even if there is no data yet.

    It is another file than before, or the same one after a truncation. block: as in BatchEnd.
    """

    stream: str
    number: int
    end: int
    block: BlockPosition | None
    file: tuple[str, int, int]


class StreamOpened(NamedTuple):
    """The pipeline has begun to follow the stream, at `end` of `file`; None: it has no file yet.

    block: as in BatchEnd.
    """

    stream: str
    number: int
    end: int
    block: BlockPosition | None
    file: tuple[str, int, int] | None
