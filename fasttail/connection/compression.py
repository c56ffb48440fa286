"""permessage-deflate (RFC 7692): the negotiation, frames for all clients compressed once, messages inflated.

What the server sends never refers back to an earlier message (`server_no_context_takeover`): only so can
clients share a frame. Clients that ask for a window smaller than 2^15 get frames made for the smallest, 2^9,
which fits all of them: a frame is compressed twice at the most, however many kinds of clients there are.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

from fasttail.connection.wire import FIN, TEXT, header

EXTENSION_NAME = "permessage-deflate"
COMPRESSION_LEVEL = 1
"""Frames are made on the event loop, so: the quickest."""
MIN_COMPRESS_BYTES = 64
"""A shorter payload stays as it is: the receiver's work would cost more than the bytes."""

FULL_WINDOW, SMALL_WINDOW = 15, 9
DEFLATE_TAIL = b"\x00\x00\xff\xff"
"""Ends what a flush gives; taken off each message, and put back by whoever inflates it (RFC 7692, 7.2.1)."""

RSV1 = 0x40


class MessageTooBig(Exception):
    """More would come out than may."""


class FrameCompressor:
    """Compresses ready frames; what it made last it keeps, for the next client that gets the same bytes.

    The last two: between two clients that get the same, one of them may have to be told of a gap first.
    """

    def __init__(self, window_bits: int = FULL_WINDOW) -> None:
        self._window_bits = window_bits
        self._last_input = self._last_output = b""
        self._previous_input = self._previous_output = b""

    def compress_frames(self, data: bytes) -> bytes:
        """`data` (whole unmasked frames, any number), its text messages compressed where that is shorter."""
        if data is self._last_input:  # identity, not equality: it is asked for each client
            return self._last_output
        output = (
            self._previous_output if data is self._previous_input else b"".join(self._compress_each(data))
        )
        self._previous_input, self._previous_output = self._last_input, self._last_output
        self._last_input, self._last_output = data, output
        return output

    def clear_cache(self) -> None:
        """Keep nothing of what was made."""
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
        # A fresh one each time: flushing one and the same is no faster, and it would keep what it saw.
        deflate = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, -self._window_bits)
        deflated = (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[: -len(DEFLATE_TAIL)]
        return header(RSV1 | TEXT, len(deflated)) + deflated if len(deflated) < len(payload) else frame


def _payload_span(data: bytes, at: int) -> tuple[int, int]:
    """Where the payload of the frame at `at` begins, and its size."""
    size = data[at + 1]
    if size < 126:
        return at + 2, size
    if size == 126:
        return at + 4, int.from_bytes(data[at + 2 : at + 4], "big")
    return at + 10, int.from_bytes(data[at + 2 : at + 10], "big")


class DeflateExtension:
    """What was agreed with one client. `response_header` is the value of the handshake's
    Sec-WebSocket-Extensions.
    """

    def __init__(self, response_header: str, compressor: FrameCompressor, *, keeps_context: bool) -> None:
        self.response_header = response_header
        self.compress = compressor.compress_frames
        self._keeps_context = keeps_context
        # made when the client first sends something compressed
        self._inflater: zlib._Decompress | None = None

    def inflate(self, payload: bytes, limit: int) -> bytes:
        """A message that the client compressed. MessageTooBig past `limit` bytes, ValueError for nonsense."""
        inflater = self._inflater or zlib.decompressobj(-FULL_WINDOW)
        try:
            # One byte more than may be: never more than that is made of a bomb.
            message = inflater.decompress(payload + DEFLATE_TAIL, limit + 1)
        except zlib.error:
            raise ValueError("invalid deflate data") from None
        if len(message) > limit:
            raise MessageTooBig
        # At the end is one whose last block was marked as final; it can take nothing more.
        self._inflater = inflater if self._keeps_context and not inflater.eof else None
        return message


class Compression:
    """The server's side: the negotiation, and the compressors that its clients share."""

    def __init__(self) -> None:
        self._compressors: dict[int, FrameCompressor] = {}

    def negotiate(self, headers: Iterable[str]) -> DeflateExtension | None:
        """The first offer that can be taken from all values of Sec-WebSocket-Extensions, or None."""
        for name, parameters in _parse_offers(",".join(headers)):
            if name.lower() == EXTENSION_NAME:
                extension = self._accept_offer(parameters)
                if extension is not None:
                    return extension
        return None

    def clear_cache(self) -> None:
        """Memory is short: keep no frames for the next client."""
        for compressor in self._compressors.values():
            compressor.clear_cache()

    def _accept_offer(self, parameters: list[tuple[str, str | None]]) -> DeflateExtension | None:
        """An offer with a parameter that is unknown, repeated or of a wrong value is declined as a whole."""
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
                    pass  # the client's own affair: any window fits into ours
                case "server_max_window_bits", str() if _is_window_bits(value, SMALL_WINDOW):
                    bits = FULL_WINDOW if value == "15" else SMALL_WINDOW
                    parts.append(f"{name}={bits}")
                case _:  # also a server_max_window_bits of 8: zlib has no such window
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
    """Each extension with its parameters (RFC 6455, 9.1), as far as the text is well formed."""
    at = 0
    while found := _OFFER.match(text, at):
        parameters = [
            (name, re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else value)
            for name, value, quoted in (each.groups() for each in _PARAMETERS.finditer(found[2]))
        ]
        yield found[1], parameters
        at = found.end()
