"""Who may connect, and how often: token, origins, connections per address.

Nothing here names the token: no line of the log, no error, no repr. Only its hash is kept.
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
    """A request's headers, by name in any case."""

    def getall(self, key: str, default: list[str], /) -> list[str]: ...


class LocalEndpoint(NamedTuple):
    """Where a connection came in: our address and port, and the scheme spoken there (http or https)."""

    address: str
    port: int
    scheme: str


def is_loopback(host: str) -> bool:
    """Whether a name or address as people write it is this machine's own, whatever a resolver says.

    That is `localhost` and the loopback addresses, and no other name, also if it begins like an address.
    """
    address = _address(host.strip("[]"))
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def read_token(path: Path) -> bytes:
    """The token in a file of one line. ValueError, in one line without its content, if it cannot be used."""
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
    """What a request has to show, and whom it is counted for. Without arguments everybody may do everything.

    token:       to be given as `Authorization: Bearer …` or `?token=…`.
    origins:     of web pages whose scripts may connect; empty: any. Programs that send no Origin, or our own
                 address in its place, pass.
    max_per_address: connections that one address may have at a time; 0: any number.
    proxies:     whose X-Forwarded-For is believed.
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
        """What is to be shown from now on. Who is connected stays."""
        self._token = hashlib.sha256(token).digest() if token is not None else None
        self._origins = frozenset(origin.lower() for origin in origins)

    @property
    def is_open_to_all(self) -> bool:
        """Whether neither a token nor an origin is asked for."""
        return self._token is None and not self._origins

    def check_token(self, target: bytes, headers: Headers) -> bool:
        """Whether the request (its target is the path with the query) brings the token, if there is one."""
        expected = self._token
        if expected is None:
            return True
        presented = (*_bearer_tokens(headers), *_query_values(target, b"token"))
        # Hashes have one length: not even that of the token shows in the time this takes.
        return any(hmac.compare_digest(hashlib.sha256(each).digest(), expected) for each in presented)

    def check_origin(self, headers: Headers, local_endpoint: LocalEndpoint) -> bool:
        """Whether the page that asks may. Browsers send their pages' Origin; no script can alter it."""
        if not self._origins:
            return True
        return all(
            origin.lower() in self._origins or _is_own_address(origin.lower(), headers, local_endpoint)
            for origin in headers.getall("Origin", [])
        )

    def cors_headers(self, headers: Headers, local_endpoint: LocalEndpoint) -> dict[str, str]:
        """The headers that let the pages which may connect read an answer."""
        if not self._origins:
            return {"Access-Control-Allow-Origin": "*"}
        origins = headers.getall("Origin", [])
        if len(origins) == 1 and self.check_origin(headers, local_endpoint):
            return {"Access-Control-Allow-Origin": origins[0], "Vary": "Origin"}
        return {"Vary": "Origin"}

    def client_key(self, peer: str, headers: Headers) -> str:
        """Whom a connection from the address `peer` is counted for; "" for this machine: not counted.

        That is the peer; behind trusted proxies the right-most address that is no trusted proxy's, because
        each proxy appends whom it was asked by, and what stands further left anybody can have made up. An
        IPv6 address counts with its whole /64: that much everybody gets.
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
        """Count one more connection; False, and not counted, where that would be one too many."""
        if not client_key:
            return True
        if self.max_per_address and self._connections[client_key] >= self.max_per_address:
            return False
        self._connections[client_key] += 1
        return True

    def release(self, client_key: str) -> None:
        """One connection that had entered is gone."""
        if not client_key:
            return
        self._connections[client_key] -= 1
        if not self._connections[client_key]:
            del self._connections[client_key]


_ORIGIN = re.compile(r"(https?)://(localhost|[\d.]+|\[[\da-f:.]+\])(?::(\d{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _is_own_address(origin: str, headers: Headers, local_endpoint: LocalEndpoint) -> bool:
    """Whether an Origin (in lower case) is the address at which the connection came in.

    Some programs' libraries send that. Of a name it proves nothing: with DNS rebinding, the name of any
    page leads here. So it has to be `localhost` or an address, with our scheme and port. Any loopback address
    will do: on the machine of the page it is that machine. Another one has to be the address of our end of
    the connection, or what the client says it connected to (Host): behind a container's NAT these differ.
    No page has an address as its origin that it was not loaded from.
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
    """Each value of a name in the query. A plus is a plus: tokens have them, and forms are not sent here."""
    for pair in target.partition(b"?")[2].split(b"&"):
        key, _, value = pair.partition(b"=")
        if key == name:
            yield unquote_to_bytes(value)


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    """An address as peers and proxies write it, also with a port; None for anything else."""
    text = text.strip()
    if found := re.fullmatch(r"\[(.*)\](?::\d+)?|([\d.]+):\d+", text):
        text = found[1] or found[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
