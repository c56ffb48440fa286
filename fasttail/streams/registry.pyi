from typing import Final

STREAMS: Final[tuple[str, ...]]
