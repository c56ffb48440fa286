"""Plain HTTP on the WebSocket port: methods, versions, targets, bodies, and invalid requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import serving as s
from serving import RawClient, http, run, serving, until

from fasttail.server import acceptor as accept_module
from fasttail.server import http as http_module
from fasttail.server import server as server_module
from fasttail.server.access import Access

PLAIN = ["/health", "/health/live", "/ws/status", "/metrics"]
CHANNELS = ["/ws/", "/ws/orderUpdate", "/ws/orderBatch"]
CHUNKED = b"Transfer-Encoding: chunked"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


class Answer:
    """One response read from a stream."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.body = body

    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
    found = Answer(head, b"")
    length = 0 if head_only else int(found.headers.get("content-length", 0))
    return Answer(head, await reader.readexactly(length))


async def asked(port: int, request: bytes) -> Answer:
    """Return the response to these bytes; the connection must then close without a reset."""
    async with connection(port) as (reader, writer):
        writer.write(request)
        found = await answer(reader)
        writer.write_eof()
        assert await reader.read() == b""
        return found


# Methods, versions, targets


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", PLAIN)
def test_get_and_head(path: str, version: str) -> None:
    async def main() -> None:
        async with serving() as srv:
            head = f" {path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            got = await asked(srv.port, b"GET" + head)
            assert got.status == 200
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", got.headers["date"])
            async with connection(srv.port) as (reader, writer):
                writer.write(b"HEAD" + head)
                told = await answer(reader, head_only=True)
                assert await reader.read() == b""
            assert (told.status, told.headers["content-length"]) == (200, str(len(got.body)))
            assert told.headers["content-type"] == got.headers["content-type"]

    run(main())


@pytest.mark.parametrize("path", CHANNELS)
def test_head_of_a_channel_is_as_get(path: str) -> None:
    async def main() -> None:
        async with serving() as srv, connection(srv.port) as (reader, writer):
            writer.write(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            told = await answer(reader, head_only=True)
            assert (told.status, told.headers["upgrade"]) == (426, "websocket")
            assert int(told.headers["content-length"]) > 0
            assert await reader.read() == b""

    run(main())


def test_http_1_0_needs_no_host_and_its_connection_ends() -> None:
    async def main() -> None:
        async with serving() as srv:
            for more in (b"", b"Connection: keep-alive\r\n"):
                got = await asked(srv.port, b"GET /health/live HTTP/1.0\r\n" + more + b"\r\n")
                assert (got.status, got.headers["connection"]) == (200, "close")

    run(main())


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://any.example/health", 200),
        ("HTTP://any.example:8000/health?verbose=1", 200),
        ("ws://any.example/health", 200),
        ("http://any.example", 404),
        ("http://any.example?/health", 404),
        ("/health?a=http://b/c", 200),
        ("/health#x", 404),
        ("/%68ealth", 404),  # nothing is decoded, so a proxy's path rules cannot be bypassed
        ("/HEALTH", 404),
        ("//any.example/health", 404),
    ],
)
def test_targets(target: str, status: int) -> None:
    async def main() -> None:
        async with serving() as srv:
            assert (await http(srv.port, target)).status == status

    run(main())


def test_a_handshake_in_absolute_form() -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port, "http://localhost/ws/?x")
            assert (await client.frame())[0] == s.TEXT

    run(main())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW", "get"])
@pytest.mark.parametrize("path", [*PLAIN, *CHANNELS])
def test_other_methods_are_405_and_told_what_is_allowed(path: str, method: str) -> None:
    async def main() -> None:
        async with serving() as srv:
            got = await http(srv.port, path, method=method)
            assert got.status == 405
            assert got.headers["allow"] == ("GET, HEAD" if path in CHANNELS else "GET, HEAD, OPTIONS")
            assert got.json() == {"error": f"{method} is not allowed here: use GET"}

    run(main())


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("//ws/", "use /ws/"), ("/ws//orderUpdate", "use /ws/orderUpdate"), ("/health/", "use /health"),
        ("//health", "use /health"), ("/metrics/", "use /metrics"), ("/ws/status/", "use /ws/status"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("headers", [(), ("Upgrade: websocket", "Connection: Upgrade")])
def test_a_slash_more_or_less_is_explained(path: str, hint: str, headers: tuple[str, ...]) -> None:
    async def main() -> None:
        async with serving() as srv:
            got = await http(srv.port, path, *headers)
            assert got.status == 404
            assert got.json()["hint"] == f"{hint}: paths with and without a trailing slash differ"

    run(main())


@pytest.mark.parametrize("path", ["/info", "/exchange", "//info", "/info?x"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_requests_of_the_public_api_are_told_where_they_belong(path: str, method: str) -> None:
    async def main() -> None:
        async with serving(access=Access(token=b"secret")) as srv:
            body = '{"type": "meta", "dex": ""}'
            more = (
                f"Content-Length: {len(body)}",
                "Content-Type: application/json",
                "Connection: close",
                "",
                body,
            )
            got = await http(srv.port, path, *more, method=method)
            assert got.status == 404
            told = got.json()
            # The Python SDK looks for `code` and `msg`.
            assert told["code"] == 404
            assert told["msg"] == told["error"]
            assert "https://api.hyperliquid.xyz" in told["msg"]
            assert got.headers["access-control-allow-origin"] == "*"

    run(main())


# Pages of other origins


@pytest.mark.parametrize("path", ["/health", "/health/live", "/ws/status"])
def test_pages_that_may_connect_may_read(path: str) -> None:
    async def main() -> None:
        async with serving() as srv:
            got = await http(srv.port, path, "Origin: https://any.example")
            assert got.headers["access-control-allow-origin"] == "*"
        async with serving(access=Access(origins=["https://app.example"])) as srv:
            got = await http(srv.port, path, "Origin: https://app.example")
            assert got.headers["access-control-allow-origin"] == "https://app.example"
            assert got.headers["vary"] == "Origin"
            for origin in (("Origin: https://evil.example",), (), ("Origin: null",)):
                got = await http(srv.port, path, *origin)
                assert got.status == 200
                assert "access-control-allow-origin" not in got.headers
                assert got.headers["vary"] == "Origin"

    run(main())


@pytest.mark.parametrize("path", ["/health", "/ws/status", "/info"])
def test_browsers_that_ask_before_a_request(path: str) -> None:
    async def main() -> None:
        access = Access(token=b"secret", origins=["https://app.example"])
        async with serving(access=access) as srv:
            ask = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization")
            got = await http(srv.port, path, "Origin: https://app.example", *ask, method="OPTIONS")
            assert (got.status, got.body) == (204, b"")
            assert "content-length" not in got.headers
            assert got.headers["access-control-allow-origin"] == "https://app.example"
            assert "Authorization" in got.headers["access-control-allow-headers"]
            assert ("POST" if path == "/info" else "GET") in got.headers["access-control-allow-methods"]
            got = await http(srv.port, path, "Origin: https://evil.example", *ask, method="OPTIONS")
            assert "access-control-allow-origin" not in got.headers

    run(main())


def test_options_of_the_server_and_of_what_no_page_may_read() -> None:
    async def main() -> None:
        async with serving() as srv:
            for path in ("*", "/metrics"):
                got = await http(srv.port, path, method="OPTIONS")
                assert (got.status, got.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
                assert "access-control-allow-origin" not in got.headers

    run(main())


# Persistent connections


def test_requests_follow_each_other_on_one_connection() -> None:
    async def main() -> None:
        async with serving() as srv, connection(srv.port) as (reader, writer):
            for path in (*PLAIN, "/nothing", "/ws/", "/health"):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                got = await answer(reader)
                assert got.status == {"/nothing": 404, "/ws/": 426}.get(path, 200)
                assert "connection" not in got.headers or got.headers["connection"] == "Upgrade"
            # Three pipelined requests, the second with a body, then a handshake: the connection becomes a
            # WebSocket client.
            post = b"POST /info HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"\r\n\r\n3\r\n{ }\r\n0\r\n\r\n"
            writer.write(LIVE + post + b"\r\n" + LIVE + s.upgrade("/ws/") + s.masked(s.TEXT, b"ping"))
            assert [(await answer(reader)).status for _ in range(3)] == [200, 404, 200]
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            client = RawClient(reader, writer)
            assert (await client.frame())[0] == s.TEXT
            assert await client.frame() == (s.TEXT, b"pong")
            assert srv.client().queued_bytes == 0

    run(main())


def test_a_connection_that_asks_on_and_on_is_ended() -> None:
    async def main() -> None:
        async with serving() as srv, connection(srv.port) as (reader, writer):
            writer.write(LIVE * (http_module.MAX_REQUESTS + 5))
            for number in range(1, http_module.MAX_REQUESTS + 1):
                got = await answer(reader)
                assert got.headers.get("connection") == (
                    "close" if number == http_module.MAX_REQUESTS else None
                )
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await answer(reader)

    run(main())


def test_who_does_not_read_his_answers_is_given_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response is made only once the previous one has left the process.

    How much the sockets buffer depends on the kernel, so the number of responses is not checked.
    """
    waiting: list[int] = []
    transport: asyncio.Transport

    class Connection(http_module.HttpConnection):
        def connection_made(self, made: asyncio.BaseTransport) -> None:
            nonlocal transport
            transport = cast(asyncio.Transport, made)
            super().connection_made(made)

    def metrics() -> bytes:
        waiting.append(transport.get_write_buffer_size())
        return b"x" * (4 << 20)

    async def main() -> None:
        async with serving(metrics=metrics) as srv, connection(srv.port) as (reader, writer):
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            await until(lambda: bool(waiting) and transport.get_write_buffer_size() > 0)
            await asyncio.sleep(0.3)
            assert len(waiting) < 20
            for _ in range(20):
                assert len((await answer(reader)).body) == 4 << 20
            assert waiting == [0] * 20

    monkeypatch.setattr(accept_module, "HttpConnection", Connection)
    run(main())


@pytest.mark.parametrize(
    "sent", [b"", b"GET /hea", LIVE[:-2], b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"]
)
@pytest.mark.parametrize("after", [b"", LIVE])
def test_who_takes_too_long_is_cut_off(sent: bytes, after: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving() as srv, connection(srv.port) as (reader, writer):
            writer.write(after)
            if after:
                assert (await answer(reader)).status == 200
            writer.write(sent)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            await until(lambda: not srv.server.pending_connections)

    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT_S", 0.3)
    run(main())


def test_a_byte_now_and_then_keeps_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving() as srv, connection(srv.port) as (reader, writer):

            async def trickle() -> None:
                while True:
                    writer.write(b"G")
                    await asyncio.sleep(0.02)

            task = asyncio.create_task(trickle())
            with pytest.raises((ConnectionResetError, AssertionError)):
                assert await reader.read() != b""
            task.cancel()

    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT_S", 0.3)
    run(main())


@pytest.mark.parametrize(
    "request_bytes",
    [
        LIVE.replace(b"GET", b"HEAD"),
        b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /info HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        s.upgrade("/ws/"),
        s.upgrade("/ws/").replace(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"),
    ],
)
def test_requests_may_come_byte_by_byte(request_bytes: bytes) -> None:
    async def main() -> None:
        async with serving() as srv:
            heads = []
            for pieces in ((request_bytes,), (request_bytes[i : i + 1] for i in range(len(request_bytes)))):
                async with connection(srv.port) as (reader, writer):
                    for piece in pieces:
                        writer.write(piece)
                        await asyncio.sleep(0)
                    head = await reader.readuntil(b"\r\n\r\n")
                    heads.append(re.sub(rb"Date: .*\r\n", b"", head))
            assert heads[0] == heads[1]

    run(main())


# Bodies, and requests that cannot be parsed


@pytest.mark.parametrize(
    ("status", "request_bytes", "told"),
    [
        (400, b"GET /health HTTP/1.1\r\n\r\n", "missing mandatory Host"),
        (400, b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "Host"),
        (400, b"GET /health\r\nHost: x\r\n\r\n", "malformed request"),
        (400, b"GET /health HTTP/x\r\nHost: x\r\n\r\n", "malformed request"),
        (400, b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n", "malformed request"),
        (400, b"GET /health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", "malformed request"),
        (400, b"GET /health HTTP/1.1\r\nHost: x\r\nna me: y\r\n\r\n", "malformed request"),
        (400, b"GET /hea\0lth HTTP/1.1\r\nHost: x\r\n\r\n", "malformed request"),
        (400, b"\x01\x02\x03", "not HTTP"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "this port does not speak TLS"),
        (400, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", "PROXY"),
        (400, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", "PROXY protocol"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "use HTTP/1.1"),
        (505, b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", "use HTTP/1.1"),
        (414, b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "the request line is too long"),
        (414, b"GET /" + b"x" * 20_000, "the request line is too long"),
        (431, b"GET /health HTTP/1.1\r\nHost: x\r\nx: " + b"x" * 20_000 + b"\r\n\r\n", "are too long"),
        (431, s.upgrade("/ws/", "x: " + "x" * 20_000), "headers are too long"),
        (431, s.upgrade("/ws/", *["x: y"] * 101), "too many headers"),
        (431, b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * 101 + b"\r\n", "too many headers"),
        (400, b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "malformed request"),
        (400, b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "malf"),
        (
            400,
            b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n",
            "both Transfer-Encoding and Content-Length",
        ),
        (501, b"POST /info HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "malformed request"),
        (400, b"POST /info HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"\r\n\r\nxyz\r\n", "malformed request"),
        (413, b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000, "too long"),
    ],
    ids=range(26),
)  # fmt: skip
def test_what_cannot_be_read_is_explained(
    status: int, request_bytes: bytes, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving() as srv:
            got = await asked(srv.port, request_bytes)
            assert got.status == status
            assert told in got.json()["error"]
            assert not re.search(r"b'|b\"|\\x", got.json()["error"])
            assert got.headers["connection"] == "close"
            await until(lambda: not srv.server.pending_connections)
            assert not srv.hub.opened

    caplog.set_level("INFO")
    run(main())
    assert caplog.text == ""


def test_who_still_sends_a_body_that_is_too_long_gets_the_answer() -> None:
    """A client that is still sending gets the answer without a reset; the rest is discarded."""

    async def main() -> None:
        async with serving() as srv, connection(srv.port) as (reader, writer):
            size = 8 << 20
            writer.write(b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            writer.write(b"x" * size)
            await writer.drain()
            assert (await answer(reader)).status == 413
            assert await reader.read() == b""

    run(main())


def test_a_body_that_waits_to_be_asked_for_is_not_asked_for() -> None:
    async def main() -> None:
        async with serving() as srv:
            head = b"POST /info HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\r\n"
            got = await asked(srv.port, head)
            assert (got.status, got.headers["connection"]) == (404, "close")

    run(main())


def test_a_body_within_the_limit_is_passed_over() -> None:
    async def main() -> None:
        async with serving() as srv, connection(srv.port) as (reader, writer):
            body = b"x" * http_module.MAX_BODY
            for _ in range(3):
                writer.write(
                    b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )
                assert (await answer(reader)).status == 200

    run(main())


@pytest.mark.parametrize(
    "headers",
    [
        "upgrade: websocket\r\nconnection: upgrade",
        "UPGRADE: WebSocket\r\nCONNECTION: Keep-Alive, UPGRADE",
        "Upgrade: h2c, websocket\r\nConnection: Upgrade, HTTP2-Settings",
        "Upgrade:websocket \r\nConnection:Upgrade\t",
        "Upgrade: websocket\r\nConnection: keep-alive\r\nConnection: Upgrade\r\nContent-Length: 0",
    ],
)
def test_handshakes_in_other_spellings(headers: str) -> None:
    async def main() -> None:
        async with serving() as srv, connection(srv.port) as (reader, writer):
            usual = b"Upgrade: websocket\r\nConnection: Upgrade"
            writer.write(b"\r\n" + s.upgrade("/ws/").replace(usual, headers.encode()))
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")

    run(main())


@pytest.mark.parametrize(
    "headers",
    [
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        "Upgrade: websocket\r\nConnection: Upgrade",
        "Upgrade: notwebsocket\r\nConnection: no-upgrade",
    ],
)
def test_a_plain_path_stays_plain_whatever_upgrade_is_offered(headers: str) -> None:
    async def main() -> None:
        async with serving() as srv, connection(srv.port) as (reader, writer):
            writer.write(LIVE[:-2] + headers.encode() + b"\r\n\r\n" + LIVE)
            assert [(await answer(reader)).status for _ in range(2)] == [200, 200]

    run(main())


def test_a_handshake_without_a_host_is_refused() -> None:
    async def main() -> None:
        async with serving() as srv:
            got = await asked(srv.port, s.upgrade("/ws/").replace(b"Host: localhost\r\n", b""))
            assert (got.status, got.json()) == (
                400,
                {"error": "malformed handshake: expected one Host header"},
            )

    run(main())


def test_a_proxy_that_drops_the_upgrade_is_explained() -> None:
    async def main() -> None:
        async with serving() as srv:
            got = await asked(srv.port, b"GET /ws/ HTTP/1.0\r\nConnection: close\r\n\r\n")
            assert got.status == 426
            assert "no Upgrade header, which proxies drop" in got.json()["error"]

    run(main())


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl() -> None:
    """curl, an independent client, works with the options that people and scripts use."""

    async def main() -> None:
        async with serving() as srv:
            url = f"http://127.0.0.1:{srv.port}"
            for options, code in {
                ("-I", f"{url}/health"): 200,
                ("--http1.0", f"{url}/health/live"): 200,
                ("--http2", f"{url}/health/live"): 200,
                ("--http2-prior-knowledge", f"{url}/health/live"): 505,
                ("-x", url, f"{url}/health"): 200,
                ("-X", "OPTIONS", f"{url}/health"): 204,
                ("-d", "{}", f"{url}/info"): 404,
                ("-d", "{}", "-H", "Expect: 100-continue", f"{url}/info"): 404,
                ("-T", "-", f"{url}/health"): 405,
                ("-k", f"https://127.0.0.1:{srv.port}/health"): 0,
            }.items():
                command = [
                    "curl",
                    "-s",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    "--max-time",
                    "20",
                    *options,
                ]
                done = await asyncio.to_thread(
                    subprocess.run, command, input="{}", capture_output=True, text=True, check=False
                )
                if code not in (0, 505):
                    assert (done.returncode, int(done.stdout)) == (0, code), options
                else:
                    assert done.returncode not in (0, 28), options

    run(main(), 120)


def test_a_tls_client_on_a_plain_port_learns_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as srv:
            context = ssl.create_default_context()
            with pytest.raises(ssl.SSLError):
                await asyncio.open_connection("127.0.0.1", srv.port, ssl=context, server_hostname="localhost")

    caplog.set_level("INFO")
    run(main())
    assert caplog.text == ""


def test_what_waits_holds_little_memory() -> None:
    async def main() -> None:
        async with serving() as srv:
            held = []
            for _ in range(20):
                sock = socket.create_connection(("127.0.0.1", srv.port))
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nx: " + b"x" * 15_000)
                held.append(sock)
            await until(lambda: srv.server.pending_connections == len(held))
            for sock in held:
                sock.close()
            await until(lambda: not srv.server.pending_connections)

    run(main())
