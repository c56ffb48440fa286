"""A running server's answers to GET, for the commands that look at it from outside.

Each takes `TIMEOUT_S` at most, whatever the server does. Redirections are not followed: the token goes to the
host that was named and to no other, and into no message.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import re
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

from fasttail.http_client import http_connection

TIMEOUT_S = 5.0
MAX_ANSWER = 16 << 20


class EndpointError(Exception):
    """No answer; one line."""


class Endpoint:
    """The server at `url` (scheme, host, port). `token` is brought along with every question."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host = parts.hostname or ""
        self._port = parts.port
        self._headers = {"Connection": "close"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context()
            if _is_loopback(self._host):
                # Nobody stands in between, and the name in the certificate is another one.
                self._tls.check_hostname = False
                self._tls.verify_mode = ssl.CERT_NONE

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body. EndpointError if there is no answer, or one that is too long."""
        began = time.monotonic()
        with http_connection(self._host, self._port, self._tls, TIMEOUT_S) as connection:
            try:
                connection.request("GET", path, headers=self._headers)
                answer = connection.getresponse()
                body = answer.read(MAX_ANSWER + 1)
            except (http.client.HTTPException, OSError) as error:
                if time.monotonic() >= began + TIMEOUT_S:  # however it fails on a socket shut down
                    why = f"no answer within {TIMEOUT_S:g} s"
                elif isinstance(error, OSError) and not isinstance(error, http.client.HTTPException):
                    why = error.strerror or type(error).__name__
                else:
                    why = f"no HTTP ({type(error).__name__})"
                raise EndpointError(f"{self.url}{path}: {why}") from None
        if len(body) > MAX_ANSWER:
            raise EndpointError(f"{self.url}{path}: more than {MAX_ANSWER >> 20} MB")
        return answer.status, body


def _is_loopback(host: str) -> bool:
    """`localhost` or a loopback address. No other name, however it begins: its owner says where it leads."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token(file: Path | None) -> str | None:
    """The token to bring: FASTTAIL_TOKEN, else what is in the file. ValueError, without its text; OSError."""
    text = os.environ.get("FASTTAIL_TOKEN") or (file.read_bytes().decode("latin-1") if file else None)
    if text is None:
        return None
    text = text.rstrip("\r\n")
    if re.fullmatch(r"[\x21-\x7e]{1,4096}", text) is None:
        raise ValueError("the token: expected one line of ASCII characters, without blanks")
    return text


def metrics(body: bytes) -> dict[str, float]:
    """The numbers of a Prometheus text, by name with labels as they stand there."""
    numbers: dict[str, float] = {}
    for line in body.decode("utf-8", "replace").splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            with contextlib.suppress(ValueError):
                numbers[name] = float(value)
    return numbers
