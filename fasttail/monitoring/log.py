"""The log: the form of its lines, and the service that takes them from anywhere in the process.

    2026-05-05T17:39:14.123Z INFO     message

UTC, the name of the level, the text; one prefix for each line, also within a traceback or a group. In the
format json a line is an object instead, which holds a message as a whole, and the numbers in it as fields:

    {"time":"2026-05-05T17:39:14.123Z","level":"INFO","logger":"fasttail.app","message":"message"}

No escape sequence gets into the log, whatever a file name or a client sent. Calling the log never waits: see
log_writer.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fasttail.monitoring.log_writer import LogWriter

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# A message is cut at this many characters, so that the queue's bytes are shared by many.
_MAX_TEXT = 32 * 1024
# What a terminal or a line-wise reader could take for a command or for the end of a line: controls (the tab
# stays), the Unicode line ends, and the marks that turn the direction of writing.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Event(NamedTuple):
    """A message that programs read too: they go by its name, and by its fields."""

    name: str
    message: str
    fields: Mapping[str, object] = {}


def extra(event: str, **fields: object) -> dict[str, object]:
    """The name and the fields of an event, as the standard library's loggers take them."""
    return {"event": event, "fields": fields}


def format_lines(when: float, level: int, text: str) -> bytes:
    """The log's lines for `text`, which may hold several; `when` is in seconds since 1970."""
    prefix = f"{_clock(when)} {_level_name(level):<8} "
    lines = (
        prefix + _UNSAFE.sub(_escape, line.rstrip("\r")) + "\n"
        for line in _bounded(text).rstrip("\n").split("\n")
    )
    return "".join(lines).encode("utf-8", "backslashreplace")


def format_json(when: float, level: int, event: Event, logger: str) -> bytes:
    """The same as an object, in one line. An event without a name has no key for it."""
    entry: dict[str, object] = {"time": _clock(when), "level": _level_name(level), "logger": logger}
    if event.name:
        entry["event"] = event.name
    entry["message"] = _bounded(event.message).rstrip("\n")
    line = json.dumps({**entry, **event.fields}, ensure_ascii=False, separators=(",", ":"), default=str)
    # The controls below 0x20 are escaped by now; what is left of a surrogate becomes JSON's own escape.
    escaped = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
    return escaped.encode("utf-8", "backslashreplace") + b"\n"


def _bounded(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    return f"{text[:_MAX_TEXT]} … ({len(text) - _MAX_TEXT} more characters)"


def _clock(when: float) -> str:
    seconds, milliseconds = divmod(int(when * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


def _level_name(level: int) -> str:
    # Everything severe says ERROR, since that word is what operators look for.
    if level >= logging.ERROR:
        return "ERROR"
    if level >= logging.WARNING:
        return "WARNING"
    return "INFO" if level >= logging.INFO else "DEBUG"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class _Handler(logging.Handler):
    """Takes the standard library's records. Formats at once: a record's arguments may change later."""

    def __init__(self, writer: LogWriter, *, as_json: bool) -> None:
        super().__init__()
        self._writer = writer
        self._as_json = as_json
        self._formatter = logging.Formatter("%(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self._formatter.format(record)
        except Exception as error:  # arguments that do not fit the message, or whose __str__ fails
            text = f"{record.msg!r} (its arguments could not be shown: {type(error).__name__})"
        if self._as_json:
            event = Event(getattr(record, "event", ""), text, getattr(record, "fields", {}))
            data = format_json(record.created, record.levelno, event, record.name)
        else:
            data = format_lines(record.created, record.levelno, text)
        self._writer.put(data)


class LogService:
    """The root logger's way out while it runs; made by `start_logging`, ended by `stop`."""

    def __init__(self, level: int, fd: int, capacity: int, *, as_json: bool) -> None:
        self._as_json = as_json
        self._writer = LogWriter(fd, self._format_dropped, capacity=capacity)
        self._handler = _Handler(self._writer, as_json=as_json)
        root = logging.getLogger()
        self._previous_level = root.level
        root.setLevel(level)
        root.addHandler(self._handler)

    @property
    def dropped(self) -> int:
        """Lines that found no place in the queue, or were not written when the log ended."""
        return self._writer.dropped

    @property
    def write_errors(self) -> int:
        """Writes that failed: a full disk, a reader that left."""
        return self._writer.write_errors

    @property
    def queued_bytes(self) -> int:
        """Bytes in the queue."""
        return self._writer.queued_bytes

    def is_enabled(self, level: int) -> bool:
        """Whether lines of `level` are logged."""
        return logging.getLogger().isEnabledFor(level)

    def log_lines(
        self, events: Iterable[Event | str], *, level: int = logging.INFO, reserve: bool = False
    ) -> bool:
        """Logs several lines as one: all of them, together and in order, or none.

        False if they were not logged: the queue is full, or `level` is not shown. `reserve=True` may use the
        part of the queue that is kept for such ends whose beginning was logged.
        """
        if not self.is_enabled(level):
            return False
        return self._writer.put(self._format(level, events), reserve=reserve)

    def _format(self, level: int, events: Iterable[Event | str]) -> bytes:
        named = [Event("", each) if isinstance(each, str) else each for each in events]
        now = time.time()
        if self._as_json:
            return b"".join(format_json(now, level, event, "fasttail.batch") for event in named)
        return format_lines(now, level, "\n".join(event.message for event in named))

    def _format_dropped(self, dropped: int) -> bytes:
        text = f"log: {dropped} lines dropped, the output was too slow"
        return self._format(logging.WARNING, [Event("log_lines_dropped", text, {"lines": dropped})])

    def flush(self, timeout: float = 1.0) -> bool:
        """Waits at most `timeout` seconds for everything logged so far to be written; whether it was."""
        return self._writer.flush(timeout)

    def stop(self, timeout: float = 1.0) -> bool:
        """Writes what it can in about `timeout` seconds and ends; whether everything was written."""
        root = logging.getLogger()
        if self._handler in root.handlers:
            root.removeHandler(self._handler)
            root.setLevel(self._previous_level)
        return self._writer.stop(timeout)


def start_logging(
    level: str = "info", fd: int = 1, capacity: int = 10_000, *, as_json: bool = False
) -> LogService:
    """Sends the process's log to `fd` from now on: lines of `level` (a name of LEVELS) and above."""
    return LogService(LEVELS[level], fd, capacity, as_json=as_json)
