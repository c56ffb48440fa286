"""`fasttail tail`: prints the events of one of a node's streams as they arrive, without a server.

The `Follower` sets the policy, as in the server, but the loop is not the pipeline's: one thread reads and
writes, so there is no ring, small writes are not coalesced, and the command can end with the data.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from fasttail.commands.text_converter import Converter
from fasttail.commands.text_output import make_converter, print_rejects, write_stdout
from fasttail.config import ConfigError, TailSettings
from fasttail.replay.find import locate_after_block
from fasttail.sources.follower import Follower
from fasttail.sources.reader import FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NO_FILE, Reader
from fasttail.sources.watcher import WAIT_DIRS, WAIT_OUTPUT_CLOSED, Watcher


def tail_folder(settings: TailSettings) -> int:
    """Follow a node's folder and print the events. With `--no-follow`, stop at the end of the data."""
    if not settings.follow and not settings.data_dir.is_dir():
        raise ConfigError(f"{settings.data_dir}: no such folder")
    reader = Reader(window=settings.block_size, max_line=settings.max_line)
    watcher = Watcher(output_fd=1, use_inotify=settings.inotify and settings.follow)
    watch = watcher.watch()
    follower = Follower(
        settings.data_dir,
        layout=settings.layout,
        start=settings.start,
        grace_s=settings.grace_s if settings.follow else 0.0,
        rescan_s=settings.rescan_s,
        locate_after_block=partial(locate_after_block, max_line=settings.max_line, stream=settings.stream),
        notice=lambda level, text: print(f"fasttail tail: {text}", file=sys.stderr),
        stream=settings.stream,
    )
    converter = make_converter(settings, settings.stream)
    at_end = True
    while True:
        follower.check(reader, watch, at_end)
        while (line := follower.take_final_line()) is not None:
            _print_line(converter, line, follower)
        check_at = time.monotonic() + max(follower.next_check_s, 0.0)
        at_end = False
        while True:
            code = reader.fill_once()
            if code == FILL_LINES:
                write_stdout(converter.convert_block(reader))
                print_rejects(converter, str(follower.path))
                if follower.next_check_s > 0 and time.monotonic() >= check_at:
                    break
            elif code in (FILL_EOF, FILL_NO_FILE, FILL_ERROR):
                at_end = True
                remaining_s = check_at - time.monotonic()
                if not settings.follow and follower.caught_up:
                    return _finish(reader, converter, follower)
                if remaining_s <= 0 or reader.at_hole or not settings.follow:
                    break
                if _wait_for_input(watcher, remaining_s):
                    break


def _wait_for_input(watcher: Watcher, seconds: float) -> bool:
    """Wait for new data or directory entries. Return True if the folders must be scanned.

    Raises BrokenPipeError if the reader of the output has left.
    """
    events = watcher.wait_once(int(seconds * 1e6) + 1)
    if events & WAIT_OUTPUT_CLOSED:
        raise BrokenPipeError
    return bool(events & WAIT_DIRS)


def _finish(reader: Reader, converter: Converter, follower: Follower) -> int:
    path, offset, tail = follower.path, reader.tell(), reader.take_partial_line()
    if tail:
        # Nothing waits for the rest of this line; it is an order if only its newline is missing.
        write_stdout(converter.convert_line(tail, offset))
        print_rejects(converter, str(path))
    return 0


def _print_line(converter: Converter, line: bytes, follower: Follower) -> None:
    origin = follower.final_origin
    write_stdout(converter.convert_line(line, origin[1] if origin else 0))
    print_rejects(converter, origin[0] if origin else "?")
