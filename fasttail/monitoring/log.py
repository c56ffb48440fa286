"""Formats log lines and routes the process's logging to the log writer.

    2026-05-05T17:39:14.123Z INFO     message

A line has the time in UTC, the level and the text. Every line of a traceback or a group has the prefix. In
the json format, a record is one object on one line, with the whole message and its numbers as fields:

    {"time":"2026-05-05T17:39:14.123Z","level":"INFO","logger":"fasttail.app","message":"message"}

Control characters are escaped, whatever a file name or a client contains. Logging never blocks; see
`log_writer`.
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

# Longer messages are cut, so that one message cannot fill the queue.
_MAX_TEXT = 32 * 1024
# Characters that a terminal or a line reader could interpret: controls (except the tab), Unicode line
# separators, and bidirectional marks.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Event(NamedTuple):
    """A message with a name and fields for programs that read the log."""

    name: str
    message: str
    fields: Mapping[str, object] = {}


def extra(event: str, **fields: object) -> dict[str, object]:
    """Return an event's name and fields as the `extra` argument of the standard loggers."""
    return {"event": event, "fields": fields}


def format_lines(when: float, level: int, text: str) -> bytes:
    """Format `text`, which may have several lines, as log lines; `when` is Unix time in seconds."""
    prefix = f"{_clock(when)} {_level_name(level):<8} "
    lines = (
        prefix + _UNSAFE.sub(_escape, line.rstrip("\r")) + "\n"
        for line in _bounded(text).rstrip("\n").split("\n")
    )
    return "".join(lines).encode("utf-8", "backslashreplace")


def format_json(when: float, level: int, event: Event, logger: str) -> bytes:
    """Format an event as one line of JSON. The key `event` is omitted if the event has no name."""
    entry: dict[str, object] = {"time": _clock(when), "level": _level_name(level), "logger": logger}
    if event.name:
        entry["event"] = event.name
    entry["message"] = _bounded(event.message).rstrip("\n")
    line = json.dumps({**entry, **event.fields}, ensure_ascii=False, separators=(",", ":"), default=str)
    # JSON has escaped the controls below 0x20; lone surrogates become JSON escapes here.
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
    # More severe levels also read ERROR, because that is the word operators search for.
    if level >= logging.ERROR:
        return "ERROR"
    if level >= logging.WARNING:
        return "WARNING"
    return "INFO" if level >= logging.INFO else "DEBUG"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class _Handler(logging.Handler):
    """Formats records at once, because the arguments of a record may change later."""

    def __init__(self, writer: LogWriter, *, as_json: bool) -> None:
        super().__init__()
        self._writer = writer
        self._as_json = as_json
        self._formatter = logging.Formatter("%(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self._formatter.format(record)
        except Exception as error:  # the arguments do not fit the message, or a __str__ failed
            text = f"{record.msg!r} (its arguments could not be shown: {type(error).__name__})"
        if self._as_json:
            event = Event(getattr(record, "event", ""), text, getattr(record, "fields", {}))
            data = format_json(record.created, record.levelno, event, record.name)
        else:
            data = format_lines(record.created, record.levelno, text)
        self._writer.put(data)


class LogService:
    """Root log handler of the process, from `start_logging` until `stop`."""

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
        """Lines dropped because the queue was full or `stop` ran out of time."""
        return self._writer.dropped

    @property
    def write_errors(self) -> int:
        """Failed writes, because of a full disk or a closed reader for example."""
        return self._writer.write_errors

    @property
    def queued_bytes(self) -> int:
        return self._writer.queued_bytes

    def is_enabled(self, level: int) -> bool:
        """Return whether lines of `level` are logged."""
        return logging.getLogger().isEnabledFor(level)

    def log_lines(
        self, events: Iterable[Event | str], *, level: int = logging.INFO, reserve: bool = False
    ) -> bool:
        """Log several lines as a unit: all of them, together and in order, or none.

        Return False if they were not logged because the queue is full or `level` is disabled. `reserve=True`
        may use the part of the queue that is reserved for lines that complete a logged start.
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
        """Wait up to `timeout` seconds for the queue to be written, and return whether it was."""
        return self._writer.flush(timeout)

    def stop(self, timeout: float = 1.0) -> bool:
        """Write for about `timeout` seconds, then stop. Return whether everything was written."""
        root = logging.getLogger()
        if self._handler in root.handlers:
            root.removeHandler(self._handler)
            root.setLevel(self._previous_level)
        return self._writer.stop(timeout)


def start_logging(
    level: str = "info", fd: int = 1, capacity: int = 10_000, *, as_json: bool = False
) -> LogService:
    """Send the process's log to `fd`: lines of `level` (a key of LEVELS) and above."""
    return LogService(LEVELS[level], fd, capacity, as_json=as_json)
