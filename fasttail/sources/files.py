"""Opens regular files independently of the Reader and finds line boundaries in them."""

from __future__ import annotations

import errno
import io
import os
import stat

NEWLINE_SEARCH_CHUNK = 1 << 16  # bytes per read when searching for a newline
NEWLINE_SEARCH_LIMIT = 64 << 20  # bytes searched before giving up


def open_regular(path: str) -> io.FileIO:
    """Open a regular file for unbuffered reading.

    Raise OSError if it cannot be opened or is not a regular file: opening a pipe could block forever.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return io.FileIO(fd)
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", path)


def last_line_start(path: str) -> int:
    """Return the offset after the last newline of a file, so that a line still being written is read whole.

    Return 0 if there is no newline, and the size if none is found within NEWLINE_SEARCH_LIMIT bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        at = size
        while at > 0 and size - at < NEWLINE_SEARCH_LIMIT:
            begin = max(0, at - NEWLINE_SEARCH_CHUNK)
            data = os.pread(file.fileno(), at - begin, begin)
            newline = data.rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            if begin == at - len(data) and at == size and not data.strip(b"\0"):
                size = begin  # the unwritten end of a preallocated file does not count towards the limit
            at = begin
    return size if at > 0 else 0


def line_end(fd: int, at: int) -> int:
    """Return the offset after the first newline at or after `at`. Raise OSError if reading fails.

    Return `at` itself if there is no newline within NEWLINE_SEARCH_LIMIT bytes.
    """
    for begin in range(at, at + NEWLINE_SEARCH_LIMIT, NEWLINE_SEARCH_CHUNK):
        data = os.pread(fd, NEWLINE_SEARCH_CHUNK, begin)
        newline = data.find(b"\n")
        if newline >= 0:
            return begin + newline + 1
        if not data:
            break
    return at
