"""Finds events in the node's files by content: from a time on, or after a block."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any, Literal, NamedTuple

from fasttail.engine.lines import block_of
from fasttail.engine.parse import parse
from fasttail.sources.files import last_line_start, open_regular
from fasttail.sources.layout import HourFile
from fasttail.sources.reader import FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NO_FILE, Reader

NEWLINE_SEARCH_BYTES = 1 << 16
LINE_HEAD_BYTES = 320
"""In which a line in the node's own form names its block."""

SearchColumn = Literal["time_ns", "block_number"]


class FirstEvent(NamedTuple):
    """The first event of a line: the line's offset, and a column's value, or None if it has none."""

    offset: int
    value: int | None


def first_event_from(
    reader: Reader, path: str, offset: int, column: SearchColumn, stream: str = "orders"
) -> FirstEvent | None:
    """Return the first valid line that begins at `offset` or later, or None. Raises OSError.

    The reader stays open, so that a search can reuse it.
    """
    reader.open(path, max(0, offset - 1))
    skip_partial = offset > 0  # up to the end of the line that holds the byte before
    while True:
        code = reader.fill_once()
        if code in (FILL_EOF, FILL_ERROR, FILL_NO_FILE):
            return None
        if code != FILL_LINES:
            continue
        at = reader.tell()
        data = reader.take_lines()
        if skip_partial:
            first = data.index(b"\n") + 1
            data, at, skip_partial = data[first:], at + first, False
        while data:
            end = data.index(b"\n") + 1
            batch = parse(data[:end], stream=stream)
            if len(batch):
                return FirstEvent(at, _optional_int(batch.column(column)[0]))
            data, at = data[end:], at + end


def locate_after_block(
    path: str, offset: int, hours: Sequence[HourFile], *, max_line: int, stream: str = "orders"
) -> tuple[HourFile, int, int] | None:
    """Return the file, offset and block to continue at in another layout, whose files are `hours`.

    The offset follows the block of the last event before `offset` of the file `path`. `hours` is oldest first
    and not empty. Returns None if either layout has no block numbers, or if a file cannot be read.
    """
    reader = Reader(window=1 << 14, max_line=max_line)
    with suppress(OSError), closing(reader):
        block = last_block_before(path, offset, max_line, stream)
        if block is None:
            return None
        newest = len(hours) - 1
        known = False
        for number in range(newest, -1, -1):
            first = first_event_from(reader, hours[number].path, 0, "block_number", stream)
            if first is None:
                continue
            if first.value is None:
                return None
            known = True
            if first.value > block:
                continue
            begin = first_line_after_block(reader, hours[number].path, first.offset, block, stream)
            if begin is not None:
                return hours[number], begin, block
            if number < newest:
                return hours[number + 1], 0, block
            return hours[number], last_line_start(hours[number].path), block
        return (hours[0], 0, block) if known else None
    return None


def last_block_before(path: str, offset: int, max_line: int, stream: str) -> int | None:
    """Return the block of the last event before `offset`; None: none in `max_line` bytes. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        chunk_size = 1 << 16
        while True:
            begin = max(0, offset - chunk_size)
            file.seek(begin)
            data = file.read(offset - begin) or b""
            if begin > 0:
                data = data.partition(b"\n")[2]
            batch = parse(data, stream=stream)
            if len(batch):
                return _optional_int(batch.column("block_number")[-1])
            if begin == 0 or chunk_size > max_line:
                return None
            chunk_size *= 8


def first_line_after_block(reader: Reader, path: str, low: int, block: int, stream: str) -> int | None:
    """Return where the first line with a later block begins, after `low`, or None. Raises OSError.

    It looks at the beginnings of lines only: a line may hold a whole block. One in another form than
    the node's own is parsed.
    """
    with open_regular(path) as file:
        fd = file.fileno()
        high = os.fstat(fd).st_size
        while low < high:
            middle = (low + high) // 2
            line = _line_from(fd, reader, path, middle, stream)
            if line is not None and line.value is not None and line.value <= block:
                low = line.offset + 1
            else:
                high = middle
        found = _line_from(fd, reader, path, low, stream)
    return found.offset if found is not None else None


def _line_from(fd: int, reader: Reader, path: str, offset: int, stream: str) -> FirstEvent | None:
    """Return the first line that begins at `offset` or later, and its block, or None."""
    at = offset - 1
    while at >= 0:
        data = os.pread(fd, NEWLINE_SEARCH_BYTES, at)
        newline = data.find(b"\n")
        if newline >= 0:
            at += newline
            break
        if not data:
            return None
        at += len(data)
    block = block_of(os.pread(fd, LINE_HEAD_BYTES, at + 1).partition(b"\n")[0])
    if block:
        return FirstEvent(at + 1, block)
    return first_event_from(reader, path, at + 1, "block_number", stream)


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)
