"""Cursors: positions between two events, as text that sorts in the order of the node's files.

    p2026050517-0000000123456-0000001
    │└──date,hour  └─offset     └─ events of that line already delivered
    └─ layout: plain, by_block, streaming

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
_CURSOR = re.compile(r"([pbs])([0-9]{8})([01][0-9]|2[0-3])-([0-9]{13})-([0-9]{7})")


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

    def prefix(self, layout: str) -> str:
        """Return the text with which all cursors of this hour's file begin."""
        return f"{_LETTERS[layout]}{self.hour:010d}-"

    def to_cursor(self, layout: str) -> str:
        """Return the position as the text of a cursor."""
        return f"{self.prefix(layout)}{self.offset:013d}-{self.events_consumed:07d}"


def parse(text: str) -> tuple[str, CursorPosition]:
    """Return the layout and the position that a cursor names. Raise ValueError if it is not a cursor."""
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise ValueError("not a cursor")
    return _LAYOUTS[found[1]], CursorPosition(int(found[2] + found[3]), int(found[4]), int(found[5]))


def prefix(layout: str | None, path: str) -> str:
    """Return the text with which all cursors of an hour's file begin, "" if `path` is not an hour's file."""
    folder, hour = os.path.split(path)
    date = os.path.basename(folder)
    if layout not in _LETTERS or re.fullmatch(r"[0-9]{8}", date) is None or _HOUR.fullmatch(hour) is None:
        return ""
    return f"{_LETTERS[layout]}{date}{int(hour):02d}-"
