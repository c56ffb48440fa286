"""What clients send: frames to whole messages, checked and bounded.

frame ─► rate ─► reserved bits ─► fragments put together ─► inflated ─► UTF-8? ─► message
           └─────────┴───────────────────┴────────────────────┴───────────┴──► Breach: how to close
"""

from __future__ import annotations

import time
from typing import NamedTuple

from picows import WSFrame, WSMsgType

from fasttail.publish.compression import Extension, MessageTooBig
from fasttail.publish.wire import CloseCode

MAX_INCOMING = 64 * 1024
"""Largest message taken from a client, in bytes: over all its fragments, and also once it is inflated."""


class Breach(Exception):
    """The client sent what it may not: close with this code and this reason."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Message(NamedTuple):
    """A whole message. Text is UTF-8."""

    is_text: bool
    payload: bytes


class Incoming:
    """One client's frames. After a Breach nothing more is to be given to it.

    extension: the compression agreed in the handshake.
    """

    __slots__ = ("_compressed", "_is_text", "_parts", "extension")

    def __init__(self) -> None:
        self.extension: Extension | None = None
        self.clear()

    def clear(self) -> None:
        """Forget an unfinished message."""
        self._parts: bytearray | None = None  # None between messages
        self._is_text = self._compressed = False

    def check_reserved(self, frame: WSFrame) -> None:
        """Raise Breach for a reserved bit that was not agreed to: RSV1 is, with compression, on a message's
        first frame.
        """
        agreed = self.extension is not None and frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY)
        if frame.rsv2 or frame.rsv3 or (frame.rsv1 and not agreed):
            raise Breach(CloseCode.PROTOCOL_ERROR, "reserved bit without an extension")

    def take(self, frame: WSFrame) -> Message | None:
        """A data frame or a continuation came: the message that it ends, or None."""
        if (frame.msg_type == WSMsgType.CONTINUATION) == (self._parts is None):
            raise Breach(CloseCode.PROTOCOL_ERROR, "continuation out of order")
        if self._parts is None:
            self._parts = bytearray()
            self._is_text = frame.msg_type == WSMsgType.TEXT
            self._compressed = frame.rsv1
        if len(self._parts) + frame.payload_size > MAX_INCOMING:
            raise Breach(CloseCode.TOO_BIG, "message too big")
        self._parts += frame.get_payload_as_memoryview()
        if not frame.fin:
            return None
        payload, self._parts = bytes(self._parts), None
        return Message(self._is_text, self._checked(payload))

    def _checked(self, payload: bytes) -> bytes:
        try:
            if self._compressed and self.extension is not None:
                payload = self.extension.inflate(payload, MAX_INCOMING)
            if self._is_text:
                payload.decode()
        except MessageTooBig:
            raise Breach(CloseCode.TOO_BIG, "message too big once inflated") from None
        except UnicodeError:
            raise Breach(CloseCode.INVALID_TEXT, "not UTF-8") from None
        except ValueError as error:
            raise Breach(CloseCode.INVALID_TEXT, str(error)) from None
        return payload


class Rate:
    """So many frames a minute: a minute's worth at once, then as they are refilled. 0: any number.

    Fragments and pings count as messages do: they cost as much.
    """

    __slots__ = ("_left", "_per_minute", "_updated")

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left = float(per_minute)
        self._updated = time.monotonic()

    def take(self) -> None:
        """One more came. Raises Breach if it is one too many."""
        if not self._per_minute:
            return
        now = time.monotonic()
        refilled = self._left + (now - self._updated) * self._per_minute / 60
        self._left = min(float(self._per_minute), refilled) - 1
        self._updated = now
        if self._left < 0:
            raise Breach(CloseCode.POLICY, f"too many messages: at most {self._per_minute} a minute")
