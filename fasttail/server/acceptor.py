"""Every connection from its accept to its end: who it is, and how many there may be without a client.

picows tells the listener factory nothing about the peer, and an asyncio server nothing about connections that
are still in their TLS handshake. So they are accepted here. Each begins as plain HTTP; picows' protocol
takes it over with a WebSocket handshake, and is overheard when the connection ends.

    accepted ──► TLS handshake, if any ──► requests ──► a client's ─────────────┐
       └───────── waiting: bounded in number and in time ──┴─ plain HTTP, or cut ─┴─connection_lost──► gone
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
"""Connections accepted in one turn of the loop: clients are served in between."""
ACCEPT_PAUSE_S = 0.2
"""How long nothing is accepted after the system had no descriptor or memory for one more."""


class Peer:
    """The other side of one connection. `on_disconnect`, once set, is called when the connection is gone.

    address: its own.
    local_endpoint: tells where it came in.
    """

    def __init__(self, address: str, local_endpoint: Callable[[], LocalEndpoint]) -> None:
        self.address = address
        self.local_endpoint = local_endpoint
        self.on_disconnect: Callable[[], None] | None = None


class RequestHandler(Protocol):
    """Says what becomes of requests."""

    def is_websocket_path(self, path: str, /) -> bool:
        """Whether a handshake for this path is to be handed to `handle_websocket`."""

    def handle_http(self, peer: Peer, request: HttpRequest, /) -> HttpResponse:
        """The answer to any other request."""

    def handle_websocket(
        self, peer: Peer, request: WSUpgradeRequest, /
    ) -> WSListener | WSUpgradeResponseWithListener:
        """The client that a handshake gets, or its refusal."""

    def error_response(self, status: int, text: str, /) -> HttpResponse:
        """The answer to what is no request at all."""


class Acceptor:
    """Accepts connections, and knows those that have no client yet, oldest first.

    handler:    what each request gets.
    on_evicted: called for each connection that has to go for a newer one.
    tls:        for connections that have to begin with it; another one may be set for those to come.
    timeout_s:  for the TLS handshake, and once more for each request.
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
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them weakly only
        self._sockets: tuple[socket.socket, ...] = ()

    @property
    def pending_count(self) -> int:
        """How many connections there are that have not become a client yet."""
        return len(self._pending)

    def open(self, sockets: Sequence[socket.socket], *, max_pending: int) -> None:
        """Accept what comes to these listening sockets. They remain the caller's.

        max_pending: connections without a client; one more, and the oldest is cut off. So whoever opens many
        and says nothing puts out his own first, and who asks at once gets his answer.
        """
        self._max_pending = max_pending
        self._sockets = tuple(sockets)
        for sock in self._sockets:
            sock.setblocking(False)
            self._start_accepting(sock)

    def close(self) -> None:
        """Accept no more: what comes waits in the kernel."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
        self._sockets = ()

    def close_pending(self) -> None:
        """End the connections that have no client."""
        while self._pending:
            self._shutdown_oldest()

    def promote(self, peer: Peer) -> None:
        """It waits no longer: it is a client's."""
        self._pending.pop(peer, None)

    def on_connection_lost(self, peer: Peer) -> None:
        """A connection is gone."""
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
            except ConnectionError:  # gone while it waited in the kernel
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
                return  # the next one when the loop has closed what was cut off

    async def _start_connection(self, peer: Peer, sock: socket.socket) -> None:
        """Up to the end of the TLS handshake; from then on the protocol has the connection."""
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
        except OSError as error:  # also ssl.SSLError, and the handshake's timeout
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
        # Closing is its transport's business, which finds the end of the stream now.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class _WebSocketProtocol(WSProtocol):  # type: ignore[misc]
    """picows' protocol, as its `ws_create_server` would make it, for a handshake that has come whole."""

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
            # Pings are sent by keepalive.py: picows' own go by what was received.
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
