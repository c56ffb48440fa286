"""What the main thread takes from the pipeline: `Pipeline.drain` gives these, oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fasttail.engine.topics import TopicMessage


class BatchStart(NamedTuple):
    """A batch that is logged has begun."""

    number: int
    lines: int


class WorkerState(NamedTuple):
    """What one worker that has begun has done of a batch so far."""

    lines: int
    orders: int
    completed: bool


class BatchEnd(NamedTuple):
    """A batch has ended.

    reject: (path, offset in the file, reason) of the first rejected line, or None. workers: only if `logged`.
    published: orders that were made for those who asked for most. file: (path, device, inode). hour, begin
    and end: the file (YYYYMMDDHH, 0 if it is none of an hour), the offset of the batch and the one behind it;
    late: they are a former hour's, and not where reading goes on. event_ns: the newest order's own time, Unix
    nanoseconds; 0: no order. local_ns: when the node wrote the newest line, by its own clock; 0: no order, or
    a layout without `local_time`. messages: those of each topic in order.
    """

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
    file: tuple[str, int, int] | None
    event_ns: int
    local_ns: int
    messages: list[TopicMessage]


class TopicsChanged(NamedTuple):
    """All commands up to `number` hold from the next batch on.

    Reading goes on at `end` of the hour's file (unless `late`).
    """

    number: int
    hour: int
    end: int
    late: bool


class FileOpened(NamedTuple):
    """Reading goes on at `end` of this file (path, device, inode), whether or not there is anything yet.

    It is another file than before, or begins anew because it was truncated.
    """

    number: int
    end: int
    file: tuple[str, int, int]
