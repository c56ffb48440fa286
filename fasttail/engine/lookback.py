"""Reads the lines before a position: what reading that begins there must know of its block."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from fasttail.engine.lines import block_of
from fasttail.engine.parse import parse
from fasttail.sources.files import open_regular
from fasttail.sources.layout import previous_hour
from fasttail.sources.reader import Reader

LOOKBACK_BYTES = 1 << 18
"""What is read at least, to know which blocks were read."""

MAX_LOOKBACK_BYTES = 1 << 26
"""What is read at most, to know all events of the position's block."""


def lines_before(reader: Reader, path: str | os.PathLike[str], stream: str) -> list[bytes]:
    """Return the lines before the reader's position in the file `path`, in pieces, oldest first.

    They are at least LOOKBACK_BYTES, and go back to a block's beginning, which may be in the hour before.
    A block that is larger than MAX_LOOKBACK_BYTES, or a line that the reader does not read, is not complete.
    Raises OSError.
    """
    lookback = _Lookback(stream, reader.capacity)
    if not lookback.read(reader.pread_at, reader.tell()):
        before = previous_hour(os.fspath(path))
        if before is not None:
            with open_regular(before.path) as file:
                fd = file.fileno()
                lookback.read(partial(_pread, fd), os.fstat(fd).st_size)
    return lookback.pieces[::-1]


class _Lookback:
    """pieces: whole lines, the newest first. newest: the block of the last line, 0 if it names none."""

    def __init__(self, stream: str, max_piece: int) -> None:
        self.pieces: list[bytes] = []
        self._newest = 0
        self._stream = stream
        self._max_piece = max_piece

    def read(self, pread: Callable[[int, int], bytes], at: int) -> bool:
        """Read backwards from the offset `at`. Return False if the block may begin in the hour before."""
        piece = b""  # of a line whose beginning has not been reached
        room = MAX_LOOKBACK_BYTES
        while at > 0 and room > 0 and len(piece) < self._max_piece:
            size = min(at, room, max(LOOKBACK_BYTES, len(piece)), self._max_piece - len(piece))
            piece = pread(at - size, size) + piece
            at -= size
            room -= size
            begin = 0 if at == 0 else piece.find(b"\n") + 1
            if begin == len(piece) or (begin == 0 and at > 0):
                continue
            lines, piece = piece[begin:], piece[:begin]
            if not lines.endswith(b"\n"):  # the last line of an hour
                lines += b"\n"
            self.pieces.append(lines)
            oldest = self._block(lines)
            self._newest = self._newest or self._block(lines[lines.rfind(b"\n", 0, -1) + 1 :])
            if oldest == 0 or oldest != self._newest:
                return True
        return at > 0

    def _block(self, lines: bytes) -> int:
        """Return the block of the first line, 0 if it names none."""
        line = lines[: lines.index(b"\n") + 1]
        number = block_of(line)
        if number == 0:  # another form than the node's own, or no block
            batch = parse(line, stream=self._stream)
            number = (batch.column("block_number")[0] or 0) if len(batch) else 0
        return number


def _pread(fd: int, offset: int, size: int) -> bytes:
    return os.pread(fd, size, offset)
