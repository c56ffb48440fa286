"""The server: its listening sockets, and how it starts and stops."""

import asyncio
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

from fasttail.connection.compression import Compression
from fasttail.connection.connection import Client
from fasttail.connection.hub import Hub
from fasttail.connection.incoming import MAX_INCOMING
from fasttail.connection.keepalive import KeepAlive
from fasttail.server.acceptor import Acceptor
from fasttail.server.access import Access, is_loopback
from fasttail.server.page import PageFile
from fasttail.server.routes import Probe, Routes

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 5.0

BACKLOG = 1024
RECEIVE_BUFFER = 64 * 1024
"""Clients send little. The read buffer grows to the size of one read, so this bounds it too."""

RESERVED_DESCRIPTORS = 64
"""Descriptors kept from clients: for files, inotify, the log and connections without a client."""
MAX_PENDING = 1024
"""Connections without a client (before the handshake, or plain HTTP), if there are enough descriptors."""


class Server:
    """Accepts connections and routes them. Owns the listening sockets; the hub owns the clients.

    hub:          registers the clients.
    routes:       path -> factory of a connection's client.
    host, port:   where to listen; port 0 selects a free one. Ignored if `sockets` are given.
    sockets:      listening sockets from before a restart, or from the service manager; owned from now on.
    max_clients:  WebSocket clients at a time; further ones get 503. Lowered, with a warning, if the limit of
                  file descriptors is too small.
    access:       who may connect; by default everybody.
    tls:          certificate and key; None: no TLS.
    page:         the files of the page, by their paths.
    compression:  offered to clients; None: not offered.
    ping_interval_s: a client that was sent nothing for this long gets a ping.
    health, live, metrics, status: called on the event loop for each request; `status` is for /ws/status.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        sockets: Sequence[socket.socket] = (),
        max_clients: int = 1000,
        health: Probe,
        live: Probe,
        metrics: Callable[[], bytes],
        routes: Mapping[str, Callable[[], Client]],
        status: Callable[[], dict[str, Any]],
        page: Mapping[str, PageFile] = MappingProxyType({}),
        access: Access | None = None,
        tls: ssl.SSLContext | None = None,
        compression: Compression | None = None,
        ping_interval_s: float = 20.0,
    ) -> None:
        self.hub = hub
        self.sockets: tuple[socket.socket, ...] = tuple(sockets)
        self.host = str(self.sockets[0].getsockname()[0]) if self.sockets else host
        self._port = port
        self.max_clients = max_clients
        self._access = access or Access()
        self._routes = Routes(
            hub,
            routes,
            max_clients=max_clients,
            health=health,
            live=live,
            metrics=metrics,
            status=status,
            page=page,
            access=self._access,
            compression=compression,
            on_accepted=lambda peer: self._acceptor.promote(peer),
        )
        self._keep_alive = KeepAlive(hub.clients, ping_interval_s)
        self._acceptor = Acceptor(
            self._routes,
            on_evicted=self._count_refused,
            tls=tls,
            timeout_s=HANDSHAKE_TIMEOUT_S,
            options={
                "logger": PicowsLog(log, {}),
                "enable_auto_pong": False,  # the client answers within its queue's limit
                "max_frame_size": MAX_INCOMING,
            },
        )

    @property
    def port(self) -> int:
        """The actual port."""
        return int(self.sockets[0].getsockname()[1]) if self.sockets else self._port

    @property
    def listen_address(self) -> str:
        """Host and port in the usual notation."""
        return _format_address(self.host, self.port)

    async def start(self) -> None:
        """Listen and accept. Raises OSError, with the address and the reason in `strerror`."""
        self._limit_to_descriptors()
        if not self.sockets:
            self.sockets = await _listen(self.host, self._port)
        self._warn_if_open_to_all()
        self._acceptor.open(self.sockets, max_pending=self.max_pending)
        self._keep_alive.start()

    async def stop(
        self, code: int, reason: str = "", *, wait_s: float = 1.0, keep_sockets: bool = False
    ) -> None:
        """Stop accepting, close all clients with `code` (see `Hub.close_all`), and close the sockets.

        With `keep_sockets` they keep listening for the next process: new connections wait in the kernel.
        """
        self._acceptor.close()
        self._keep_alive.stop()
        await self.hub.close_all(code, reason, wait_s=wait_s)
        self._acceptor.close_pending()
        if not keep_sockets:
            for sock in self.sockets:
                sock.close()
            self.sockets = ()

    def set_access_policy(
        self, *, token: bytes | None, origins: Collection[str], tls: ssl.SSLContext | None
    ) -> None:
        """Replace what new connections must present; None or no origins: nothing."""
        self._access.set_policy(token, origins)
        self._acceptor.tls = tls

    def _limit_to_descriptors(self) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY or self.max_clients <= limit - RESERVED_DESCRIPTORS:
            return
        lowered = max(1, limit - RESERVED_DESCRIPTORS)
        log.warning("max_clients lowered to %d: the limit of open files is %d", lowered, limit)
        self.max_clients = self._routes.max_clients = lowered

    def _warn_if_open_to_all(self) -> None:
        exposed = [name for sock in self.sockets if not is_loopback(name := str(sock.getsockname()[0]))]
        if exposed and self._access.is_open_to_all:
            log.warning(
                "anyone who can reach port %d on %s may connect: "
                "neither token_file nor allowed_origins is set",
                self.port,
                ", ".join(exposed),
            )

    @property
    def pending_connections(self) -> int:
        """The number of connections that have no client yet."""
        return self._acceptor.pending_count

    @property
    def max_pending(self) -> int:
        """The limit of connections without a client: what clients and our own files leave."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            return MAX_PENDING
        return min(MAX_PENDING, max(1, limit - self.max_clients - RESERVED_DESCRIPTORS // 2))

    def _count_refused(self) -> None:
        self.hub.refused += 1


async def _listen(host: str, port: int) -> tuple[socket.socket, ...]:
    """Return listening sockets for every address of `host`, on one port. Raises OSError.

    "" and "*" mean all addresses of this machine, with one socket each for IPv4 and IPv6. "::" means all of
    them with one socket, and fails without IPv6. An IPv6 address may be in brackets.
    """
    if host == "*":
        host = ""
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    address_text = _format_address(host, port)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        # gaierror's numbers are not errno values
        raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {address_text}: {error.strerror}") from None
    sockets: list[socket.socket] = []
    first_error: OSError | None = None
    for family, address in dict.fromkeys((info[0], info[4]) for info in found):
        if sockets and port == 0:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a kernel without IPv6
            first_error = first_error or OSError(
                error.errno, f"cannot listen on {address_text}: {error.strerror}"
            )
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            sock.bind(address)
            sock.listen(BACKLOG)
            sockets.append(sock)
        except OSError as error:
            sock.close()
            first_error = first_error or OSError(
                error.errno, f"cannot listen on {address_text}: {error.strerror}"
            )
    if first_error is not None and not sockets:
        raise first_error
    if first_error is not None:
        # For example `localhost` with an IPv6 address in the hosts file, in a container without IPv6.
        log.warning("%s; listening on the other addresses of that name", first_error.strerror)
    return tuple(sockets)


def _format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host or '*'}:{port}"


class PicowsLog(logging.LoggerAdapter[logging.Logger]):
    """Adapts picows' log messages for operators.

    Lines about single connections are dropped. What picows calls an error but is a client's violation of the
    protocol becomes a debug line (the hub counts it): no client may cause what looks like our failure.
    """

    CLIENT_FAULTS = ("WS parser error", "on_ws_frame raised WSProtocolError")

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.WARNING and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"picows: {msg}", kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if str(msg).startswith(self.CLIENT_FAULTS):
            self.logger.debug("a client violated the WebSocket protocol: closing")
        elif self.isEnabledFor(level):
            super().log(level, msg, *args, **kwargs)
