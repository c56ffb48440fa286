"""Behind nginx and HAProxy, quiet clients outlast the default timeouts. Each test takes over a minute."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from proxies import behind, check_plain, server
from running import Serve
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

__all__ = ["server"]

QUIET_S = 62.0
"""Longer than the 50 s of Debian's haproxy.cfg and the 60 s of nginx."""


def snippet(sources: Path, language: str) -> str:
    """Return the configuration that the docs recommend, verbatim."""
    page = (sources / "docs" / "operations.md").read_text()
    found = re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_quiet_clients_stay_with_the_settings_of_the_docs(
    name: str, server: Serve, sources: Path, tmp_path: Path
) -> None:
    """A client that sends nothing and receives no order stays connected behind default timeouts."""
    with behind(name, snippet(sources, name), server.port, tmp_path) as address:
        check_plain(address)
        with connect(f"ws://{address}/ws", ping_interval=None) as client:
            subscription = {"type": "orderUpdates", "user": "0x" + "ab" * 20}
            request = json.dumps({"method": "subscribe", "subscription": subscription})
            client.send(request)
            assert json.loads(client.recv(timeout=120))["channel"] == "subscriptionResponse"
            with pytest.raises(TimeoutError):
                client.recv(timeout=QUIET_S)
            client.send('{"method":"ping"}')
            assert json.loads(client.recv(timeout=120)) == {"channel": "pong"}
            # The client's own address counts, not the proxy's, and two clients are allowed.
            far = {"X-Forwarded-For": "192.0.2.1"}
            with (
                connect(f"ws://{address}/ws", additional_headers=far),
                connect(f"ws://{address}/ws", additional_headers=far) as second,
            ):
                with pytest.raises(InvalidStatus, match="429"):
                    connect(f"ws://{address}/ws", additional_headers=far)
                second.send('{"method":"ping"}')
                assert json.loads(second.recv(timeout=120)) == {"channel": "pong"}
