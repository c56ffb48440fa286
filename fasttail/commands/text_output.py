"""The filter and the output that `fasttail parse` and `fasttail tail` share."""

from __future__ import annotations

import errno
import os
import select
import sys
from typing import Protocol

from fasttail.commands.text_converter import Converter
from fasttail.config import ConfigError, ParseSettings, TailSettings
from fasttail.engine.filters import Selector


class ProgressBar(Protocol):
    """A progress bar on the terminal's last line."""

    def clear(self) -> None: ...


def make_converter(
    settings: ParseSettings | TailSettings, stream: str | None, *, compute_sums: bool = False
) -> Converter:
    """Return the converter of a stream's blocks that the options select.

    stream: None is that of the first event. Raises ConfigError for one that cannot be parsed, or that lacks
    what the filter selects by.
    """
    try:
        return Converter(
            capacity=settings.block_size + settings.max_line,
            workers=settings.workers,
            selector=_selector(settings),
            format=settings.format,
            compute_sums=compute_sums,
            stream=stream,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _selector(settings: ParseSettings | TailSettings) -> Selector:
    min_notional = settings.min_notional or 0.0
    return Selector(
        coins=dict.fromkeys(settings.coin, min_notional) if settings.coin else None,
        sides=settings.side,
        statuses=settings.status or None,
        users=[settings.user] if settings.user else None,
        min_notional=min_notional,
    )


def write_stdout(text: bytes) -> None:
    """Write all of `text` to standard output, bypassing Python's buffer.

    Raises BrokenPipeError if the reader has left or the terminal was closed, else OSError.
    """
    view = memoryview(text)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:
            select.select((), (1,), ())  # the terminal or pipe was made non-blocking
        except OSError as error:
            if error.errno == errno.EIO and _has_hung_up(1):
                raise BrokenPipeError from None  # the terminal was closed
            raise


def _has_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def wait_for_input(fd: int) -> None:
    """Wait until `fd` is readable. Raises BrokenPipeError if standard output's reader leaves meanwhile."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if fd != 1:
        poll.register(1, 0)  # errors are always reported
    for ready, events in poll.poll():
        if ready == 1 and fd != 1 and events & (select.POLLERR | select.POLLHUP):
            raise BrokenPipeError


def print_rejects(converter: Converter, name: str, progress: ProgressBar | None = None) -> None:
    for offset, reason in converter.rejects:
        if progress is not None:
            progress.clear()
        print(f"{name}: byte {offset}: rejected: {reason}", file=sys.stderr)
    if converter.rejects_omitted:
        print(f"{name}: {converter.rejects_omitted} more lines rejected after these", file=sys.stderr)
