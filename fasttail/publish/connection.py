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

from fasttail.publish.compression import Extension
from fasttail.publish.hub import Hub
from fasttail.publish.incoming import Breach, Incoming, Rate
from fasttail.publish.keepalive import Pulse
from fasttail.publish.wire import PING_FRAME, CloseCode, pong_frame

BLAMES_PEER: frozenset[int] = frozenset((CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_TEXT, CloseCode.TOO_BIG))
"""Codes that say that the peer broke the protocol, whether picows or we found it out."""


class Client(WSListener):
    """One WebSocket connection and its bounded queue.

    Made by the server for a handshake; nothing is registered before the handshake has succeeded. Subclasses
    say what a client is for through `opened`, `text` and `left`. It holds its transport from
    `on_ws_connected` to `on_ws_disconnected`: whoever keeps it longer keeps no socket and no queue.

    The queue: a write is refused, and the client closed with 1013, while more than `queue_limit` bytes
    wait. So a stalled client holds at most `queue_limit` plus one write, and a single large write never
    closes a client that keeps up.

    is_patient: what answers the client may wait behind a queue that is full, up to twice the limit.
    """

    is_patient = False

    def __init__(self, hub: Hub, queue_limit: int) -> None:
        self.hub = hub
        self.queue_limit = queue_limit
        self.closing = False
        self.pulse = Pulse()
        self._extension: Extension | None = None
        self._transport: WSTransport | None = None
        self._socket: asyncio.Transport | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self._heard_at = 0.0  # monotonic: when a message last came
        self._rate = Rate(hub.max_messages_per_minute)
        self._incoming = Incoming()

    # What a kind of client adds

    def opened(self) -> None:
        """The handshake is done: greet, join channels."""

    def text(self, payload: bytes) -> None:
        """A whole text message came: UTF-8, at most `incoming.MAX_INCOMING` bytes."""

    def binary(self, payload: bytes) -> None:
        """A whole binary message came, at most `incoming.MAX_INCOMING` bytes. By default it is ignored."""

    @property
    def waits(self) -> bool:
        """Whether it has asked for something and waits for it: such a client is never idle."""
        return True

    def left(self) -> None:
        """Nothing may be sent from now on: leave the channels. May be called twice."""

    def drained(self) -> None:
        """The queue was longer than the transport's high mark, and is nearly empty now."""

    def agree(self, extension: Extension) -> None:
        """In the handshake: both sides may compress from now on."""
        self._extension = self._incoming.extension = extension

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
    def queued(self) -> int:
        """Bytes that wait for this client to read on."""
        return self._socket.get_write_buffer_size() if self._socket is not None else 0

    @property
    def has_room(self) -> bool:
        """Whether `send` would take something now, or close for another reason than a full queue."""
        return self.queued <= self.queue_limit

    @property
    def is_open(self) -> bool:
        """Whether the connection is neither closing nor lost."""
        if self.closing or self._transport is None or self._socket is None:
            return False
        if self._transport.is_close_frame_sent or self._socket.is_closing():
            # Ended below us: picows answered a broken frame, or the peer ended its side of the stream.
            self._end()
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
            self.close_slow()
            return False
        if self._extension is not None:
            data = self._extension.compress(data)
        transport.write(data)
        self.pulse.sent_bytes += len(data)
        self.hub.handed_bytes += len(data)
        return True

    def answer(self, data: bytes) -> bool:
        """Write what answers the client, or tells it of its state."""
        return self.send(data, limit=2 * self.queue_limit if self.is_patient else None)

    def ping(self) -> None:
        """Write a ping frame, whatever waits: there is one at a time. See keepalive.py."""
        if self._socket is not None and self.is_open:
            self._socket.write(PING_FRAME)

    def close_slow(self) -> None:
        """Close for a queue that is full."""
        self.hub.closed_slow += 1
        self.hub.slow_lines.tell(self.peer, self.queued)
        self.close(CloseCode.TRY_AGAIN_LATER, "too slow: the queue is full")

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake; abort if the peer does not go in time. Idempotent."""
        if self.closing or self._transport is None:
            return
        # picows sends any number; its stub knows only the named ones.
        self._transport.send_close(cast(WSCloseCode, code), reason)
        self._end()

    def abort(self) -> None:
        """Drop the connection and what waits in its queue, now."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def _end(self) -> None:
        """Enter `closing`: no more data, and a limited time for the peer to go."""
        self.closing = True
        self._incoming.clear()
        self._stop_idle_timer()
        self.resume_reading()  # the peer's close frame is still to come
        loop = asyncio.get_running_loop()
        self._abort_timer = loop.call_later(self.hub.close_timeout_s, self.abort)
        self.left()

    def _check_idle(self) -> None:
        """Close who waits for nothing and has long said nothing; else look again when that could be."""
        allowed = self.hub.idle_timeout_s
        rest = allowed if self.waits else self._heard_at + allowed - time.monotonic()
        if rest > 0:
            self._idle_timer = asyncio.get_running_loop().call_later(rest, self._check_idle)
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
        self.hub.joined(self)
        self.opened()
        if self.hub.idle_timeout_s and not self.closing:
            self._heard_at = time.monotonic()
            self._check_idle()
        if self.closing:  # lost while it was greeted: what `opened` joined since must be left again
            self.left()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.closing:
            self.closing = True
            self.left()
        self._stop_idle_timer()
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None
        sent = transport.close_handshake.sent if transport.close_handshake else None
        if sent is not None and cast(int, sent.code) in BLAMES_PEER:
            self.hub.protocol_faults += 1
        self._transport = None
        self._socket = None
        self._incoming.clear()
        self.hub.lost(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if transport.is_close_frame_sent and not self.closing:
            # picows answered a broken frame; what its parser makes of the bytes behind it is not to be used.
            self._end()
        if self.closing:
            if kind == WSMsgType.CLOSE:
                self._take_close(transport, frame)
            return
        self.pulse.heard = True
        try:
            self._incoming.check_reserved(frame)
            if kind == WSMsgType.CLOSE:
                self._take_close(transport, frame)
            elif kind == WSMsgType.PONG:
                self.pulse.ponged = True
            else:
                self._rate.take()
                if kind == WSMsgType.PING:
                    # Not picows' automatic pong: that would be written past the queue's limit.
                    self.answer(pong_frame(frame.get_payload_as_bytes()))
                else:
                    self._take_data(frame)
        except Breach as breach:
            self.hub.closed_flooding += breach.code == CloseCode.POLICY
            self.close(breach.code, breach.reason)

    def pause_writing(self) -> None:
        """A mark of the transport, far below the queue's limit: nothing to do, and no line in the log."""

    def resume_writing(self) -> None:
        """The queue has run down to a mark of the transport: see `drained`."""
        if not self.closing:
            self.drained()

    def _take_data(self, frame: WSFrame) -> None:
        self._heard_at = time.monotonic()
        message = self._incoming.take(frame)
        if message is not None:
            (self.text if message.is_text else self.binary)(message.payload)

    def _take_close(self, transport: WSTransport, frame: WSFrame) -> None:
        """The peer's close frame: answer it, unless it is itself the answer, and let go of the connection."""
        if not self.closing:
            code = _answer_code(frame)
            if code is None:
                self.close(CloseCode.PROTOCOL_ERROR, "close code out of range")
            else:
                self.close(code)
        transport.disconnect()  # once what waits is flushed; the abort timer runs


def _answer_code(frame: WSFrame) -> int | None:
    """The code to answer a close frame with, or None for one that RFC 6455, 7.4 forbids on the wire."""
    if frame.payload_size == 0:
        return CloseCode.OK
    code = int.from_bytes(frame.get_payload_as_bytes()[:2], "big")
    if (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999:
        return code
    return None
