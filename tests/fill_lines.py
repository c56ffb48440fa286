"""Makes lines of fills for tests, in the node's form, and their trades by plain Python."""

from __future__ import annotations

from typing import Any

import orjson

Event = list[Any]
"""`[user, fill]`"""

FIRST_BLOCK = 985148182
FIRST_MS = 1778002754852


def fill(user: str, **changes: Any) -> Event:
    """Return an event with changed values."""
    made: dict[str, Any] = {
        "coin": "BTC", "px": "65045.0", "sz": "0.0003", "side": "B", "time": FIRST_MS, "startPosition": "0.0",
        "dir": "Open Long", "closedPnl": "0.0", "hash": "0x" + "4" * 64, "oid": 412036451268,
        "crossed": True, "fee": "0.01", "tid": 969007110865318, "feeToken": "USDC", "twapId": None,
    }  # fmt: skip
    return [user, {**made, **changes}]


def match(tid: int, buyer: str, seller: str, *, taker: str = "B", **changes: Any) -> list[Event]:
    """Return both fills of a match, the buyer's first."""
    return [
        fill(buyer, tid=tid, side="B", crossed=taker == "B", **changes),
        fill(seller, tid=tid, side="A", crossed=taker == "A", **changes),
    ]


def in_block(events: list[Event], number: int) -> list[Event]:
    """Return the events with the time of a block."""
    return [[user, {**each, "time": FIRST_MS + number - FIRST_BLOCK}] for user, each in events]


def render(blocks: list[list[Event]], layout: str) -> bytes:
    """Return the lines of blocks, whose numbers count from FIRST_BLOCK."""
    lines = []
    for number, events in enumerate(blocks, FIRST_BLOCK):
        events = in_block(events, number)
        head = {
            "local_time": "2026-05-05T17:39:16.001886457", "block_time": "2026-05-05T17:39:14.852711983",
            "block_number": number,
        }  # fmt: skip
        if layout == "plain":
            lines += [orjson.dumps(event) for event in events]
        elif layout == "streaming":
            lines += [orjson.dumps({**head, "events": [event]}) for event in events]
        else:
            lines.append(orjson.dumps({**head, "events": events}))
    return b"".join(line + b"\n" for line in lines)


def events_of(line: bytes) -> tuple[int | None, list[Event]]:
    """Return the block and the events of a line in any layout."""
    value = orjson.loads(line)
    if isinstance(value, list):
        return None, [value]
    return value["block_number"], value["events"]


def trades(lines: list[bytes]) -> list[dict[str, Any]]:
    """Return the trades of some lines in the public API's shape, in the order of their later fills.

    The reference for the stage: each match has two fills in one block, with the same time, coin and tid.
    """
    found = []
    halves: dict[tuple[Any, ...], tuple[str, dict[str, Any]]] = {}
    for line in lines:
        block, events = events_of(line)
        for user, each in events:
            key = (block, each["time"], each["coin"], each["tid"])
            if key not in halves or halves[key][1]["side"] == each["side"]:
                halves[key] = user, each
                continue
            other, first = halves.pop(key)
            taker = first if first["crossed"] and not each["crossed"] else each
            found.append({
                "coin": each["coin"], "side": taker["side"], "px": each["px"], "sz": each["sz"],
                "time": each["time"], "hash": each["hash"], "tid": each["tid"],
                "users": [other, user] if first["side"] == "B" else [user, other],
            })  # fmt: skip
    return found
