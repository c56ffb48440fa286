"""`fasttail tail`: a node's orders to standard output as they come, without a server.

The `Follower` decides, as in the server. The loop around it is not the pipeline's: the thread that reads also
writes, so nothing waits in a ring, small writes are not coalesced, and the command can end with the data.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from fasttail.config import ConfigError, TailSettings
from fasttail.convert import Converter
from fasttail.find import after_block
from fasttail.tail.blocks import FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NOFILE, Reader
from fasttail.tail.follower import Follower
from fasttail.tail.inotify import WAIT_DIRS, WAIT_GONE, Watcher
from fasttail.text_output import selector, tell_rejects, write


def tail_folder(settings: TailSettings) -> int:
    """Follow a node's folder and print its orders; with `--no-follow`, end where the data ends."""
    if not settings.follow and not settings.data_dir.is_dir():
        raise ConfigError(f"{settings.data_dir}: no such folder")
    reader = Reader(window=settings.block_size, max_line=settings.max_line)
    watcher = Watcher(reader_of=1, use_inotify=settings.inotify and settings.follow)
    follower = Follower(
        settings.data_dir,
        layout=settings.layout,
        start=settings.start,
        grace_s=settings.grace_s if settings.follow else 0.0,
        rescan_s=settings.rescan_s,
        after_block=partial(after_block, max_line=settings.max_line),
        notice=lambda level, text: print(f"fasttail tail: {text}", file=sys.stderr),
    )
    converter = Converter(
        capacity=settings.block_size + settings.max_line,
        workers=settings.workers,
        selector=selector(settings),
        format=settings.format,
    )
    at_end = True
    while True:
        follower.check(reader, watcher, at_end)
        while (line := follower.take_final_line()) is not None:
            _print_line(converter, line, follower)
        check_at = time.monotonic() + max(follower.next_check_s, 0.0)
        at_end = False
        while True:
            code = reader.fill_once()
            if code == FILL_LINES:
                write(converter.read(reader))
                tell_rejects(converter, str(follower.path))
                if follower.next_check_s > 0 and time.monotonic() >= check_at:
                    break
            elif code in (FILL_EOF, FILL_NOFILE, FILL_ERROR):
                at_end = True
                left = check_at - time.monotonic()
                if not settings.follow and follower.caught_up:
                    return _finish(reader, converter, follower)
                if left <= 0 or reader.at_hole or not settings.follow:
                    break
                if _wait(watcher, left):
                    break


def _wait(watcher: Watcher, seconds: float) -> bool:
    """Wait for new data or names; True if the folders are to be looked at.

    Raises BrokenPipeError if nobody reads the output any more.
    """
    happened = watcher.wait_once(int(seconds * 1e6) + 1)
    if happened & WAIT_GONE:
        raise BrokenPipeError
    return bool(happened & WAIT_DIRS)


def _finish(reader: Reader, converter: Converter, follower: Follower) -> int:
    path, offset, tail = follower.path, reader.tell(), reader.take_tail()
    if tail:
        # Nobody will wait for its rest: it is an order if it is whole without its newline.
        write(converter.line(tail, offset))
        tell_rejects(converter, str(path))
    return 0


def _print_line(converter: Converter, line: bytes, follower: Follower) -> None:
    origin = follower.final_origin
    write(converter.line(line, origin[1] if origin else 0))
    tell_rejects(converter, origin[0] if origin else "?")
