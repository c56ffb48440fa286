from collections.abc import Callable
from typing import Any, final

from fasttail.engine.events import WorkerState
from fasttail.engine.flow import Flow
from fasttail.engine.histogram import Histogram
from fasttail.sources.follower import Follower
from fasttail.sources.reader import Reader

@final
class StreamSource:
    def __init__(
        self,
        stream: str,
        reader: Reader,
        make_follower: Callable[[], Follower],
        workers: int,
        *,
        max_topics: int = 1 << 20,
        deliver_replayed: bool = False,
    ) -> None: ...
    @property
    def stream(self) -> str: ...
    @property
    def follower(self) -> Follower | None: ...
    @property
    def batch_times(self) -> Histogram: ...
    @property
    def flow(self) -> Flow: ...
    def stats(self) -> dict[str, Any]: ...
    def workers(self) -> list[WorkerState]: ...
    def running_lines(self) -> int | None: ...
