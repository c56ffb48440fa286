"""Makes order-status lines for tests, in the node's form and in others."""

from __future__ import annotations

from typing import Any

import orjson

BASE: dict[str, Any] = {
    "time": "2026-05-05T17:39:14.852711983",
    "user": "0x4f235c15474f984504b0f188755021ae45c2fa65",
    "hash": None,
    "builder": None,
    "status": "open",
    "order": {
        "coin": "BTC",
        "side": "B",
        "limitPx": "65045.0",
        "sz": "0.0003",
        "oid": 412036451268,
        "timestamp": 1778002753024,
        "triggerCondition": "N/A",
        "isTrigger": False,
        "triggerPx": "0.0",
        "children": [],
        "isPositionTpsl": False,
        "reduceOnly": False,
        "orderType": "Limit",
        "origSz": "0.0004",
        "tif": "Alo",
        "cloid": "0x000000000000000018acac9b634b5137",
    },
}


def event(**changes: Any) -> dict[str, Any]:
    """Return the base event with changed values; keys of `order` are recognized."""
    made: dict[str, Any] = {**BASE, "order": dict(BASE["order"])}
    for key, value in changes.items():
        (made["order"] if key in BASE["order"] else made)[key] = value
    return made


def without(*keys: str, **changes: Any) -> dict[str, Any]:
    """Return an event like `event`, without some keys."""
    made = event(**changes)
    for key in keys:
        (made["order"] if key in BASE["order"] else made).pop(key)
    return made


def plain(*events: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(each) + b"\n" for each in events)


def envelope(events: list[dict[str, Any]], number: int = 985148182, **changes: Any) -> bytes:
    """Return a streaming or by_block line."""
    head = {
        "local_time": "2026-05-05T17:39:16.001886457",
        "block_time": "2026-05-05T17:39:14.852711983",
        "block_number": number,
    }
    return orjson.dumps({**head, "events": events, **changes}) + b"\n"
