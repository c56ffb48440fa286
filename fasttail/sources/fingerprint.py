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

from .files import open_regular
from .reader import Reader

FINGERPRINT_BYTES = 1024  # of content, by which a file is known again

_FINGERPRINT = re.compile(r"|[0-9]{1,4}-[0-9a-f]{16}")


def fingerprint(content: bytes) -> str:
    """A short text by which so many bytes are known again."""
    return f"{len(content)}-{hashlib.blake2b(content, digest_size=8).hexdigest()}" if content else ""


def is_fingerprint(text: object) -> bool:
    return isinstance(text, str) and _FINGERPRINT.fullmatch(text) is not None


def fingerprint_size(text: str) -> int:
    """How many bytes a mark is of."""
    return int(text.partition("-")[0] or 0)


def before_hole(content: bytes) -> bytes:
    """The bytes in front of the first NUL byte."""
    return content.partition(b"\0")[0]


def fingerprints_at(path: str, offset: int, identity: tuple[int, int]) -> tuple[str, str]:
    """Of the first bytes of a file and of those before `offset`; "", "": it is not there any more."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) == identity and status.st_size >= offset:
            size = min(FINGERPRINT_BYTES, offset)
            return (
                fingerprint(before_hole(os.pread(file.fileno(), size, 0))),
                fingerprint(os.pread(file.fileno(), size, offset - size).rpartition(b"\0")[2]),
            )
    return "", ""


def matches_fingerprint(text: str, reader: Reader, end: int) -> bool:
    """Whether the reader's file has content of that mark right before `end`.

    True also if it cannot be read: reading on will tell.
    """
    if not text:
        return True
    size = fingerprint_size(text)
    try:
        return end >= size and fingerprint(reader.pread_at(end - size, size)) == text
    except OSError:
        return True


def has_same_content(
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
    count = fingerprint_size(before)
    actual = peek(offset - count, count)
    if b"\0" in actual:
        return None
    return fingerprint(actual) == before
