from typing import final

@final
class Table:
    def __init__(self, data_bytes: int, shares: int) -> None: ...
