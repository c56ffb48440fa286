"""Queues, slow clients, closing, and what clients may send: on real sockets, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import struct
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import serving as s
from serving import PicowsClient, RawClient, run, serving, until

from fasttail.connection.channel import Channel
from fasttail.connection.incoming import MAX_INCOMING
from fasttail.connection.wire import text_frame
from fasttail.publish.legacy_api import LegacyClient, OrderBatcher, greeting, iso_time

# Frames and times


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
def test_a_text_frame_is_what_other_implementations_read(size: int) -> None:
    async def main() -> None:
        payload = b"x" * size
        async with serving() as srv:
            plain = await PicowsClient.connect(srv.port)
            raw = await RawClient.connect(srv.port)
            await until(lambda: len(srv.hub.channels["orderUpdate"].clients) == 2)
            assert srv.hub.channels["orderUpdate"].publish(text_frame(payload), 1) == 2
            await raw.frame()
            assert await raw.frame() == (s.TEXT, payload)
            await plain.count(2)
            assert plain.texts[1] == payload

    run(main())


def test_times_are_written_like_those_of_the_old_service() -> None:
    assert iso_time(1753250400.074937) == "2025-07-23T06:00:00.074937"
    assert iso_time(1753250400) == "2025-07-23T06:00:00.000000"


def test_greeting() -> None:
    assert greeting("orderBatch", 1753250400)[2:] == (
        b'{"type":"connected","channel":"orderBatch","timestamp":"2025-07-23T06:00:00.000000"}'
    )


# What an old client may send


@pytest.mark.parametrize(
    ("path", "channel"),
    [("/ws/", "orderUpdate"), ("/ws/orderUpdate", "orderUpdate"), ("/ws/orderBatch", "orderBatch")],
)
def test_old_clients_are_greeted_and_answered(path: str, channel: str) -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port, path)
            opcode, payload = await client.frame()
            hello = json.loads(payload)
            assert opcode == s.TEXT
            assert list(hello) == ["type", "channel", "timestamp"]
            assert hello["type"] == "connected"
            assert hello["channel"] == channel
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", hello["timestamp"])
            assert srv.hub.connection_counters()["clients"][channel] == 1

            client.send(s.masked(s.TEXT, b"ping"))
            assert await client.frame() == (s.TEXT, b"pong")
            for ignored in (b"hello", b"PING", b"", "grüß".encode(), b'{"type":"ping"}', b'["method"]'):
                client.send(s.masked(s.TEXT, ignored))
            client.send(s.masked(s.BINARY, b"ping") + s.masked(s.BINARY, b"\xff\xfe"))
            client.send(s.masked(s.PING, b"are you there"))
            assert await client.frame() == (s.PONG, b"are you there")
            client.send(s.masked(s.PONG, b"unasked"))
            client.send(s.masked(s.TEXT, b"close"))
            assert await client.close_code() == 1000
            await until(lambda: not srv.hub.clients)
            assert srv.hub.protocol_faults == 0

    run(main())


@pytest.mark.parametrize(
    "text",
    [
        b'{"method":"subscribe","subscription":{"type":"l2Book","coin":"BTC"}}',
        b' {"id":1, "method": "post"}',
        b'{"method":"ping"}',
    ],
)
@pytest.mark.parametrize("path", ["/ws/", "/ws/orderUpdate", "/ws/orderBatch"])
def test_who_takes_an_old_channel_for_the_public_protocol_is_told_once(path: str, text: bytes) -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port, path)
            await client.frame()
            client.send(s.masked(s.TEXT, text) * 3 + s.masked(s.TEXT, b"ping"))
            opcode, payload = await client.frame()
            answer = json.loads(payload)
            assert (opcode, answer["channel"]) == (s.TEXT, "error")
            assert "old service's channel" in answer["data"]
            assert "the public protocol is at /ws," in answer["data"]
            assert await client.frame() == (s.TEXT, b"pong")

    run(main())


def test_fragments_are_put_together_with_control_frames_between() -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            client.send(s.masked(s.TEXT, b"p", fin=False) + s.masked(s.CONTINUATION, fin=False))
            client.send(s.masked(s.PING, b"1") + s.masked(s.CONTINUATION, b"ing"))
            assert await client.frame() == (s.PONG, b"1")
            assert await client.frame() == (s.TEXT, b"pong")
            # A fragmented binary message is not treated as text.
            client.send(s.masked(s.BINARY, b"pi", fin=False) + s.masked(s.CONTINUATION, b"ng"))
            client.send(s.masked(s.PING, b"2"))
            assert await client.frame() == (s.PONG, b"2")

    run(main())


LARGE = b"x" * MAX_INCOMING


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(s.masked(s.TEXT, LARGE + b"x"), 1009, id="large frame"),
        pytest.param(
            s.masked(s.TEXT, LARGE, fin=False) + s.masked(s.CONTINUATION, b"x"), 1009, id="large message"
        ),
        pytest.param(s.masked(s.TEXT, b"ping", rsv=4), 1002, id="compressed without agreement"),
        pytest.param(s.masked(s.PING, b"", rsv=1), 1002, id="reserved bit of a ping"),
        pytest.param(s.masked(s.CLOSE, b"\x03\xe8", rsv=2), 1002, id="reserved bit of a close"),
        pytest.param(s.masked(s.TEXT, b"ping\xff"), 1007, id="no UTF-8"),
        pytest.param(s.masked(s.TEXT, b"\xed\xa0\x80"), 1007, id="a surrogate"),
        pytest.param(
            s.masked(s.TEXT, b"\xce", fin=False) + s.masked(s.CONTINUATION, b"\xce"),
            1007,
            id="no UTF-8 over fragments",
        ),
        pytest.param(s.masked(s.TEXT, b"\xe2\x82"), 1007, id="cut UTF-8"),
        pytest.param(s.close_frame(1000, b"\xff"), 1007, id="close with a reason of no UTF-8"),
        pytest.param(s.masked(s.CONTINUATION, b"ping"), 1002, id="continuation of nothing"),
        pytest.param(
            s.masked(s.TEXT, b"p", fin=False) + s.masked(s.TEXT, b"ping"), 1002, id="unfinished message"
        ),
        pytest.param(text_frame(b"ping"), 1002, id="no mask"),
        pytest.param(s.masked(0x3, b"ping"), 1002, id="unknown opcode"),
        pytest.param(s.masked(s.PING, b"x" * 126), 1002, id="large ping"),
        pytest.param(s.masked(s.PING, b"x", fin=False), 1002, id="fragmented ping"),
        pytest.param(s.close_frame(999), 1002, id="close 999"),
        pytest.param(s.close_frame(1005), 1002, id="close 1005"),
        pytest.param(s.close_frame(1006), 1002, id="close 1006"),
        pytest.param(s.close_frame(0), 1002, id="close 0"),
        pytest.param(s.close_frame(5000), 1002, id="close 5000"),
        pytest.param(s.masked(s.CLOSE, b"\x03"), 1002, id="close with half a code"),
    ],
)
def test_a_breach_of_the_protocol_closes_and_is_no_error_of_ours(
    frames: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            client.send(frames)
            assert await client.close_code() == code
            await until(lambda: not srv.hub.clients)
            assert srv.hub.connection_counters()["protocol_faults"] == 1

    caplog.set_level("DEBUG")
    run(main())
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    assert "ERROR" not in caplog.text


def test_a_message_of_the_largest_size_is_taken() -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            client.send(s.masked(s.TEXT, LARGE))
            client.send(s.masked(s.TEXT, LARGE[:-1], fin=False) + s.masked(s.CONTINUATION, b"x"))
            client.send(s.masked(s.TEXT, b"ping"))
            assert await client.frame() == (s.TEXT, b"pong")

    run(main())


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (s.close_frame(1000), 1000),
        (s.close_frame(1001, b"bye"), 1001),
        (s.close_frame(1014), 1014),
        (s.close_frame(3000), 3000),
        (s.close_frame(4999, "grüß".encode()), 4999),
        (s.masked(s.CLOSE), 1000),
    ],
)
def test_the_peers_close_is_answered_in_kind(frame: bytes, code: int) -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            client.send(frame)
            client.send(s.masked(s.TEXT, b"ping"))  # too late: not answered
            assert await client.close_code() == code
            await until(lambda: not srv.hub.clients)
            assert srv.hub.protocol_faults == 0

    run(main())


def test_nothing_is_heard_from_a_client_once_it_is_being_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    async def main() -> None:
        async with serving() as srv:
            asked = await RawClient.connect(srv.port)
            await asked.frame()
            asked.send(s.masked(s.TEXT, b"close") + s.masked(s.TEXT, b"too late"))
            assert await asked.close_code() == 1000
            rude = await RawClient.connect(srv.port)
            await rude.frame()
            rude.send(s.close_frame(999))
            for _ in range(5):
                await asyncio.sleep(0.001)
                with contextlib.suppress(RuntimeError):  # the connection has already ended
                    rude.send(s.masked(s.TEXT, b"after a bad close"))
            await until(lambda: not srv.hub.clients)

    taken = LegacyClient.on_text

    def text(self: LegacyClient, payload: bytes) -> None:
        heard.append(payload)
        taken(self, payload)

    monkeypatch.setattr(LegacyClient, "on_text", text)
    run(main())
    assert heard == [b"close"]


def test_a_character_may_be_cut_by_fragments(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            euro = "€".encode()
            client.send(s.masked(s.TEXT, euro[:1], fin=False))
            client.send(s.masked(s.CONTINUATION, euro[1:2], fin=False))
            client.send(s.masked(s.CONTINUATION, euro[2:]) + s.masked(s.PING))
            assert await client.frame() == (s.PONG, b"")

    monkeypatch.setattr(LegacyClient, "on_text", lambda self, payload: heard.append(payload))
    run(main())
    assert heard == ["€".encode()]


# Clients that send too much, or nothing


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(s.masked(s.TEXT, b"hello"), id="texts"),
        pytest.param(s.masked(s.BINARY, b"hello"), id="binary messages"),
        pytest.param(s.masked(s.PING), id="pings"),
        pytest.param(s.masked(s.CONTINUATION, fin=False), id="fragments"),
    ],
)
def test_too_many_messages_a_minute_close_with_1008(frame: bytes) -> None:
    async def main() -> None:
        async with serving(max_messages_per_minute=30) as srv:
            other = await RawClient.connect(srv.port)
            client = await RawClient.connect(srv.port)
            await client.frame()
            first = s.masked(s.TEXT, fin=False) if frame[0] == s.CONTINUATION else frame
            client.send(first + frame * 29 + s.masked(s.PONG) * 100)
            await asyncio.sleep(0.05)
            assert not any(each.closing for each in srv.hub.clients), "as many as may, and all the pongs"
            client.send(frame)
            if frame[0] & 0xF == s.PING:
                for _ in range(30):
                    assert await client.frame() == (s.PONG, b"")
            assert await client.frame() == (s.CLOSE, b"\x03\xf0too many messages: at most 30 a minute")
            assert srv.hub.connection_counters()["closed_flooding"] == 1
            await other.frame()
            other.send(s.masked(s.TEXT, b"ping"))
            assert await other.frame() == (s.TEXT, b"pong")

    run(main())


def test_the_messages_of_a_minute_come_back_as_it_passes() -> None:
    async def main() -> None:
        async with serving(max_messages_per_minute=600) as srv:  # ten per second
            client = await RawClient.connect(srv.port)
            await client.frame()
            client.send(s.masked(s.BINARY) * 600)
            await asyncio.sleep(0.35)
            client.send(s.masked(s.BINARY) * 2 + s.masked(s.TEXT, b"ping"))
            assert await client.frame() == (s.TEXT, b"pong")
            client.send(s.masked(s.BINARY) * 600)
            assert await client.close_code() == 1008

    run(main())


@pytest.fixture
def waiting_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clients subject to the idle timeout, like clients of /ws without subscriptions."""
    monkeypatch.setattr(LegacyClient, "exempt_from_idle", property(lambda client: False))


def test_an_idle_client_is_closed_and_pings_do_not_count(waiting_for_nothing: None) -> None:
    async def main() -> None:
        async with serving(idle_timeout_s=0.4) as srv:
            loop = asyncio.get_running_loop()
            client = await RawClient.connect(srv.port)
            await client.frame()
            began = loop.time()
            client.send(s.masked(s.PING))
            while (frame := await client.frame()) == (s.PONG, b""):
                await asyncio.sleep(0.02)
                client.send(s.masked(s.PING) + s.masked(s.PONG))
            assert frame == (s.CLOSE, b"\x03\xe8idle: no subscription and no message")
            assert loop.time() - began > 0.35
            assert srv.hub.connection_counters()["closed_idle"] == 1

    run(main())


def test_who_sends_is_not_idle(waiting_for_nothing: None) -> None:
    async def main() -> None:
        async with serving(idle_timeout_s=3.0) as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            for _ in range(8):
                await asyncio.sleep(0.5)
                client.send(s.masked(s.TEXT, b"nothing that is answered"))
            assert len(srv.hub.clients) == 1
            assert srv.hub.connection_counters()["closed_idle"] == 0

    run(main())


def test_who_waits_for_orders_is_not_idle() -> None:
    async def main() -> None:
        async with serving(idle_timeout_s=0.1) as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            await asyncio.sleep(0.5)
            assert len(srv.hub.clients) == 1
            assert srv.hub.connection_counters()["closed_idle"] == 0

    run(main())


def test_an_idle_timer_keeps_no_client(no_collector: None) -> None:
    async def main() -> None:
        async with serving(idle_timeout_s=300) as srv:
            client = await RawClient.connect(srv.port)
            await client.frame()
            gone = weakref.ref(srv.client())
            client.reset()
            await until(lambda: not srv.hub.clients)
            await until(lambda: gone() is None)

    run(main())


# Slow clients

PIECE = 64 * 1024


def numbered(number: int, size: int = PIECE) -> bytes:
    return text_frame(b"%08d" % number + b"x" * (size - 8))


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Disable the garbage collector, so that only reference counts free memory."""
    gc.disable()
    yield
    gc.enable()


async def fill_until(condition: Callable[[], bool], channel: Channel) -> None:
    """Publish to clients that do not read until the condition holds."""
    for _ in range(500):
        if condition():
            return
        channel.publish(numbered(0), 1)
        await asyncio.sleep(0)
    pytest.fail("32 MB were not enough")


def test_a_stalled_client_is_closed_and_delays_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A client that reads nothing is closed; one that reads gets each message before the next one is sent."""

    async def main() -> None:
        limit = 1 << 20
        async with serving(client_queue=limit) as srv:
            channel = srv.hub.channels["orderUpdate"]
            stalled = await RawClient.connect(srv.port, receive_buffer=4096)
            await until(lambda: len(channel.clients) == 1)
            slow = srv.client()
            fast = await PicowsClient.connect(srv.port)
            await until(lambda: len(channel.clients) == 2)
            sent = most_queued = 0
            while srv.hub.closed_slow == 0:
                taken = channel.publish(numbered(sent), 1)
                sent += 1
                assert taken == (2 if srv.hub.closed_slow == 0 else 1)
                most_queued = max(most_queued, slow.queued_bytes)
                await fast.count(1 + sent, limit_s=120)
                assert sent < 500, "the queue never filled"
            given = sent - 1
            for _ in range(20):
                assert channel.publish(numbered(sent), 1) == 1
                sent += 1
            await fast.count(1 + sent)
            assert [int(text[:8]) for text in fast.texts[1:]] == list(range(sent))
            assert limit < most_queued <= limit + len(numbered(0))
            assert slow.queued_bytes <= limit + len(numbered(0)) + 64  # including the close frame
            assert slow.closing
            assert slow.send(numbered(0)) is False
            assert channel.clients == srv.hub.clients - {slow}
            assert channel.orders_sent == channel.messages_sent == given * 2 + 21

            # Once it reads again, all queued messages are complete and in order, then 1013 and nothing more.
            await stalled.frame()
            for number in range(given):
                assert (await stalled.frame())[1][:8] == b"%08d" % number
            assert await stalled.close_code() == 1013
            await until(lambda: srv.hub.clients == set(channel.clients))
            assert srv.hub.connection_counters()["closed_slow"] == 1

    caplog.set_level("INFO", "fasttail")
    run(main())
    (record,) = [record for record in caplog.records if record.name.startswith("fasttail")]
    assert record.levelname == "INFO"
    assert re.fullmatch(r"client 127\.0\.0\.1:\d+ is too slow \(\d+ bytes queued\): closing", record.message)


def test_clients_that_are_too_slow_again_and_again_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every slow client is counted, but the log has only one line per minute."""

    async def main() -> None:
        async with serving(client_queue=100_000, close_timeout_s=0.05) as srv:
            channel = srv.hub.channels["orderUpdate"]
            for turn in range(1, 6):
                client = await RawClient.connect(srv.port, receive_buffer=4096)
                await until(lambda: len(channel.clients) == 1)
                await fill_until(lambda turn=turn: srv.hub.closed_slow == turn, channel)  # type: ignore[misc]
                client.reset()
                await until(lambda: not srv.hub.clients)

    caplog.set_level("INFO", "fasttail")
    run(main())
    assert [record.message.count("is too slow") for record in caplog.records] == [1]


def test_clients_that_are_cut_off_again_and_again_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with serving() as srv:
            channel = srv.hub.channels["orderUpdate"]
            for turn in range(1, 6):
                client = await RawClient.connect(srv.port, receive_buffer=4096)
                await until(lambda: len(channel.clients) == 1)
                await fill_until(lambda: srv.client().queued_bytes > 100_000, channel)
                assert srv.hub.shed_slowest()[0] == 1
                assert srv.hub.shed_clients == turn
                client.reset()
                await until(lambda: not srv.hub.clients)

    caplog.set_level("INFO", "fasttail")
    run(main())
    assert [record.message.count(" disconnected: ") for record in caplog.records] == [1]


def test_a_picows_client_that_pauses_is_told_1013() -> None:
    async def main() -> None:
        async with serving(client_queue=256 * 1024) as srv:
            channel = srv.hub.channels["orderUpdate"]
            client = await PicowsClient.connect(srv.port)
            await until(lambda: len(channel.clients) == 1)
            assert client.transport is not None
            client.transport.underlying_transport.pause_reading()
            await fill_until(lambda: not channel.clients, channel)
            client.transport.underlying_transport.resume_reading()
            assert await client.closed() == 1013

    run(main())


def test_a_stalled_client_that_never_wakes_is_dropped_with_its_queue(no_collector: None) -> None:
    async def main() -> None:
        async with serving(client_queue=256 * 1024, close_timeout_s=0.2) as srv:
            channel = srv.hub.channels["orderUpdate"]
            stalled = await RawClient.connect(srv.port, receive_buffer=4096)
            await until(lambda: len(channel.clients) == 1)
            gone = weakref.ref(srv.client())
            await fill_until(lambda: not channel.clients, channel)
            assert srv.hub.connection_counters()["queued_bytes"] > 256 * 1024
            await until(lambda: not srv.hub.clients)
            assert srv.hub.connection_counters()["queued_bytes"] == 0
            await until(lambda: gone() is None)  # otherwise a cycle keeps it alive
            stalled.writer.close()

    run(main())


def test_one_large_write_does_not_close_a_client_that_keeps_up() -> None:
    async def main() -> None:
        async with serving(client_queue=64 * 1024) as srv:
            client = await PicowsClient.connect(srv.port)
            channel = srv.hub.channels["orderUpdate"]
            await until(lambda: len(channel.clients) == 1)
            for number in range(3):
                assert channel.publish(numbered(number, 1 << 20) * 16, 16) == 1
                await client.count(1 + 16 * (number + 1))
            assert srv.hub.closed_slow == 0

    run(main())


def test_pings_of_a_client_that_does_not_read_fill_its_own_queue_only() -> None:
    """Pongs count toward the queue, so a flood of pings cannot make the server hold more."""

    async def main() -> None:
        async with serving(client_queue=64 * 1024, close_timeout_s=0.2) as srv:
            client = await RawClient.connect(srv.port, receive_buffer=4096)
            await until(lambda: len(srv.hub.clients) == 1)
            known = srv.client()
            flood = s.masked(s.PING, b"x" * 125) * 200

            async def write() -> None:
                while True:
                    client.send(flood)
                    await client.writer.drain()

            writing = asyncio.create_task(write())
            try:
                async with asyncio.timeout(120):
                    while srv.hub.closed_slow == 0:
                        assert known.queued_bytes <= 64 * 1024 + 127
                        await asyncio.sleep(0)
            finally:
                writing.cancel()
            # the last answer and the close frame
            assert 64 * 1024 < known.queued_bytes <= 64 * 1024 + 2 * 127
            await until(lambda: not srv.hub.clients)

    run(main())


# Connecting and disconnecting


def test_clients_that_reset_at_any_moment_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as srv:
            channel = srv.hub.channels["orderUpdate"]
            made: list[weakref.ref[object]] = []

            async def come_and_go(number: int) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", srv.port)
                client = RawClient(reader, writer)
                handshake = s.upgrade("/ws/")
                client.send(handshake[: number % (len(handshake) + 1)] if number % 2 else handshake)
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                made.extend(weakref.ref(known) for known in srv.hub.clients)
                client.reset()

            for start in range(0, 400, 40):
                await asyncio.gather(*(come_and_go(start + i) for i in range(40)))
                channel.publish(numbered(0), 1)
            await until(lambda: not srv.hub.clients)
            assert not channel.clients
            assert made
            await until(lambda: gc.collect() >= 0 and all(known() is None for known in made))
            assert (await s.http(srv.port, "/health")).status == 200

    caplog.set_level("INFO")
    run(main())
    assert caplog.text == ""


def test_a_peer_that_ended_its_side_without_reading_is_let_go() -> None:
    """A half-closed connection with a full queue would otherwise wait for its peer forever."""

    async def main() -> None:
        async with serving(client_queue=1 << 30, close_timeout_s=0.2) as srv:
            channel = srv.hub.channels["orderUpdate"]
            client = await RawClient.connect(srv.port, receive_buffer=4096)
            await until(lambda: len(channel.clients) == 1)
            known = srv.client()
            await fill_until(lambda: known.queued_bytes > 1 << 20, channel)
            client.writer.write_eof()
            await until(lambda: channel.publish(numbered(0), 1) == 0)
            assert not channel.clients
            await until(lambda: not srv.hub.clients)

    run(main())


def test_a_stalled_peer_that_breaks_the_protocol_is_let_go() -> None:
    """A stalled client that sends an unmasked frame is dropped. picows answers the frame itself and then
    waits for the queue to drain.
    """

    async def main() -> None:
        async with serving(client_queue=1 << 30, close_timeout_s=0.2) as srv:
            channel = srv.hub.channels["orderUpdate"]
            client = await RawClient.connect(srv.port, receive_buffer=4096)
            await until(lambda: len(channel.clients) == 1)
            known = srv.client()
            await fill_until(lambda: known.queued_bytes > 1 << 20, channel)
            before = known.queued_bytes
            client.send(text_frame(b"not masked"))
            await until(lambda: known.queued_bytes > before)  # by its close frame
            queued = known.queued_bytes
            assert channel.publish(numbered(0), 1) == 0
            assert known.queued_bytes == queued
            await until(lambda: not srv.hub.clients)
            assert srv.hub.protocol_faults == 1

    run(main())


def test_close_all_closes_with_the_code_and_drops_who_does_not_go() -> None:
    async def main() -> None:
        async with serving(close_timeout_s=30) as srv:
            polite = await PicowsClient.connect(srv.port, "/ws/orderBatch")
            deaf = await RawClient.connect(srv.port)
            await deaf.frame()
            await until(lambda: len(srv.hub.clients) == 2)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await srv.hub.close_all(1012, "restarting", wait_s=0.3)
            assert loop.time() - began > 0.25
            assert not srv.hub.clients
            assert await polite.closed() == 1012
            opcode, payload = await deaf.frame()
            assert (opcode, payload) == (s.CLOSE, struct.pack(">H", 1012) + b"restarting")
            # New connections are refused.
            assert (await s.http(srv.port, "/ws/", "Upgrade: websocket", "Connection: Upgrade")).status == 503

    run(main())


def test_close_all_does_not_wait_when_all_have_gone() -> None:
    async def main() -> None:
        async with serving() as srv:
            clients = [await PicowsClient.connect(srv.port) for _ in range(20)]
            await until(lambda: len(srv.hub.clients) == 20)
            await srv.hub.close_all(1001, wait_s=10_000)  # longer than any test may take
            assert [await client.closed() for client in clients] == [1001] * 20

    run(main())


# orderBatch


def orders(first: int, count: int, size: int = 20) -> bytes:
    return b",".join(b'{"id":"%0*d"}' % (size, number) for number in range(first, first + count))


def payload_of(frame: bytes) -> bytes:
    size = frame[1]
    return frame[2:] if size < 126 else frame[4:] if size == 126 else frame[10:]


def test_a_batch_message_has_the_old_shape() -> None:
    batcher = OrderBatcher()
    assert batcher.flush(0) == []
    assert batcher.add_orders(orders(0, 2), 2) is False
    assert batcher.add_orders(b"", 0) is False
    assert batcher.add_orders(orders(2, 1), 1) is False
    assert batcher.pending_orders == 3
    ((frame, count),) = batcher.flush(1753250400.5)
    assert count == 3
    assert (batcher.pending_orders, batcher.pending_bytes) == (0, 0)
    assert payload_of(frame) == (
        b'{"type":"orderBatch","channel":"orderBatch","timestamp":"2025-07-23T06:00:00.500000",'
        b'"data":{"orders":[' + orders(0, 3) + b'],"count":3}}'
    )
    assert batcher.flush(1) == []


@pytest.mark.parametrize("max_message", [512, 1000, 4096, 256 * 1024])
def test_batch_messages_keep_their_limit_and_lose_nothing(max_message: int) -> None:
    batcher = OrderBatcher(max_message)
    number = 0
    for index in range(300):
        count = 1 + index * 7 % 5
        piece = orders(number, count)
        assert len(piece) <= batcher.max_fragment
        batcher.add_orders(piece, count)
        number += count
    frames = batcher.flush()
    seen = []
    for frame, count in frames:
        payload = payload_of(frame)
        assert len(payload) <= max_message
        data = json.loads(payload)["data"]
        assert len(data["orders"]) == data["count"] == count
        seen += [int(order["id"]) for order in data["orders"]]
    assert seen == list(range(number))
    # Messages are packed: no two neighbours would fit into one.
    sizes = [len(payload_of(frame)) for frame, _ in frames]
    assert all(a + b > max_message - OrderBatcher.OVERHEAD for a, b in pairwise(sizes))


def test_the_overhead_covers_the_largest_count() -> None:
    batcher = OrderBatcher()
    batcher.add_orders(b"{}", 10**18)
    assert len(payload_of(batcher.flush(1753250400)[0].data)) <= OrderBatcher.OVERHEAD


def test_a_piece_above_the_limit_goes_out_alone() -> None:
    batcher = OrderBatcher(512)
    batcher.add_orders(orders(0, 1), 1)
    batcher.add_orders(orders(1, 100), 100)
    batcher.add_orders(orders(101, 1), 1)
    assert [count for _, count in batcher.flush()] == [1, 100, 1]


def test_a_full_batcher_asks_to_be_flushed() -> None:
    batcher = OrderBatcher(high_water=1000)
    piece = orders(0, 10)
    while not batcher.add_orders(piece, 10):
        assert batcher.pending_bytes < 1000
    assert 1000 <= batcher.pending_bytes < 1000 + len(piece)
    batcher.flush()
    assert batcher.add_orders(piece, 10) is False


def test_a_message_limit_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_message"):
        OrderBatcher(511)
