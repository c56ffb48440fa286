"""Parses a line of a server's log, in either format: time, severity, event and its numbers.

The json format names events and fields. In text, which is also the old service's format, patterns find them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

BATCH_EVENTS: Mapping[str, re.Pattern[str]] = {
    "batch_started": re.compile(r"📦 Processing batch snapshot: (?P<lines>\d+) lines"),
    "batch_parallel": re.compile(r"🔄 Parallel processing START: \d+ lines, (?P<workers>\d+) workers"),
    "batch_chunks": re.compile(r"📊 Chunks created: (?P<chunks>\d+) chunks, .*\(workers: (?P<workers>\d+)\)"),
    "batch_tasks": re.compile(
        r"🚀 Starting parallel execution: (?P<chunks>\d+) tasks .*: (?P<workers>\d+) max"
    ),
    "batch_waiting": re.compile(r"⏳ Waiting for all (?P<chunks>\d+) tasks"),
    "batch_results": re.compile(r"✅ All parallel tasks completed: (?P<chunks>\d+) results"),
    "batch_combining": re.compile(r"📦 Combining results from (?P<chunks>\d+) chunks"),
    "batch_completed": re.compile(
        r"✅ Parallel COMPLETED: .*\((?P<chunks>\d+) chunks, (?P<failed>\d+) failed\)"
    ),
    "batch_broadcast": re.compile(
        r"📡 WebSocket: (?P<sent>\d+)/(?P<selected>\d+) orders → (?P<clients>\d+) clients"
    ),
}
"""The nine events of a batch, in order."""

OTHER_EVENTS: Mapping[str, re.Pattern[str]] = {
    "memory": re.compile(r"memory: RSS (?P<rss_mb>[0-9.]+) MB"),
    "lines_rejected": re.compile(r"(?P<lines>\d+) lines rejected; the first in "),
    "log_lines_dropped": re.compile(r"log: (?P<lines>\d+) lines dropped"),
    "batch_summary": re.compile(r"Σ [0-9]+ s: (?P<batches>[0-9]+) batches"),
    "started": re.compile(r"fasttail (?P<version>\S+) \(commit (?P<commit>[^)]+)\): "),
    "restarted": re.compile(r"restart \d+ in place"),
}

_KINDS: Mapping[str, type] = {"rss_mb": float, "version": str, "commit": str}
"""Types of the fields that are not integers."""

_PREFIX = re.compile(r"(?:^|.*?\s)(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z (DEBUG|INFO|WARNING|ERROR) +")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z")


class LogLine(NamedTuple):
    """A parsed line.

    timestamp: None unless the line has fasttail's own format.
    text:      the whole line; of a JSON line, its level and message.
    """

    text: str
    timestamp: str | None
    message: str
    event: str = ""
    fields: Mapping[str, Any] = {}


def read_lines(raw: bytes) -> list[LogLine]:
    """Parse a line of the log.

    A JSON line returns several if its message has several lines, as a traceback has.
    """
    text = raw.decode("utf-8", "replace").rstrip()
    prefix, brace = _PREFIX.match(text), text.find("{")
    if brace >= 0 and (prefix is None or brace < prefix.end()) and (entry := _entry(text[brace:])):
        timestamp, level, (first, *others) = entry["time"][:-1], entry["level"], entry["message"].split("\n")
        return [
            LogLine(f"{level} {first}".rstrip(), timestamp, first.rstrip(), _event(entry), entry),
            *(LogLine(f"{level} {other}".rstrip(), timestamp, other.rstrip()) for other in others),
        ]
    timestamp, message = (prefix[1], text[prefix.end() :]) if prefix else (None, text)
    for event, pattern in BATCH_EVENTS.items():
        # fasttail's own messages begin with the marker; text from a file name or a client does not.
        if (found := pattern.match(message) if prefix else pattern.search(message)) is not None:
            return [LogLine(text, timestamp, message, event, found.groupdict())]
    for event, pattern in OTHER_EVENTS.items():
        if (found := pattern.match(message)) is not None:
            return [LogLine(text, timestamp, message, event, found.groupdict())]
    return [LogLine(text, timestamp, message)]


def _entry(text: str) -> dict[str, Any] | None:
    """Return the object of a line in json format, or None if it is not one."""
    try:
        entry = orjson.loads(text)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("message"), str):
        return None
    time, level = entry.get("time"), entry.get("level")
    return entry if isinstance(time, str) and _TIME.fullmatch(time) and isinstance(level, str) else None


def _event(entry: Mapping[str, Any]) -> str:
    """Return the event of a JSON line, or "" if it is not a known one with all its fields."""
    event = entry.get("event")
    pattern = BATCH_EVENTS.get(event) or OTHER_EVENTS.get(event) if isinstance(event, str) else None
    if pattern is None:
        return ""
    whole = all(isinstance(entry.get(name), _KINDS.get(name, int)) for name in pattern.groupindex)
    return str(event) if whole else ""
