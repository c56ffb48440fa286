from collections.abc import Iterable
from typing import final

@final
class Selector:
    def __init__(
        self,
        *,
        coins: dict[str, float] | None = None,
        sides: Iterable[str] | None = None,
        statuses: Iterable[str] | None = None,
        users: Iterable[str] | None = None,
        min_notional: float = 0.0,
        liquidations: bool = False,
    ) -> None: ...
