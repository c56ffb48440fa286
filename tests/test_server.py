"""Routes, handshakes, limits and the listening socket: a real server and three kinds of real clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import resource
import socket
import subprocess
import time
from typing import Any

import pytest
import serving as s
import websockets
from running import program, wait_for
from serving import PicowsClient, RawClient, http, run, serving, until

from fasttail.connection.hub import Hub
from fasttail.connection.wire import text_frame
from fasttail.publish import legacy_api as legacy
from fasttail.publish.legacy_api import CHANNELS
from fasttail.server import server as server_module
from fasttail.server.access import Access
from fasttail.server.server import Server

# Plain HTTP


def test_plain_answers() -> None:
    async def main() -> None:
        async with serving() as srv:
            srv.answers["live"] = (503, {"status": "stalled", "reason": "…"})
            answer = await http(srv.port, "/health")
            assert (answer.status, answer.json()) == (200, {"status": "ok"})
            assert answer.headers["connection"] == "close"
            assert answer.headers["content-length"] == str(len(answer.body))
            srv.answers["health"] = (503, {"status": "stale"})
            answer = await http(srv.port, "/health?verbose=1")
            assert (answer.status, answer.json()) == (503, {"status": "stale"})
            answer = await http(srv.port, "/health/live")
            assert (answer.status, answer.json()["reason"]) == (503, "…")
            answer = await http(srv.port, "/metrics")
            assert (answer.status, answer.body) == (200, b"fasttail_up 1\n")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")

    run(main())


def test_status_counts_clients_and_pending_orders() -> None:
    async def main() -> None:
        async with serving() as srv:
            await PicowsClient.connect(srv.port, "/ws/")
            await PicowsClient.connect(srv.port, "/ws/orderUpdate?token=1")
            await PicowsClient.connect(srv.port, "/ws/orderBatch")
            srv.batcher.add_orders(b"{},{}", 2)
            await until(lambda: len(srv.hub.clients) == 3)
            answer = await http(srv.port, "/ws/status")
            assert answer.status == 200
            assert answer.json() == {
                "channels": {"orderUpdate": 2, "orderBatch": 1},
                "pending_orders": 2,
                "is_running": True,
            }

    run(main())


@pytest.mark.parametrize("path", ["/", "/ws/other", "/healthz", "/health/", "//", "/%2e%2e/metrics", "*"])
@pytest.mark.parametrize("headers", [(), ("Upgrade: websocket", "Connection: Upgrade")])
def test_an_unknown_path_is_404_and_names_the_known(path: str, headers: tuple[str, ...]) -> None:
    async def main() -> None:
        async with serving() as srv:
            answer = await http(srv.port, path, *headers)
            assert answer.status == 404
            body = answer.json()
            assert body["error"] == "not found"
            assert {"/ws/", "/ws/orderUpdate", "/ws/orderBatch", "/health", "/metrics"} <= set(body["paths"])

    run(main())


def test_the_public_api_path_says_clearly_that_it_is_not_here() -> None:
    async def main() -> None:
        async with serving() as srv:
            answer = await http(srv.port, "/ws", "Upgrade: websocket")
            assert answer.status == 404
            assert "/ws/orderUpdate" in answer.json()["error"]

    run(main())


def test_a_channel_without_upgrade_is_426() -> None:
    async def main() -> None:
        async with serving() as srv:
            answer = await http(srv.port, "/ws/orderUpdate")
            assert answer.status == 426
            assert answer.headers["upgrade"] == "websocket"
            assert "WebSocket" in answer.json()["error"]

    run(main())


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION = "Sec-WebSocket-Version: 13"


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (426, ("Connection: Upgrade",), "Sec-WebSocket-Version: expected 13"),
        (426, ("Connection: Upgrade", "Sec-WebSocket-Version: 8", KEY), "Sec-WebSocket-Version: expected 13"),
        (
            426,
            ("Connection: Upgrade", "Sec-WebSocket-Version: 12", KEY),
            "Sec-WebSocket-Version: expected 13",
        ),
        (400, ("Connection: Upgrade", VERSION), "Sec-WebSocket-Key: expected 16 bytes"),
        (400, ("Connection: Upgrade", VERSION, "Sec-WebSocket-Key: short"), "Sec-WebSocket-Key: expected 16"),
        (
            400,
            ("Connection: Upgrade", VERSION, "Sec-WebSocket-Key: SGVsbG8sIHdvcmxkIQ=="),
            "expected 16 bytes",
        ),
        (400, ("Connection: Upgrade", VERSION, KEY, KEY), "Sec-WebSocket-Key: expected 16 bytes"),
        (426, ("Connection: close", VERSION, KEY), "with Upgrade: websocket and Connection: Upgrade"),
        (426, ("Connection: Upgrade", VERSION, KEY, "Content-Length: 2", "", "{}"), "without a body"),
    ],
)
def test_a_bad_handshake_is_explained_and_leaves_no_client(
    status: int, headers: tuple[str, ...], told: str
) -> None:
    async def main() -> None:
        async with serving() as srv:
            answer = await http(srv.port, "/ws/", "Upgrade: websocket", *headers)
            assert answer.status == status
            assert told in answer.json()["error"]
            if "Version" in told:
                assert answer.headers["sec-websocket-version"] == "13"
            assert srv.hub.opened == 0
            assert not srv.hub.clients

    run(main())


def test_a_failing_answer_is_500_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bytes:
        raise ValueError("a secret")

    async def main() -> None:
        async with serving(metrics=broken) as srv:
            answer = await http(srv.port, "/metrics")
            assert (answer.status, answer.json()) == (500, {"error": "internal server error"})
            assert (await http(srv.port, "/health")).status == 200

    run(main())
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "a secret" in caplog.text


def test_a_large_answer_arrives_whole() -> None:
    text = b"fasttail_x 1\n" * 100_000

    async def main() -> None:
        async with serving(metrics=lambda: text) as srv:
            assert (await http(srv.port, "/metrics")).body == text

    run(main())


# Handshakes of other clients


CONNECTIONS = ["keep-alive, Upgrade", "keep-alive,upgrade", "UPGRADE", "a, upgrade , b"]


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_firefox_is_let_in(connection: str) -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port, "/ws/", connection=connection)
            assert json.loads((await client.frame())[1])["type"] == "connected"

    run(main())


def test_a_handshake_in_pieces_with_a_message_behind_it() -> None:
    async def main() -> None:
        async with serving() as srv:
            reader, writer = await asyncio.open_connection("127.0.0.1", srv.port)
            handshake = s.upgrade("/ws/")
            for byte in handshake[:-1]:
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            writer.write(handshake[-1:] + s.masked(s.TEXT, b"ping"))
            await reader.readuntil(b"\r\n\r\n")
            client = RawClient(reader, writer)
            assert json.loads((await client.frame())[1])["type"] == "connected"
            assert await client.frame() == (s.TEXT, b"pong")

    run(main())


def test_the_websockets_package_as_client() -> None:
    async def main() -> None:
        async with serving() as srv, websockets.connect(f"ws://127.0.0.1:{srv.port}/ws/") as client:
            assert json.loads(await client.recv())["channel"] == "orderUpdate"
            await client.send("ping")
            assert await client.recv() == "pong"
            await client.send(["pi", "n", "g"])  # in three fragments
            assert await client.recv() == "pong"
            await (await client.ping(b"x" * 125))
            data = b"".join(text_frame(b'{"n":%d}' % number) for number in range(1000))
            assert srv.hub.channels["orderUpdate"].publish(data, 1000) == 1
            assert [json.loads(await client.recv())["n"] for _ in range(1000)] == list(range(1000))
            assert srv.hub.connection_counters()["messages_sent"]["orderUpdate"] == 1000
            await client.send("close")
            with pytest.raises(websockets.ConnectionClosedOK):
                await client.recv()
            assert client.close_code == 1000

    run(main())


def test_channels_do_not_mix_and_many_frames_in_one_write_arrive_as_many() -> None:
    async def main() -> None:
        async with serving() as srv:
            updates = [await PicowsClient.connect(srv.port, path) for path in ("/ws/", "/ws/orderUpdate")]
            batches = await PicowsClient.connect(srv.port, "/ws/orderBatch")
            await until(lambda: len(srv.hub.clients) == 3)
            channels = srv.hub.channels
            assert channels["orderUpdate"].publish(text_frame(b"a") + text_frame(b"b"), 2) == 2
            assert channels["orderUpdate"].publish(b"", 0) == 0
            srv.batcher.add_orders(b'{"id":"1"},{"id":"2"}', 2)
            for data, orders in srv.batcher.flush():
                assert channels["orderBatch"].publish(data, orders, messages=1) == 1
            for client in updates:
                await client.count(3)
                assert client.texts[1:] == [b"a", b"b"]
            await batches.count(2)
            assert json.loads(batches.texts[1])["data"] == {"orders": [{"id": "1"}, {"id": "2"}], "count": 2}
            counts = srv.hub.connection_counters()
            assert counts["messages_sent"] == {"orderUpdate": 4, "orderBatch": 1}
            assert counts["orders_sent"] == {"orderUpdate": 4, "orderBatch": 2}
            assert counts["bytes_sent"]["orderUpdate"] == 2 * 2 * 3

    run(main())


# Limits


def test_clients_past_the_limit_are_refused_until_one_goes() -> None:
    async def main() -> None:
        async with serving(max_clients=2) as srv:
            first = await PicowsClient.connect(srv.port)
            await PicowsClient.connect(srv.port)
            answer = await http(srv.port, "/ws/", "Upgrade: websocket", "Connection: Upgrade")
            assert answer.status == 503
            assert answer.json() == {"error": "too many clients", "limit": 2}
            assert "retry-after" in answer.headers
            assert (await http(srv.port, "/health")).status == 200
            assert srv.hub.connection_counters()["refused"] == 1
            assert first.transport is not None
            first.transport.disconnect()
            await until(lambda: len(srv.hub.clients) == 1)
            await PicowsClient.connect(srv.port)

    run(main())


def test_the_limit_of_descriptors_lowers_the_limit_of_clients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(max_clients=1000) as srv:
            assert srv.server.max_clients == 256 - server_module.RESERVED_DESCRIPTORS

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    run(main())
    assert re.search(r"WARNING .*lowered to 192.*256", caplog.text)


def test_who_does_not_finish_the_handshake_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving() as srv:
            reader, writer = await asyncio.open_connection("127.0.0.1", srv.port)
            writer.write(s.upgrade("/ws/")[:-2])
            async with asyncio.timeout(120):
                assert await reader.read() == b""
            writer.close()

    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT_S", 0.2)
    caplog.set_level("INFO")
    run(main())
    assert caplog.text == ""


@pytest.mark.fault(33)
@pytest.mark.parametrize("bounded", [True, False], ids=["bounded", "accept fails"])
def test_too_few_descriptors_kill_nothing(bounded: bool) -> None:
    """Connections beyond the descriptor limit are closed, and the server then works as before."""
    # If the server does not know the limit, the kernel reports it on accept.
    command = [*program("few_descriptors"), "before" if bounded else "after"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        held = [socket.create_connection(("127.0.0.1", port), timeout=120) for _ in range(100)]
        shed: set[socket.socket] = set()

        def enough() -> bool:
            for sock in held:
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    try:
                        if sock.recv(1) == b"":
                            shed.add(sock)
                    except ConnectionResetError:
                        shed.add(sock)
            return len(shed) > (50 if bounded else 0)

        wait_for("the surplus to be shed", enough)
        for sock in held:
            sock.close()

        async def alive() -> int:
            return (await http(port, "/health")).status

        deadline = time.monotonic() + 120
        status = 0
        while status != 200 and time.monotonic() < deadline:
            try:
                status = run(alive())
            except (OSError, IndexError):
                time.sleep(0.05)  # refused again: the old connections are still being closed
        assert status == 200
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "ERROR" not in errors
    assert "Traceback" not in errors
    assert ("cannot accept connections: Too many open files" in errors) is not bounded


# The listening socket


def test_stop_closes_clients_and_the_port() -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await PicowsClient.connect(srv.port)
            port = srv.port
            await srv.server.stop(1001, "bye")
            assert await client.closed() == 1001
            assert srv.server.sockets == ()
            with pytest.raises(ConnectionRefusedError):
                await http(port, "/health")
            await srv.server.stop(1001)

    run(main())


def options(**more: Any) -> dict[str, Any]:
    def ok() -> tuple[int, dict[str, Any]]:
        return 200, {"status": "ok"}

    defaults = {"health": ok, "live": ok, "metrics": lambda: b"", "routes": {}, "status": dict, "port": 0}
    return defaults | more


def test_connections_wait_while_the_sockets_change_hands() -> None:
    """As in a restart, a new server takes over the sockets, and no connection is refused."""

    async def main() -> None:
        async with serving() as srv:
            old = await PicowsClient.connect(srv.port)
            await srv.server.stop(1012, keep_sockets=True)
            assert await old.closed() == 1012
            waiting = asyncio.create_task(PicowsClient.connect(srv.port))
            asking = asyncio.create_task(http(srv.port, "/health"))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            assert not asking.done()
            hub = Hub(CHANNELS)
            sockets = [sock.dup() for sock in srv.server.sockets]
            heir = Server(hub, **options(sockets=sockets, routes=legacy.routes(hub, 4 << 20)))
            await heir.start()
            assert heir.port == srv.port
            client = await waiting
            assert (await asking).status == 200
            await client.count(1)
            await heir.stop(1001)
            assert await client.closed() == 1001

    run(main())


def test_a_taken_port_is_told_in_one_line() -> None:
    async def main() -> None:
        async with serving() as srv:
            other = Server(Hub(CHANNELS), **options(port=srv.port))
            with pytest.raises(OSError, match=rf"listen on 127\.0\.0\.1:{srv.port}: Address already in use"):
                await other.start()

    run(main())


def test_a_host_that_does_not_exist_is_told_in_one_line() -> None:
    async def main() -> None:
        server = Server(Hub(CHANNELS), **options(host="nowhere.invalid"))
        with pytest.raises(OSError, match=r"cannot listen on nowhere\.invalid:0: ."):
            await server.start()

    run(main())


def ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


NEEDS_IPV6 = pytest.mark.skipif(not ipv6(), reason="no IPv6 here")


@pytest.mark.parametrize(
    ("host", "sockets"),
    [
        ("", 1 + ipv6()),
        ("*", 1 + ipv6()),
        ("0.0.0.0", 1),
        ("127.0.0.1", 1),
        pytest.param("::1", 1, marks=NEEDS_IPV6),
        pytest.param("[::1]", 1, marks=NEEDS_IPV6),
    ],
)
def test_every_address_of_a_host_has_the_same_port(host: str, sockets: int) -> None:
    async def main() -> None:
        async with serving(host=host) as srv:
            assert [sock.getsockname()[1] for sock in srv.server.sockets] == [srv.port] * sockets
            for sock in srv.server.sockets:
                where = "::1" if sock.family == socket.AF_INET6 else "127.0.0.1"
                assert (await http(srv.port, "/health", host=where)).status == 200

    run(main())


@NEEDS_IPV6
def test_two_colons_are_every_address_of_both_kinds() -> None:
    async def main() -> None:
        async with serving(host="::") as srv:
            assert len(srv.server.sockets) == 1
            assert srv.server.listen_address == f"[::]:{srv.port}"
            for where in ("127.0.0.1", "::1"):
                assert (await http(srv.port, "/health", host=where)).status == 200

    run(main())


@pytest.mark.parametrize(
    ("host", "guarded", "warned"),
    [
        ("127.0.0.1", False, False),
        ("localhost", False, False),
        ("0.0.0.0", False, True),
        ("*", False, True),
        ("0.0.0.0", True, False),
    ],
)
def test_a_port_that_is_open_to_all_is_told_at_the_start(
    host: str, guarded: bool, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(host=host, access=Access(origins=["https://a.example"] if guarded else ())):
            pass

    run(main())
    found = re.findall(r"WARNING .* may connect: neither token_file nor allowed_origins is set", caplog.text)
    assert len(found) == warned
    assert not re.search("ERROR|⏰|❌", caplog.text)


def test_only_the_loopback_is_listened_on_by_default() -> None:
    async def main() -> None:
        async with serving() as srv:
            assert [sock.getsockname()[0] for sock in srv.server.sockets] == ["127.0.0.1"]

    run(main())


# The operators' log


def test_clients_write_nothing_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Connecting, disconnecting, requests and misbehaviour write no line at the operators' log level."""

    async def main() -> None:
        async with serving() as srv:
            client = await PicowsClient.connect(srv.port)
            await http(srv.port, "/nothing")
            await http(srv.port, "/health", method="PUT")
            rude = await RawClient.connect(srv.port)
            rude.send(text_frame(b"ERROR") + b"\xff" * 100)
            await rude.reader.read()
            assert client.transport is not None
            client.transport.send_close()
            await client.transport.wait_disconnected()
            await until(lambda: not srv.hub.clients)
            assert srv.hub.protocol_faults >= 1

    caplog.set_level(logging.INFO)
    run(main())
    # The test's client is also picows, and its lines are not the server's.
    assert [record for record in caplog.records if not record.name.startswith("picows.client")] == []


def test_a_failure_of_ours_in_a_listener_is_logged_as_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: object, payload: bytes) -> None:
        raise ZeroDivisionError("ours")

    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            client.send(s.masked(s.TEXT, b"ping"))
            assert await client.close_code() == 1011
            await until(lambda: not srv.hub.clients)
            assert srv.hub.protocol_faults == 0

    monkeypatch.setattr("fasttail.publish.legacy_api.LegacyClient.on_text", broken)
    run(main())
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelname == "ERROR"
    assert record.name == "fasttail.server.server"
    assert "ZeroDivisionError: ours" in caplog.text
