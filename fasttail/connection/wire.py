"""The WebSocket frames that Python makes: greetings, answers and batches.

Compiled code makes the frames of orders. A server's frames are never masked (RFC 6455, 5.1), so all clients
can share them:

     byte 0            byte 1       then
    +-----------------+-----------+---------------------------------------------+
    | FIN=1 | opcode  | 0 | size  | size 126: 2 bytes, 127: 8 bytes, big endian | payload
    +-----------------+-----------+---------------------------------------------+
"""

from enum import IntEnum

FIN = 0x80
TEXT = 0x1
PING = 0x9
PONG = 0xA


class CloseCode(IntEnum):
    """The close codes that this server sends itself (RFC 6455, 7.4.1)."""

    OK = 1000
    GOING_AWAY = 1001  # shutdown
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    POLICY = 1008  # a rate or pending-request limit exceeded
    TOO_BIG = 1009
    RESTART = 1012
    TRY_AGAIN_LATER = 1013  # too slow for its subscriptions


def header(opcode: int, size: int) -> bytes:
    """Return the header of an unfragmented, unmasked frame with a payload of `size` bytes."""
    if size < 126:
        return bytes((FIN | opcode, size))
    if size < 1 << 16:
        return bytes((FIN | opcode, 126)) + size.to_bytes(2, "big")
    return bytes((FIN | opcode, 127)) + size.to_bytes(8, "big")


def text_frame(payload: bytes) -> bytes:
    """Return `payload` (UTF-8) as one complete text message."""
    return header(TEXT, len(payload)) + payload


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a ping that carried `payload` (at most 125 bytes)."""
    return header(PONG, len(payload)) + payload


PING_FRAME = header(PING, 0)
