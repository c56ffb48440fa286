"""Who may connect: token, origins, connections per address and before the handshake. Real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import resource
import signal
import subprocess
import weakref
from pathlib import Path

import pytest
import serving as s
from multidict import CIMultiDict
from running import command, serve
from serving import PicowsClient, RawClient, http, run, serving, until

from fasttail.config import ConfigError, ServeSettings
from fasttail.server import server as server_module
from fasttail.server.acceptor import Peer
from fasttail.server.access import MAX_TOKEN, Access, LocalEndpoint, is_loopback, read_token

TOKEN = "s3cr3t+/=~.x"
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade")
HANDSHAKE = (*UPGRADE, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
GUARDED = ["/ws/", "/ws/orderUpdate", "/ws/orderBatch", "/ws/status", "/metrics"]
CHANNELS = GUARDED[:3]

# The token


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ((), ""),
        ((), "?token="),
        ((), "?token=" + TOKEN[:-1]),
        ((), "?token=" + TOKEN + "x"),
        ((), "?Token=" + TOKEN),
        ((), "?xtoken=" + TOKEN),
        (("Authorization: Bearer",), ""),
        (("Authorization: Bearer wrong",), ""),
        (("Authorization: Basic " + TOKEN,), ""),
        (("Authorization: " + TOKEN,), ""),
        (("Authorization: Bearer \xff",), "?token=%ff%00"),
        (("Cookie: token=" + TOKEN,), ""),
    ],
)
def test_without_the_token_it_is_401(
    path: str, headers: tuple[str, ...], query: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(access=Access(token=TOKEN.encode())) as srv:
            answer = await http(srv.port, path + query, *UPGRADE, *headers)
            assert answer.status == 401
            assert answer.json() == {"error": "the token is missing or wrong"}
            assert answer.headers["www-authenticate"] == "Bearer"
            assert not srv.hub.clients
            assert srv.hub.connection_counters()["refused"] == (path in CHANNELS)

    caplog.set_level(0)
    run(main())
    assert TOKEN[:-1] not in caplog.text


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        (("Authorization: Bearer " + TOKEN,), ""),
        (("authorization: bearer  " + TOKEN,), "?a=b"),
        ((), "?token=" + TOKEN),
        ((), "?a=b&token=s3cr3t%2B%2f%3D%7E%2Ex&c"),
        (("Authorization: Basic eDp5",), "?token=" + TOKEN),
    ],
)
def test_with_the_token_all_is_open(
    headers: tuple[str, ...], query: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(access=Access(token=TOKEN.encode())) as srv:
            for path in CHANNELS:
                client = await RawClient.connect(srv.port, path + query, headers=headers)
                assert (await client.frame())[0] == s.TEXT
            for path in ("/ws/status", "/metrics"):
                assert (await http(srv.port, path + query, *headers)).status == 200

    caplog.set_level(0)
    run(main())
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "request_text",
    [
        f"GET /ws?token={TOKEN} HTTP/1.1\r\n\r\n",
        f"GET /nothing?token={TOKEN} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"POST /ws?token={TOKEN} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /ws/?token={TOKEN} HTTP/1.0\r\nHost: x\r\n\r\n",
        f"GET /ws/?token={TOKEN}\r\nHost: x\r\n\r\n",
        f"/ws/?token={TOKEN}\r\n\r\n",
        f"GET /ws/?token={TOKEN} HTTP/1.1\r\nHost x {TOKEN}\r\n\r\n",
        f"GET /ws/ HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {TOKEN}\r\n\r\n",
        f"GET /ws/?token={TOKEN} HTTP/1.1\r\nUpgrade: websocket\r\nConnection: x\r\n\r\n",
        f"GET /ws/?token={TOKEN} HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        f"GET /ws/?token={TOKEN} HTTP/1.1\r\nX: {'x' * 70_000}\r\n\r\n",
        f"GET /ws/\xff?token={TOKEN} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\xff\r\n\r\n",
    ],
    ids=range(12),
)
def test_the_token_of_a_request_that_cannot_be_met_is_not_logged_either(
    request_text: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with serving(access=Access(token=TOKEN.encode())) as srv:
            reader, writer = await asyncio.open_connection("127.0.0.1", srv.port)
            writer.write(request_text.encode("latin-1"))
            writer.write_eof()
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                answer = await reader.read()
            assert b" 101 " not in answer
            assert TOKEN.encode() not in answer
            writer.close()

    caplog.set_level(0)
    run(main())
    assert TOKEN not in caplog.text
    assert TOKEN not in "".join(capfd.readouterr())


def test_health_needs_no_token() -> None:
    async def main() -> None:
        async with serving(access=Access(token=TOKEN.encode())) as srv:
            for path in ("/health", "/health/live"):
                assert (await http(srv.port, path)).status == 200
            assert (await http(srv.port, "/nothing")).status == 404

    run(main())


def test_the_token_is_nowhere_to_be_seen_in_what_holds_it() -> None:
    access = Access(token=TOKEN.encode())
    assert TOKEN not in repr(access) + repr(vars(access))


@pytest.mark.parametrize("content", [b"abc", b"abc\n", b"abc\r\n", b"abc\n\n"], ids=range(4))
def test_a_token_file(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o640)
    assert read_token(path) == b"abc"
    assert caplog.text == ""
    path.chmod(0o644)
    assert read_token(path) == b"abc"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(path) in record.message
    assert "abc" not in record.message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file or directory"),
        (b"", "empty: expected a token in one line"),
        (b"\n\n", "empty: expected a token in one line"),
        (b"hidden\nhidden", "expected one line of at most 4096 ASCII characters, without blanks"),
        (b"hid den", "expected one line"),
        (b"\xff\xfehidden", "expected one line"),
        (b"hidden" * MAX_TOKEN, "expected one line"),
    ],
)
def test_a_token_file_that_is_of_no_use(content: bytes | None, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=expected) as caught:
        read_token(path)
    assert str(path) in str(caught.value)
    assert "hid" not in str(caught.value)
    assert "\n" not in str(caught.value)


# Origins


def test_only_pages_of_the_allowed_origins_may_connect() -> None:
    async def main() -> None:
        async with serving(access=Access(origins=("https://app.example", "http://localhost:3000"))) as srv:
            for origin in ("https://app.example", "HTTPS://App.Example", "http://localhost:3000"):
                client = await RawClient.connect(srv.port, headers=(f"Origin: {origin}",))
                await client.frame()
            program = await RawClient.connect(srv.port)
            await program.frame()
            wrong = ("https://evil.example", "http://app.example", "https://app.example:8443", "null", "")
            for origin in wrong:
                answer = await http(srv.port, "/ws/", *UPGRADE, f"Origin: {origin}")
                assert answer.status == 403
                assert answer.json() == {"error": "this origin is not allowed"}
            both = ("Origin: https://app.example", "Origin: https://evil.example")
            assert (await http(srv.port, "/ws/", *UPGRADE, *both)).status == 403
            assert srv.hub.connection_counters()["refused"] == 6

    run(main())


@pytest.mark.parametrize(
    ("origin", "host", "fits"),
    [
        ("http://127.0.0.1:{port}", "127.0.0.1:{port}", True),  # as the Python SDK does
        ("http://127.0.0.1:{port}", "x", True),  # the address on which the connection arrived
        ("http://localhost:{port}", "localhost:{port}", True),
        ("HTTP://LocalHost:{port}", "x", True),
        ("http://192.0.2.7:{port}", "192.0.2.7:{port}", True),  # behind a container's NAT
        ("http://[2001:db8::7]:{port}", "[2001:db8::7]:{port}", True),
        ("http://192.0.2.7:{port}", "127.0.0.1:{port}", False),  # another host's page on the same port
        ("http://127.0.0.2:{port}", "127.0.0.1:{port}", True),  # loopback, like the next one
        ("http://[::1]:{port}", "127.0.0.1:{port}", True),
        ("http://[::2]:{port}", "127.0.0.1:{port}", False),
        ("https://127.0.0.1:{port}", "127.0.0.1:{port}", False),
        ("http://127.0.0.1:9", "127.0.0.1:9", False),
        ("http://127.0.0.1", "127.0.0.1", False),
        ("http://127.0.0.1:{port}0", "127.0.0.1:{port}0", False),
        ("http://rebound.example:{port}", "rebound.example:{port}", False),
        ("http://127.0.0.1.evil.example:{port}", "127.0.0.1.evil.example:{port}", False),
        ("http://localhost.evil.example:{port}", "localhost.evil.example:{port}", False),
        ("http://evil@127.0.0.1:{port}", "127.0.0.1:{port}", False),
        ("http://2130706433:{port}", "2130706433:{port}", False),
        ("http://127.1:{port}", "127.1:{port}", False),
        ("http://127.0.0.1:{port}/", "127.0.0.1:{port}", False),
        ("null", "127.0.0.1:{port}", False),
    ],
)
def test_our_own_address_as_an_origin_passes_and_a_name_has_to_be_listed(
    origin: str, host: str, fits: bool
) -> None:
    async def main() -> None:
        async with serving(access=Access(origins=("https://app.example",))) as srv:
            headers = f"Host: {host}\r\nOrigin: {origin}\r\n".format(port=srv.port)
            reader, writer = await asyncio.open_connection("127.0.0.1", srv.port)
            writer.write(s.upgrade("/ws/").replace(b"Host: localhost\r\n", headers.encode()))
            status = int((await reader.readuntil(b"\r\n")).split()[1])
            writer.close()
            assert status == (101 if fits else 403)

    run(main())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_default_port_need_not_be_named(scheme: str) -> None:
    access = Access(origins=("https://app.example",))
    here = LocalEndpoint("192.0.2.7", {"http": 80, "https": 443}[scheme], scheme)
    for host in ("192.0.2.7", f"192.0.2.7:{here.port}", "x"):
        assert access.check_origin(CIMultiDict(Origin=f"{scheme}://192.0.2.7", Host=host), here)
    assert not access.check_origin(CIMultiDict(Origin=f"{scheme}://192.0.2.8", Host="192.0.2.7"), here)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True), ("LOCALHOST", True), ("127.0.0.1", True), ("127.255.0.9", True), ("::1", True),
        ("[::1]", True), ("::ffff:127.0.0.1", True), ("127.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False), ("127.1", False), ("0.0.0.0", False), ("::", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(host: str, is_here: bool) -> None:
    assert is_loopback(host) is is_here


def test_without_a_list_any_origin_may() -> None:
    async def main() -> None:
        async with serving() as srv:
            await RawClient.connect(srv.port, headers=("Origin: https://any.example",))

    run(main())


# Connections per address


PROXIES = (ipaddress.ip_network("127.0.0.0/8"),)
ONE, TWO = "X-Forwarded-For: 10.1.1.1", "X-Forwarded-For: 10.1.1.2"


def test_an_address_has_so_many_connections_until_one_goes() -> None:
    async def main() -> None:
        async with serving(access=Access(max_per_address=2, proxies=PROXIES)) as srv:
            first = await RawClient.connect(srv.port, headers=(ONE,))
            second = await RawClient.connect(srv.port, "/ws/orderBatch", headers=(ONE,))
            answer = await http(srv.port, "/ws/", *HANDSHAKE, ONE)
            assert answer.status == 429
            assert answer.json() == {"error": "too many clients from this address", "limit": 2}
            assert int(answer.headers["retry-after"]) > 0
            assert (await http(srv.port, "/health", ONE)).status == 200
            assert srv.hub.connection_counters()["refused"] == 1
            other = await RawClient.connect(srv.port, headers=(TWO,))
            other.reset()
            first.reset()
            await until(lambda: len(srv.hub.clients) == 1)
            for _ in range(5):  # failed handshakes are not counted
                assert (await http(srv.port, "/ws/", *UPGRADE, ONE)).status == 426
            again = await RawClient.connect(srv.port, headers=(ONE,))
            assert (await http(srv.port, "/ws/", *HANDSHAKE, ONE)).status == 429
            again.reset()
            await until(lambda: len(srv.hub.clients) == 1)
            last = await RawClient.connect(srv.port, headers=(ONE,))
            await last.frame()
            await second.frame()

    run(main())


def test_what_the_client_says_itself_does_not_count() -> None:
    async def main() -> None:
        async with serving(access=Access(max_per_address=1, proxies=PROXIES)) as srv:
            client = await RawClient.connect(srv.port, headers=(ONE,))
            forged = "X-Forwarded-For: 10.9.9.9, 10.1.1.1"
            assert (await http(srv.port, "/ws/", *HANDSHAKE, forged)).status == 429
            await client.frame()

    run(main())


def test_this_machine_is_not_counted() -> None:
    """Loopback is not counted: behind an undeclared local proxy, all clients would share one count."""

    async def main() -> None:
        async with serving(access=Access(max_per_address=1)) as srv:
            clients = [await RawClient.connect(srv.port, headers=(ONE,)) for _ in range(3)]
            assert len(srv.hub.clients) == len(clients)

    run(main())


@pytest.mark.parametrize(
    ("peer", "forwarded", "whose"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # not a trusted proxy
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7 ,10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, "], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["2001:db8:1:2:ffff::4"], "2001:db8:1:2::/64"),
        ("fd00::1", ["198.51.100.7"], "198.51.100.7"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("::ffff:192.0.2.1", [], "192.0.2.1"),
        ("2001:db8:1:2::5", [], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("127.0.0.2", [], ""),
        ("::1", ["198.51.100.7"], ""),
        ("::ffff:127.0.0.1", [], ""),
        ("10.0.0.1", ["127.0.0.1"], ""),  # a client on the proxy's own machine
        ("", [], ""),
    ],
)
def test_whose_a_connection_is(peer: str, forwarded: list[str], whose: str) -> None:
    access = Access(proxies=[ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/16")])
    headers = CIMultiDict([("x-forwarded-for", value) for value in forwarded])
    assert access.client_key(peer, headers) == whose


class Address(str):
    """A str that supports weak references."""


def test_who_has_gone_leaves_no_count() -> None:
    access = Access(max_per_address=2)
    kept = weakref.WeakSet[Address]()
    for number in range(1000):
        address = Address(f"10.0.{number >> 8}.{number & 255}")
        kept.add(address)
        assert access.acquire(address)
        access.release(address)
    del address
    assert not kept


# Connections before their handshake


def test_the_oldest_of_too_many_that_say_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """New requests still get in when silent connections are closed, and clients are never closed for it."""

    async def main() -> None:
        async with serving() as srv:
            client = await PicowsClient.connect(srv.port)
            silent = [await asyncio.open_connection("127.0.0.1", srv.port) for _ in range(30)]
            await until(lambda: srv.hub.connection_counters()["refused"] == 20)
            for reader, _ in silent[:20]:
                assert await _ended(reader)
            assert not any(reader.at_eof() for reader, _ in silent[20:])
            late = await PicowsClient.connect(srv.port)
            await late.count(1)
            assert (await http(srv.port, "/health")).status == 200
            assert len(srv.hub.clients) == 2
            # A connection that is still pending may continue.
            reader, writer = silent[-1]
            writer.write(s.upgrade("/ws/"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            await client.count(1)
            for _, writer in silent:
                writer.close()

    monkeypatch.setattr(server_module, "MAX_PENDING", 10)
    run(main())


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(120):
            return await reader.read() == b""
    except ConnectionResetError:
        return True


def test_who_waits_leaves_descriptors_for_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(max_clients=100) as srv:
            assert srv.server.max_pending == 256 - 100 - 32
        async with serving(max_clients=1000) as srv:
            assert srv.server.max_pending == 32

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    run(main())


def test_connections_that_are_gone_are_kept_by_nothing() -> None:
    async def main() -> None:
        async with serving(access=Access(max_per_address=5, proxies=PROXIES)) as srv:
            gc.disable()
            try:
                made = []
                for number in range(20):
                    _, writer = await asyncio.open_connection("127.0.0.1", srv.port)
                    if number % 2:
                        writer.write(s.upgrade("/ws/")[: -number % 7])
                    await until(lambda: srv.server.pending_connections > 0)
                    made += [weakref.ref(each) for each in gc.get_objects() if isinstance(each, Peer)]
                    writer.transport.abort()
                    await until(lambda: not srv.server.pending_connections)
                await asyncio.sleep(0.05)
            finally:
                gc.enable()
            gc.collect()
            assert len(made) >= 20
            assert all(each() is None for each in made)

    run(main())


# The settings, and the whole service


def settings(**more: object) -> ServeSettings:
    return ServeSettings(data_dir=Path("/data"), **more)  # type: ignore[arg-type]


def test_tls_needs_both_of_its_files() -> None:
    for given, missing in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        with pytest.raises(ConfigError, match=f"{given} is given but {missing} is not"):
            settings(**{given: Path("x")}).check()


def test_a_guarded_service(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o604)
    options = ["--token-file", token, "--allowed-origins", "https://app.example", "--max-clients-per-ip", 1]
    options += ["--trusted-proxies", "127.0.0.1,fd00::/8"]
    # serve() finds the port in the log, so it needs no token.
    with serve(tmp_path, *options) as running:
        assert running.get("/metrics")[0] == 401
        assert running.get("/health")[0] == 200
        assert running.get("/metrics?token=" + TOKEN)[0] == 200
        running.wait_log("WARNING .*every user of this machine can read the token")

        async def main() -> None:
            port, bearer = running.port, f"Authorization: Bearer {TOKEN}"
            assert (await http(port, "/ws/", *UPGRADE)).status == 401
            assert (await http(port, "/ws/", *UPGRADE, bearer, "Origin: https://evil.example")).status == 403
            client = await RawClient.connect(port, headers=(bearer, ONE, "Origin: https://app.example"))
            await client.frame()
            assert (await http(port, "/ws", *HANDSHAKE, bearer, ONE)).status == 429
            other = await RawClient.connect(port, "/ws", headers=(bearer, TWO))
            other.reset()

        run(main())
        assert running.end(signal.SIGTERM) == 0
        assert not [line for line in running.log if TOKEN in line]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--token-file", "none"], "/none: No such file or directory"),
        (["--token-file", "empty"], "/empty: empty: expected a token in one line"),
        (["--tls-cert", "empty"], "fasttail serve: tls_cert is given but tls_key is not: TLS needs both"),
        (["--tls-cert", "none", "--tls-key", "empty"], "/none: No such file or directory"),
        (["--tls-cert", "empty", "--tls-key", "none"], "/none: No such file or directory"),
        (
            ["--tls-cert", "empty", "--tls-key", "empty"],
            "/empty: certificate and key are invalid or do not match",
        ),
        (
            ["--allowed-origins", "example.com"],
            "--allowed-origins: expected origins like https://example.com",
        ),
        (["--trusted-proxies", "10.0.0.0/33"], "--trusted-proxies: expected addresses or networks like"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(options: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = subprocess.run(
        command("serve", tmp_path, "--port", 0, *options),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
