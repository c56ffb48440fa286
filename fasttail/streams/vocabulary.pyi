from typing import Final

FIELD_NAMES: Final[tuple[str, ...]]
STATUS_NAMES: Final[tuple[str, ...]]
ORDER_TYPE_NAMES: Final[tuple[str, ...]]
TIF_NAMES: Final[tuple[str, ...]]
