"""Access control: the token, allowed origins, and the limit of connections per address.

Only the token's hash is kept, and no log line, error or repr contains the token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

log = logging.getLogger(__name__)

MAX_TOKEN = 4096

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Headers(Protocol):
    """A request's headers, by case-insensitive name."""

    def getall(self, key: str, default: list[str], /) -> list[str]: ...


class LocalEndpoint(NamedTuple):
    """The local end of a connection: our address and port, and the scheme (http or https)."""

    address: str
    port: int
    scheme: str


def is_loopback(host: str) -> bool:
    """Return whether a name or address is `localhost` or a loopback address.

    Other names are not, even if they begin like an address or resolve to one.
    """
    address = _address(host.strip("[]"))
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def read_token(path: Path) -> bytes:
    """Read the token from a file of one line. Raises ValueError, in one line without the content."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(MAX_TOKEN + 1).rstrip(b"\r\n")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    if not token:
        raise ValueError(f"{path}: empty: expected a token in one line")
    if len(token) > MAX_TOKEN or re.fullmatch(rb"[\x21-\x7e]+", token) is None:
        raise ValueError(f"{path}: expected one line of at most {MAX_TOKEN} ASCII characters, without blanks")
    if mode & stat.S_IROTH:
        log.warning("%s: every user of this machine can read the token (chmod o-r)", path)
    return token


class Access:
    """What a request must present, and which client it counts for. By default everything is allowed.

    token:       expected as `Authorization: Bearer …` or `?token=…`.
    origins:     allowed for web pages; empty: any. Programs that send no Origin, or our own address as such,
                 always pass.
    max_per_address: simultaneous connections of one address; 0: unlimited.
    proxies:     trusted to send X-Forwarded-For.
    """

    def __init__(
        self,
        *,
        token: bytes | None = None,
        origins: Collection[str] = (),
        max_per_address: int = 0,
        proxies: Sequence[Network] = (),
    ) -> None:
        self.max_per_address = max_per_address
        self._proxies = tuple(proxies)
        self._connections: Counter[str] = Counter()
        self.set_policy(token, origins)

    def set_policy(self, token: bytes | None, origins: Collection[str]) -> None:
        """Replace the token and origins for new connections; existing ones stay."""
        self._token = hashlib.sha256(token).digest() if token is not None else None
        self._origins = frozenset(origin.lower() for origin in origins)

    @property
    def is_open_to_all(self) -> bool:
        """Whether neither a token nor an origin is required."""
        return self._token is None and not self._origins

    def check_token(self, target: bytes, headers: Headers) -> bool:
        """Return whether the request presents the token, if one is required. `target`: path and query."""
        expected = self._token
        if expected is None:
            return True
        presented = (*_bearer_tokens(headers), *_query_values(target, b"token"))
        # Hashes have equal lengths, so the time does not reveal even the token's length.
        return any(hmac.compare_digest(hashlib.sha256(each).digest(), expected) for each in presented)

    def check_origin(self, headers: Headers, local_endpoint: LocalEndpoint) -> bool:
        """Return whether the Origin is allowed: browsers send it, and a page's script cannot change it."""
        if not self._origins:
            return True
        return all(
            origin.lower() in self._origins or _is_own_address(origin.lower(), headers, local_endpoint)
            for origin in headers.getall("Origin", [])
        )

    def cors_headers(self, headers: Headers, local_endpoint: LocalEndpoint) -> dict[str, str]:
        """Return the headers that let pages of allowed origins read a response."""
        if not self._origins:
            return {"Access-Control-Allow-Origin": "*"}
        origins = headers.getall("Origin", [])
        if len(origins) == 1 and self.check_origin(headers, local_endpoint):
            return {"Access-Control-Allow-Origin": origins[0], "Vary": "Origin"}
        return {"Vary": "Origin"}

    def client_key(self, peer: str, headers: Headers) -> str:
        """Return what connections from the address `peer` are counted by; "" for loopback: not counted.

        This is the peer's address. Behind trusted proxies it is the right-most address that is not a trusted
        proxy, because each proxy appends its peer, and a client can forge the rest. IPv6 addresses are
        counted by their /64, since everybody gets that much.
        """
        address = _address(peer)
        hops = ",".join(headers.getall("X-Forwarded-For", [])).split(",") if self._proxies else []
        while hops and any(address in network for network in self._proxies if address is not None):
            claimed = _address(hops.pop())
            if claimed is None:
                break
            address = claimed
        if address is not None and address.is_loopback:
            return ""
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
        return str(address or peer)

    def acquire(self, client_key: str) -> bool:
        """Count a connection and return True, or return False if it exceeds the limit."""
        if not client_key:
            return True
        if self.max_per_address and self._connections[client_key] >= self.max_per_address:
            return False
        self._connections[client_key] += 1
        return True

    def release(self, client_key: str) -> None:
        """Stop counting a connection that was acquired."""
        if not client_key:
            return
        self._connections[client_key] -= 1
        if not self._connections[client_key]:
            del self._connections[client_key]


_ORIGIN = re.compile(r"(https?)://(localhost|[\d.]+|\[[\da-f:.]+\])(?::(\d{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _is_own_address(origin: str, headers: Headers, local_endpoint: LocalEndpoint) -> bool:
    """Return whether an Origin (in lower case) is the address that the connection was made to.

    Some client libraries send that. The host must be `localhost` or an address, with our scheme and port:
    with DNS rebinding, any page's name can lead here. Any loopback address is accepted, since it means the
    page's own machine. Another address must equal our end of the connection or the Host header; behind a
    container's NAT these differ. Only a page that was loaded from an address has it as its origin.
    """
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return False
    scheme, host, port = found[1], found[2], int(found[3] or _DEFAULT_PORTS[found[1]])
    if (scheme, port) != (local_endpoint.scheme, local_endpoint.port):
        return False
    local_address = _address(local_endpoint.address)
    if is_loopback(host.strip("[]")):
        return True
    address = _address(host.strip("[]"))
    if address is None:
        return False
    hosts = [value.lower() for value in headers.getall("Host", [])]
    expected_hosts = {f"{host}:{port}", host} if port == _DEFAULT_PORTS[scheme] else {f"{host}:{port}"}
    return address == local_address or (len(hosts) == 1 and hosts[0] in expected_hosts)


def _bearer_tokens(headers: Headers) -> Iterator[bytes]:
    for value in headers.getall("Authorization", []):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            yield token.strip().encode("utf-8", "surrogateescape")


def _query_values(target: bytes, name: bytes) -> Iterable[bytes]:
    """Return each value of a name in the query. A plus is literal, because tokens contain it."""
    for pair in target.partition(b"?")[2].split(b"&"):
        key, _, value = pair.partition(b"=")
        if key == name:
            yield unquote_to_bytes(value)


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    """Parse an address as peers and proxies write it, with or without a port. None if it is not one."""
    text = text.strip()
    if found := re.fullmatch(r"\[(.*)\](?::\d+)?|([\d.]+):\d+", text):
        text = found[1] or found[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
