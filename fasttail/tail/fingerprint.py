"""Marks: short texts by which a file's content is known again, those of its first bytes and of those before
the place of reading.

NUL bytes end a mark: they may be replaced by data later, which makes it no other file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable

from .blocks import Reader
from .files import open_regular

MARK_BYTES = 1024  # of content, by which a file is known again

_MARK = re.compile(r"|[0-9]{1,4}-[0-9a-f]{16}")


def mark(content: bytes) -> str:
    """A short text by which so many bytes are known again."""
    return f"{len(content)}-{hashlib.blake2b(content, digest_size=8).hexdigest()}" if content else ""


def is_mark(text: object) -> bool:
    return isinstance(text, str) and _MARK.fullmatch(text) is not None


def marked_bytes(text: str) -> int:
    """How many bytes a mark is of."""
    return int(text.partition("-")[0] or 0)


def before_hole(content: bytes) -> bytes:
    """The bytes in front of the first NUL byte."""
    return content.partition(b"\0")[0]


def marks_at(path: str, offset: int, identity: tuple[int, int]) -> tuple[str, str]:
    """Of the first bytes of a file and of those before `offset`; "", "": it is not there any more."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) == identity and status.st_size >= offset:
            size = min(MARK_BYTES, offset)
            return (
                mark(before_hole(os.pread(file.fileno(), size, 0))),
                mark(os.pread(file.fileno(), size, offset - size).rpartition(b"\0")[2]),
            )
    return "", ""


def fits(text: str, reader: Reader, end: int) -> bool:
    """Whether the reader's file has content of that mark right before `end`.

    True also if it cannot be read: reading on will tell.
    """
    if not text:
        return True
    size = marked_bytes(text)
    try:
        return end >= size and mark(reader.peek(end - size, size)) == text
    except OSError:
        return True


def is_same(
    peek: Callable[[int, int], bytes], size: int, offset: int, first: bytes, before: str
) -> bool | None:
    """Whether a file of that size holds what was read of the current one up to `offset`. OSError.

    first: the bytes with which that one begins, none if it begins with a hole. before: the mark of those
    before `offset`. None: it may hold them, once it has grown or a hole in it has been filled.
    """
    begin = before_hole(peek(0, len(first)))
    if not (first or before) or not first.startswith(begin):
        return False
    if len(begin) < len(first) or size < offset:
        return None
    count = marked_bytes(before)
    there = peek(offset - count, count)
    if b"\0" in there:
        return None
    return mark(there) == before
