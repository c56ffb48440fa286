"""One entry of a JetStream stream: whole lines of a node as a zstd frame, and a header that says which.

    Fasttail: v1 streaming 000987654321-0000004 000987654322-0000001 2026050517 28412 51 9f3c… a 1796008858309

Version; layout; the positions in the chain (block, number of its events) between which its events are; the
hour of its file; inflated bytes; events; a hash of the events; the node's name; when it was appended, in Unix
ms; and ` gap` if lines before it are missing, because no node has them. But for the first entry and for those
after a gap, the first position is the second one of the entry before. Lines of the plain layout name no
blocks: a position there is an hour and an offset in its file.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from fasttail.sources.cursor import BlockPosition

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEADER = "Fasttail"
MAX_INFLATED_BYTES = 64 << 20
ZSTD_LEVEL = 1
MAX_DAYS_AHEAD = 366
"""Of an entry's hour. Lines of all later hours would be written to the file of one that is far ahead."""
_DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1).toordinal()

_FIELDS = re.compile(
    r"v1 (plain|by_block|streaming) ([0-9]{12})-([0-9]{7,13}) ([0-9]{12})-([0-9]{7,13}) "
    r"(20[0-9]{6}(?:[01][0-9]|2[0-3])) ([0-9]{1,8}) ([0-9]{1,9}) "
    r"([0-9a-f]{16}) ([A-Za-z0-9_.-]{1,64}) ([0-9]{1,15})( gap)?"
)


class EntryError(ValueError):
    """A message that is no entry, or whose content is not what its header says."""


@dataclass(frozen=True)
class Entry:
    """The header of an entry. hour: the file to which its lines belong, YYYYMMDDHH. written_ms: Unix time.

    In the plain layout, `after` and `last` hold an hour and an offset in its file.
    """

    layout: str
    after: BlockPosition
    last: BlockPosition
    hour: int
    size: int
    events: int
    hash: int
    node: str
    written_ms: int
    gap: bool = False

    @property
    def days_ahead(self) -> float:
        """Days from the append to the entry's hour; infinite if there is no such day."""
        return _day(self.hour // 100) - _EPOCH - self.written_ms // _DAY_MS

    def to_header(self) -> str:
        """Return the value of the header."""
        after, last = self.after, self.last
        return (
            f"v1 {self.layout} {after.height:012d}-{after.events:07d} {last.height:012d}-{last.events:07d} "
            f"{self.hour:010d} {self.size} {self.events} {self.hash:016x} {self.node} {self.written_ms}"
            f"{' gap' if self.gap else ''}"
        )

    @classmethod
    def from_headers(cls, headers: Mapping[str, str] | None) -> Entry:
        """Return the entry that a message's headers describe. Raises EntryError."""
        text = (headers or {}).get(HEADER)
        found = _FIELDS.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise EntryError(f"a message is no entry of fasttail: its header {HEADER} is {text!r:.200}")
        after = BlockPosition(int(found[2]), int(found[3]))
        last = BlockPosition(int(found[4]), int(found[5]))
        entry = cls(
            found[1], after, last, int(found[6]), int(found[7]), int(found[8]), int(found[9], 16), found[10],
            int(found[11]), found[12] is not None,
        )  # fmt: skip
        if last < after or not 0 < entry.size <= MAX_INFLATED_BYTES or entry.days_ahead > MAX_DAYS_AHEAD:
            raise EntryError(f"an entry cannot be what its header says: {text}")
        return entry


@lru_cache(maxsize=16)
def _day(date: int) -> float:
    """Return the number of a day, of which the date is YYYYMMDD; infinite if there is none."""
    try:
        return datetime.strptime(str(date), "%Y%m%d").toordinal()
    except ValueError:
        return math.inf


class Deflater:
    """Makes zstd frames, all with one context: making one costs as much as 5 KB of lines. For one thread."""

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(ZSTD_LEVEL)

    def deflate(self, lines: bytes) -> bytes:
        """Return the lines as one zstd frame."""
        return self._compressor.compress(lines, zstd.ZstdCompressor.FLUSH_FRAME)


def inflate(body: bytes, entry: Entry) -> bytes:
    """Return the lines of an entry, never more than its header says. Raises EntryError."""
    decompressor = zstd.ZstdDecompressor()
    try:
        lines = decompressor.decompress(body, max_length=entry.size + 1)
    except zstd.ZstdError as error:
        raise EntryError(f"the entry after block {entry.after.height} is damaged: {error}") from None
    if len(lines) != entry.size or not decompressor.eof or not lines.endswith(b"\n"):
        raise EntryError(
            f"the entry after block {entry.after.height} is damaged: it does not hold {entry.size} bytes"
        )
    return lines
