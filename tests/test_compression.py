"""permessage-deflate: negotiation and both directions, byte by byte and with another implementation."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import zlib

import pytest
import serving as s
import websockets
from hypothesis import given
from hypothesis import strategies as st
from serving import RawClient, run, serving, until
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from fasttail.connection import compression
from fasttail.connection.compression import Compression, FrameCompressor
from fasttail.connection.incoming import MAX_INCOMING
from fasttail.connection.wire import pong_frame, text_frame
from fasttail.publish.legacy_api import LegacyClient

PMD = "permessage-deflate"
PLAIN = f"{PMD}; server_no_context_takeover"
TAIL = b"\x00\x00\xff\xff"


def noisy(size: int) -> bytes:
    """Return text that hardly compresses."""
    generator = random.Random(1)
    return bytes(generator.randrange(33, 127) for _ in range(size))


def offered(*headers: str) -> str | None:
    extension = Compression().negotiate(headers)
    return extension.response_header if extension is not None else None


# The negotiation


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (PMD, PLAIN),
        ("PerMessage-Deflate", PLAIN),
        (f"{PMD}; server_no_context_takeover", PLAIN),
        (f"{PMD};client_no_context_takeover", f"{PLAIN}; client_no_context_takeover"),
        (f"{PMD}; client_max_window_bits", PLAIN),
        (f"{PMD}; client_max_window_bits=8", PLAIN),
        (f'{PMD}; client_max_window_bits="10"', PLAIN),
        (f"{PMD}; server_max_window_bits=15", f"{PLAIN}; server_max_window_bits=15"),
        (f"{PMD}; server_max_window_bits=12", f"{PLAIN}; server_max_window_bits=9"),
        (f"{PMD} ; server_max_window_bits = 9", f"{PLAIN}; server_max_window_bits=9"),
        (f"{PMD}; server_max_window_bits=8", None),  # zlib has no such window
        (f"{PMD}; server_max_window_bits=8, {PMD}", PLAIN),
        (f"{PMD}; server_max_window_bits", None),
        (f"{PMD}; server_max_window_bits=16", None),
        (f"{PMD}; server_max_window_bits=015", None),
        (f"{PMD}; server_max_window_bits=x", None),
        (f"{PMD}; client_max_window_bits=7", None),
        (f"{PMD}; client_max_window_bits=16", None),
        (f"{PMD}; server_no_context_takeover=1", None),
        (f"{PMD}; client_no_context_takeover=true", None),
        (f"{PMD}; unheard_of", None),
        (f"{PMD}; unheard_of, {PMD}; client_no_context_takeover", f"{PLAIN}; client_no_context_takeover"),
        (f"{PMD}; client_max_window_bits; client_max_window_bits", None),
        ("x-webkit-deflate-frame", None),
        (f'other; a="x, {PMD}; y\\"", {PMD}', PLAIN),
        (f'other; a="x, {PMD}', None),  # the quote is unterminated
        (f" , ,{PMD},", PLAIN),
        (f"{PMD} nonsense", None),
        ("", None),
        (";", None),
    ],
)
def test_which_offer_is_taken(offer: str, answer: str | None) -> None:
    assert offered(offer) == answer


def test_offers_may_stand_in_several_headers() -> None:
    assert offered("a; b=c", f"{PMD}; unknown", f"{PMD}; client_max_window_bits") == PLAIN


@given(st.text(alphabet=';,="\\ \tabpermessage-deflate01', max_size=60))
def test_no_header_is_an_error(text: str) -> None:
    offered(text)
    offered(f"{PMD}; {text}")


def test_long_nonsense_takes_no_time() -> None:
    for text in ('a; b="' * 2000, "a;b=" * 4000, "; " * 8000, "a," * 8000, 'a;b="\\' * 2500, " " * 16_000):
        offered(text)


def test_without_the_setting_nothing_is_negotiated() -> None:
    async def main() -> None:
        async with serving() as srv:
            client = await RawClient.connect(srv.port, headers=(f"Sec-WebSocket-Extensions: {PMD}",))
            assert "extensions" not in client.head.lower()
            await client.frame()
            client.send(s.masked(s.TEXT, b"ping", rsv=4))
            assert await client.close_code() == 1002

    run(main())


# Outgoing messages


def inflated(payload: bytes, bits: int = 15) -> bytes:
    """Inflate in small steps: within one call, zlib also accepts references beyond the window."""
    inflate = zlib.decompressobj(-bits)
    message = inflate.decompress(payload + TAIL, 128)
    while inflate.unconsumed_tail:
        message += inflate.decompress(inflate.unconsumed_tail, 128)
    return message + inflate.flush()


def split(data: bytes) -> list[tuple[int, bytes]]:
    frames = []
    at = 0
    while at < len(data):
        size, begin = data[at + 1], at + 2
        if size == 126:
            size, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif size == 127:
            size, begin = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        frames.append((data[at], data[begin : begin + size]))
        at = begin + size
    assert at == len(data)
    return frames


@pytest.mark.parametrize("bits", [15, 9])
@pytest.mark.parametrize("sizes", [[100], [100, 1000], [0, 64, 63, 5000, 65536, 300_000, 1, 70], []])
def test_frames_are_compressed_one_by_one(bits: int, sizes: list[int]) -> None:
    payloads = [(b'{"order":%d},' % size * size)[:size] for size in sizes]
    data = b"".join(text_frame(payload) for payload in payloads)
    frames = split(FrameCompressor(bits).compress_frames(data))
    assert len(frames) == len(payloads)
    for (first, payload), whole in zip(frames, payloads, strict=True):
        if len(whole) < 64:
            assert (first, payload) == (0x81, whole), "too short to be worth it"
        else:
            assert first == 0xC1
            assert inflated(payload, bits) == whole, "no frame needs another, nor a larger window"
            assert len(payload) < len(whole) / 2


def test_what_does_not_shrink_and_what_is_no_text_stays_as_it_is() -> None:
    noise = noisy(70)
    data = text_frame(noise) + pong_frame(b"a" * 100) + b"\x88\x02\x03\xe8"
    compressor = FrameCompressor()
    assert compressor.compress_frames(data) == data
    assert split(compressor.compress_frames(text_frame(b"a" * 100) + data))[1:] == split(data)


def test_a_frame_is_compressed_once_for_all_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = zlib.compressobj

    def counted(level: int, method: int, bits: int) -> zlib._Compress:
        made.append(bits)
        return make(level, method, bits)

    async def main() -> None:
        async with serving(compression=Compression()) as srv:
            offers = [PMD] * 5 + [f"{PMD}; server_max_window_bits={bits}" for bits in (9, 10, 12, 14)]
            clients = [
                await RawClient.connect(srv.port, headers=(f"Sec-WebSocket-Extensions: {offer}",))
                for offer in offers
            ]
            plain = await RawClient.connect(srv.port)
            for client in (*clients, plain):
                await client.any_frame()
            made.clear()
            # The payload repeats itself at a distance beyond the small window.
            payload = noisy(1000) * 3
            data = text_frame(payload) * 3
            assert srv.hub.channels["orderUpdate"].publish(data, 3) == 10
            for number, client in enumerate(clients):
                for _ in range(3):
                    first, got = await client.any_frame()
                    assert first == 0xC1
                    assert inflated(got, 15 if number < 5 else 9) == payload
            for _ in range(3):
                assert await plain.frame() == (s.TEXT, payload)
            assert len(made) == 3 * 2, "each frame once for each of the two windows, for nine clients"

    monkeypatch.setattr(zlib, "compressobj", counted)
    run(main())


def test_who_is_told_of_a_gap_in_between_does_not_make_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = zlib.compressobj
    monkeypatch.setattr(zlib, "compressobj", lambda *options: made.append(1) or make(*options))  # type: ignore[func-returns-value]
    compressor = FrameCompressor()
    message = text_frame(b'{"channel":"orders"}' * 50)
    expected = compressor.compress_frames(message)
    for number in range(5):
        compressor.compress_frames(text_frame(b'{"channel":"gap","data":{"orders":%d}}' % number * 9))
        assert compressor.compress_frames(message) is expected
    assert len(made) == 1 + 5


def test_messages_of_one_size_are_not_taken_for_each_other() -> None:
    compressor = FrameCompressor()
    messages = [bytes([65 + number]) * 100 for number in range(3)]
    for payload in messages * 2:
        ((first, deflated_payload),) = split(compressor.compress_frames(text_frame(payload)))
        assert (first, inflated(deflated_payload)) == (0xC1, payload)


def test_the_answer_to_the_handshake_names_what_was_agreed() -> None:
    async def main() -> None:
        async with serving(compression=Compression()) as srv:
            offer = f"Sec-WebSocket-Extensions: {PMD}; client_max_window_bits; server_max_window_bits=11"
            client = await RawClient.connect(srv.port, headers=(offer,))
            assert f"Sec-WebSocket-Extensions: {PLAIN}; server_max_window_bits=9\r\n" in client.head
            first, payload = await client.any_frame()
            assert first == 0xC1
            assert json.loads(inflated(payload, 9))["type"] == "connected"
            client.send(s.masked(s.PING, b"x" * 100))
            assert await client.frame() == (s.PONG, b"x" * 100), "control frames are never compressed"
            other = await RawClient.connect(srv.port, headers=(f"Sec-WebSocket-Extensions: {PMD}; what",))
            assert "extensions" not in other.head.lower()
            assert json.loads((await other.frame())[1])["type"] == "connected"

    run(main())


def test_the_queue_counts_what_is_really_written() -> None:
    async def main() -> None:
        async with serving(compression=Compression(), client_queue=64 * 1024) as srv:
            channel = srv.hub.channels["orderUpdate"]
            headers = (f"Sec-WebSocket-Extensions: {PMD}",)
            stalled = await RawClient.connect(srv.port, receive_buffer=4096, headers=headers)
            await until(lambda: len(channel.clients) == 1)
            message = noisy(4096)
            for _ in range(20_000):
                channel.publish(text_frame(message), 1)
                if srv.hub.closed_slow:
                    break
            assert srv.hub.closed_slow == 1
            code = 0
            while not code:
                first, payload = await stalled.any_frame()
                code = int.from_bytes(payload[:2], "big") if first == 0x88 else 0
            assert code == 1013

    run(main())


# Incoming messages


class Heard:
    """Records what LegacyClient.text() receives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[bytes] = []
        monkeypatch.setattr(LegacyClient, "on_text", lambda client, payload: self.texts.append(payload))


def deflated(text: bytes, deflate: zlib._Compress | None = None) -> bytes:
    deflate = deflate or zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def compressing(port: int, parameters: str = "") -> RawClient:
    client = await RawClient.connect(port, headers=(f"Sec-WebSocket-Extensions: {PMD}{parameters}",))
    await client.any_frame()
    return client


async def heard_all(client: RawClient) -> None:
    client.send(s.masked(s.PING, b"done"))
    assert await client.frame() == (s.PONG, b"done")


def test_compressed_messages_whole_and_in_fragments(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard(monkeypatch)

    async def main() -> None:
        async with serving(compression=Compression()) as srv:
            client = await compressing(srv.port)
            client.send(s.masked(s.TEXT, deflated(b"hello" * 10), rsv=4))
            pieces = deflated("grüße ".encode() * 20)
            client.send(s.masked(s.TEXT, pieces[:5], rsv=4, fin=False) + s.masked(s.PING, b"between"))
            assert await client.frame() == (s.PONG, b"between")
            client.send(s.masked(s.CONTINUATION, pieces[5:9], fin=False))
            client.send(s.masked(s.CONTINUATION, pieces[9:]))
            client.send(s.masked(s.TEXT, b"plain"))
            client.send(s.masked(s.TEXT, b"\x00", rsv=4))  # an empty message (RFC 7692, 7.2.3.6)
            client.send(s.masked(s.BINARY, deflated(b"thrown away"), rsv=4))
            # The RFC's own examples: 7.2.3.1, and with the final bit set, 7.2.3.4.
            client.send(s.masked(s.TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4))
            client.send(s.masked(s.TEXT, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", rsv=4))
            client.send(s.masked(s.TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4))
            await heard_all(client)

    run(main())
    assert heard.texts == [b"hello" * 10, "grüße ".encode() * 20, b"plain", b"", b"Hello", b"Hello", b"Hello"]


def test_a_client_may_refer_back_unless_it_said_that_it_will_not(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard(monkeypatch)
    text = noisy(500)

    async def main() -> None:
        async with serving(compression=Compression()) as srv:
            keeps = await compressing(srv.port)
            deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
            messages = [deflated(text, deflate) for _ in range(3)]
            assert len(messages[1]) < 20, "it does refer back"
            for message in messages:
                keeps.send(s.masked(s.TEXT, message, rsv=4))
            await heard_all(keeps)
            forgets = await compressing(srv.port, "; client_no_context_takeover")
            assert "client_no_context_takeover" in forgets.head
            for message in messages[:2]:
                forgets.send(s.masked(s.TEXT, message, rsv=4))
            assert await forgets.close_code() == 1007

    run(main())
    assert heard.texts == [text] * 4


BOMB = deflated(b"x" * 50_000_000)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(s.masked(s.TEXT, deflated(b"x" * MAX_INCOMING + b"x"), rsv=4), 1009, id="one byte more"),
        pytest.param(s.masked(s.TEXT, BOMB, rsv=4), 1009, id="a bomb"),
        pytest.param(s.masked(s.BINARY, BOMB, rsv=4), 1009, id="a binary bomb"),
        pytest.param(
            s.masked(s.TEXT, BOMB[:100], rsv=4, fin=False) + s.masked(s.CONTINUATION, BOMB[100:]),
            1009,
            id="a bomb in fragments",
        ),
        pytest.param(s.masked(s.TEXT, b"\xff\xff\xff", rsv=4), 1007, id="nonsense"),
        pytest.param(s.masked(s.TEXT, deflated(b"\xff\xfe" * 50), rsv=4), 1007, id="no UTF-8"),
        pytest.param(s.masked(s.TEXT, deflated(b"x"), rsv=4 | 2), 1002, id="another reserved bit"),
        pytest.param(s.masked(s.PING, b"", rsv=4), 1002, id="a compressed ping"),
        pytest.param(s.masked(s.CLOSE, b"\x03\xe8", rsv=4), 1002, id="a compressed close"),
        pytest.param(
            s.masked(s.TEXT, b"p", rsv=4, fin=False) + s.masked(s.CONTINUATION, b"ing", rsv=4),
            1002,
            id="the bit in a continuation",
        ),
    ],
)
def test_what_ends_the_connection(frames: bytes, code: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(compression=Compression()) as srv:
            client = await compressing(srv.port)
            client.send(frames)
            assert await client.close_code() == code
            await until(lambda: not srv.hub.clients)
            assert srv.hub.protocol_faults == 1

    run(main())
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_a_message_of_the_largest_size_inflates(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard(monkeypatch)

    async def main() -> None:
        async with serving(compression=Compression()) as srv:
            client = await compressing(srv.port)
            client.send(s.masked(s.TEXT, deflated(b"x" * MAX_INCOMING), rsv=4))
            await heard_all(client)

    run(main())
    assert heard.texts == [b"x" * MAX_INCOMING]


def test_a_bomb_is_not_inflated_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    extension = Compression().negotiate([PMD])
    assert extension is not None
    sizes: list[int] = []

    class Spy:
        eof = False

        def __init__(self, wbits: int) -> None:
            self.real = inflater(wbits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            out = self.real.decompress(data, limit)
            sizes.append(len(out))
            return out

    inflater = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Spy)
    with pytest.raises(compression.MessageTooBig):
        extension.inflate(BOMB, 1000)
    assert sizes == [1001]


# Other implementations


def test_firefox_compresses_with_us() -> None:
    """Firefox's own headers, in its order, negotiate compression."""
    sent = (
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Accept: */*",
        "Accept-Language: en-US,en;q=0.5",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Sec-WebSocket-Version: 13",
        "Origin: http://127.0.0.1",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Connection: keep-alive, Upgrade",
        "Sec-Fetch-Dest: empty",
        "Sec-Fetch-Mode: websocket",
        "Sec-Fetch-Site: cross-site",
        "Pragma: no-cache",
        "Cache-Control: no-cache",
        "Upgrade: websocket",
    )

    async def main() -> None:
        async with serving(compression=Compression()) as srv:
            reader, writer = await asyncio.open_connection("127.0.0.1", srv.port)
            writer.write(("\r\n".join(("GET /ws/ HTTP/1.1", "Host: x", *sent)) + "\r\n\r\n").encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 101 ")
            assert f"Sec-WebSocket-Extensions: {PLAIN}\r\n" in head
            client = RawClient(reader, writer)
            first, payload = await client.any_frame()
            assert first == 0xC1
            assert json.loads(inflated(payload))["type"] == "connected"

    run(main())


@pytest.mark.parametrize(
    "factory",
    [
        ClientPerMessageDeflateFactory(),
        ClientPerMessageDeflateFactory(client_no_context_takeover=True),
        ClientPerMessageDeflateFactory(server_max_window_bits=10, client_max_window_bits=10),
    ],
    ids=["default", "no takeover", "small windows"],
)
def test_the_websockets_package_compresses_with_us(factory: ClientPerMessageDeflateFactory) -> None:
    async def main() -> None:
        async with serving(compression=Compression()) as srv:
            url = f"ws://127.0.0.1:{srv.port}/ws/"
            async with websockets.connect(url, compression=None, extensions=[factory]) as client:
                assert [extension.name for extension in client.protocol.extensions] == [PMD]
                assert json.loads(await client.recv())["type"] == "connected"
                for _ in range(3):
                    await client.send("ping")
                    assert await client.recv() == "pong"
                sent = [json.dumps({"n": number, "coin": "BTC" * (number % 50)}) for number in range(500)]
                data = b"".join(text_frame(text.encode()) for text in sent)
                assert srv.hub.channels["orderUpdate"].publish(data, len(sent)) == 1
                assert [await client.recv() for _ in sent] == sent

    run(main())


def test_a_client_with_compression_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with serving(compression=Compression()) as srv:
            client = await compressing(srv.port)
            client.send(s.masked(s.TEXT, deflated(b"x"), rsv=4))
            await heard_all(client)
            client.reset()
            await until(lambda: not srv.hub.clients)
            await asyncio.sleep(0.01)

    run(main())
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, compression.DeflateExtension)]
