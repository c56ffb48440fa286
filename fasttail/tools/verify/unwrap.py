"""Extracts log lines from the formats of container engines and journald, detected line by line.

    {"log":"…\\n","stream":"stdout","time":"…"}   Docker's json-file; without \\n: part of a line
    2026-05-05T17:39:14.123456789Z stdout F …     containerd, CRI-O (files below /var/log/pods); P: part
    {"MESSAGE":"…","PRIORITY":"6",…}              journalctl -o json
    MESSAGE=…                                     journalctl -o export

Any other line belongs to the log itself, as `docker logs`, `kubectl logs` and `journalctl` print it.
"""

from __future__ import annotations

import re

import orjson

MAX_LINE_BYTES = 256 << 10
"""Maximum size of a line assembled from parts; a longer one becomes several."""

_CRI = re.compile(
    rb"\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP])(?::\w+)* ?(.*)", re.DOTALL
)


class Unwrapper:
    """Unwraps the lines of one log in order, and keeps the parts of incomplete lines."""

    def __init__(self) -> None:
        self._parts: dict[str, bytes] = {}

    def feed(self, raw: bytes) -> bytes | None:
        """Return the log line that `raw` contains or completes, or None while parts are missing."""
        if raw.startswith(b"{"):
            return self._json(raw)
        if found := _CRI.fullmatch(raw.rstrip(b"\r")):
            return self._add_part(found[1].decode(), found[3], complete=found[2] == b"F")
        return raw.removeprefix(b"MESSAGE=")

    def flush(self) -> list[bytes]:
        """Return the lines that are still incomplete at the end of the log."""
        unfinished = list(self._parts.values())
        self._parts.clear()
        return unfinished

    def _json(self, raw: bytes) -> bytes | None:
        try:
            entry = orjson.loads(raw)
        except ValueError:
            return raw
        if isinstance(text := entry.get("log"), str):
            return self._add_part(
                str(entry.get("stream")), text.rstrip("\r\n").encode(), complete=text.endswith("\n")
            )
        message = entry.get("MESSAGE")
        if isinstance(message, str):
            return message.encode()
        if isinstance(message, list):  # journald's form of binary data
            try:
                return bytes(message)
            except (ValueError, TypeError):
                return raw
        return raw

    def _add_part(self, stream: str, text: bytes, *, complete: bool) -> bytes | None:
        text = self._parts.pop(stream, b"") + text
        if complete or len(text) > MAX_LINE_BYTES:
            return text
        self._parts[stream] = text
        return None
