"""Behind nginx and HAProxy with the settings that people write first."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from proxies import ask, behind, check_plain, server
from running import Serve
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

__all__ = ["server"]

PLAIN_NGINX = "server { listen 127.0.0.1:8080; location / { proxy_pass http://127.0.0.1:8000; } }"
PLAIN_HAPROXY = """
frontend orders
    bind :8080
    default_backend fasttail
backend fasttail
    %s
    server fasttail 127.0.0.1:8000 check inter 200
"""


def test_nginx_with_nothing_but_proxy_pass(server: Serve, tmp_path: Path) -> None:
    """nginx then uses HTTP/1.0 and does not pass on the upgrade."""
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
        time.sleep(1)  # for five more checks
        assert ask(address, "/health/live")[0] == 200
        with connect(f"ws://{address}/ws/") as client:
            assert json.loads(client.recv(timeout=120))["type"] == "connected"
