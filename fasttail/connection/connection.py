"""One client's connection: its bounded queue, what it sends and receives, and how it ends.

All of this runs on the event loop's thread. The queue is the transport's write buffer, which holds references
to frames that clients share.

How a connection ends, from either side:

    open ──close(code)──────────► closing ──peer's close, or its end of stream──► gone
      │                             ▲  └────close_timeout_s over: abort───────────►│
      ├──peer's close, answered─────┤                                              │
      └──connection lost───────────────────────────────────────────────────────────┘

Nothing is written while closing: RFC 6455 allows no data after a close frame.
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
"""Codes that say that the peer violated the protocol, as found by picows or by us."""


class Client(WSListener):
    """One WebSocket connection and its bounded queue.

    It is registered after a successful handshake. Subclasses define `on_open`, `on_text` and `on_closing`. It
    holds its transport only while connected, so a later reference to it keeps no socket and no queue.

    A write to a queue above `queue_limit` bytes closes the client with 1013 instead. So a stalled client
    holds at most `queue_limit` plus one write, and one large write never closes a client that keeps up.

    has_reply_headroom: replies may be queued up to twice the limit.
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
        self._last_message_at = 0.0  # monotonic
        self._rate_limiter = RateLimiter(hub.max_messages_per_minute)
        self._assembler = MessageAssembler()

    # Overridden by subclasses

    def on_open(self) -> None:
        """Handle the end of the handshake: send a greeting, join channels."""

    def on_text(self, payload: bytes) -> None:
        """Handle a whole text message: UTF-8, at most `incoming.MAX_INCOMING` bytes."""

    def on_binary(self, payload: bytes) -> None:
        """Handle a whole binary message of at most `incoming.MAX_INCOMING` bytes; ignored by default."""

    @property
    def exempt_from_idle(self) -> bool:
        """Whether the client waits for something it requested: it is then never idle."""
        return True

    def on_closing(self) -> None:
        """Leave the channels: nothing may be sent from now on. May be called twice."""

    def on_writable(self) -> None:
        """Handle a queue that exceeded the transport's high mark and is nearly empty again."""

    def enable_compression(self, extension: DeflateExtension) -> None:
        """Compress in both directions, as negotiated in the handshake."""
        self._extension = self._assembler.extension = extension

    def pause_reading(self) -> None:
        """Stop reading from the client. Data that was already read still arrives."""
        if not self._reading_paused and self.is_open and self._socket is not None:
            self._socket.pause_reading()
            self._reading_paused = True

    def resume_reading(self) -> None:
        """Read again, if reading was paused."""
        if self._reading_paused and self._socket is not None:
            self._reading_paused = False
            if not self._socket.is_closing():
                self._socket.resume_reading()

    # Sending

    @property
    def queued_bytes(self) -> int:
        """Bytes that are queued for this client."""
        return self._socket.get_write_buffer_size() if self._socket is not None else 0

    @property
    def accepts_data(self) -> bool:
        """Whether the queue has space for `send`."""
        return self.queued_bytes <= self.queue_limit

    @property
    def is_open(self) -> bool:
        """Whether the connection is neither closing nor lost."""
        if self.closing or self._transport is None or self._socket is None:
            return False
        if self._transport.is_close_frame_sent or self._socket.is_closing():
            # picows answered an invalid frame, or the peer ended its side of the stream.
            self._enter_closing()
            return False
        return True

    @property
    def peer(self) -> str:
        """`address:port` of the other side, for log lines."""
        name = self._socket.get_extra_info("peername") if self._socket is not None else None
        return f"{name[0]}:{name[1]}" if name else "unknown"

    def send(self, data: bytes, *, limit: int | None = None) -> bool:
        """Write complete frames. Return False if the client is closing, perhaps because its queue is full.

        limit: bytes that may be queued before them, instead of `queue_limit`.
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
        """Write a reply or a message about the client's state; see `has_reply_headroom`."""
        return self.send(data, limit=2 * self.queue_limit if self.has_reply_headroom else None)

    def ping(self) -> None:
        """Write a ping, whatever is queued. Only one is pending at a time (keepalive.py)."""
        if self._socket is not None and self.is_open:
            self._socket.write(PING_FRAME)

    def close_too_slow(self) -> None:
        self.hub.closed_slow += 1
        self.hub.slow_lines.emit(self.peer, self.queued_bytes)
        self.close(CloseCode.TRY_AGAIN_LATER, "too slow: the queue is full")

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake, and abort if the peer is too slow. Idempotent."""
        if self.closing or self._transport is None:
            return
        # picows sends any code; its stub declares only the named ones.
        self._transport.send_close(cast(WSCloseCode, code), reason)
        self._enter_closing()

    def abort(self) -> None:
        """Drop the connection and its queue immediately."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def _enter_closing(self) -> None:
        """Stop sending, and give the peer a limited time to close."""
        self.closing = True
        self._assembler.clear()
        self._stop_idle_timer()
        self.resume_reading()  # to receive the peer's close frame
        loop = asyncio.get_running_loop()
        self._abort_timer = loop.call_later(self.hub.close_timeout_s, self.abort)
        self.on_closing()

    def _check_idle(self) -> None:
        """Close the client if it is idle, else check again when it may be."""
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

    # Called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self._socket = transport.underlying_transport
        self.hub.register_client(self)
        self.on_open()
        if self.hub.idle_timeout_s and not self.closing:
            self._last_message_at = time.monotonic()
            self._check_idle()
        if self.closing:  # lost during the greeting: leave what `on_open` joined since
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
            # picows answered an invalid frame; what its parser returns after it is not reliable.
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
                    # picows' automatic pong would ignore the queue's limit.
                    self.send_reply(pong_frame(frame.get_payload_as_bytes()))
                else:
                    self._on_data_frame(frame)
        except ProtocolViolation as violation:
            self.hub.closed_flooding += violation.code == CloseCode.POLICY
            self.close(violation.code, violation.reason)

    def pause_writing(self) -> None:
        """Do nothing: the transport's mark is far below the queue's limit. picows would log it."""

    def resume_writing(self) -> None:
        """Call `on_writable`: the queue has drained to the transport's low mark."""
        if not self.closing:
            self.on_writable()

    def _on_data_frame(self, frame: WSFrame) -> None:
        self._last_message_at = time.monotonic()
        message = self._assembler.add_frame(frame)
        if message is not None:
            (self.on_text if message.is_text else self.on_binary)(message.payload)

    def _on_close_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer the peer's close frame, unless it is itself an answer, and disconnect."""
        if not self.closing:
            code = _close_reply_code(frame)
            if code is None:
                self.close(CloseCode.PROTOCOL_ERROR, "close code out of range")
            else:
                self.close(code)
        transport.disconnect()  # after the queue is flushed; the abort timer runs


def _close_reply_code(frame: WSFrame) -> int | None:
    """Return the code that answers a close frame; None if RFC 6455, 7.4 forbids its code on the wire."""
    if frame.payload_size == 0:
        return CloseCode.OK
    code = int.from_bytes(frame.get_payload_as_bytes()[:2], "big")
    if (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999:
        return code
    return None
