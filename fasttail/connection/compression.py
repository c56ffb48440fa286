"""permessage-deflate (RFC 7692): negotiation, shared compression of frames, inflation of messages.

Clients can share a compressed frame only if it does not refer to earlier messages, so
`server_no_context_takeover` is always negotiated. Requests for any window below 2^15 get the smallest, 2^9,
which fits all of them, so a frame is compressed at most twice.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

from fasttail.connection.wire import FIN, TEXT, header

EXTENSION_NAME = "permessage-deflate"
COMPRESSION_LEVEL = 1
"""The fastest level, because the event loop compresses frames."""
MIN_COMPRESS_BYTES = 64
"""Shorter payloads stay uncompressed: inflating costs the receiver more than the bytes."""

FULL_WINDOW, SMALL_WINDOW = 15, 9
DEFLATE_TAIL = b"\x00\x00\xff\xff"
"""Ends a flush; removed from each message, and restored to inflate it (RFC 7692, 7.2.1)."""

RSV1 = 0x40


class MessageTooBig(Exception):
    """An inflated message exceeds its limit."""


class FrameCompressor:
    """Compresses frames, and caches the last two for other clients with the same bytes.

    Two, because one of those clients may need a gap message first.
    """

    def __init__(self, window_bits: int = FULL_WINDOW) -> None:
        self._window_bits = window_bits
        self._last_input = self._last_output = b""
        self._previous_input = self._previous_output = b""

    def compress_frames(self, data: bytes) -> bytes:
        """Return `data` (whole unmasked frames) with its text messages compressed where that is shorter."""
        if data is self._last_input:  # identity, not equality: this is called for each client
            return self._last_output
        output = (
            self._previous_output if data is self._previous_input else b"".join(self._compress_each(data))
        )
        self._previous_input, self._previous_output = self._last_input, self._last_output
        self._last_input, self._last_output = data, output
        return output

    def clear_cache(self) -> None:
        """Drop the cached frames."""
        self._last_input = self._last_output = self._previous_input = self._previous_output = b""

    def _compress_each(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            begin, size = _payload_span(data, at)
            end = begin + size
            if data[at] == FIN | TEXT and size >= MIN_COMPRESS_BYTES:
                yield self._compress_frame(data[at:end], data[begin:end])
            else:
                yield data[at:end]
            at = end

    def _compress_frame(self, frame: bytes, payload: bytes) -> bytes:
        # Reusing one compressor would be no faster, and would keep its history.
        deflate = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, -self._window_bits)
        deflated = (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[: -len(DEFLATE_TAIL)]
        return header(RSV1 | TEXT, len(deflated)) + deflated if len(deflated) < len(payload) else frame


def _payload_span(data: bytes, at: int) -> tuple[int, int]:
    """Return the start and the size of the payload of the frame at `at`."""
    size = data[at + 1]
    if size < 126:
        return at + 2, size
    if size == 126:
        return at + 4, int.from_bytes(data[at + 2 : at + 4], "big")
    return at + 10, int.from_bytes(data[at + 2 : at + 10], "big")


class DeflateExtension:
    """The compression negotiated with one client.

    response_header: the value of the handshake's Sec-WebSocket-Extensions.
    """

    def __init__(self, response_header: str, compressor: FrameCompressor, *, keeps_context: bool) -> None:
        self.response_header = response_header
        self.compress = compressor.compress_frames
        self._keeps_context = keeps_context
        # created by the first compressed message
        self._inflater: zlib._Decompress | None = None

    def inflate(self, payload: bytes, limit: int) -> bytes:
        """Inflate a message. Raises MessageTooBig above `limit` bytes, ValueError for invalid data."""
        inflater = self._inflater or zlib.decompressobj(-FULL_WINDOW)
        try:
            # Stop one byte above the limit, however much a bomb would inflate to.
            message = inflater.decompress(payload + DEFLATE_TAIL, limit + 1)
        except zlib.error:
            raise ValueError("invalid deflate data") from None
        if len(message) > limit:
            raise MessageTooBig
        # After a block marked as final, the inflater cannot continue.
        self._inflater = inflater if self._keeps_context and not inflater.eof else None
        return message


class Compression:
    """Negotiates with clients, and owns the compressors that they share."""

    def __init__(self) -> None:
        self._compressors: dict[int, FrameCompressor] = {}

    def negotiate(self, headers: Iterable[str]) -> DeflateExtension | None:
        """Accept the first usable offer in the values of Sec-WebSocket-Extensions, or return None."""
        for name, parameters in _parse_offers(",".join(headers)):
            if name.lower() == EXTENSION_NAME:
                extension = self._accept_offer(parameters)
                if extension is not None:
                    return extension
        return None

    def clear_cache(self) -> None:
        """Drop the cached frames to free memory."""
        for compressor in self._compressors.values():
            compressor.clear_cache()

    def _accept_offer(self, parameters: list[tuple[str, str | None]]) -> DeflateExtension | None:
        """Decline an offer as a whole if a parameter is unknown, repeated or invalid."""
        offered = dict(parameters)
        if len(offered) != len(parameters):
            return None
        parts = [EXTENSION_NAME, "server_no_context_takeover"]
        bits = FULL_WINDOW
        for name, value in parameters:
            match name, value:
                case "server_no_context_takeover", None:
                    pass
                case "client_no_context_takeover", None:
                    parts.append(name)
                case "client_max_window_bits", _ if value is None or _is_window_bits(value, 8):
                    pass  # any window of the client's fits into ours
                case "server_max_window_bits", str() if _is_window_bits(value, SMALL_WINDOW):
                    bits = FULL_WINDOW if value == "15" else SMALL_WINDOW
                    parts.append(f"{name}={bits}")
                case _:  # including server_max_window_bits=8, which zlib does not support
                    return None
        compressor = self._compressors.get(bits)
        if compressor is None:
            compressor = self._compressors[bits] = FrameCompressor(bits)
        keeps_context = "client_no_context_takeover" not in offered
        return DeflateExtension("; ".join(parts), compressor, keeps_context=keeps_context)


def _is_window_bits(value: str, low: int) -> bool:
    return value in {str(bits) for bits in range(low, 16)}


_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = rf';[ \t]*({_TOKEN})[ \t]*(?:=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*)?'
_OFFER = re.compile(rf"[ \t,]*({_TOKEN})[ \t]*((?:{_PARAMETER})*)(?=,|$)")
_PARAMETERS = re.compile(_PARAMETER)


def _parse_offers(text: str) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Parse the extensions and their parameters (RFC 6455, 9.1), up to the first syntax error."""
    at = 0
    while found := _OFFER.match(text, at):
        parameters = [
            (name, re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else value)
            for name, value, quoted in (each.groups() for each in _PARAMETERS.finditer(found[2]))
        ]
        yield found[1], parameters
        at = found.end()
