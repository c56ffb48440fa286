"""Runs a real server on a free port, with test clients written from the protocol's description."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from running import PATIENCE_S

from fasttail.connection.connection import Client
from fasttail.connection.hub import Hub
from fasttail.publish import legacy_api as legacy
from fasttail.publish.legacy_api import CHANNELS, OrderBatcher
from fasttail.server.server import Server

T = TypeVar("T")

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


def run(main: Coroutine[Any, Any, T], limit_s: float = PATIENCE_S * 2) -> T:
    """Run a test's coroutine on uvloop, with a time limit."""
    return uvloop.run(asyncio.wait_for(main, limit_s))


@dataclass
class Serving:
    """A started server with its parts, and its answers on /health and /health/live."""

    server: Server
    hub: Hub
    batcher: OrderBatcher
    answers: dict[str, tuple[int, dict[str, Any]]]

    @property
    def port(self) -> int:
        return self.server.port

    def client(self) -> Client:
        """Return the server's view of the only connected client."""
        (client,) = self.hub.clients
        return client


@asynccontextmanager
async def serving(
    *,
    close_timeout_s: float = 5.0,
    max_messages_per_minute: int = 0,
    idle_timeout_s: float = 0.0,
    hub: Hub | None = None,
    **options: Any,
) -> AsyncIterator[Serving]:
    hub = hub or Hub(
        CHANNELS,
        close_timeout_s=close_timeout_s,
        max_messages_per_minute=max_messages_per_minute,
        idle_timeout_s=idle_timeout_s,
    )
    batcher = OrderBatcher()
    answers: dict[str, tuple[int, dict[str, Any]]] = {
        "health": (200, {"status": "ok"}),
        "live": (200, {"status": "ok"}),
    }
    defaults: dict[str, Any] = {
        "health": lambda: answers["health"],
        "live": lambda: answers["live"],
        "metrics": lambda: b"fasttail_up 1\n",
        "port": 0,
    }
    queue = options.pop("client_queue", 4 << 20)
    defaults |= {
        "routes": legacy.routes(hub, queue),
        "status": lambda: legacy.status(hub, batcher),
    }
    server = Server(hub, **(defaults | options))
    await server.start()
    try:
        yield Serving(server, hub, batcher, answers)
    finally:
        await server.stop(1001, wait_s=0.05)
        assert not hub.clients
        assert not any(channel.clients for channel in hub.channels.values())


async def until(condition: Callable[[], bool], limit_s: float = PATIENCE_S) -> None:
    """Wait until `condition` is true; raise TimeoutError if it takes too long."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - no event is set for these conditions
            await asyncio.sleep(0.002)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


async def http(
    port: int,
    path: str,
    *headers: str,
    method: str = "GET",
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send one HTTP request over a new socket, and read the answer.

    Unless `headers` contains a Connection header, it asks to close the connection, and reads to its end.
    """
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    close = [] if any(each.lower().startswith("connection:") for each in headers) else ["Connection: close"]
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", *close, *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n")
    first, *rest = head.split("\r\n")
    pairs = (line.split(": ", 1) for line in rest)
    fields = {name.lower(): value for name, value in pairs}
    if close or "content-length" not in fields:
        body = await reader.read()
    else:
        body = await reader.readexactly(0 if method == "HEAD" else int(fields["content-length"]))
    writer.close()
    return Answer(int(first.split()[1]), fields, body)


def upgrade(path: str, *headers: str, connection: str = "Upgrade") -> bytes:
    """Return a handshake with the key of RFC 6455, 1.3."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: {connection}\r\n"
        + "".join(f"{header}\r\n" for header in headers)
        + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a client's frame."""
    mask = b"\x37\xfa\x21\x3d"
    first = opcode | rsv << 4 | (0x80 if fin else 0)
    if len(payload) < 126:
        head = bytes((first, 0x80 | len(payload)))
    elif len(payload) < 65536:
        head = struct.pack(">BBH", first, 0x80 | 126, len(payload))
    else:
        head = struct.pack(">BBQ", first, 0x80 | 127, len(payload))
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return masked(CLOSE, struct.pack(">H", code) + reason)


class RawClient:
    """A WebSocket client at byte level, which sends only what it is asked to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = ""  # the server's handshake response

    @classmethod
    async def connect(
        cls,
        port: int,
        path: str = "/ws/orderUpdate",
        *,
        connection: str = "Upgrade",
        receive_buffer: int = 0,
        headers: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
    ) -> RawClient:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        # With a small limit, the stream reader stops reading the socket when data is not consumed.
        name = "localhost" if tls else None
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096, ssl=tls, server_hostname=name)
        writer.write(upgrade(path, *headers, connection=connection))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        client = cls(reader, writer)
        client.head = head.decode()
        return client

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self) -> tuple[int, bytes]:
        """Return the next frame as (opcode, payload); it must be whole, unmasked, without reserved bits."""
        first, payload = await self.any_frame()
        assert first & 0xF0 == 0x80
        return first & 0x0F, payload

    async def any_frame(self) -> tuple[int, bytes]:
        """Return the next frame as (first byte, payload); it must be unmasked, in the shortest form."""
        first, second = await self.reader.readexactly(2)
        assert second & 0x80 == 0
        size = second
        if second == 126:
            (size,) = struct.unpack(">H", await self.reader.readexactly(2))
            assert size >= 126
        elif second == 127:
            (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
            assert size >= 65536
        return first, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """Read a close frame, which must come next, followed by the end of the stream."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        (code,) = struct.unpack(">H", payload[:2])
        self.send(close_frame(code))  # harmless if the peer has already closed
        assert await self.reader.read() == b"", "something was written after the close frame"
        return int(code)

    def reset(self) -> None:
        """Abort the connection, so that the peer gets an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class PicowsClient(WSListener):
    """A picows client that keeps all texts and answers a close."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.close_code: int | None = None
        self.transport: WSTransport | None = None

    @classmethod
    async def connect(cls, port: int, path: str = "/ws/orderUpdate") -> PicowsClient:
        url = f"ws://127.0.0.1:{port}{path}"
        transport, client = await ws_connect(cls, url, use_aiofastnet=False)
        assert isinstance(client, cls)
        client.transport = transport
        return client

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.texts.append(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            self.close_code = int.from_bytes(frame.get_payload_as_bytes()[:2], "big")
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    async def count(self, texts: int, limit_s: float = PATIENCE_S) -> None:
        """Wait until that many texts have come, including the greeting."""
        await until(lambda: len(self.texts) >= texts, limit_s)

    async def closed(self) -> int | None:
        assert self.transport is not None
        async with asyncio.timeout(PATIENCE_S):
            await self.transport.wait_disconnected()
        return self.close_code
