from typing import final

@final
class ReplayedBlocks:
    def __init__(self, *, deliver: bool = False) -> None: ...
