"""One client's connection: its bounded queue, what it sends, and how it ends.

Everything here belongs to the event loop's thread. A frame is made once and shared: a client's queue (the
transport's write buffer) holds references to the same bytes objects, not copies.

How a connection ends, whoever begins:

    open ──close(code)──────────► closing ──peer's close, or its end of stream──► gone
      │                             ▲  └────close_timeout_s over: abort───────────►│
      ├──peer's close, answered─────┤                                              │
      └──connection lost───────────────────────────────────────────────────────────┘

From `closing` on nothing more is written: RFC 6455 allows no data after a close frame.
"""

import asyncio
import time
from typing import cast

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from fasttail.connection.compression import DeflateExtension
from fasttail.connection.hub import Hub
from fasttail.connection.incoming import MessageAssembler, ProtocolViolation, RateLimiter
from fasttail.connection.keepalive import Liveness
from fasttail.connection.wire import PING_FRAME, CloseCode, pong_frame

PEER_FAULT_CODES: frozenset[int] = frozenset(
    (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_TEXT, CloseCode.TOO_BIG)
)
"""Codes that say that the peer broke the protocol, whether picows or we found it out."""


class Client(WSListener):
    """One WebSocket connection and its bounded queue.

    Made by the server for a handshake; nothing is registered before the handshake has succeeded. Subclasses
    say what a client is for through `on_open`, `on_text` and `on_closing`. It holds its transport from
    `on_ws_connected` to `on_ws_disconnected`: whoever keeps it longer keeps no socket and no queue.

    The queue: a write is refused, and the client closed with 1013, while more than `queue_limit` bytes
    wait. So a stalled client holds at most `queue_limit` plus one write, and a single large write never
    closes a client that keeps up.

    has_reply_headroom: what answers the client may wait behind a queue that is full, up to twice the limit.
    """

    has_reply_headroom = False

    def __init__(self, hub: Hub, queue_limit: int) -> None:
        self.hub = hub
        self.queue_limit = queue_limit
        self.closing = False
        self.liveness = Liveness()
        self._extension: DeflateExtension | None = None
        self._transport: WSTransport | None = None
        self._socket: asyncio.Transport | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self._last_message_at = 0.0  # monotonic: when a message last came
        self._rate_limiter = RateLimiter(hub.max_messages_per_minute)
        self._assembler = MessageAssembler()

    # What a kind of client adds

    def on_open(self) -> None:
        """The handshake is done: greet, join channels."""

    def on_text(self, payload: bytes) -> None:
        """A whole text message came: UTF-8, at most `incoming.MAX_INCOMING` bytes."""

    def on_binary(self, payload: bytes) -> None:
        """A whole binary message came, at most `incoming.MAX_INCOMING` bytes. By default it is ignored."""

    @property
    def exempt_from_idle(self) -> bool:
        """Whether it has asked for something and waits for it: such a client is never idle."""
        return True

    def on_closing(self) -> None:
        """Nothing may be sent from now on: leave the channels. May be called twice."""

    def on_writable(self) -> None:
        """The queue was longer than the transport's high mark, and is nearly empty now."""

    def enable_compression(self, extension: DeflateExtension) -> None:
        """In the handshake: both sides may compress from now on."""
        self._extension = self._assembler.extension = extension

    def pause_reading(self) -> None:
        """Take nothing more from the client until `resume_reading`, but for what has been read already."""
        if not self._reading_paused and self.is_open and self._socket is not None:
            self._socket.pause_reading()
            self._reading_paused = True

    def resume_reading(self) -> None:
        """Read on. Does nothing unless reading was paused."""
        if self._reading_paused and self._socket is not None:
            self._reading_paused = False
            if not self._socket.is_closing():
                self._socket.resume_reading()

    # Sending

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for this client to read on."""
        return self._socket.get_write_buffer_size() if self._socket is not None else 0

    @property
    def accepts_data(self) -> bool:
        """Whether `send` would take something now, or close for another reason than a full queue."""
        return self.queued_bytes <= self.queue_limit

    @property
    def is_open(self) -> bool:
        """Whether the connection is neither closing nor lost."""
        if self.closing or self._transport is None or self._socket is None:
            return False
        if self._transport.is_close_frame_sent or self._socket.is_closing():
            # Ended below us: picows answered a broken frame, or the peer ended its side of the stream.
            self._enter_closing()
            return False
        return True

    @property
    def peer(self) -> str:
        """`address:port` of the other side, for log lines."""
        name = self._socket.get_extra_info("peername") if self._socket is not None else None
        return f"{name[0]}:{name[1]}" if name else "unknown"

    def send(self, data: bytes, *, limit: int | None = None) -> bool:
        """Write complete frames; False if they were not taken: closing, maybe just now for a full queue.

        limit: bytes that may wait in front of them, instead of the queue's limit.
        """
        transport = self._socket
        if transport is None or not self.is_open:
            return False
        if transport.get_write_buffer_size() > (self.queue_limit if limit is None else limit):
            self.close_too_slow()
            return False
        if self._extension is not None:
            data = self._extension.compress(data)
        transport.write(data)
        self.liveness.sent_bytes += len(data)
        self.hub.written_bytes += len(data)
        return True

    def send_reply(self, data: bytes) -> bool:
        """Write what answers the client, or tells it of its state."""
        return self.send(data, limit=2 * self.queue_limit if self.has_reply_headroom else None)

    def ping(self) -> None:
        """Write a ping frame, whatever waits: there is one at a time. See keepalive.py."""
        if self._socket is not None and self.is_open:
            self._socket.write(PING_FRAME)

    def close_too_slow(self) -> None:
        """Close for a queue that is full."""
        self.hub.closed_slow += 1
        self.hub.slow_lines.emit(self.peer, self.queued_bytes)
        self.close(CloseCode.TRY_AGAIN_LATER, "too slow: the queue is full")

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake; abort if the peer does not go in time. Idempotent."""
        if self.closing or self._transport is None:
            return
        # picows sends any number; its stub knows only the named ones.
        self._transport.send_close(cast(WSCloseCode, code), reason)
        self._enter_closing()

    def abort(self) -> None:
        """Drop the connection and what waits in its queue, now."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def _enter_closing(self) -> None:
        """Enter `closing`: no more data, and a limited time for the peer to go."""
        self.closing = True
        self._assembler.clear()
        self._stop_idle_timer()
        self.resume_reading()  # the peer's close frame is still to come
        loop = asyncio.get_running_loop()
        self._abort_timer = loop.call_later(self.hub.close_timeout_s, self.abort)
        self.on_closing()

    def _check_idle(self) -> None:
        """Close who waits for nothing and has long said nothing; else look again when that could be."""
        timeout_s = self.hub.idle_timeout_s
        remaining_s = (
            timeout_s if self.exempt_from_idle else self._last_message_at + timeout_s - time.monotonic()
        )
        if remaining_s > 0:
            self._idle_timer = asyncio.get_running_loop().call_later(remaining_s, self._check_idle)
        else:
            self.hub.closed_idle += 1
            self.close(CloseCode.OK, "idle: no subscription and no message")

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    # picows' side

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self._socket = transport.underlying_transport
        self.hub.register_client(self)
        self.on_open()
        if self.hub.idle_timeout_s and not self.closing:
            self._last_message_at = time.monotonic()
            self._check_idle()
        if self.closing:  # lost while it was greeted: what `on_open` joined since must be left again
            self.on_closing()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.closing:
            self.closing = True
            self.on_closing()
        self._stop_idle_timer()
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None
        sent = transport.close_handshake.sent if transport.close_handshake else None
        if sent is not None and cast(int, sent.code) in PEER_FAULT_CODES:
            self.hub.protocol_faults += 1
        self._transport = None
        self._socket = None
        self._assembler.clear()
        self.hub.unregister_client(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if transport.is_close_frame_sent and not self.closing:
            # picows answered a broken frame; what its parser makes of the bytes behind it is not to be used.
            self._enter_closing()
        if self.closing:
            if kind == WSMsgType.CLOSE:
                self._on_close_frame(transport, frame)
            return
        self.liveness.received = True
        try:
            self._assembler.check_reserved_bits(frame)
            if kind == WSMsgType.CLOSE:
                self._on_close_frame(transport, frame)
            elif kind == WSMsgType.PONG:
                self.liveness.pong_received = True
            else:
                self._rate_limiter.consume()
                if kind == WSMsgType.PING:
                    # Not picows' automatic pong: that would be written past the queue's limit.
                    self.send_reply(pong_frame(frame.get_payload_as_bytes()))
                else:
                    self._on_data_frame(frame)
        except ProtocolViolation as violation:
            self.hub.closed_flooding += violation.code == CloseCode.POLICY
            self.close(violation.code, violation.reason)

    def pause_writing(self) -> None:
        """A mark of the transport, far below the queue's limit: nothing to do, and no line in the log."""

    def resume_writing(self) -> None:
        """The queue has run down to a mark of the transport: see `on_writable`."""
        if not self.closing:
            self.on_writable()

    def _on_data_frame(self, frame: WSFrame) -> None:
        self._last_message_at = time.monotonic()
        message = self._assembler.add_frame(frame)
        if message is not None:
            (self.on_text if message.is_text else self.on_binary)(message.payload)

    def _on_close_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """The peer's close frame: answer it, unless it is itself the answer, and let go of the connection."""
        if not self.closing:
            code = _close_reply_code(frame)
            if code is None:
                self.close(CloseCode.PROTOCOL_ERROR, "close code out of range")
            else:
                self.close(code)
        transport.disconnect()  # once what waits is flushed; the abort timer runs


def _close_reply_code(frame: WSFrame) -> int | None:
    """The code to answer a close frame with, or None for one that RFC 6455, 7.4 forbids on the wire."""
    if frame.payload_size == 0:
        return CloseCode.OK
    code = int.from_bytes(frame.get_payload_as_bytes()[:2], "big")
    if (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999:
        return code
    return None
