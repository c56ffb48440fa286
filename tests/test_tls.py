"""TLS: handshakes, versions, slow clients, unusable files, and a restart in place. Real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import serving as s
import websockets
from running import Serve, hour_file, serve, wait_for
from serving import RawClient, http, run, serving, until
from websockets.sync.client import connect

from fasttail.connection.wire import text_frame
from fasttail.server import server as server_module
from fasttail.server.access import Access, Headers
from fasttail.server.tls import server_context
from fasttail.tools.endpoint import Endpoint, EndpointError

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


class Files(NamedTuple):
    cert: Path
    key: Path


def make(folder: Path, name: str) -> Files:
    files = Files(folder / f"{name}.crt", folder / f"{name}.key")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(files.key), "-out", str(files.cert), "-days", "2"),
        ],
        check=True,
        capture_output=True,
    )
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("tls"), "one")


def trusting(files: Files) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(files.cert))


def for_threads(files: Files) -> ssl.SSLContext:
    """Return a context for the `websockets` client, which reads and writes in different threads.

    OpenSSL allows only one of them at a time. With TLS 1.3, the server's session tickets arrive just when the
    client writes its request, and one request in thousands was lost.
    """
    context = trusting(files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_http_and_websockets_over_tls(files: Files) -> None:
    async def main() -> None:
        async with serving(tls=server_context(*files)) as srv:
            answer = await http(srv.port, "/health", tls=trusting(files))
            assert answer.json() == {"status": "ok"}
            url = f"wss://localhost:{srv.port}/ws/"
            async with websockets.connect(url, ssl=trusting(files)) as client:
                assert json.loads(await client.recv())["type"] == "connected"
                await client.send("ping")
                assert await client.recv() == "pong"
                data = b"".join(text_frame(b'{"n":%d}' % number) for number in range(1000))
                assert srv.hub.channels["orderUpdate"].publish(data, 1000) == 1
                assert [json.loads(await client.recv())["n"] for _ in range(1000)] == list(range(1000))
                await client.send("close")
                with pytest.raises(websockets.ConnectionClosedOK):
                    await client.recv()
            await until(lambda: not srv.hub.clients)

    run(main())


def test_who_does_not_speak_tls_gets_nothing(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(tls=server_context(*files)) as srv:
            reader, writer = await asyncio.open_connection("127.0.0.1", srv.port)
            writer.write(s.upgrade("/ws/"))
            assert b"HTTP" not in await reader.read()
            writer.close()
            assert (await http(srv.port, "/health", tls=trusting(files))).status == 200

    caplog.set_level("INFO")
    run(main())
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_nothing_older_than_tls_1_2(files: Files) -> None:
    async def main() -> None:
        async with serving(tls=server_context(*files)) as srv:
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = trusting(files)
                context.minimum_version = context.maximum_version = version
                assert (await http(srv.port, "/health", tls=context)).status == 200

    run(main())
    assert server_context(*files).minimum_version == ssl.TLSVersion.TLSv1_2


def test_who_does_not_finish_the_tls_handshake_is_dropped(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(tls=server_context(*files)) as srv:
            reader, writer = await asyncio.open_connection("127.0.0.1", srv.port)
            async with asyncio.timeout(120):
                assert await reader.read() == b""
            writer.close()

    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT_S", 0.2)
    caplog.set_level("INFO")
    run(main())
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_the_oldest_of_too_many_in_their_tls_handshake_is_cut_off(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(tls=server_context(*files)) as srv:
            before = len(asyncio.all_tasks())
            silent = [await asyncio.open_connection("127.0.0.1", srv.port) for _ in range(30)]
            await until(lambda: srv.hub.connection_counters()["refused"] == 20)
            for reader, _ in silent[:20]:
                assert await reader.read() == b""
            assert not any(reader.at_eof() for reader, _ in silent[20:])
            client = await RawClient.connect(srv.port, tls=trusting(files))
            await client.frame()
            assert srv.server.pending_connections <= 10
            for _, writer in silent:
                writer.close()
            await until(lambda: not srv.server.pending_connections)
            await until(lambda: len(asyncio.all_tasks()) <= before)

    monkeypatch.setattr(server_module, "MAX_PENDING", 10)
    caplog.set_level("INFO")
    run(main())
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_a_stalled_client_is_closed_and_its_queue_bounded(files: Files) -> None:
    async def main() -> None:
        limit = 1 << 20
        async with serving(tls=server_context(*files), client_queue=limit, close_timeout_s=0.3) as srv:
            channel = srv.hub.channels["orderUpdate"]
            stalled = await RawClient.connect(srv.port, receive_buffer=4096, tls=trusting(files))
            await until(lambda: len(channel.clients) == 1)
            known = srv.client()
            piece = text_frame(b"x" * 65536)
            sent = most = 0
            while channel.publish(piece, 1):
                sent += len(piece)
                most = max(most, known.queued_bytes)
                await asyncio.sleep(0)
                assert sent < 64 << 20, "the queue never filled"
            assert srv.hub.closed_slow == 1
            assert limit < most <= limit + 2 * len(piece)
            # The kernel and the transport below TLS hold no more than their limit and one piece.
            assert sent < limit + (6 << 20)
            await until(lambda: not srv.hub.clients)
            stalled.writer.transport.abort()

    run(main())


@pytest.mark.parametrize("what", ["another's key", "an encrypted key", "the key twice", "a folder"])
def test_files_that_do_not_fit_are_told_in_one_line(what: str, files: Files, tmp_path: Path) -> None:
    cert, key = files
    if what == "another's key":
        key, expected = (
            make(tmp_path, "other").key,
            r"certificate and key are invalid or do not match \(key values mismatch\)",
        )
    elif what == "an encrypted key":
        key, expected = tmp_path / "locked", "the key is encrypted"
        subprocess.run(
            ["openssl", "pkey", "-in", str(files.key), "-aes128", "-passout", "pass:x", "-out", str(key)],
            check=True,
        )
    elif what == "the key twice":
        cert, expected = key, "certificate and key are invalid or do not match"
    else:
        cert, expected = tmp_path, "Is a directory"
    with pytest.raises(ValueError, match=expected) as caught:
        server_context(cert, key)
    assert "\n" not in str(caught.value)


@pytest.mark.plain_build
def test_the_port_outlives_a_restart_in_place(files: Files, tmp_path: Path) -> None:
    hour_file(tmp_path, "plain", "20260505", 9).touch()
    leak = ["--debug-leak", 40, "--memory-limit-mb", 130, "--memory-warmup-s", 0, "--memory-window-s", 2]
    with serve(tmp_path, "--tls-cert", files.cert, "--tls-key", files.key, *leak) as running:
        assert running.find(r"https and wss on")
        url = f"wss://localhost:{running.port}/ws/"
        with connect(url, ssl=for_threads(files)) as client:
            client.recv(timeout=120)
            with pytest.raises(websockets.ConnectionClosed):
                client.recv(timeout=120)
            assert client.close_code == 1012
        # The connection waits in the kernel meanwhile.
        with connect(url, ssl=for_threads(files), open_timeout=120) as client:
            assert json.loads(client.recv(timeout=120))["type"] == "connected"
        wait_for("the restart", lambda: running.find("restart 1 in place"))
        assert running.end(signal.SIGTERM) == 0
        assert not [line for line in running.log if re.search("ERROR|Traceback", line)]


def served_certificate(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=120)


def hang_up(running: Serve, text: str) -> None:
    """Send SIGHUP and wait until the log has one more line with this text."""
    before = running.count(text)
    running.process.send_signal(signal.SIGHUP)
    wait_for(text, lambda: running.count(text) > before)


@pytest.mark.fault(39)
def test_a_new_certificate_is_taken_at_sighup_and_a_bad_one_is_not(files: Files, tmp_path: Path) -> None:
    hour_file(tmp_path, "plain", "20260505", 9).touch()
    cert, key = tmp_path / "server.crt", tmp_path / "server.key"

    def put(new: Files) -> None:
        shutil.copy(new.cert, cert)
        shutil.copy(new.key, key)

    put(files)
    with serve(tmp_path, "--tls-cert", cert, "--tls-key", key) as running:
        url = f"wss://localhost:{running.port}/ws/"
        with connect(url, ssl=for_threads(files)) as client:
            client.recv(timeout=120)
            assert served_certificate(running.port) == files.cert.read_text()
            second = make(tmp_path, "second")
            put(second)
            hang_up(running, "settings reloaded")
            assert served_certificate(running.port) == second.cert.read_text()
            for spoil in (
                lambda: key.write_text(files.key.read_text()),
                lambda: cert.write_text("nothing of the kind"),
                lambda: key.unlink(),
            ):
                put(second)
                spoil()
                hang_up(running, "token, origins and certificate not reloaded, keeping the current ones: ")
                assert served_certificate(running.port) == second.cert.read_text()
            put(files)
            hang_up(running, "settings reloaded")
            assert served_certificate(running.port) == files.cert.read_text()
            client.send("ping")  # connected all the time
            assert client.recv(timeout=120) == "pong"
        assert running.count("not reloaded") == 3
        assert running.end(signal.SIGTERM) == 0
        assert not [line for line in running.log if re.search("ERROR|⏰|❌|Traceback", line)]


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", True), ("localhost", True), ("127.evil.example", False),
        ("127.0.0.1.evil.example", False), ("localhost.evil.example", False),
    ],
)  # fmt: skip
def test_a_name_that_looks_like_this_machine_gets_no_token(
    host: str, asked: bool, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that looks like this machine gets no token: an unverified certificate ends the handshake,
    whatever it resolves to.
    """
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *more, **options: resolve("127.0.0.1", *more, **options)
    )
    requests: list[bytes] = []
    access = Access(token=b"secret")
    fits = access.check_token

    def noted(target: bytes, headers: Headers) -> bool:
        requests.append(target)
        return fits(target, headers)

    monkeypatch.setattr(access, "check_token", noted)

    async def main() -> None:
        async with serving(tls=server_context(*files), access=access) as srv:
            endpoint = Endpoint(f"https://{host}:{srv.port}", "secret")
            if asked:
                assert (await asyncio.to_thread(endpoint.get, "/metrics"))[0] == 200
            else:
                with pytest.raises(EndpointError):
                    await asyncio.to_thread(endpoint.get, "/metrics")
            assert bool(requests) is asked

    run(main())
