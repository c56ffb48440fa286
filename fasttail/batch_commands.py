"""`fasttail parse` and `fasttail tail`: lines to standard output, block by block, without a server."""

from __future__ import annotations

import errno
import json
import math
import os
import select
import stat
import sys
import time
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from fasttail.config import ConfigError, ParseSettings, TailSettings
from fasttail.convert import Converter
from fasttail.publish.filters import Selector
from fasttail.tail.blocks import FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NOFILE, Reader
from fasttail.tail.follower import Follower
from fasttail.tail.inotify import Watcher

PROGRESS_AFTER_S = 1.0
"""Shorter runs show no progress."""


def parse_files(settings: ParseSettings) -> int:
    """Convert whole files, once. Returns 1 if a file could not be read to its end, else 0."""
    reader = Reader(window=settings.block_size, max_line=settings.max_line)
    converter = Converter(
        capacity=settings.block_size + settings.max_line,
        workers=settings.workers,
        selector=selector(settings),
        format=settings.format,
        summing=settings.stats,
    )
    code = 0
    began = time.perf_counter()
    with _progress(settings.files) as progress:
        for name in settings.files:
            try:
                _open(reader, name)
                _convert_file(reader, converter, name, progress)
            except BrokenPipeError:
                raise
            except OSError as error:
                if error.filename is None:
                    raise  # the output's: the reader's errors name the file
                progress.clear()
                print(f"fasttail parse: {name}: {error.strerror}", file=sys.stderr)
                code = 1
    seconds = time.perf_counter() - began
    if reader.oversize_lines:
        print(
            f"fasttail parse: {reader.oversize_lines} lines longer than {settings.max_line} bytes skipped",
            file=sys.stderr,
        )
    if settings.stats:
        _print_stats(converter, reader, settings.workers, seconds)
    return code


def _open(reader: Reader, name: str) -> None:
    if name != "-":
        reader.open(name)
        return
    # By its descriptor and from where it stands: /dev/stdin would begin a file anew, and a socket has none.
    in_file = stat.S_ISREG(os.fstat(0).st_mode)
    reader.open(0, os.lseek(0, 0, os.SEEK_CUR) if in_file else 0)


def _convert_file(reader: Reader, converter: Converter, name: str, progress: tqdm[NoReturn]) -> None:
    while True:
        code = reader.fill_once()
        if code == FILL_LINES:
            before = converter.bytes
            _write(converter.read(reader))
            _tell_rejects(converter, name, progress)
            _advance(progress, converter.bytes - before, converter.lines)
        elif code == FILL_EOF:
            break
        elif code == FILL_ERROR:
            if reader.error != errno.EAGAIN:
                raise OSError(reader.error, os.strerror(reader.error), name)
            select.select((0,), (), ())  # somebody made standard input non-blocking
    offset = reader.tell()
    tail = reader.take_tail()
    if tail:
        _write(converter.line(tail, offset))
        _tell_rejects(converter, name, progress)
        _advance(progress, len(tail), converter.lines)


def tail_folder(settings: TailSettings) -> int:
    """Follow a node's folder and print its orders; with `--no-follow`, end where the data ends."""
    if not settings.follow and not settings.data_dir.is_dir():
        raise ConfigError(f"{settings.data_dir}: no such folder")
    reader = Reader(window=settings.block_size, max_line=settings.max_line)
    wake_fd = -1
    watcher = Watcher(wake_fd=wake_fd, use_inotify=settings.inotify and settings.follow)
    follower = Follower(
        settings.data_dir,
        layout=settings.layout,
        start=settings.start,
        grace_s=settings.grace_s if settings.follow else 0.0,
        rescan_s=settings.rescan_s,
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
                _write(converter.read(reader))
                _tell_rejects(converter, str(follower.path))
                if follower.next_check_s > 0 and time.monotonic() >= check_at:
                    break
            elif code in (FILL_EOF, FILL_NOFILE, FILL_ERROR):
                at_end = True
                left = check_at - time.monotonic()
                if not settings.follow and follower.caught_up:
                    return _finish(reader, converter, follower)
                if left <= 0 or not settings.follow:
                    break
                if _wait(watcher, left):
                    break


def _wait(watcher: Watcher, seconds: float) -> bool:
    """Wait for new data or names; True if the folders are to be looked at."""
    from fasttail.tail.inotify import WAIT_DIRS

    return bool(watcher.wait_once(int(seconds * 1e6) + 1) & WAIT_DIRS)


def _finish(reader: Reader, converter: Converter, follower: Follower) -> int:
    path, offset, tail = follower.path, reader.tell(), reader.take_tail()
    if tail:
        # Nobody will wait for its rest: it is an order if it is whole without its newline.
        _write(converter.line(tail, offset))
        _tell_rejects(converter, str(path))
    return 0


def _print_line(converter: Converter, line: bytes, follower: Follower) -> None:
    origin = follower.final_origin
    _write(converter.line(line, origin[1] if origin else 0))
    _tell_rejects(converter, origin[0] if origin else "?")


def selector(settings: ParseSettings | TailSettings) -> Selector:
    """The filter that the options ask for."""
    least = settings.min_notional or 0.0
    return Selector(
        coins=dict.fromkeys(settings.coin, least) if settings.coin else None,
        sides=settings.side,
        statuses=settings.status or None,
        users=[settings.user] if settings.user else None,
        min_notional=least,
    )


def _write(text: bytes) -> None:
    """All of it to standard output, past Python's buffer. Raises BrokenPipeError, OSError."""
    view = memoryview(text)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:
            select.select((), (1,), ())  # a terminal or pipe that somebody made non-blocking


def _tell_rejects(converter: Converter, name: str, progress: tqdm[NoReturn] | None = None) -> None:
    for offset, reason in converter.rejects:
        if progress is not None:
            progress.clear()
        print(f"{name}: byte {offset}: rejected: {reason}", file=sys.stderr)
    if converter.untold:
        print(f"{name}: {converter.untold} more lines rejected after these", file=sys.stderr)


def _progress(files: tuple[str, ...]) -> tqdm[NoReturn]:
    """A bar on a terminal's standard error for long runs; silent elsewhere."""
    sizes = [Path(name).stat().st_size if name != "-" and Path(name).is_file() else None for name in files]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    return tqdm(
        total=total,
        unit="B",
        unit_scale=True,
        delay=PROGRESS_AFTER_S,
        leave=False,
        disable=not sys.stderr.isatty(),
        file=sys.stderr,
    )


def _advance(progress: tqdm[NoReturn], size: int, lines: int) -> None:
    """Move the bar on by `size` bytes; `lines`: all so far, whose mean rate it shows too."""
    if not progress.disable:
        rate = lines / max(progress.format_dict["elapsed"], 1e-9)
        progress.set_postfix_str(f"{rate:,.0f} lines/s", refresh=False)
    progress.update(size)


def _print_stats(converter: Converter, reader: Reader, workers: int, seconds: float) -> None:
    stats = {
        "lines": converter.lines + reader.oversize_lines,
        "orders": converter.orders,
        "rejected": converter.rejected + reader.oversize_lines,
        "bytes": reader.bytes_read,
        "seconds": round(seconds, 6),
        "workers": workers,
        # JSON has no infinity, which the sum of decimals such as "1e400" is
        "sums": {
            name: total if math.isfinite(total) else None for name, total in converter.sums_dict().items()
        },
    }
    print(json.dumps(stats, separators=(",", ":")), file=sys.stderr)
