from typing import NamedTuple

class BlockEvents(NamedTuple):
    offset: int
    events: int
    remaining: int = 0
    lower_block: bool = False

def pass_block_events(lines: bytes, block: int, events: int, stream: str = "orders") -> BlockEvents: ...
