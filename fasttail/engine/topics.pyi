from typing import Any, Literal, NamedTuple, final

from fasttail.engine.filters import Selector

@final
class Topic:
    def __init__(
        self,
        channel: str,
        *,
        selector: Selector | None = None,
        user: str = "",
        format: Literal["full", "ws", "raw"] = "ws",
        max_message: int = 262144,
        target_size: int = 0,
        with_seq: bool = True,
        key: Any = None,
        seq: int = 0,
        quota_group: int = 0,
    ) -> None: ...
    @property
    def id(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def key(self) -> Any: ...
    @property
    def refused(self) -> bool: ...
    def set_quota_group(self, quota_group: int) -> None: ...

class TopicMessage(NamedTuple):
    topic: int
    data: bytes
    orders: int
    seq: int
    cursor: str
    position: str
    over_quota: bool = False
