"""Runs real proxies for the tests: nginx and HAProxy as packaged by Debian, with default timeouts.

With FASTTAIL_NEED_PROXIES=1, missing proxies fail the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Serve, serve, wait_for

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


def proxy(name: str) -> str:
    """Return the path of the program, also from the sbin folders."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        text = f"no {name} here: apt-get install {name.replace('nginx', 'nginx-light')}"
        if os.environ.get("FASTTAIL_NEED_PROXIES") == "1":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return found


@contextlib.contextmanager
def behind(name: str, settings: str, port: int, folder: Path) -> Iterator[str]:
    """Yield the address of a proxy; in `settings`, 8080 is its own port and 8000 fasttail's."""
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
        with urllib.request.urlopen(request, timeout=120) as answer:
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
