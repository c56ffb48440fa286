"""Every connection from its accept to its end: who it is, and how many there may be without a client.

picows tells the listener factory nothing about the peer, and an asyncio server nothing about connections that
are still in their TLS handshake. So they are accepted here, and picows' protocol (one object for each) is
overheard when its connection ends.

    accepted ──► TLS handshake, if any ──► request ──► a client's ──────────────┐
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
from typing import Any

from picows import WSAutoPingStrategy, WSListener, WSUpgradeRequest, WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Connections accepted in one turn of the loop: clients are served in between."""
PAUSE_S = 0.2
"""How long nothing is accepted after the system had no descriptor or memory for one more."""

Answer = Callable[["Peer", WSUpgradeRequest], WSListener | WSUpgradeResponseWithListener]
"""Says what becomes of a request."""


class Peer:
    """The other side of one connection. `on_left`, once set, is called when the connection is gone."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.on_left: Callable[[], None] | None = None


class Door:
    """Accepts connections, and knows those that have no client yet, oldest first.

    answer:     called with each request.
    on_cut_off: called for each connection that has to go for a newer one.
    tls:        for connections that have to begin with it.
    timeout_s:  for the TLS handshake, and once more for the request.
    options:    for picows' protocol.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        on_cut_off: Callable[[], None],
        tls: ssl.SSLContext | None,
        timeout_s: float,
        options: dict[str, Any],
    ) -> None:
        self._answer = answer
        self._most_waiting = 1
        self._on_cut_off = on_cut_off
        self._tls: dict[str, Any] = {}
        if tls is not None:
            self._tls = {"ssl": tls, "ssl_handshake_timeout": timeout_s, "ssl_shutdown_timeout": timeout_s}
        self._options = {**options, "websocket_handshake_timeout": timeout_s}
        self._waiting: dict[Peer, socket.socket] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them weakly only
        self._sockets: tuple[socket.socket, ...] = ()

    @property
    def waiting(self) -> int:
        """How many connections there are that have not become a client yet."""
        return len(self._waiting)

    def open(self, sockets: Sequence[socket.socket], *, most_waiting: int) -> None:
        """Accept what comes to these listening sockets. They remain the caller's.

        most_waiting: connections without a client; one more, and the oldest is cut off. So whoever opens many
        and says nothing puts out his own first, and who asks at once gets his answer.
        """
        self._most_waiting = most_waiting
        self._sockets = tuple(sockets)
        for sock in self._sockets:
            sock.setblocking(False)
            self._watch(sock)

    def close(self) -> None:
        """Accept no more: what comes waits in the kernel."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
        self._sockets = ()

    def cut_off_all(self) -> None:
        """End the connections that have no client."""
        while self._waiting:
            self._cut_oldest()

    def let_in(self, peer: Peer) -> None:
        """It waits no longer: it is a client's."""
        self._waiting.pop(peer, None)

    def left(self, peer: Peer) -> None:
        """A connection is gone."""
        self._waiting.pop(peer, None)
        if peer.on_left is not None:
            peer.on_left()
            peer.on_left = None

    def _watch(self, listening: socket.socket) -> None:
        if listening in self._sockets:  # not closed during a pause
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(AT_ONCE):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # gone while it waited in the kernel
                continue
            except OSError as error:
                log.warning("cannot accept connections: %s", error.strerror)
                self._make_room()
                loop.remove_reader(listening)
                loop.call_later(PAUSE_S, self._watch, listening)
                return
            sock.setblocking(False)
            full = len(self._waiting) >= self._most_waiting
            if full:
                self._make_room()
            peer = Peer(str(address[0]))
            self._waiting[peer] = sock
            task = loop.create_task(self._begin(peer, sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if full:
                return  # the next one when the loop has closed what was cut off

    async def _begin(self, peer: Peer, sock: socket.socket) -> None:
        """Up to the end of the TLS handshake; from then on picows has the connection."""
        protocol = partial(_Connection, self, peer, self._answer, self._options)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, sock, **self._tls)
        except OSError as error:  # also ssl.SSLError, and the handshake's timeout
            log.debug("a connection ended in its TLS handshake: %s", error)
            self.left(peer)

    def _make_room(self) -> None:
        if self._waiting:
            self._cut_oldest()
            self._on_cut_off()

    def _cut_oldest(self) -> None:
        sock = self._waiting.pop(next(iter(self._waiting)))
        # Closing is its transport's business, which finds the end of the stream now.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class _Connection(WSProtocol):  # type: ignore[misc]
    """picows' protocol, as its `ws_create_server` would make it."""

    def __init__(self, door: Door, peer: Peer, answer: Answer, options: dict[str, Any]) -> None:
        super().__init__(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            ws_listener_factory=partial(answer, peer),
            disconnect_on_exception=True,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
            extra_headers=None,
            read_buffer_init_size=16 * 1024,
            **options,
        )
        self._door = door
        self._peer = peer

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._door.left(self._peer)
