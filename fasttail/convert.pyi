import builtins
from typing import Literal, final

from fasttail.publish.filters import Selector
from fasttail.tail.blocks import Reader

@final
class Converter:
    def __init__(
        self,
        *,
        capacity: int,
        workers: int,
        selector: Selector,
        format: Literal["json", "raw", "none"] = "none",
        summing: bool = False,
    ) -> None: ...
    @property
    def lines(self) -> int: ...
    @property
    def orders(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def rejects(self) -> list[tuple[int, str]]: ...
    def read(self, reader: Reader) -> builtins.bytes: ...
    def line(self, text: builtins.bytes, offset: int) -> builtins.bytes: ...
    def sums_dict(self) -> dict[str, int | float]: ...
