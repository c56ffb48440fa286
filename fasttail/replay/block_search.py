"""Finds the position in a stream's files that a block and a number of its events name, and the reverse.

A restarted node writes its last blocks again, so the blocks of a file decrease now and then. The search is a
bisection, and what it finds may be the first writing of a block or the second. What follows is delivered once
in either case, because a replay knows the block at which it begins, and drops what it has read. If only the
second writing is found and the node has not come so far again, the rest is delivered when it has.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import closing

from fasttail.engine.block_events import pass_block_events
from fasttail.engine.lookback import lines_before
from fasttail.engine.parse import parse
from fasttail.replay.find import first_event_from, first_line_after_block, last_block_before
from fasttail.sources.cursor import BlockPosition, CursorPosition
from fasttail.sources.files import open_regular
from fasttail.sources.layout import HourFile
from fasttail.sources.reader import Reader

CHUNK_BYTES = 1 << 18
MAX_REPEATED_HOURS = 4
"""Hours' files over which a node may write blocks again."""


class NoBlocksError(Exception):
    """The lines do not name their blocks, because the layout is plain."""


class BlockTooOldError(Exception):
    """The block is older than the files. oldest: the position before the first event on disk."""

    def __init__(self, oldest: BlockPosition) -> None:
        super().__init__()
        self.oldest = oldest


class BlockAheadError(Exception):
    """The node has not written the event yet. newest: the newest block on disk."""

    def __init__(self, newest: int) -> None:
        super().__init__()
        self.newest = newest


class BlockSearch:
    """Searches the files of a stream, `hours`, oldest first and not empty. All methods raise OSError."""

    def __init__(self, hours: Sequence[HourFile], *, max_line: int, stream: str) -> None:
        self._hours = hours
        self._max_line = max_line
        self._stream = stream

    def find(self, sought: BlockPosition) -> CursorPosition:
        """Return the position after the event that `sought` names.

        Raises NoBlocksError, BlockTooOldError, BlockAheadError.
        """
        with closing(Reader(window=1 << 14, max_line=self._max_line)) as reader:
            number, offset = self._first_line_from(reader, sought.height)
            remaining = sought.events
            while number < len(self._hours):
                path = self._hours[number].path
                lines = self._lines_at(path, offset, ended=number + 1 < len(self._hours))
                if not lines:
                    number, offset = number + 1, 0
                    continue
                passed = pass_block_events(lines, sought.height, remaining, self._stream)
                offset = min(offset + passed.offset, os.stat(path).st_size)
                if passed.lower_block:
                    found = first_line_after_block(reader, path, offset, sought.height - 1, self._stream)
                    number, offset = (number + 1, 0) if found is None else (number, found)
                    remaining = sought.events
                elif not passed.remaining:
                    return CursorPosition(self._hours[number].number, offset, passed.events)
                else:
                    remaining = passed.remaining
            raise BlockAheadError(self.newest_block())

    def position_at(self, position: CursorPosition) -> BlockPosition | None:
        """Return the block and the number of its events before the line at `position`.

        Returns None if no event follows it, or if lines do not name their blocks.
        """
        path = next((hour.path for hour in self._hours if hour.number == position.hour), None)
        if path is None:
            return None
        with closing(Reader(window=1 << 14, max_line=self._max_line)) as reader:
            event = first_event_from(reader, path, position.offset, "block_number", self._stream)
            if event is None or event.value is None:
                return None
            reader.open(path, position.offset)
            return BlockPosition(event.value, self._events_before(reader, path, event.value))

    def _events_before(self, reader: Reader, path: str, height: int) -> int:
        """Return how many events of a block the lines before the reader's position end with."""
        events = 0
        for lines in reversed(lines_before(reader, path, self._stream)):
            for number in reversed(parse(lines, stream=self._stream).column("block_number")):
                if number != height:
                    return events
                events += 1
        return events

    def _first_line_from(self, reader: Reader, height: int) -> tuple[int, int]:
        """Return a file's number and the offset of the first line of a block, or of the next block there is.

        Begins with the newest file, where most searches end.
        """
        oldest: tuple[int, int, int] | None = None  # of the files that begin at the block or after it
        misses = 0
        for number in range(len(self._hours) - 1, -1, -1):
            path = self._hours[number].path
            first = first_event_from(reader, path, 0, "block_number", self._stream)
            if first is None:
                continue
            if first.value is None:
                raise NoBlocksError
            if first.value >= height:
                oldest = number, first.offset, first.value
                continue
            found = first_line_after_block(reader, path, first.offset, height - 1, self._stream)
            if found is not None:
                return number, found
            if oldest is not None:
                return oldest[:2]
            misses += 1  # not written yet, or in an hour before blocks that are being written again
            if misses > MAX_REPEATED_HOURS:
                break
        if oldest is None:
            raise BlockAheadError(self.newest_block())
        if oldest[2] > height:
            raise BlockTooOldError(BlockPosition(oldest[2], 0))
        return oldest[:2]

    def newest_block(self) -> int:
        """Return the last block on disk, 0 if there is none."""
        for hour in reversed(self._hours):
            size = os.stat(hour.path).st_size
            block = last_block_before(hour.path, size, self._max_line, self._stream) if size else None
            if block is not None:
                return block
        return 0

    def _lines_at(self, path: str, offset: int, *, ended: bool) -> bytes:
        """Return whole lines from an offset on, at least one; none at the end of the file.

        ended: there is a later file, so the last line counts as one without its newline, too
        """
        with open_regular(path) as file:
            size = CHUNK_BYTES
            while True:
                data = os.pread(file.fileno(), size, offset)
                end = data.rfind(b"\n") + 1
                if ended and data and not end and len(data) < size:
                    return data + b"\n"
                if end or len(data) < size:
                    return data[:end]
                if size > self._max_line:
                    raise OSError(errno.EFBIG, f"a line is longer than {self._max_line} bytes", path)
                size *= 2
