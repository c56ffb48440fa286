from typing import Final

FOLDERS: Final[dict[str, str]]
STREAMS: Final[tuple[str, ...]]

def stream_of_path(path: str) -> str | None: ...
