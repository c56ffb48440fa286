"""The listening sockets and the routes: which path is a WebSocket channel, which a plain HTTP answer.

    /ws                                       the public protocol
    /ws/  /ws/orderUpdate  /ws/orderBatch     the old service's channels
    /health  /health/live                     200 or 503, JSON
    /ws/status                                the old service's status, JSON
    /metrics                                  Prometheus text

picows hands every GET to `Server._answer` before it looks at the upgrade headers; other methods get its 400.
"""

import asyncio
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import orjson
from picows import WSListener, WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

from fasttail.publish.accept import Door, Peer
from fasttail.publish.access import Access
from fasttail.publish.clients import Client, Hub
from fasttail.publish.compression import Compression
from fasttail.publish.incoming import MAX_INCOMING

log = logging.getLogger(__name__)

JSON = "application/json"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"

HANDSHAKE_TIMEOUT_S = 5.0
PING_IDLE_S = 60.0
PING_REPLY_S = 20.0

BACKLOG = 1024
RECEIVE_BUFFER = 64 * 1024
"""Clients send next to nothing. The read buffer grows with what one read can bring, so this bounds it too."""

RESERVED_DESCRIPTORS = 64
"""Descriptors that clients may not use up: for files, inotify, the log and connections without a client."""
MOST_WAITING = 1024
"""Connections without a client (before their handshake, or plain HTTP), as far as descriptors suffice."""

OPEN_TO_ALL = frozenset(("/health", "/health/live"))
"""Paths that want no token: who watches the service, a container engine say, has none."""

Probe = Callable[[], tuple[int, dict[str, Any]]]
"""Gives an HTTP status and the JSON body to go with it."""


class Server:
    """Accepts connections and routes them. Owns the listening sockets; the hub owns the clients.

    hub:          gets the clients.
    routes:       path -> what makes the client for a connection there.
    status:       the body of /ws/status; called for each request, as the probes below.
    host, port:   where to listen; port 0 takes a free one. Not used when `sockets` are given.
    sockets:      listening sockets from before a restart, or from the service manager; owned from now on.
    max_clients:  WebSocket clients at a time; the next one gets 503. Lowered, with a warning, where the limit
                  of file descriptors is too small for it.
    access:       who may connect; by default everybody.
    tls:          speak TLS, with this certificate and key.
    compression:  offer it to clients; None: not.
    health, live, metrics: called for each request, on the event loop.
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
        access: Access | None = None,
        tls: ssl.SSLContext | None = None,
        compression: Compression | None = None,
    ) -> None:
        self.hub = hub
        self.sockets: tuple[socket.socket, ...] = tuple(sockets)
        self.max_clients = max_clients
        self._access = access or Access()
        self._compression = compression
        self.host = str(self.sockets[0].getsockname()[0]) if self.sockets else host
        self._port = port
        self._routes = routes
        self._plain: dict[str, Callable[[], WSUpgradeResponse]] = {
            "/health": lambda: _json_answer(*health()),
            "/health/live": lambda: _json_answer(*live()),
            "/ws/status": lambda: _json_answer(200, status()),
            "/metrics": lambda: _answer(200, metrics(), PROMETHEUS_TEXT),
        }
        self._door = Door(
            self._answer,
            on_cut_off=self._count_refused,
            tls=tls,
            timeout_s=HANDSHAKE_TIMEOUT_S,
            options={
                "logger": PicowsLog(log, {}),
                "enable_auto_ping": True,
                "auto_ping_idle_timeout": PING_IDLE_S,
                "auto_ping_reply_timeout": PING_REPLY_S,
                "enable_auto_pong": False,  # answered by the client, within its queue's limit
                "max_frame_size": MAX_INCOMING,
            },
        )

    @property
    def port(self) -> int:
        """The port really listened on."""
        return int(self.sockets[0].getsockname()[1]) if self.sockets else self._port

    async def start(self) -> None:
        """Listen and accept. Raises OSError, with the address and the reason in `strerror`, if it cannot."""
        self._fit_descriptors()
        if not self.sockets:
            self.sockets = await _listen(self.host, self._port)
        self._door.open(self.sockets, most_waiting=self._most_waiting())

    async def stop(
        self, code: int, reason: str = "", *, wait_s: float = 1.0, keep_sockets: bool = False
    ) -> None:
        """Accept no more, close all clients with `code` (see `Hub.close_all`), and let go of the sockets.

        With `keep_sockets` they stay open and listening, for the process that takes over: new connections
        wait in the kernel meanwhile, and none is refused.
        """
        self._door.close()
        await self.hub.close_all(code, reason, wait_s=wait_s)
        self._door.cut_off_all()
        if not keep_sockets:
            for sock in self.sockets:
                sock.close()
            self.sockets = ()

    def _fit_descriptors(self) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY or self.max_clients <= limit - RESERVED_DESCRIPTORS:
            return
        fits = max(1, limit - RESERVED_DESCRIPTORS)
        log.warning("max_clients lowered to %d: the limit of open files is %d", fits, limit)
        self.max_clients = fits

    def _most_waiting(self) -> int:
        """What clients and our own files leave of the descriptors."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            return MOST_WAITING
        return min(MOST_WAITING, max(1, limit - self.max_clients - RESERVED_DESCRIPTORS // 2))

    def _count_refused(self) -> None:
        self.hub.refused += 1

    def _answer(self, peer: Peer, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        """picows' listener factory: a client for a channel's path, else a plain answer."""
        path = request.path.partition(b"?")[0].decode("ascii", "replace")
        make = self._routes.get(path)
        if make is not None:
            return self._client(peer, request, make)
        plain = self._plain.get(path)
        if plain is not None:
            if path not in OPEN_TO_ALL and not self._access.token_fits(request.path, request.headers):
                return _no_token()
            try:
                return WSUpgradeResponseWithListener(plain(), None)
            except Exception:
                log.exception("the answer for %s failed", path)
                return _refusal(500, "internal server error")
        if path == "/ws":
            return _refusal(404, "not found: /ws serves nothing here; use /ws/orderUpdate or /ws/orderBatch")
        return _refusal(404, "not found", paths=[*self._routes, *self._plain])

    def _client(
        self, peer: Peer, request: WSUpgradeRequest, make: Callable[[], Client]
    ) -> WSListener | WSUpgradeResponseWithListener:
        headers = request.headers
        access = self._access
        if not access.token_fits(request.path, headers):
            self._count_refused()
            return _no_token()
        if not access.origin_fits(headers):
            self._count_refused()
            return _refusal(403, "pages of this origin may not connect")
        if headers.get("Upgrade", "").lower() != "websocket":
            return _refusal(426, "this path is a WebSocket", headers={"Upgrade": "websocket"})
        if not self.hub.accepting:
            self._count_refused()
            return _refusal(503, "shutting down", headers={"Retry-After": "1"})
        if len(self.hub.clients) >= self.max_clients:
            self._count_refused()
            return _refusal(503, "too many clients", headers={"Retry-After": "5"}, limit=self.max_clients)
        whose = access.whose(peer.address, headers)
        if not access.enter(whose):
            self._count_refused()
            text = "too many clients from this address"
            return _refusal(429, text, headers={"Retry-After": "5"}, limit=access.per_address)
        peer.on_left = partial(access.leave, whose)
        self._door.let_in(peer)
        # Connection is a list of tokens (RFC 9110, 7.6.1) and Firefox sends `keep-alive, Upgrade`, but picows
        # takes the single word only.
        tokens = ",".join(headers.getall("Connection", [])).lower().split(",")
        if "upgrade" in (token.strip() for token in tokens):
            headers["Connection"] = "Upgrade"
        client = make()
        extension = None
        if self._compression is not None:
            extension = self._compression.negotiate(headers.getall("Sec-WebSocket-Extensions", []))
        if extension is None:
            return client
        client.agree(extension)
        agreed = {"Sec-WebSocket-Extensions": extension.answer}
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(agreed), client)


async def _listen(host: str, port: int) -> tuple[socket.socket, ...]:
    """Listening sockets for every address of `host` ("" is all of them), on one port. Raises OSError."""
    where = f"{host or '*'}:{port}"
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        # gaierror's numbers are no errno values
        raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {where}: {error.strerror}") from None
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in dict.fromkeys((info[0], info[4]) for info in found):
        if sockets and port == 0:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a kernel without IPv6
            failure = failure or OSError(error.errno, f"cannot listen on {where}: {error.strerror}")
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
            sockets.append(sock)
        except OSError as error:
            sock.close()
            failure = failure or OSError(error.errno, f"cannot listen on {where}: {error.strerror}")
    if failure is not None and not sockets:
        raise failure
    if failure is not None:
        # For instance `localhost` with an IPv6 address in the hosts file, in a container without IPv6.
        log.warning("%s; listening on the other addresses of that name", failure.strerror)
    return tuple(sockets)


def _answer(
    status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None
) -> WSUpgradeResponse:
    lines = {"Content-Type": content_type, "Cache-Control": "no-store", **(headers or {})}
    if status < 400:
        return WSUpgradeResponse.create_ok_response(body, lines)  # type: ignore[no-any-return]
    return WSUpgradeResponse.create_error_response(status, body, lines)  # type: ignore[no-any-return]


def _json_answer(
    status: int, body: dict[str, Any], headers: dict[str, str] | None = None
) -> WSUpgradeResponse:
    return _answer(status, orjson.dumps(body) + b"\n", JSON, headers)


def _refusal(
    status: int, error: str, *, headers: dict[str, str] | None = None, **more: Any
) -> WSUpgradeResponseWithListener:
    return WSUpgradeResponseWithListener(_json_answer(status, {"error": error, **more}, headers), None)


def _no_token() -> WSUpgradeResponseWithListener:
    return _refusal(401, "the token is missing or wrong", headers={"WWW-Authenticate": "Bearer"})


class PicowsLog(logging.LoggerAdapter[logging.Logger]):
    """picows' own messages, brought to the operators' terms.

    Its lines about each connection are dropped. What it calls an error but is a client's breach of the
    protocol is a debug line (the hub counts it): nothing that a client does may look like a failure of ours.
    """

    CLIENT_FAULTS = ("WS parser error", "on_ws_frame raised WSProtocolError")

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.WARNING and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"picows: {msg}", kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if str(msg).startswith(self.CLIENT_FAULTS):
            self.logger.debug("a client broke the WebSocket protocol: closing")
        elif self.isEnabledFor(level):
            super().log(level, msg, *args, **kwargs)
