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
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote_to_bytes

log = logging.getLogger(__name__)

MAX_TOKEN = 4096

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Headers(Protocol):
    """A request's headers, by name in any case."""

    def getall(self, key: str, default: list[str], /) -> list[str]: ...


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
    origins:     of web pages whose scripts may connect; empty: any. Programs send no Origin and pass.
    per_address: connections that one address may have at a time; 0: any number.
    proxies:     whose X-Forwarded-For is believed.
    """

    def __init__(
        self,
        *,
        token: bytes | None = None,
        origins: Collection[str] = (),
        per_address: int = 0,
        proxies: Sequence[Network] = (),
    ) -> None:
        self.per_address = per_address
        self._token = hashlib.sha256(token).digest() if token is not None else None
        self._origins = frozenset(origin.lower() for origin in origins)
        self._proxies = tuple(proxies)
        self._counts: Counter[str] = Counter()

    def token_fits(self, target: bytes, headers: Headers) -> bool:
        """Whether the request (its target is the path with the query) brings the token, if there is one."""
        expected = self._token
        if expected is None:
            return True
        given = (*_bearers(headers), *_query_values(target, b"token"))
        # Hashes have one length: not even that of the token shows in the time this takes.
        return any(hmac.compare_digest(hashlib.sha256(each).digest(), expected) for each in given)

    def origin_fits(self, headers: Headers) -> bool:
        """Whether the page that asks may. Browsers send their pages' Origin; no script can alter it."""
        origins = headers.getall("Origin", [])
        return not self._origins or all(origin.lower() in self._origins for origin in origins)

    def whose(self, peer: str, headers: Headers) -> str:
        """Whom a connection from the address `peer` is counted for; "" for this machine: not counted.

        That is the peer; behind trusted proxies the right-most address that is no trusted proxy's, because
        each proxy appends whom it was asked by, and what stands further left anybody can have made up. An
        IPv6 address counts with its whole /64: that much everybody gets.
        """
        address = _address(peer)
        hops = ",".join(headers.getall("X-Forwarded-For", [])).split(",")
        while hops and any(address in network for network in self._proxies if address is not None):
            said = _address(hops.pop())
            if said is None:
                break
            address = said
        if address is not None and address.is_loopback:
            return ""
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
        return str(address or peer)

    def enter(self, whose: str) -> bool:
        """Count one more connection; False, and not counted, where that would be one too many."""
        if not whose:
            return True
        if self.per_address and self._counts[whose] >= self.per_address:
            return False
        self._counts[whose] += 1
        return True

    def leave(self, whose: str) -> None:
        """One connection that had entered is gone."""
        if not whose:
            return
        self._counts[whose] -= 1
        if not self._counts[whose]:
            del self._counts[whose]


def _bearers(headers: Headers) -> Iterator[bytes]:
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
