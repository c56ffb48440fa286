"""A running server's answers to GET, for the commands that look at it from outside.

Each takes `TIMEOUT_S` at most, whatever the server does. The token goes to the host that was named and to no
other, and into no message.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from fasttail.system.http_client import HTTPRequestError, request

TIMEOUT_S = 5.0
MAX_RESPONSE_BYTES = 16 << 20


class EndpointError(Exception):
    """No answer; one line."""


class Endpoint:
    """The server at `url` (scheme, host, port). `token` is brought along with every question."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._parts = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls: ssl.SSLContext | None = None
        if self._parts.scheme == "https":
            self._tls = ssl.create_default_context()
            if _is_loopback(self._parts.hostname or ""):
                # Nobody stands in between, and the name in the certificate is another one.
                self._tls.check_hostname = False
                self._tls.verify_mode = ssl.CERT_NONE

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body. EndpointError if there is no answer, or one that is too long."""
        try:
            status, body = request(
                "GET", self._parts, path, headers=self._headers, timeout_s=TIMEOUT_S,
                max_answer=MAX_RESPONSE_BYTES + 1, tls=self._tls,
            )  # fmt: skip
        except HTTPRequestError as error:
            raise EndpointError(f"{self.url}{path}: {error}") from None
        if len(body) > MAX_RESPONSE_BYTES:
            raise EndpointError(f"{self.url}{path}: more than {MAX_RESPONSE_BYTES >> 20} MB")
        return status, body


def _is_loopback(host: str) -> bool:
    """`localhost` or a loopback address. No other name, however it begins: its owner says where it leads."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def client_token(file: Path | None) -> str | None:
    """The token to bring: FASTTAIL_TOKEN, else what is in the file. ValueError, without its text; OSError."""
    text = os.environ.get("FASTTAIL_TOKEN") or (file.read_bytes().decode("latin-1") if file else None)
    if text is None:
        return None
    text = text.rstrip("\r\n")
    if re.fullmatch(r"[\x21-\x7e]{1,4096}", text) is None:
        raise ValueError("the token: expected one line of ASCII characters, without blanks")
    return text


def parse_metrics(body: bytes) -> dict[str, float]:
    """The numbers of a Prometheus text, by name with labels as they stand there."""
    numbers: dict[str, float] = {}
    for line in body.decode("utf-8", "replace").splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            with contextlib.suppress(ValueError):
                numbers[name] = float(value)
    return numbers
