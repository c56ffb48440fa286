"""Queries a running server by GET, for the commands that inspect it from outside.

A request takes at most `TIMEOUT_S`, whatever the server does. The token is sent only to the given host, and
appears in no message.
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
    """No answer; the message is one line."""


class Endpoint:
    """The server at `url` (scheme, host, port). `token` is sent with every request."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._parts = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls: ssl.SSLContext | None = None
        if self._parts.scheme == "https":
            self._tls = ssl.create_default_context()
            if _is_loopback(self._parts.hostname or ""):
                # Loopback cannot be intercepted, and the certificate is for another name.
                self._tls.check_hostname = False
                self._tls.verify_mode = ssl.CERT_NONE

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body. Raises EndpointError if there is no answer or it is too long."""
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
    """Return whether `host` is `localhost` or a loopback address. Any other name may resolve to anywhere."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def client_token(file: Path | None) -> str | None:
    """Return the token from FASTTAIL_TOKEN or else the file, or None.

    Raises OSError, or ValueError without the token in its text.
    """
    text = os.environ.get("FASTTAIL_TOKEN") or (file.read_bytes().decode("latin-1") if file else None)
    if text is None:
        return None
    text = text.rstrip("\r\n")
    if re.fullmatch(r"[\x21-\x7e]{1,4096}", text) is None:
        raise ValueError("the token: expected one line of ASCII characters, without blanks")
    return text


def parse_metrics(body: bytes) -> dict[str, float]:
    """Parse Prometheus text into values by name, with labels as written."""
    numbers: dict[str, float] = {}
    for line in body.decode("utf-8", "replace").splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            with contextlib.suppress(ValueError):
                numbers[name] = float(value)
    return numbers
