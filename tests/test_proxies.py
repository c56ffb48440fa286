"""Behind real proxies: nginx and HAProxy as Debian ships them, with their default timeouts.

FASTTAIL_NEED_PROXIES=1 makes it a failure that they are not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Serve, serve, wait_for
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

QUIET_S = 62.0
"""Longer than the 50 s of Debian's haproxy.cfg and the 60 s of nginx."""

NGINX = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    %s
}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5000
    timeout client  50000
    timeout server  50000
%s
"""

PLAIN_NGINX = "server { listen 127.0.0.1:8080; location / { proxy_pass http://127.0.0.1:8000; } }"
PLAIN_HAPROXY = """
frontend orders
    bind :8080
    default_backend fasttail
backend fasttail
    %s
    server fasttail 127.0.0.1:8000 check inter 200
"""


def proxy(name: str) -> str:
    """The program, wherever Debian puts it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        text = f"no {name} here: apt-get install {name.replace('nginx', 'nginx-light')}"
        if os.environ.get("FASTTAIL_NEED_PROXIES") == "1":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return found


def snippet(sources: Path, language: str) -> str:
    """What the docs tell to write, word for word."""
    page = (sources / "docs" / "operations.md").read_text()
    found = re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


@contextlib.contextmanager
def behind(name: str, settings: str, port: int, folder: Path) -> Iterator[str]:
    """Address of a proxy with these settings, in which 8080 is its own port and 8000 that of fasttail."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        own = sock.getsockname()[1]
    settings = re.sub(r"(listen|bind) \S*:8080", rf"\1 127.0.0.1:{own}", settings)
    settings = settings.replace(":8000", f":{port}")
    folder = folder / name
    folder.mkdir()
    path = folder / "conf"
    path.write_text({"nginx": NGINX, "haproxy": HAPROXY}[name] % settings)
    words = {"nginx": ["-p", folder, "-c", path], "haproxy": ["-db", "-f", path]}[name]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([proxy(name), *map(str, words)], stdout=log, stderr=log)
    try:

        def listens() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", own)):
                return True
            return False

        wait_for(name, listens)
        yield f"127.0.0.1:{own}"
    finally:
        process.kill()
        process.wait()


def ask(address: str, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{address}{path}", body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serve]:
    with serve(tmp_path / "data", "--trusted-proxies", "127.0.0.1", "--max-clients-per-ip", 2) as running:
        yield running
        assert not [line for line in running.log if re.search("ERROR|⏰|❌|Traceback", line)]


def check_plain(address: str) -> None:
    def is_up() -> bool:
        return ask(address, "/health/live")[0] == 200

    wait_for("the proxy's own look at the server", is_up)
    for path in ("/health", "/ws/status", "/metrics"):
        assert ask(address, path)[0] == 200
        assert ask(address, path, "HEAD") == (200, "")
        assert ask(address, path, "OPTIONS")[0] == 204
        assert ask(address, path, "POST", b"{}")[0] == 405
    assert ask(address, "/nothing")[0] == 404
    for size in (2, 60_000):
        status, text = ask(address, "/info", "POST", b"x" * size)
        assert (status, json.loads(text)["code"]) == (404, 404)
    assert ask(address, "/info", "POST", b"x" * 200_000)[0] in (413, 502)  # 502: the proxy was still sending


def test_nginx_with_nothing_but_proxy_pass(server: Serve, tmp_path: Path) -> None:
    """It asks in HTTP/1.0 and passes no upgrade on."""
    with behind("nginx", PLAIN_NGINX, server.port, tmp_path) as address:
        check_plain(address)
        with pytest.raises(InvalidStatus) as caught:
            connect(f"ws://{address}/ws")
        answer = caught.value.response
        assert answer.status_code == 426
        assert "no Upgrade header, which proxies drop" in json.loads(answer.body or b"")["error"]


@pytest.mark.parametrize("check", ["", "option httpchk", "option httpchk GET /health/live"])
def test_haproxy_finds_the_server_up(check: str, server: Serve, tmp_path: Path) -> None:
    with behind("haproxy", PLAIN_HAPROXY % check, server.port, tmp_path) as address:
        check_plain(address)
        time.sleep(1)  # for five checks more
        assert ask(address, "/health/live")[0] == 200
        with connect(f"ws://{address}/ws/") as client:
            assert json.loads(client.recv(timeout=30))["type"] == "connected"


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_quiet_clients_stay_with_the_settings_of_the_docs(
    name: str, server: Serve, sources: Path, tmp_path: Path
) -> None:
    """A client that asks for nothing itself, on which no order comes, behind default timeouts."""
    with behind(name, snippet(sources, name), server.port, tmp_path) as address:
        check_plain(address)
        with connect(f"ws://{address}/ws", ping_interval=None) as client:
            subscription = {"type": "orderUpdates", "user": "0x" + "ab" * 20}
            request = json.dumps({"method": "subscribe", "subscription": subscription})
            client.send(request)
            assert json.loads(client.recv(timeout=30))["channel"] == "subscriptionResponse"
            with pytest.raises(TimeoutError):
                client.recv(timeout=QUIET_S)
            client.send('{"method":"ping"}')
            assert json.loads(client.recv(timeout=30)) == {"channel": "pong"}
            # Each client's own address counts, not the proxy's: two are allowed.
            far = {"X-Forwarded-For": "192.0.2.1"}
            with (
                connect(f"ws://{address}/ws", additional_headers=far),
                connect(f"ws://{address}/ws", additional_headers=far) as second,
            ):
                with pytest.raises(InvalidStatus, match="429"):
                    connect(f"ws://{address}/ws", additional_headers=far)
                second.send('{"method":"ping"}')
                assert json.loads(second.recv(timeout=30)) == {"channel": "pong"}
