"""Plain HTTP on the WebSocket port: h11 parses requests, and handshakes pass to picows unparsed.

    bytes ──► head of a request ──┬─ a handshake for a channel ──► the WebSocket protocol has the connection
                 ▲                └─ anything else ──► h11 ──► body, discarded ──► response ──┐
                 └────────────── the next request, while the connection is kept ──────────────┘

Everything a peer can cause is bounded: the head, the body, the requests of a connection, the time for each
request and its response, and unread responses, since the next request waits for the last response to leave.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple, cast

import h11
from multidict import CIMultiDict

MAX_HEAD = 16 * 1024 - 512
"""Maximum bytes of a request line with its headers, below picows' own limit of 16 KiB."""
MAX_HEADERS = 100
MAX_BODY = 64 * 1024
"""Maximum bytes of a body. No request here needs one."""
MAX_REQUESTS = 100
"""Maximum requests per connection."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_HEAD_END = re.compile(rb"\n\r?\n")  # the same as h11's
# Strict, because picows has its own answer to what it cannot parse, and must never get such input.
_WELL_FORMED_GET = re.compile(
    rb"GET [!-~\x80-\xff]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)+\r\n"
)
# For a lower-case head, because searching for literal prefixes is fast.
_UPGRADE_WEBSOCKET = re.compile(rb"\r\nupgrade:(?:[^\r\n]*[,\t ])?websocket[\t ]*[,\r]")
_CONNECTION_UPGRADE = re.compile(rb"\r\nconnection:(?:[^\r\n]*[,\t ])?upgrade[\t ]*[,\r]")
_HAS_BODY = re.compile(
    rb"\r\n(?:transfer-encoding:|content-length:(?![\t ]*0+[\t ]*\r)|content-length:.*\r\ncontent-length:)",
    re.DOTALL,
)
_ABSOLUTE_FORM = re.compile(rb"(?:http|ws)s?://[^/?#]*", re.IGNORECASE)


class HttpRequest(NamedTuple):
    """A request. Its body, if any, was discarded."""

    method: str
    target: bytes
    headers: CIMultiDict[str]


class HttpResponse(NamedTuple):
    """A response. Length, date and connection headers are added when it is sent."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = NO_HEADERS


class _RequestRejected(Exception):
    """The request is invalid: respond with this, and close the connection."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def request_path(target: bytes) -> str:
    """Return the undecoded path of a request's target, also of the form `http://host/path`."""
    found = _ABSOLUTE_FORM.match(target)
    rest = target[found.end() :] if found else target
    return rest.partition(b"?")[0].decode("ascii", "replace") or "/"


def is_handshake(head: bytes) -> bool:
    """Return whether a request's head is a WebSocket handshake that picows accepts."""
    lower = head.lower()
    return (
        _UPGRADE_WEBSOCKET.search(lower) is not None
        and _CONNECTION_UPGRADE.search(lower) is not None
        and _HAS_BODY.search(lower) is None
        and _WELL_FORMED_GET.fullmatch(head) is not None
    )


class HttpConnection(asyncio.Protocol):
    """An accepted connection without a WebSocket client.

    handle_request: called with each complete request.
    error_response: makes the response to invalid input, from a status and a text.
    is_websocket_path: whether a path leads to a WebSocket.
    make_websocket: makes the protocol that takes over after a handshake for such a path.
    on_lost:    called when the connection ends, unless it was taken over.
    timeout_s:  for each request with its response, and for the time until the next one begins.
    """

    def __init__(
        self,
        *,
        handle_request: Callable[[HttpRequest], HttpResponse],
        error_response: Callable[[int, str], HttpResponse],
        is_websocket_path: Callable[[str], bool],
        make_websocket: Callable[[], asyncio.BufferedProtocol],
        on_lost: Callable[[], None],
        timeout_s: float,
    ) -> None:
        self._handle_request = handle_request
        self._error_response = error_response
        self._is_websocket_path = is_websocket_path
        self._make_websocket = make_websocket
        self._on_lost = on_lost
        self._timeout_s = timeout_s
        self._data = bytearray()  # not passed to the parser yet
        self._scanned = 0  # bytes searched for the end of a head
        self._parser: h11.Connection | None = None  # from the end of a head to the response
        self._request: h11.Request | None = None
        self._body_bytes = 0
        self._requests = 0
        self._write_limit_set = False
        self._paused = False
        self._closing = False

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._timeout_s, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if not self._closing:
            self._data += data
            self._process_input()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._closing = True
        self._parser = None
        self._on_lost()

    def pause_writing(self) -> None:
        """Stop reading: the next request waits until the response has been sent."""
        self._paused = True
        if not self._closing:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if not self._closing:
            self._transport.resume_reading()
            self._process_input()

    # Reading

    def _process_input(self) -> None:
        if self._paused or self._closing:
            return
        try:
            if self._process_request() and self._data:
                self._loop.call_soon(self._process_input)  # not at once, so that others are served in between
        except _RequestRejected as rejected:
            self._respond_error(rejected.status, str(rejected))
        except h11.RemoteProtocolError as error:
            # Cut off the offending bytes, which h11 quotes as a Python literal.
            reason = re.split(r":? ?(?:bytearray\()?b['\"]", str(error))[0]
            self._respond_error(
                error.error_status_hint, f"malformed request: {reason[:1].lower()}{reason[1:]}"
            )

    def _process_request(self) -> bool:
        """Continue the current request. Return whether it was answered, and another may be there."""
        if self._parser is None and not self._parse_head():
            return False
        parser = self._parser
        assert parser is not None
        if self._data:
            parser.receive_data(bytes(self._data))
            self._data.clear()
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Request):
                self._request = event
                self._body_bytes = 0
                _check_headers(event)
                if parser.they_are_waiting_for_100_continue:
                    # The body is not needed: respond at once, and the client does not send it.
                    self._respond(last=True)
                    return False
            elif isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
                if self._body_bytes > MAX_BODY:
                    raise _RequestRejected(413, f"the body is too long: at most {MAX_BODY} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return self._respond(last=False)
            else:  # NEED_DATA is the only other event here
                return False

    def _parse_head(self) -> bool:
        """Return whether the head of a request for h11 is complete. A handshake is passed on instead."""
        data = self._data
        # Skip empty lines before a request (RFC 9112, 2.2).
        blank = len(data) - len(data.lstrip(b"\r\n"))
        del data[:blank]
        found = _HEAD_END.search(data, max(0, self._scanned - blank - 2))
        self._scanned = len(data)
        size = found.end() if found else len(data)
        if not data or (found is None and size <= MAX_HEAD and data[0] > 0x20):
            return False
        _reject_other_protocols(data)
        if size > MAX_HEAD:
            if b"\n" not in data[:MAX_HEAD]:
                raise _RequestRejected(
                    414, f"the request line is too long: at most {MAX_HEAD} bytes with headers"
                )
            raise _RequestRejected(
                431, f"the headers are too long: at most {MAX_HEAD} bytes with the request line"
            )
        if data.count(b"\n", 0, size) > MAX_HEADERS + 2:
            raise _RequestRejected(431, f"too many headers: at most {MAX_HEADERS}")
        self._scanned = 0
        head = bytes(data[:size])
        if is_handshake(head) and self._is_websocket_path(request_path(head.split(b" ", 2)[1])):
            self._upgrade()
            return False
        if not self._write_limit_set:
            self._write_limit_set = True
            self._transport.set_write_buffer_limits(high=0)
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        return True

    def _upgrade(self) -> None:
        """Pass the connection and the received bytes to the WebSocket protocol."""
        self._closing = True
        self._timer.cancel()
        transport = self._transport
        if self._write_limit_set:
            transport.set_write_buffer_limits()
        protocol = self._make_websocket()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        data = memoryview(bytes(self._data))
        self._data.clear()
        while data and not transport.is_closing():
            buffer = memoryview(protocol.get_buffer(-1))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]

    # Responding

    def _respond(self, *, last: bool) -> bool:
        """Respond to the request. Return whether the connection stays open for another one."""
        parser, event = self._parser, self._request
        assert parser is not None
        assert event is not None
        headers = CIMultiDict(
            (name.decode("ascii"), value.decode("ascii", "surrogateescape")) for name, value in event.headers
        )
        response = self._handle_request(HttpRequest(event.method.decode("ascii"), event.target, headers))
        self._requests += 1
        self._write_response(response, last=last or self._requests >= MAX_REQUESTS)
        if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
            self._finish(request_complete=parser.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED))
            return False
        self._data += parser.trailing_data[0]
        self._parser = self._request = None
        self._timer.cancel()
        self._timer = self._loop.call_later(self._timeout_s, self._transport.abort)
        return True

    def _respond_error(self, status: int, text: str) -> None:
        if self._parser is None or self._parser.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._parser = h11.Connection(h11.SERVER)
        self._write_response(self._error_response(status, text), last=True)
        self._finish(request_complete=False)

    def _write_response(self, response: HttpResponse, *, last: bool) -> None:
        parser = self._parser
        assert parser is not None
        status = HTTPStatus(response.status)
        headers = {"Date": formatdate(usegmt=True), **response.headers}
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            headers["Content-Length"] = str(len(response.body))
        if last:
            headers["Connection"] = "close"
        pairs = list(headers.items())
        data = parser.send(h11.Response(status_code=status, headers=pairs, reason=status.phrase)) or b""
        if self._request is None or self._request.method != b"HEAD":
            data += parser.send(h11.Data(response.body)) or b""
        data += parser.send(h11.EndOfMessage()) or b""
        self._transport.write(data)

    def _finish(self, *, request_complete: bool) -> None:
        """Close after the response has left, discarding what the peer still sends.

        request_complete: nothing more of the request can come. Otherwise closing would reset the connection,
        and could take the response away from the peer.
        """
        self._closing = True
        self._data.clear()
        self._parser = None
        if self._paused:
            self._transport.resume_reading()
        if not request_complete and self._transport.can_write_eof():
            self._transport.write_eof()  # closed by the peer's end, or by the timer
        else:
            self._transport.close()


def _reject_other_protocols(data: bytearray) -> None:
    """Raise _RequestRejected if the first bytes belong to another protocol."""
    if data.startswith(b"\x16\x03"):
        raise _RequestRejected(400, "this port does not speak TLS: use http:// and ws://")
    if data.startswith((b"PROXY ", b"\0\r\nQUIT\n")):
        raise _RequestRejected(400, "the PROXY protocol is not supported: use X-Forwarded-For")
    if data.startswith(b"PRI * HTTP/2"):
        raise _RequestRejected(505, "HTTP/2 is not supported: use HTTP/1.1")
    if data[0] <= 0x20:
        raise _RequestRejected(400, "malformed request: not HTTP")


def _check_headers(request: h11.Request) -> None:
    """Raise _RequestRejected for requests that h11 accepts and this server does not."""
    if not request.http_version.startswith(b"1."):
        raise _RequestRejected(505, "use HTTP/1.1 or HTTP/1.0")
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and b"content-length" in names:
        # Proxies that disagree on which one counts allow request smuggling (RFC 9112, 6.1).
        raise _RequestRejected(400, "malformed request: both Transfer-Encoding and Content-Length")
    if b"host" in names and names.count(b"host") > 1:
        raise _RequestRejected(400, "malformed request: more than one Host")
