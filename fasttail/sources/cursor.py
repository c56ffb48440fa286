"""Cursors: positions between two events, as text that sorts in the order of the events.

    orders:000987654321-0000004
    │      │            └─ events of that block already delivered
    └─ stream  └─ block

names the same position on every node, in both layouts whose lines name their block. In the plain layout, a
cursor is a position in the node's files:

    p2026050517-0000000123456-0000001
    │└──date,hour  └─offset     └─ events of that line already delivered
    └─ layout: plain, by_block, streaming

Those of other streams than the order statuses begin with the stream's name here, too, as in
`fills:p2026050517-0000000123456-0000001`. The offset is that of a line in its hour's file, so a cursor
survives restarts. The number of events makes it valid within a by_block line too. All layouts accept such
cursors, and the server itself uses them for all of them.
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
_BLOCK_CURSOR = re.compile(r"([A-Za-z]+):([0-9]{12})-([0-9]{7})")


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


class BlockPosition(NamedTuple):
    """A position after `events` events of the block at `height`. Positions sort in the order of the chain."""

    height: int
    events: int

    def to_cursor(self, stream: str) -> str:
        """Return the position as the text of a cursor."""
        return f"{stream}:{self.height:012d}-{self.events:07d}"


def parse(text: str, stream: str = "orders") -> tuple[str, CursorPosition]:
    """Return the layout and the position in the files that a cursor of the stream names.

    Raise ValueError, which says why, if it is not one.
    """
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise ValueError("not a cursor")
    _check_stream(found[1] or "orders", stream)
    return _LAYOUTS[found[2]], CursorPosition(int(found[3] + found[4]), int(found[5]), int(found[6]))


def parse_block(text: str, stream: str) -> BlockPosition | None:
    """Return the block that a cursor of the stream names, None if it names a position in the files.

    Raise ValueError, which says why, if it is of another stream.
    """
    found = _BLOCK_CURSOR.fullmatch(text)
    if found is None:
        return None
    _check_stream(found[1], stream)
    return BlockPosition(int(found[2]), int(found[3]))


def _check_stream(named: str, stream: str) -> None:
    if named != stream:
        raise ValueError(f"the cursor is of stream {named}, not {stream}")


def _stream_prefix(stream: str) -> str:
    return "" if stream == "orders" else f"{stream}:"


def prefix(layout: str | None, path: str, stream: str = "orders") -> str:
    """Return the text with which all cursors of an hour's file begin, "" if `path` is not an hour's file."""
    folder, hour = os.path.split(path)
    date = os.path.basename(folder)
    if layout not in _LETTERS or re.fullmatch(r"[0-9]{8}", date) is None or _HOUR.fullmatch(hour) is None:
        return ""
    return f"{_stream_prefix(stream)}{_LETTERS[layout]}{date}{int(hour):02d}-"
