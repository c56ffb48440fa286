"""Fingerprints: short hashes that identify a file by its first bytes and by those before the read position.

A fingerprint stops at a NUL byte, because data may replace NUL bytes later without making it another file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable

from .files import open_regular
from .reader import Reader

FINGERPRINT_BYTES = 1024  # most bytes of content that a fingerprint covers

_FINGERPRINT = re.compile(r"|[0-9]{1,4}-[0-9a-f]{16}")


def fingerprint(content: bytes) -> str:
    """Return the size and a short hash of `content` as text, "" for no content."""
    return f"{len(content)}-{hashlib.blake2b(content, digest_size=8).hexdigest()}" if content else ""


def is_fingerprint(text: object) -> bool:
    return isinstance(text, str) and _FINGERPRINT.fullmatch(text) is not None


def fingerprint_size(text: str) -> int:
    """Return the number of bytes that a fingerprint covers."""
    return int(text.partition("-")[0] or 0)


def before_hole(content: bytes) -> bytes:
    """Return the bytes before the first NUL byte."""
    return content.partition(b"\0")[0]


def fingerprints_at(path: str, offset: int, identity: tuple[int, int]) -> tuple[str, str]:
    """Return the fingerprints of a file's first bytes and of the bytes before `offset`.

    Both are "" if `path` is no longer the file with this (device, inode), is shorter, or cannot be read.
    """
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
    """Return whether the bytes before `end` in the reader's file have the fingerprint `text`.

    Return True as well if `text` is "" or the bytes cannot be read: the next read reports the error.
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
    """Return whether a file of `size` bytes has the content that was read of another one up to `offset`.

    peek(at, count): reads from the file; its OSError is passed on. first: the first bytes of the other file,
    empty if it begins with a hole. before: the fingerprint of its bytes before `offset`. None means not yet:
    the file may match once it has grown or a hole in it has been filled.
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
