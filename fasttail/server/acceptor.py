"""Accepted connections until they close: their peers, and a limit on those without a client.

Connections are accepted here because picows does not report the peer, and an asyncio server does not report
TLS handshakes in progress. Each starts as plain HTTP. A WebSocket handshake passes it to picows' protocol.

    accepted ──► TLS handshake, if any ──► requests ──► a client's ─────────────┐
       └──── pending: bounded in number, time ─┴─ plain HTTP, or evicted ───────┴─connection_lost──► gone
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from picows import WSAutoPingStrategy, WSListener, WSUpgradeRequest, WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]

from fasttail.server.access import LocalEndpoint
from fasttail.server.http import HttpConnection, HttpRequest, HttpResponse

log = logging.getLogger(__name__)

ACCEPTS_PER_TURN = 64
"""Connections accepted in one turn of the loop, so that clients are served in between."""
ACCEPT_PAUSE_S = 0.2
"""Pause after the system had no descriptor or memory for another connection."""


class Peer:
    """The other side of one connection.

    address: its own. local_endpoint: returns where it connected to. on_disconnect: called when it is gone, if
    set.
    """

    def __init__(self, address: str, local_endpoint: Callable[[], LocalEndpoint]) -> None:
        self.address = address
        self.local_endpoint = local_endpoint
        self.on_disconnect: Callable[[], None] | None = None


class RequestHandler(Protocol):
    """Decides what requests get."""

    def is_websocket_path(self, path: str, /) -> bool:
        """Return whether handshakes for this path go to `handle_websocket`."""

    def handle_http(self, peer: Peer, request: HttpRequest, /) -> HttpResponse:
        """Return the response to any other request."""

    def handle_websocket(
        self, peer: Peer, request: WSUpgradeRequest, /
    ) -> WSListener | WSUpgradeResponseWithListener:
        """Return the client for a handshake, or its rejection."""

    def error_response(self, status: int, text: str, /) -> HttpResponse:
        """Return the response to input that is not a valid request."""


class Acceptor:
    """Accepts connections, and tracks those that have no client yet, oldest first.

    handler:    decides what each request gets.
    on_evicted: called for each connection that is closed for a newer one.
    tls:        required from connections. It may be replaced, for new ones.
    timeout_s:  for the TLS handshake, and again for each request.
    options:    for picows' protocol.
    """

    def __init__(
        self,
        handler: RequestHandler,
        *,
        on_evicted: Callable[[], None],
        tls: ssl.SSLContext | None,
        timeout_s: float,
        options: dict[str, Any],
    ) -> None:
        self._handler = handler
        self._max_pending = 1
        self._on_evicted = on_evicted
        self.tls = tls
        self._timeout_s = timeout_s
        self._options = options
        self._pending: dict[Peer, socket.socket] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the loop holds only weak references
        self._sockets: tuple[socket.socket, ...] = ()

    @property
    def pending_count(self) -> int:
        """The number of connections that have no client yet."""
        return len(self._pending)

    def open(self, sockets: Sequence[socket.socket], *, max_pending: int) -> None:
        """Accept connections on these listening sockets, which remain the caller's.

        max_pending: of connections without a client; another one evicts the oldest. Whoever opens many idle
        connections evicts its own first, and requests sent at once are served.
        """
        self._max_pending = max_pending
        self._sockets = tuple(sockets)
        for sock in self._sockets:
            sock.setblocking(False)
            self._start_accepting(sock)

    def close(self) -> None:
        """Stop accepting: new connections wait in the kernel."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
        self._sockets = ()

    def close_pending(self) -> None:
        """Close the connections that have no client."""
        while self._pending:
            self._shutdown_oldest()

    def promote(self, peer: Peer) -> None:
        """Stop counting a connection as pending: it has a client now."""
        self._pending.pop(peer, None)

    def on_connection_lost(self, peer: Peer) -> None:
        """Forget a closed connection, and call its `on_disconnect`."""
        self._pending.pop(peer, None)
        if peer.on_disconnect is not None:
            peer.on_disconnect()
            peer.on_disconnect = None

    def _start_accepting(self, listening: socket.socket) -> None:
        if listening in self._sockets:  # not closed during a pause
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # closed while it waited in the kernel
                continue
            except OSError as error:
                log.warning("cannot accept connections: %s", error.strerror)
                self._evict_oldest()
                loop.remove_reader(listening)
                loop.call_later(ACCEPT_PAUSE_S, self._start_accepting, listening)
                return
            sock.setblocking(False)
            full = len(self._pending) >= self._max_pending
            if full:
                self._evict_oldest()
            peer = Peer(str(address[0]), partial(self._local_endpoint_of, sock))
            self._pending[peer] = sock
            task = loop.create_task(self._start_connection(peer, sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if full:
                return  # continue once the loop has closed the evicted one

    async def _start_connection(self, peer: Peer, sock: socket.socket) -> None:
        """Perform the TLS handshake, if any; `HttpConnection` then has the connection."""
        handler = self._handler
        protocol = partial(
            HttpConnection,
            handle_request=partial(handler.handle_http, peer),
            error_response=handler.error_response,
            is_websocket_path=handler.is_websocket_path,
            make_websocket=partial(
                _WebSocketProtocol, self, peer, partial(handler.handle_websocket, peer), self._options
            ),
            on_lost=partial(self.on_connection_lost, peer),
            timeout_s=self._timeout_s,
        )
        tls: dict[str, Any] = {}
        if self.tls is not None:
            tls = {"ssl": self.tls, "ssl_handshake_timeout": self._timeout_s}
            tls["ssl_shutdown_timeout"] = self._timeout_s
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, sock, **tls)
        except OSError as error:  # including ssl.SSLError and the handshake's timeout
            log.debug("TLS handshake failed: %s", error)
            self.on_connection_lost(peer)

    def _local_endpoint_of(self, sock: socket.socket) -> LocalEndpoint:
        address, port = sock.getsockname()[:2]
        return LocalEndpoint(address, port, "http" if self.tls is None else "https")

    def _evict_oldest(self) -> None:
        if self._pending:
            self._shutdown_oldest()
            self._on_evicted()

    def _shutdown_oldest(self) -> None:
        sock = self._pending.pop(next(iter(self._pending)))
        # The transport closes the socket when it finds the end of the stream.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class _WebSocketProtocol(WSProtocol):  # type: ignore[misc]
    """picows' protocol as its `ws_create_server` makes it, for a handshake that has arrived completely."""

    def __init__(
        self,
        acceptor: Acceptor,
        peer: Peer,
        factory: Callable[[WSUpgradeRequest], WSListener | WSUpgradeResponseWithListener],
        options: dict[str, Any],
    ) -> None:
        super().__init__(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            ws_listener_factory=factory,
            disconnect_on_exception=True,
            websocket_handshake_timeout=None,
            # keepalive.py sends the pings: those of picows depend on what was received.
            enable_auto_ping=False,
            auto_ping_idle_timeout=None,
            auto_ping_reply_timeout=None,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
            extra_headers=None,
            read_buffer_init_size=16 * 1024,
            **options,
        )
        self._acceptor = acceptor
        self._peer = peer

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._acceptor.on_connection_lost(self._peer)
