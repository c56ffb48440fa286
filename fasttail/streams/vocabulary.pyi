from typing import Final

STATUS_NAMES: Final[tuple[str, ...]]
ORDER_TYPE_NAMES: Final[tuple[str, ...]]
TIF_NAMES: Final[tuple[str, ...]]
DIRECTION_NAMES: Final[tuple[str, ...]]
