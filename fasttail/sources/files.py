"""A regular file, opened apart from the Reader, and where its lines begin and end."""

from __future__ import annotations

import errno
import io
import os
import stat

NEWLINE_SEARCH_CHUNK = 1 << 16  # read at once when looking for a newline
NEWLINE_SEARCH_LIMIT = 64 << 20  # as far as that newline is looked for


def open_regular(path: str) -> io.FileIO:
    """Opened for reading, unbuffered. OSError, also if it is no file: to open a pipe would take for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return io.FileIO(fd)
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", path)


def last_line_start(path: str) -> int:
    """Offset after the last newline of a file, so that a line that is being written now comes whole.

    0 if there is no newline; the size if none is found within NEWLINE_SEARCH_LIMIT bytes.
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
                size = begin  # of a preallocated file the end is still to be written, however long it is
            at = begin
    return size if at > 0 else 0


def line_end(fd: int, at: int) -> int:
    """Offset behind the first newline from `at` on; `at` itself if NEWLINE_SEARCH_LIMIT bytes have none.
    OSError.
    """
    for begin in range(at, at + NEWLINE_SEARCH_LIMIT, NEWLINE_SEARCH_CHUNK):
        data = os.pread(fd, NEWLINE_SEARCH_CHUNK, begin)
        newline = data.find(b"\n")
        if newline >= 0:
            return begin + newline + 1
        if not data:
            break
    return at
