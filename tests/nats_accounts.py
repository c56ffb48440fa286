"""Makes the credentials of a NATS user, as an operator of NATS would by `nsc`."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys

UNLIMITED = -1


class Key:
    """An nkey of some kind: an operator's, an account's or a user's."""

    def __init__(self, prefix: int) -> None:
        self.seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
        self.pair = nkeys.from_seed(bytearray(self.seed))
        self.public = bytes(self.pair.public_key).decode()


def signed(claims: dict[str, Any], subject: Key, issuer: Key) -> str:
    """Return a JWT as NATS wants it."""
    now = int(time.time())
    body = {"jti": os.urandom(16).hex(), "iat": now, "iss": issuer.public, "sub": subject.public, "name": "x"}
    head = encoded({"typ": "JWT", "alg": "ed25519-nkey"}) + "." + encoded({**body, "nats": claims})
    return head + "." + base64.urlsafe_b64encode(issuer.pair.sign(head.encode())).decode().rstrip("=")


def encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def make_credentials(path: Path, subject: str) -> list[str]:
    """Write the credentials of a user who may use a subject, and return a server's settings that know it."""
    operator, account = Key(nkeys.PREFIX_BYTE_OPERATOR), Key(nkeys.PREFIX_BYTE_ACCOUNT)
    user, system = Key(nkeys.PREFIX_BYTE_USER), Key(nkeys.PREFIX_BYTE_ACCOUNT)
    names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    storage = ("mem_storage", "disk_storage", "streams", "consumer")
    limits = {**dict.fromkeys((*names, *storage), UNLIMITED), "wildcards": True}
    claims = {"limits": limits, "type": "account", "version": 2}
    allowed = {"allow": [f"{subject}.>", "$JS.>", "_INBOX.>"]}
    own = signed(
        {
            "pub": allowed,
            "sub": {"allow": ["_INBOX.>", f"{subject}.>"]},
            "subs": -1,
            "data": -1,
            "payload": -1,
        }
        | {"type": "user", "version": 2},
        user,
        account,
    )
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{own}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    path.chmod(0o600)
    system_limits = {key: value for key, value in limits.items() if key not in storage}
    return [
        f"operator: {signed({'type': 'operator', 'version': 2}, operator, operator)}",
        f"system_account: {system.public}",
        "resolver: MEMORY",
        "resolver_preload: {",
        f"  {account.public}: {signed(claims, account, operator)}",
        f"  {system.public}: {signed({**claims, 'limits': system_limits}, system, operator)}",
        "}",
    ]
