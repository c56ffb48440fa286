from typing import NamedTuple, final

from fasttail.sources.cursor import BlockPosition
from fasttail.sources.reader import Reader

class LineRun(NamedTuple):
    data: bytes
    after: BlockPosition
    last: BlockPosition
    events: int
    hash: int
    hashes: bytes
    blocks: list[tuple[BlockPosition, int]]

@final
class BlockLines:
    def __init__(self, stream: str, *, capacity: int, max_bytes: int) -> None: ...
    def begin_after(self, line: BlockPosition, delivered: BlockPosition) -> None: ...
    def take_lines(self, reader: Reader) -> list[LineRun]: ...
    def take_data(self, lines: bytes) -> list[LineRun]: ...
