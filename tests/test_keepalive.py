"""Pings: an idle client is pinged, and a client that does not answer is closed."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import serving as s
from running import PATIENCE_S
from serving import PicowsClient, RawClient, run, serving, until

from fasttail.connection import keepalive
from fasttail.connection.wire import text_frame


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run 50 times as fast, with the same ratios."""
    for name in ("SWEEP_S", "MAX_SILENCE_S", "PONG_TIMEOUT_S"):
        monkeypatch.setattr(keepalive, name, getattr(keepalive, name) / 50)


def test_a_client_that_gets_nothing_is_pinged_however_much_it_says() -> None:
    async def main() -> None:
        async with serving(ping_interval_s=0.2) as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()

            async def talk() -> None:
                while True:
                    client.send(s.masked(s.TEXT, b"hello"))
                    await asyncio.sleep(0.02)

            talking = asyncio.create_task(talk())
            for _ in range(5):
                assert await client.frame() == (s.PING, b"")
                client.send(s.masked(s.PONG))
            talking.cancel()

    run(main())


def test_a_client_that_gets_something_is_pinged_when_nothing_comes_from_it() -> None:
    async def main() -> None:
        async with serving(ping_interval_s=1000) as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            channel = srv.hub.channels["orderUpdate"]

            async def publish() -> None:
                while True:
                    channel.publish(text_frame(b"x"), 1)
                    await asyncio.sleep(0.01)

            publishing = asyncio.create_task(publish())
            orders = 0
            while (frame := await client.frame()) == (s.TEXT, b"x"):
                orders += 1
            assert frame == (s.PING, b"")
            assert orders > 5
            while (frame := await client.frame()) == (s.TEXT, b"x"):
                pass
            assert (frame[0], frame[1][:2]) == (s.CLOSE, b"\x03\xe9")  # it did not answer
            publishing.cancel()

    run(main())


def test_who_gets_orders_all_the_time_is_not_pinged() -> None:
    async def main() -> None:
        async with serving(ping_interval_s=0.4) as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            for _ in range(200):
                srv.hub.channels["orderUpdate"].publish(text_frame(b"x"), 1)
                client.send(s.masked(s.TEXT, b"hello"))
                assert await client.frame() == (s.TEXT, b"x")
                await asyncio.sleep(0.01)

    run(main())


def test_dead_peers_are_found_and_living_ones_kept() -> None:
    async def main() -> None:
        async with serving(ping_interval_s=0.1, close_timeout_s=0.2) as srv:
            living = await PicowsClient.connect(srv.port)
            dead = await RawClient.connect(srv.port)
            await dead.frame()
            assert await dead.frame() == (s.PING, b"")
            dead.send(s.masked(s.TEXT, b"no pong"))
            opcode, payload = await dead.frame()
            assert (opcode, payload[:2]) == (s.CLOSE, b"\x03\xe9")
            await until(lambda: len(srv.hub.clients) == 1)
            await asyncio.sleep(0.5)
            assert len(srv.hub.clients) == 1
            srv.hub.channels["orderUpdate"].publish(text_frame(b"still here"), 1)
            await living.count(2)

    run(main())


def test_a_slow_client_that_reads_on_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow client whose ping waits behind megabytes of data is alive as long as it reads."""
    # Longer than the kernel's pauses between checks whether a full socket has space.
    monkeypatch.setattr(keepalive, "PONG_TIMEOUT_S", 2.0)

    async def main() -> None:
        async with serving(ping_interval_s=0.1, client_queue=32 << 20) as srv:
            # The queue shrinks once a third of the kernel's buffer is free; with the default buffer, by a
            # megabyte at a time.
            srv.server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
            client = await RawClient.connect(srv.port, receive_buffer=4096)
            (server_side,) = srv.hub.clients
            srv.hub.channels["orderUpdate"].publish(text_frame(bytes(16 << 20)), 1)
            queued = server_side.queued_bytes
            assert queued > 1 << 20
            end = time.monotonic() + 2 * keepalive.PONG_TIMEOUT_S
            while time.monotonic() < end:
                async with asyncio.timeout(PATIENCE_S):
                    while server_side.queued_bytes == queued:
                        await client.reader.readexactly(4096)
                queued = server_side.queued_bytes
                await asyncio.sleep(keepalive.SWEEP_S)
            assert server_side.is_open
            assert queued > 0

    run(main())


def test_a_halted_server_takes_its_own_silence_for_nobodys() -> None:
    async def main() -> None:
        async with serving(ping_interval_s=0.1) as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            assert await client.frame() == (s.PING, b"")
            time.sleep(1)  # noqa: ASYNC251 - the loop stands still, as in a process that was stopped
            client.send(s.masked(s.PONG))
            assert await client.frame() == (s.PING, b"")

    run(main())
