"""Plain HTTP on the port of the WebSockets: h11 parses the requests, and handshakes go to picows unread.

    bytes ──► head of a request ──┬─ a handshake for a channel ──► the WebSocket protocol has the connection
                 ▲                └─ anything else ──► h11 ──► body, thrown away ──► answer ──┐
                 └──────────────── the next request, while the connection is kept ────────────┘

All that a peer can ask for is bounded: the head, the body, the requests of one connection, the time for
each of them and its answer, and the answers that wait to be read (the next request is looked at when the
last one's answer has left).
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
"""Longest request line with its headers, in bytes. picows stops at 16 KiB; what it gets is below that."""
MAX_HEADERS = 100
MAX_BODY = 64 * 1024
"""Longest body that is read, in bytes. No request here has a use for one."""
MAX_REQUESTS = 100
"""Requests answered on one connection."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_HEAD_END = re.compile(rb"\n\r?\n")  # as h11 finds it
# Strict: picows answers what it cannot parse in a way of its own, so it gets nothing of that kind.
_WELL_FORMED_GET = re.compile(
    rb"GET [!-~\x80-\xff]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)+\r\n"
)
# In a head in lower case: their literal beginnings are found quickly that way.
_TO_WEBSOCKET = re.compile(rb"\r\nupgrade:(?:[^\r\n]*[,\t ])?websocket[\t ]*[,\r]")
_UPGRADES = re.compile(rb"\r\nconnection:(?:[^\r\n]*[,\t ])?upgrade[\t ]*[,\r]")
_HAS_BODY = re.compile(
    rb"\r\n(?:transfer-encoding:|content-length:(?![\t ]*0+[\t ]*\r)|content-length:.*\r\ncontent-length:)",
    re.DOTALL,
)
_ABSOLUTE = re.compile(rb"(?:http|ws)s?://[^/?#]*", re.IGNORECASE)


class Request(NamedTuple):
    """A request whose body, if it had one, has been thrown away."""

    method: str
    target: bytes
    headers: CIMultiDict[str]


class Answer(NamedTuple):
    """What goes out. Length, date and connection headers are added to these."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = NO_HEADERS


class _Refused(Exception):
    """The request cannot be read: the connection ends with this answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def path_of(target: bytes) -> str:
    """The path of a request's target, also of one in absolute form (`http://host/path`), undecoded."""
    found = _ABSOLUTE.match(target)
    rest = target[found.end() :] if found else target
    return rest.partition(b"?")[0].decode("ascii", "replace") or "/"


def is_handshake(head: bytes) -> bool:
    """Whether a request's head, up to its empty line, asks for a WebSocket in a form that picows takes."""
    lower = head.lower()
    return (
        _TO_WEBSOCKET.search(lower) is not None
        and _UPGRADES.search(lower) is not None
        and _HAS_BODY.search(lower) is None
        and _WELL_FORMED_GET.fullmatch(head) is not None
    )


class HttpConnection(asyncio.Protocol):
    """One accepted connection, as long as it has no client.

    answer:     called with each whole request.
    refusal:    makes the answer to what is no request, from a status and a text.
    is_channel: whether a path leads to a WebSocket.
    websocket:  makes the protocol that takes the connection over, for a handshake to such a path.
    on_lost:    called at the connection's end, unless it was taken over.
    timeout_s:  for each request with its answer, and for the time until the next one begins.
    """

    def __init__(
        self,
        *,
        answer: Callable[[Request], Answer],
        refusal: Callable[[int, str], Answer],
        is_channel: Callable[[str], bool],
        websocket: Callable[[], asyncio.BufferedProtocol],
        on_lost: Callable[[], None],
        timeout_s: float,
    ) -> None:
        self._answer = answer
        self._refusal = refusal
        self._is_channel = is_channel
        self._websocket = websocket
        self._on_lost = on_lost
        self._timeout_s = timeout_s
        self._data = bytearray()  # not yet given to the parser
        self._searched = 0  # so much of it has no end of a head
        self._parser: h11.Connection | None = None  # from the end of a head to the answer
        self._request: h11.Request | None = None
        self._body = 0
        self._requests = 0
        self._limited = False
        self._paused = False
        self._ending = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._timeout_s, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if not self._ending:
            self._data += data
            self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._ending = True
        self._parser = None
        self._on_lost()

    def pause_writing(self) -> None:
        """An answer waits to be read: the next request waits too."""
        self._paused = True
        if not self._ending:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if not self._ending:
            self._transport.resume_reading()
            self._go_on()

    # Reading

    def _go_on(self) -> None:
        if self._paused or self._ending:
            return
        try:
            if self._take() and self._data:
                self._loop.call_soon(self._go_on)  # not at once: others are served in between
        except _Refused as refused:
            self._refuse(refused.status, str(refused))
        except h11.RemoteProtocolError as error:
            # Without the bytes in question, which h11 shows as Python does.
            reason = re.split(r":? ?(?:bytearray\()?b['\"]", str(error))[0]
            self._refuse(error.error_status_hint, f"malformed request: {reason[:1].lower()}{reason[1:]}")

    def _take(self) -> bool:
        """Read on. True: a request was answered, and the next one may have come."""
        if self._parser is None and not self._begin():
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
                self._body = 0
                _check(event)
                if parser.they_are_waiting_for_100_continue:
                    # Nobody needs the body: the answer comes at once, and the body never.
                    self._reply(last=True)
                    return False
            elif isinstance(event, h11.Data):
                self._body += len(event.data)
                if self._body > MAX_BODY:
                    raise _Refused(413, f"the body is too long: at most {MAX_BODY} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return self._reply(last=False)
            else:  # NEED_DATA, for all that can come here
                return False

    def _begin(self) -> bool:
        """Whether the head of a request has come whole, for h11. Handshakes are handed over."""
        data = self._data
        # Empty lines in front of a request are passed over (RFC 9112, 2.2).
        blank = len(data) - len(data.lstrip(b"\r\n"))
        del data[:blank]
        found = _HEAD_END.search(data, max(0, self._searched - blank - 2))
        self._searched = len(data)
        size = found.end() if found else len(data)
        if not data or (found is None and size <= MAX_HEAD and data[0] > 0x20):
            return False
        _check_start(data)
        if size > MAX_HEAD:
            if b"\n" not in data[:MAX_HEAD]:
                raise _Refused(414, f"the request line is too long: at most {MAX_HEAD} bytes with headers")
            raise _Refused(431, f"the headers are too long: at most {MAX_HEAD} bytes with the request line")
        if data.count(b"\n", 0, size) > MAX_HEADERS + 2:
            raise _Refused(431, f"too many headers: at most {MAX_HEADERS}")
        self._searched = 0
        head = bytes(data[:size])
        if is_handshake(head) and self._is_channel(path_of(head.split(b" ", 2)[1])):
            self._hand_over()
            return False
        if not self._limited:
            self._limited = True
            self._transport.set_write_buffer_limits(high=0)
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        return True

    def _hand_over(self) -> None:
        """From here on the WebSocket protocol has the connection, and the bytes that have come."""
        self._ending = True
        self._timer.cancel()
        transport = self._transport
        if self._limited:
            transport.set_write_buffer_limits()
        protocol = self._websocket()
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

    # Answering

    def _reply(self, *, last: bool) -> bool:
        """Answer the request. True: the connection is kept, and the next one may come."""
        parser, event = self._parser, self._request
        assert parser is not None
        assert event is not None
        headers = CIMultiDict(
            (name.decode("ascii"), value.decode("ascii", "surrogateescape")) for name, value in event.headers
        )
        answer = self._answer(Request(event.method.decode("ascii"), event.target, headers))
        self._requests += 1
        self._send(answer, last=last or self._requests >= MAX_REQUESTS)
        if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
            self._end(whole=parser.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED))
            return False
        self._data += parser.trailing_data[0]
        self._parser = self._request = None
        self._timer.cancel()
        self._timer = self._loop.call_later(self._timeout_s, self._transport.abort)
        return True

    def _refuse(self, status: int, text: str) -> None:
        if self._parser is None or self._parser.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._parser = h11.Connection(h11.SERVER)
        self._send(self._refusal(status, text), last=True)
        self._end(whole=False)

    def _send(self, answer: Answer, *, last: bool) -> None:
        parser = self._parser
        assert parser is not None
        status = HTTPStatus(answer.status)
        headers = {"Date": formatdate(usegmt=True), **answer.headers}
        if status != HTTPStatus.NO_CONTENT:
            headers["Content-Length"] = str(len(answer.body))
        if last:
            headers["Connection"] = "close"
        pairs = list(headers.items())
        data = parser.send(h11.Response(status_code=status, headers=pairs, reason=status.phrase)) or b""
        if self._request is None or self._request.method != b"HEAD":
            data += parser.send(h11.Data(answer.body)) or b""
        data += parser.send(h11.EndOfMessage()) or b""
        self._transport.write(data)

    def _end(self, *, whole: bool) -> None:
        """Close once the answer has left; what the peer still sends is thrown away until then.

        whole: nothing more of the request can come. To close before that would reset the connection, and
        could take the answer away from the peer.
        """
        self._ending = True
        self._data.clear()
        self._parser = None
        if self._paused:
            self._transport.resume_reading()
        if not whole and self._transport.can_write_eof():
            self._transport.write_eof()  # the peer's own end, or the timer, closes
        else:
            self._transport.close()


def _check_start(data: bytearray) -> None:
    """Raise _Refused for what is another protocol, by its first bytes."""
    if data.startswith(b"\x16\x03"):
        raise _Refused(400, "this port does not speak TLS: use http:// and ws://")
    if data.startswith((b"PROXY ", b"\0\r\nQUIT\n")):
        raise _Refused(400, "the PROXY protocol is not understood: send X-Forwarded-For")
    if data.startswith(b"PRI * HTTP/2"):
        raise _Refused(505, "HTTP/2 is not spoken: use HTTP/1.1")
    if data[0] <= 0x20:
        raise _Refused(400, "malformed request: no HTTP")


def _check(request: h11.Request) -> None:
    """Raise _Refused for what h11 takes and we do not."""
    if not request.http_version.startswith(b"1."):
        raise _Refused(505, "use HTTP/1.1 or HTTP/1.0")
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and b"content-length" in names:
        # Which one counts is how requests are smuggled past proxies (RFC 9112, 6.1).
        raise _Refused(400, "malformed request: both Transfer-Encoding and Content-Length")
    if b"host" in names and names.count(b"host") > 1:
        raise _Refused(400, "malformed request: more than one Host")
