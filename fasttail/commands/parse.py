"""`fasttail parse`: prints the events of whole files of one stream, block by block."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from fasttail.commands.text_converter import Converter, UnsuitableFilter
from fasttail.commands.text_output import make_converter, print_rejects, wait_for_input, write_stdout
from fasttail.config import ConfigError, ParseSettings
from fasttail.sources.layout import stream_of_path
from fasttail.sources.reader import FILL_EOF, FILL_ERROR, FILL_LINES, Reader

if TYPE_CHECKING:
    from tqdm import tqdm

PROGRESS_AFTER_S = 1.0
"""Shorter runs show no progress."""


def parse_files(settings: ParseSettings) -> int:
    """Convert the files once. Return 1 if one could not be read to its end, else 0."""
    reader = Reader(window=settings.block_size, max_line=settings.max_line)
    stream = settings.stream or stream_of_path(os.path.abspath(settings.files[0]))
    converter = make_converter(settings, stream, compute_sums=settings.stats)
    code = 0
    started = time.perf_counter()
    with _Progress(settings.files) as progress:
        for name in settings.files:
            try:
                with _open_input(reader, name) as wait_fd:
                    _convert_file(reader, converter, name, progress, wait_fd)
            except BrokenPipeError:
                raise
            except UnsuitableFilter as error:
                raise ConfigError(str(error)) from error
            except OSError as error:
                if error.filename is None:
                    raise  # an output error; the reader's errors name the file
                progress.clear()
                print(f"fasttail parse: {name}: {error.strerror}", file=sys.stderr)
                code = 1
    seconds = time.perf_counter() - started
    if reader.oversize_lines:
        print(
            f"fasttail parse: {reader.oversize_lines} lines longer than {settings.max_line} bytes skipped",
            file=sys.stderr,
        )
    if settings.stats:
        _print_stats(converter, reader, settings.workers, seconds)
    return code


class _Progress:
    """A progress bar on a terminal's standard error, for runs longer than `PROGRESS_AFTER_S`.

    tqdm is imported only then, because the import takes longer than most files.
    """

    def __init__(self, files: tuple[str, ...]) -> None:
        self._files = files
        self._started_at = time.monotonic()
        self._done = 0
        self._enabled = sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, size: int, lines: int) -> None:
        """Advance the bar by `size` bytes; `lines` is the total so far, for the mean rate."""
        self._done += size
        if not self._enabled:
            return
        elapsed = time.monotonic() - self._started_at
        if self._bar is None:
            if elapsed < PROGRESS_AFTER_S:
                return
            self._bar, size = self._create_bar(), self._done
            self._bar.start_t -= elapsed
            self._bar.last_print_t = self._bar.start_t
        self._bar.set_postfix_str(f"{lines / elapsed:,.0f} lines/s", refresh=False)
        self._bar.update(size)

    def clear(self) -> None:
        """Clear the bar to make space for a message."""
        if self._bar is not None:
            self._bar.clear()

    def _create_bar(self) -> tqdm[NoReturn]:
        from tqdm import tqdm

        sizes = [
            Path(name).stat().st_size if name != "-" and Path(name).is_file() else None
            for name in self._files
        ]
        total = sum(size for size in sizes if size is not None) if None not in sizes else None
        # delay: show nothing before the first update
        return tqdm(total=total, unit="B", unit_scale=True, leave=False, delay=1e-9, file=sys.stderr)


@contextmanager
def _open_input(reader: Reader, name: str) -> Iterator[int]:
    """Open an input and yield the descriptor to poll before each read, or -1 for a regular file."""
    # Read standard input by its descriptor and from its offset: /dev/stdin would start a file from the
    # beginning, and does not exist for a socket.
    fd = 0 if name == "-" else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        reader.open(
            fd if name == "-" or not is_file else name, os.lseek(fd, 0, os.SEEK_CUR) if is_file else 0
        )
        yield -1 if is_file else fd
    finally:
        if name != "-":
            os.close(fd)


def _convert_file(reader: Reader, converter: Converter, name: str, progress: _Progress, wait_fd: int) -> None:
    while True:
        if wait_fd >= 0:
            wait_for_input(wait_fd)
        code = reader.fill_once()
        if code == FILL_LINES:
            before = converter.bytes
            write_stdout(converter.convert_block(reader))
            print_rejects(converter, name, progress)
            progress.advance(converter.bytes - before, converter.lines)
        elif code == FILL_EOF:
            break
        elif code == FILL_ERROR and reader.error != errno.EAGAIN:  # EAGAIN: the pipe was made non-blocking
            raise OSError(reader.error, os.strerror(reader.error), name)
    offset = reader.tell()
    tail = reader.take_partial_line()
    if tail:
        write_stdout(converter.convert_line(tail, offset))
        print_rejects(converter, name, progress)
        progress.advance(len(tail), converter.lines)


def _print_stats(converter: Converter, reader: Reader, workers: int, seconds: float) -> None:
    stats = {
        "lines": converter.lines + reader.oversize_lines,
        "orders": converter.orders,
        "rejected": converter.rejected + reader.oversize_lines,
        "bytes": reader.bytes_read,
        "seconds": round(seconds, 6),
        "workers": workers,
        # JSON has no infinity, which the sum of decimals such as "1e400" is.
        "sums": {
            name: total if math.isfinite(total) else None for name, total in converter.sums_dict().items()
        },
    }
    print(json.dumps(stats, separators=(",", ":")), file=sys.stderr)
