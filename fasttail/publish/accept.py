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

from fasttail.publish.access import Reached
from fasttail.publish.http import Answer, HttpConnection, Request

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Connections accepted in one turn of the loop: clients are served in between."""
PAUSE_S = 0.2
"""How long nothing is accepted after the system had no descriptor or memory for one more."""


class Peer:
    """The other side of one connection. `on_left`, once set, is called when the connection is gone.

    address: its own.
    reached: tells where it came in.
    """

    def __init__(self, address: str, reached: Callable[[], Reached]) -> None:
        self.address = address
        self.reached = reached
        self.on_left: Callable[[], None] | None = None


class Answers(Protocol):
    """Says what becomes of requests."""

    def is_channel(self, path: str, /) -> bool:
        """Whether a handshake for this path is to be handed to `websocket`."""

    def plain(self, peer: Peer, request: Request, /) -> Answer:
        """The answer to any other request."""

    def websocket(
        self, peer: Peer, request: WSUpgradeRequest, /
    ) -> WSListener | WSUpgradeResponseWithListener:
        """The client that a handshake gets, or its refusal."""

    def refusal(self, status: int, text: str, /) -> Answer:
        """The answer to what is no request at all."""


class Door:
    """Accepts connections, and knows those that have no client yet, oldest first.

    answers:    what each request gets.
    on_cut_off: called for each connection that has to go for a newer one.
    tls:        for connections that have to begin with it; another one may be set for those to come.
    timeout_s:  for the TLS handshake, and once more for each request.
    options:    for picows' protocol.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        on_cut_off: Callable[[], None],
        tls: ssl.SSLContext | None,
        timeout_s: float,
        options: dict[str, Any],
    ) -> None:
        self._answers = answers
        self._most_waiting = 1
        self._on_cut_off = on_cut_off
        self.tls = tls
        self._timeout_s = timeout_s
        self._options = options
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
            peer = Peer(str(address[0]), partial(self._reached, sock))
            self._waiting[peer] = sock
            task = loop.create_task(self._begin(peer, sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if full:
                return  # the next one when the loop has closed what was cut off

    async def _begin(self, peer: Peer, sock: socket.socket) -> None:
        """Up to the end of the TLS handshake; from then on the protocol has the connection."""
        answers = self._answers
        protocol = partial(
            HttpConnection,
            answer=partial(answers.plain, peer),
            refusal=answers.refusal,
            is_channel=answers.is_channel,
            websocket=partial(_Connection, self, peer, partial(answers.websocket, peer), self._options),
            on_lost=partial(self.left, peer),
            timeout_s=self._timeout_s,
        )
        tls: dict[str, Any] = {}
        if self.tls is not None:
            tls = {"ssl": self.tls, "ssl_handshake_timeout": self._timeout_s}
            tls["ssl_shutdown_timeout"] = self._timeout_s
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, sock, **tls)
        except OSError as error:  # also ssl.SSLError, and the handshake's timeout
            log.debug("a connection ended in its TLS handshake: %s", error)
            self.left(peer)

    def _reached(self, sock: socket.socket) -> Reached:
        address, port = sock.getsockname()[:2]
        return Reached(address, port, "http" if self.tls is None else "https")

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
    """picows' protocol, as its `ws_create_server` would make it, for a handshake that has come whole."""

    def __init__(
        self,
        door: Door,
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
        self._door = door
        self._peer = peer

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._door.left(self._peer)
