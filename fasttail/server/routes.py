"""Routes by path: each request gets a WebSocket client, a plain response, or a hint what to use.

    /ws                                       the public protocol
    /ws/  /ws/orderUpdate  /ws/orderBatch     the old service's channels
    /health  /health/live                     200 or 503, JSON
    /ws/status                                the old service's status, JSON
    /  /page/…                                the page of live figures
    /metrics                                  Prometheus text

Paths are compared as sent: an additional slash makes a different path.
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

from fasttail.connection.compression import Compression
from fasttail.connection.connection import Client
from fasttail.connection.hub import Hub
from fasttail.server.acceptor import Peer
from fasttail.server.access import Access
from fasttail.server.http import HttpRequest, HttpResponse, request_path
from fasttail.server.page import PageFile

log = logging.getLogger(__name__)

JSON = "application/json"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"

PUBLIC_PATHS = frozenset(("/health", "/health/live"))
"""Paths that need no token, because monitors such as container engines have none."""

CORS_PATHS = frozenset(("/health", "/health/live", "/ws/status"))
"""Paths whose responses pages of the allowed origins may read."""

UNSUPPORTED_PATHS = {
    "/info": "POST /info is not served here: fasttail publishes orders by WebSocket at /ws. "
    "Leave requests to /info at the public API (https://api.hyperliquid.xyz), "
    "and give this address to the WebSocket alone; docs/websocket.md says how, for each SDK",
    "/exchange": "POST /exchange is not served here: fasttail publishes orders and takes none. "
    "Leave requests to /exchange at the public API (https://api.hyperliquid.xyz)",
}
"""Paths of the public API that clients request when all of their URLs point here."""

READ_METHODS = "GET, HEAD, OPTIONS"
PREFLIGHT_AGE_S = 3600

_WEBSOCKET_KEY = re.compile("[A-Za-z0-9+/]{22}==")  # 16 bytes

Probe = Callable[[], tuple[int, dict[str, Any]]]
"""Returns an HTTP status and a JSON body."""


class Routes:
    """Responds to requests; see `Server` for the arguments.

    max_clients: may be lowered.
    on_accepted: called when a handshake is accepted, and the peer gets a client.
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
        page: Mapping[str, PageFile],
        access: Access,
        compression: Compression | None,
        on_accepted: Callable[[Peer], None],
    ) -> None:
        self.access = access
        self.max_clients = max_clients
        self._hub = hub
        self._channels = channels
        self._compression = compression
        self._page = page
        self._on_accepted = on_accepted
        self._handlers: dict[str, Callable[[], HttpResponse]] = {
            "/health": lambda: json_response(*health()),
            "/health/live": lambda: json_response(*live()),
            "/ws/status": lambda: json_response(200, status()),
            "/metrics": lambda: HttpResponse(
                200, metrics(), {"Content-Type": PROMETHEUS_TEXT, "Cache-Control": "no-store"}
            ),
        }

    # Plain HTTP

    def is_websocket_path(self, path: str) -> bool:
        """Return whether handshakes for this path go to `handle_websocket`."""
        return path in self._channels

    def handle_http(self, peer: Peer, request: HttpRequest) -> HttpResponse:
        """Return the response to a request that is not a handshake."""
        path = request_path(request.target)
        response = self._respond(path, request)
        if path not in CORS_PATHS and _collapse_slashes(path) not in UNSUPPORTED_PATHS:
            return response
        headers = {**response.headers, **self.access.cors_headers(request.headers, peer.local_endpoint())}
        return response._replace(headers=headers)

    def error_response(self, status: int, text: str) -> HttpResponse:
        """Return the response to input that is not a valid request."""
        return json_response(status, {"error": text})

    def _respond(self, path: str, request: HttpRequest) -> HttpResponse:
        method = request.method
        if (collapsed := _collapse_slashes(path)) in UNSUPPORTED_PATHS:
            if method == "OPTIONS":
                return _options_response("POST, OPTIONS")
            # The public API's Python SDK reads `code` and `msg` of an error.
            text = UNSUPPORTED_PATHS[collapsed]
            return json_response(404, {"code": 404, "msg": text, "error": text})
        channel, page = path in self._channels, self._page.get(path)
        if path not in self._handlers and not channel and page is None:
            if method == "OPTIONS" and path in ("*", "/"):
                return _options_response(READ_METHODS)
            return self._not_found(path)
        if method == "OPTIONS" and not channel:
            return _options_response(READ_METHODS)
        if method not in ("GET", "HEAD"):
            body = {"error": f"{method} is not allowed here: use GET"}
            return json_response(405, body, {"Allow": "GET, HEAD" if channel else READ_METHODS})
        if page is not None:
            return page.response(request.headers)
        if path not in PUBLIC_PATHS and not self.access.check_token(request.target, request.headers):
            if channel:
                self._hub.refused += 1
            return _unauthorized()
        if channel:
            return _upgrade_required(request.headers)
        try:
            return self._handlers[path]()
        except Exception:
            log.exception("failed to answer %s", path)
            return json_response(500, {"error": "internal server error"})

    def _not_found(self, path: str) -> HttpResponse:
        known = [*self._channels, *self._handlers, *(("/",) if self._page else ())]
        body: dict[str, Any] = {"error": "not found"}
        if path == "/ws":
            body["error"] = "not found: /ws serves nothing here; use /ws/orderUpdate or /ws/orderBatch"
        elif similar := _similar_path(path, known):
            body["hint"] = f"use {similar}: paths with and without a trailing slash differ"
        return json_response(404, {**body, "paths": known})

    # WebSockets

    def handle_websocket(
        self, peer: Peer, request: WSUpgradeRequest
    ) -> WSListener | WSUpgradeResponseWithListener:
        """Return the client for a handshake, or its rejection: picows' listener factory."""
        headers = request.headers
        error_response = self._check_handshake(peer, request.path, headers)
        if error_response is not None:
            # Count only 401, 403, 429 and 503: the others are mistakes, not limits.
            self._hub.refused += error_response.status not in (400, 426)
            return _picows_error(error_response)
        self._on_accepted(peer)
        # Both headers are lists (RFC 9110, 7.6.1 and 7.8), and Firefox sends `keep-alive, Upgrade`, but
        # picows accepts only single words.
        headers["Connection"], headers["Upgrade"] = "Upgrade", "websocket"
        client = self._channels[request_path(request.path)]()
        extension = None
        if self._compression is not None:
            extension = self._compression.negotiate(headers.getall("Sec-WebSocket-Extensions", []))
        if extension is None:
            return client
        client.enable_compression(extension)
        agreed = {"Sec-WebSocket-Extensions": extension.response_header}
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(agreed), client)

    def _check_handshake(self, peer: Peer, target: bytes, headers: CIMultiDict[str]) -> HttpResponse | None:
        """Return the rejection of a handshake, or None; the peer is then counted by its address."""
        access = self.access
        if not access.check_token(target, headers):
            return _unauthorized()
        if not access.check_origin(headers, peer.local_endpoint()):
            return json_response(403, {"error": "this origin is not allowed"})
        if not self._hub.accepting:
            return json_response(503, {"error": "shutting down"}, {"Retry-After": "1"})
        if len(self._hub.clients) >= self.max_clients:
            body = {"error": "too many clients", "limit": self.max_clients}
            return json_response(503, body, {"Retry-After": "5"})
        if (invalid := _invalid_handshake(headers)) is not None:
            return invalid
        client_key = access.client_key(peer.address, headers)
        if not access.acquire(client_key):
            body = {"error": "too many clients from this address", "limit": access.max_per_address}
            return json_response(429, body, {"Retry-After": "5"})
        peer.on_disconnect = partial(access.release, client_key)
        return None


def json_response(
    status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> HttpResponse:
    """Return an uncached response with a JSON body."""
    response_headers = {"Content-Type": JSON, "Cache-Control": "no-store", **(headers or {})}
    return HttpResponse(status, orjson.dumps(body) + b"\n", response_headers)


def _options_response(allowed: str) -> HttpResponse:
    """Return the allowed methods, also for the preflight requests of browsers."""
    response_headers = {
        "Allow": allowed,
        "Access-Control-Allow-Methods": allowed,
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
    }
    return HttpResponse(204, b"", response_headers)


def _unauthorized() -> HttpResponse:
    return json_response(401, {"error": "the token is missing or wrong"}, {"WWW-Authenticate": "Bearer"})


def _upgrade_required(headers: CIMultiDict[str]) -> HttpResponse:
    """Return the response to a request for a channel that is no handshake, often because of a proxy."""
    text = "this path is a WebSocket"
    if "Upgrade" not in headers:
        text += ": the request has no Upgrade header, which proxies drop unless configured to forward it"
    else:
        text += ": expected GET over HTTP/1.1 without a body, with Upgrade: websocket and Connection: Upgrade"
    return json_response(426, {"error": text}, {"Upgrade": "websocket", "Connection": "Upgrade"})


def _invalid_handshake(headers: CIMultiDict[str]) -> HttpResponse | None:
    """Check what RFC 6455, 4.2.1 requires of a handshake and `is_handshake` does not."""
    if len(headers.getall("Host", [])) != 1:
        return json_response(400, {"error": "malformed handshake: expected one Host header"})
    if headers.getall("Sec-WebSocket-Version", []) != ["13"]:
        body = {"error": "Sec-WebSocket-Version: expected 13, the version of RFC 6455"}
        return json_response(426, body, {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"})
    keys = headers.getall("Sec-WebSocket-Key", [])
    if len(keys) == 1 and _WEBSOCKET_KEY.fullmatch(keys[0]):
        return None
    body = {"error": "Sec-WebSocket-Key: expected 16 bytes in base64, new for each connection"}
    return json_response(400, body)


def _picows_error(response: HttpResponse) -> WSUpgradeResponseWithListener:
    upgrade_response = WSUpgradeResponse.create_error_response(
        HTTPStatus(response.status), response.body, response.headers
    )
    return WSUpgradeResponseWithListener(upgrade_response, None)


def _collapse_slashes(path: str) -> str:
    """Collapse leading slashes: clients append `/info` to base URLs that end in one."""
    return re.sub("^/{2,}", "/", path)


def _similar_path(path: str, known: list[str]) -> str | None:
    """Return the known path that differs only in slashes."""
    plain = re.sub("/{2,}", "/", path)
    candidates = (plain, plain.rstrip("/"), plain + "/")
    return next((each for each in candidates if each != path and each in known), None)
