"""Incoming frames of a client: assembles them into messages, and checks and limits them.

frame ─► rate limit ─► reserved bits ─► assembled ─► inflated ─► UTF-8? ─► message
             └──────────────┴──────────────┴────────────┴───────────┴──► ProtocolViolation: how to close
"""

from __future__ import annotations

import time
from typing import NamedTuple

from picows import WSFrame, WSMsgType

from fasttail.connection.compression import DeflateExtension, MessageTooBig
from fasttail.connection.wire import CloseCode

MAX_INCOMING = 64 * 1024
"""Largest accepted message in bytes, including all fragments, and again after inflating."""


class ProtocolViolation(Exception):
    """The client violated the protocol or a limit: close it with this code and reason."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class InboundMessage(NamedTuple):
    """A whole message; text is valid UTF-8."""

    is_text: bool
    payload: bytes


class MessageAssembler:
    """Assembles one client's frames. Unusable after a ProtocolViolation.

    extension: the compression negotiated in the handshake.
    """

    __slots__ = ("_compressed", "_fragments", "_is_text", "extension")

    def __init__(self) -> None:
        self.extension: DeflateExtension | None = None
        self.clear()

    def clear(self) -> None:
        """Discard an unfinished message."""
        self._fragments: bytearray | None = None  # None between messages
        self._is_text = self._compressed = False

    def check_reserved_bits(self, frame: WSFrame) -> None:
        """Raise ProtocolViolation for a reserved bit that was not negotiated.

        With compression, RSV1 is allowed on the first frame of a message.
        """
        negotiated = self.extension is not None and frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY)
        if frame.rsv2 or frame.rsv3 or (frame.rsv1 and not negotiated):
            raise ProtocolViolation(CloseCode.PROTOCOL_ERROR, "reserved bit without an extension")

    def add_frame(self, frame: WSFrame) -> InboundMessage | None:
        """Add a data frame or a continuation. Return the message if it is complete, else None.

        Raises ProtocolViolation.
        """
        if (frame.msg_type == WSMsgType.CONTINUATION) == (self._fragments is None):
            raise ProtocolViolation(CloseCode.PROTOCOL_ERROR, "continuation out of order")
        if self._fragments is None:
            self._fragments = bytearray()
            self._is_text = frame.msg_type == WSMsgType.TEXT
            self._compressed = frame.rsv1
        if len(self._fragments) + frame.payload_size > MAX_INCOMING:
            raise ProtocolViolation(CloseCode.TOO_BIG, "message too big")
        self._fragments += frame.get_payload_as_memoryview()
        if not frame.fin:
            return None
        payload, self._fragments = bytes(self._fragments), None
        return InboundMessage(self._is_text, self._inflate_and_validate(payload))

    def _inflate_and_validate(self, payload: bytes) -> bytes:
        try:
            if self._compressed and self.extension is not None:
                payload = self.extension.inflate(payload, MAX_INCOMING)
            if self._is_text:
                payload.decode()
        except MessageTooBig:
            raise ProtocolViolation(CloseCode.TOO_BIG, "message too big once inflated") from None
        except UnicodeError:
            raise ProtocolViolation(CloseCode.INVALID_TEXT, "not UTF-8") from None
        except ValueError as error:
            raise ProtocolViolation(CloseCode.INVALID_TEXT, str(error)) from None
        return payload


class RateLimiter:
    """Limits frames per minute, as a token bucket that holds one minute's worth. 0: unlimited.

    Fragments and pings count like messages, because they cost as much.
    """

    __slots__ = ("_per_minute", "_tokens", "_updated")

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._tokens = float(per_minute)
        self._updated = time.monotonic()

    def consume(self) -> None:
        """Count one frame. Raises ProtocolViolation if it exceeds the limit."""
        if not self._per_minute:
            return
        now = time.monotonic()
        refilled = self._tokens + (now - self._updated) * self._per_minute / 60
        self._tokens = min(float(self._per_minute), refilled) - 1
        self._updated = now
        if self._tokens < 0:
            raise ProtocolViolation(
                CloseCode.POLICY, f"too many messages: at most {self._per_minute} a minute"
            )
