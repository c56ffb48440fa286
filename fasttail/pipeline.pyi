from collections.abc import Callable
from typing import Any, NamedTuple, final

from fasttail.histogram import Histogram
from fasttail.publish.filters import Selector
from fasttail.publish.topics import Topic, TopicMessage
from fasttail.tail.blocks import Reader
from fasttail.tail.follower import Follower
from fasttail.tail.inotify import Watcher
from fasttail.tail.position import Position

class BatchStart(NamedTuple):
    number: int
    lines: int

class WorkerState(NamedTuple):
    lines: int
    orders: int
    completed: bool

class BatchEnd(NamedTuple):
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
    number: int
    hour: int
    end: int
    late: bool

class FileOpened(NamedTuple):
    number: int
    end: int
    file: tuple[str, int, int]

def leak(size: int) -> None: ...

@final
class Pipeline:
    def __init__(
        self,
        reader: Reader,
        watcher: Watcher,
        follower: Follower,
        selector: Selector,
        workers: int,
        *,
        wake_fd: int,
        min_batch_s: float = 0.0005,
        log_every_s: float | None = 1.0,
        stall_ms: int = 0,
        gate: Callable[[], None] | None = None,
        max_topics: int = 1 << 20,
    ) -> None: ...
    @property
    def ready_fd(self) -> int: ...
    @property
    def batch_times(self) -> Histogram: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def failure(self) -> BaseException | None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def add_topic(self, topic: Topic) -> int: ...
    def remove_topic(self, topic: Topic) -> int: ...
    def replace_selector(self, selector: Selector) -> None: ...
    def position(self) -> Position | None: ...
    def drain(self, most: int = 16) -> list[BatchStart | BatchEnd | TopicsChanged | FileOpened]: ...
    def stats(self) -> dict[str, Any]: ...
    def trim(self) -> None: ...
    def ring_bytes(self) -> tuple[int, int]: ...
    def workers(self) -> list[WorkerState]: ...
    def running_lines(self) -> int | None: ...
