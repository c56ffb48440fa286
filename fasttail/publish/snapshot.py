"""The snapshot with which `userFills` begins: a user's fills in the files at hand, as one message.

The member is replayed from some way before the newest fill. Until it goes live, its messages are collected
here instead of being sent.
"""

from __future__ import annotations

import re
from collections import deque

from fasttail.engine.channels import CHANNELS

MAX_FILLS = 2000
"""As many as the public API's snapshot has."""

SNAPSHOT_BYTES = 16 << 20
"""Bytes of the node's files before the newest fill that are searched for the user's fills."""

_TIME = re.compile(rb'"time":(\d+)')


class FillSnapshot:
    """Collects the newest fills of a user, within `max_bytes` of text.

    since_ms: all fills from this time on are in it, Unix milliseconds.
    """

    def __init__(self, user: str, since_ms: int, max_bytes: int) -> None:
        self._since_ms = since_ms
        self._head = b'{"channel":"userFills","data":{"isSnapshot":true,"user":"%b","fills":[' % user.encode()
        self._max_bytes = max_bytes
        channel = CHANNELS["userFills"]
        self._message_head = channel.head.replace("%s", user).encode()
        self._message_tail = channel.tail.encode() + b',"cursor":"'
        self._parts: deque[tuple[bytes, int]] = deque()  # text of fills, and their number
        self._fills = self._bytes = 0

    def add(self, frame: bytes, fills: int) -> None:
        """Add the fills of a message, which are newer than those so far."""
        begin = frame.index(self._message_head) + len(self._message_head)
        part = frame[begin : frame.rindex(self._message_tail)]
        self._parts.append((part, fills))
        self._fills += fills
        self._bytes += len(part)
        while len(self._parts) > 1 and (self._bytes > self._max_bytes or self._fills > MAX_FILLS):
            left_out, count = self._parts.popleft()
            self._fills -= count
            self._bytes -= len(left_out)
            # Complete from the next fill on, unless another fill of its time was left out.
            first = _TIME.search(self._parts[0][0])
            self._since_ms = int(first[1]) + 1 if first else self._since_ms

    def payload(self) -> bytes:
        """Return the message."""
        fills = b",".join(part for part, _ in self._parts)
        return b'%b%b]},"since":%d}' % (self._head, fills, self._since_ms)
