from typing import final

from fasttail.engine.table import RowTable

@final
class TradeStage:
    def __init__(self, fills: RowTable) -> None: ...
