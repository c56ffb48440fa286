"""Cursors: positions between two events, as text that sorts in the order of the node's files.

    p2026050517-0000000123456-0000001
    │└──date,hour  └─offset     └─ events of that line already delivered
    └─ layout: plain, by_block, streaming

Those of other streams than the order statuses begin with the stream's name, as in
`fills:p2026050517-0000000123456-0000001`.

The offset is that of a line in its hour's file, so a cursor survives restarts. The number of events makes it
valid within a by_block line too.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from fasttail.sources.layout import LAYOUTS

_LETTERS: dict[str, str] = {layout: layout[0] for layout in LAYOUTS}
_LAYOUTS = {letter: layout for layout, letter in _LETTERS.items()}
_HOUR = re.compile(r"[0-9]|1[0-9]|2[0-3]")
_CURSOR = re.compile(r"(?:([A-Za-z]+):)?([pbs])([0-9]{8})([01][0-9]|2[0-3])-([0-9]{13})-([0-9]{7})")


class CursorPosition(NamedTuple):
    """A position after `events_consumed` events of the line at byte `offset` of an hour's file (YYYYMMDDHH).

    Positions sort in the order of the files.
    """

    hour: int
    offset: int
    events_consumed: int = 0

    @property
    def date(self) -> str:
        return f"{self.hour // 100:08d}"

    def prefix(self, layout: str, stream: str = "orders") -> str:
        """Return the text with which all cursors of this hour's file begin."""
        return f"{_stream_prefix(stream)}{_LETTERS[layout]}{self.hour:010d}-"

    def to_cursor(self, layout: str, stream: str = "orders") -> str:
        """Return the position as the text of a cursor."""
        return f"{self.prefix(layout, stream)}{self.offset:013d}-{self.events_consumed:07d}"


def parse(text: str, stream: str = "orders") -> tuple[str, CursorPosition]:
    """Return the layout and the position that a cursor of the stream names.

    Raise ValueError, which says why, if it is not one.
    """
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise ValueError("not a cursor")
    if (found[1] or "orders") != stream:
        raise ValueError(f"the cursor is of stream {found[1] or 'orders'}, not {stream}")
    return _LAYOUTS[found[2]], CursorPosition(int(found[3] + found[4]), int(found[5]), int(found[6]))


def _stream_prefix(stream: str) -> str:
    return "" if stream == "orders" else f"{stream}:"


def prefix(layout: str | None, path: str, stream: str = "orders") -> str:
    """Return the text with which all cursors of an hour's file begin, "" if `path` is not an hour's file."""
    folder, hour = os.path.split(path)
    date = os.path.basename(folder)
    if layout not in _LETTERS or re.fullmatch(r"[0-9]{8}", date) is None or _HOUR.fullmatch(hour) is None:
        return ""
    return f"{_stream_prefix(stream)}{_LETTERS[layout]}{date}{int(hour):02d}-"
