"""What a relay saves in its folder, in `STREAM.relay.json`, which also marks the folder as a relay's.

Blocks that are missing there will not be filled in later, as a node's would: they were not relayed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from fasttail.sources.cursor import BlockPosition
from fasttail.sources.layout import LAYOUTS


@dataclass
class RelayState:
    """How far a relay has come: the position in the chain, and the size of the hour's file there.

    gaps: times that it began anew, because entries were missing
    begin: the first block since then; begin_hour, begin_offset: where its lines begin. The file has a hole
        before that, so that no offset ever means something else.
    In the plain layout, `height` and `events` are an hour and an offset, and `begin` is an hour.
    """

    stream: str
    layout: str = ""
    hour: int = 0
    size: int = 0
    height: int = 0
    events: int = 0
    begin: int = 0
    begin_hour: int = 0
    begin_offset: int = 0
    gaps: int = 0

    @property
    def last(self) -> BlockPosition | None:
        """The position in the chain, None if nothing has been written."""
        return BlockPosition(self.height, self.events) if self.height else None

    @classmethod
    def read(cls, folder: str | os.PathLike[str], stream: str) -> RelayState | None:
        """Return what the folder's relay has saved, None if it has none. Raises ValueError, OSError."""
        path = state_path(folder, stream)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            state = cls(**json.loads(text))
            fields = dataclasses.asdict(state)
            numbers = [fields[name] for name in fields if name not in ("stream", "layout")]
            is_known = state.layout in LAYOUTS or (state.layout == "" and state.last is None)
            if (
                state.stream != stream
                or not is_known
                or not all(isinstance(each, int) and each >= 0 for each in numbers)
            ):
                raise ValueError("unexpected values")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not the state of a relay: {error}") from None
        return state

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Replace what is saved. Raises OSError."""
        path = state_path(folder, self.stream)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(dataclasses.asdict(self)))
        temporary.replace(path)


def state_path(folder: str | os.PathLike[str], stream: str) -> Path:
    """Return the path of the file that marks a folder as a relay's."""
    return Path(folder, f"{stream}.relay.json")
