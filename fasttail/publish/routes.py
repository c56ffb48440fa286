"""What each request gets: a WebSocket client, a plain answer, or what to do instead.

    /ws                                       the public protocol
    /ws/  /ws/orderUpdate  /ws/orderBatch     the old service's channels
    /health  /health/live                     200 or 503, JSON
    /ws/status                                the old service's status, JSON
    /metrics                                  Prometheus text

Paths are compared as they were sent: a slash more at the end or at the front is another path.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from multidict import CIMultiDict
from picows import WSListener, WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

from fasttail.publish.accept import Peer
from fasttail.publish.access import Access
from fasttail.publish.compression import Compression
from fasttail.publish.connection import Client
from fasttail.publish.http import Answer, Request, path_of
from fasttail.publish.hub import Hub

log = logging.getLogger(__name__)

JSON = "application/json"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"

OPEN_TO_ALL = frozenset(("/health", "/health/live"))
"""Paths that want no token: who watches the service, a container engine say, has none."""

READABLE_BY_PAGES = frozenset(("/health", "/health/live", "/ws/status"))
"""Paths whose answers web pages of the allowed origins may read."""

ELSEWHERE = {
    "/info": "POST /info is not served here: fasttail publishes orders by WebSocket at /ws. "
    "Leave requests to /info at the public API (https://api.hyperliquid.xyz), "
    "and give this address to the WebSocket alone; docs/websocket.md says how, for each SDK",
    "/exchange": "POST /exchange is not served here: fasttail publishes orders and takes none. "
    "Leave requests to /exchange at the public API (https://api.hyperliquid.xyz)",
}
"""Paths of the public API that clients ask for when all of their URLs lead here."""

READS = "GET, HEAD, OPTIONS"
PREFLIGHT_AGE_S = 3600

_KEY = re.compile("[A-Za-z0-9+/]{22}==")  # 16 bytes

Probe = Callable[[], tuple[int, dict[str, Any]]]
"""Gives an HTTP status and the JSON body to go with it."""


class Routes:
    """Answers requests; see `Server` for the arguments.

    max_clients: may be lowered.
    enter:       a handshake is accepted, and the peer has a client from now on.
    """

    def __init__(
        self,
        hub: Hub,
        channels: Mapping[str, Callable[[], Client]],
        *,
        max_clients: int,
        health: Probe,
        live: Probe,
        metrics: Callable[[], bytes],
        status: Callable[[], dict[str, Any]],
        access: Access,
        compression: Compression | None,
        enter: Callable[[Peer], None],
    ) -> None:
        self.access = access
        self.max_clients = max_clients
        self._hub = hub
        self._channels = channels
        self._compression = compression
        self._enter = enter
        self._plain: dict[str, Callable[[], Answer]] = {
            "/health": lambda: json_answer(*health()),
            "/health/live": lambda: json_answer(*live()),
            "/ws/status": lambda: json_answer(200, status()),
            "/metrics": lambda: Answer(
                200, metrics(), {"Content-Type": PROMETHEUS_TEXT, "Cache-Control": "no-store"}
            ),
        }

    # Plain HTTP

    def is_channel(self, path: str) -> bool:
        """Whether a handshake for this path is to be handed to `websocket`."""
        return path in self._channels

    def plain(self, peer: Peer, request: Request) -> Answer:
        """The answer to a request that is no handshake."""
        path = path_of(request.target)
        answer = self._answer(path, request)
        if path not in READABLE_BY_PAGES and _collapsed(path) not in ELSEWHERE:
            return answer
        headers = {**answer.headers, **self.access.cors(request.headers, peer.reached())}
        return answer._replace(headers=headers)

    def refusal(self, status: int, text: str) -> Answer:
        """The answer to what is no request at all."""
        return json_answer(status, {"error": text})

    def _answer(self, path: str, request: Request) -> Answer:
        method = request.method
        if (elsewhere := _collapsed(path)) in ELSEWHERE:
            if method == "OPTIONS":
                return _options("POST, OPTIONS")
            # `code` and `msg` are what the public API's Python SDK looks for in an error.
            text = ELSEWHERE[elsewhere]
            return json_answer(404, {"code": 404, "msg": text, "error": text})
        channel = path in self._channels
        if path not in self._plain and not channel:
            if method == "OPTIONS" and path in ("*", "/"):
                return _options(READS)
            return self._not_found(path)
        if method == "OPTIONS" and not channel:
            return _options(READS)
        if method not in ("GET", "HEAD"):
            body = {"error": f"{method} is not allowed here: use GET"}
            return json_answer(405, body, {"Allow": "GET, HEAD" if channel else READS})
        if path not in OPEN_TO_ALL and not self.access.token_fits(request.target, request.headers):
            if channel:
                self._hub.refused += 1
            return _no_token()
        if channel:
            return _no_handshake(request.headers)
        try:
            return self._plain[path]()
        except Exception:
            log.exception("the answer for %s failed", path)
            return json_answer(500, {"error": "internal server error"})

    def _not_found(self, path: str) -> Answer:
        known = [*self._channels, *self._plain]
        body: dict[str, Any] = {"error": "not found"}
        if path == "/ws":
            body["error"] = "not found: /ws serves nothing here; use /ws/orderUpdate or /ws/orderBatch"
        elif meant := _meant(path, known):
            body["hint"] = f"use {meant}: a slash more or less is another path"
        return json_answer(404, {**body, "paths": known})

    # WebSockets

    def websocket(self, peer: Peer, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        """picows' listener factory: the client for a handshake, or its refusal."""
        headers = request.headers
        refusal = self._refused(peer, request.path, headers)
        if refusal is not None:
            # Only the 401, 403, 429 and 503: the others are mistakes, not limits.
            self._hub.refused += refusal.status not in (400, 426)
            return _by_picows(refusal)
        self._enter(peer)
        # Both are lists (RFC 9110, 7.6.1 and 7.8), and Firefox sends `keep-alive, Upgrade`.
        # picows takes single words.
        headers["Connection"], headers["Upgrade"] = "Upgrade", "websocket"
        client = self._channels[path_of(request.path)]()
        extension = None
        if self._compression is not None:
            extension = self._compression.negotiate(headers.getall("Sec-WebSocket-Extensions", []))
        if extension is None:
            return client
        client.agree(extension)
        agreed = {"Sec-WebSocket-Extensions": extension.answer}
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(agreed), client)

    def _refused(self, peer: Peer, target: bytes, headers: CIMultiDict[str]) -> Answer | None:
        """Why a handshake is refused; None, and the peer is counted, if it is not."""
        access = self.access
        if not access.token_fits(target, headers):
            return _no_token()
        if not access.origin_fits(headers, peer.reached()):
            return json_answer(403, {"error": "pages of this origin may not connect"})
        if not self._hub.accepting:
            return json_answer(503, {"error": "shutting down"}, {"Retry-After": "1"})
        if len(self._hub.clients) >= self.max_clients:
            body = {"error": "too many clients", "limit": self.max_clients}
            return json_answer(503, body, {"Retry-After": "5"})
        if (wrong := _wrong_handshake(headers)) is not None:
            return wrong
        whose = access.whose(peer.address, headers)
        if not access.enter(whose):
            body = {"error": "too many clients from this address", "limit": access.per_address}
            return json_answer(429, body, {"Retry-After": "5"})
        peer.on_left = partial(access.leave, whose)
        return None


def json_answer(status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a JSON body, to be kept by no cache."""
    lines = {"Content-Type": JSON, "Cache-Control": "no-store", **(headers or {})}
    return Answer(status, orjson.dumps(body) + b"\n", lines)


def _options(allowed: str) -> Answer:
    """What may be asked for, also to browsers that ask before a page's request."""
    lines = {
        "Allow": allowed,
        "Access-Control-Allow-Methods": allowed,
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
    }
    return Answer(204, b"", lines)


def _no_token() -> Answer:
    return json_answer(401, {"error": "the token is missing or wrong"}, {"WWW-Authenticate": "Bearer"})


def _no_handshake(headers: CIMultiDict[str]) -> Answer:
    """For a channel's path: a request that cannot be a handshake, most often because of a proxy."""
    text = "this path is a WebSocket"
    if "Upgrade" not in headers:
        text += ": the request has no Upgrade header, which proxies drop unless they are told to pass it on"
    else:
        text += ": expected GET over HTTP/1.1 without a body, with Upgrade: websocket and Connection: Upgrade"
    return json_answer(426, {"error": text}, {"Upgrade": "websocket", "Connection": "Upgrade"})


def _wrong_handshake(headers: CIMultiDict[str]) -> Answer | None:
    """What RFC 6455, 4.2.1 wants of a handshake, beyond what it takes to be handed over."""
    if len(headers.getall("Host", [])) != 1:
        return json_answer(400, {"error": "malformed handshake: expected one Host header"})
    if headers.getall("Sec-WebSocket-Version", []) != ["13"]:
        body = {"error": "Sec-WebSocket-Version: expected 13, the version of RFC 6455"}
        return json_answer(426, body, {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"})
    keys = headers.getall("Sec-WebSocket-Key", [])
    if len(keys) == 1 and _KEY.fullmatch(keys[0]):
        return None
    body = {"error": "Sec-WebSocket-Key: expected 16 bytes in base64, new for each connection"}
    return json_answer(400, body)


def _by_picows(answer: Answer) -> WSUpgradeResponseWithListener:
    response = WSUpgradeResponse.create_error_response(HTTPStatus(answer.status), answer.body, answer.headers)
    return WSUpgradeResponseWithListener(response, None)


def _collapsed(path: str) -> str:
    """The path with one slash at its front: clients put `/info` behind base URLs that end in one."""
    return re.sub("^/{2,}", "/", path)


def _meant(path: str, known: list[str]) -> str | None:
    """The known path that differs by slashes only."""
    plain = re.sub("/{2,}", "/", path)
    candidates = (plain, plain.rstrip("/"), plain + "/")
    return next((each for each in candidates if each != path and each in known), None)
