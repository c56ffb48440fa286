"""Provides events and their `orderUpdates` elements for SDK tests, and handles missing SDKs."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import pytest
from lines import envelope, event, plain
from plain_reader import time_ns

USER = "0x4f235c15474f984504b0f188755021ae45c2fa65"
OTHER = "0x588432f54227364caf999a6df88dbf86a90f4772"

FIELDS = ("coin", "side", "limitPx", "sz", "oid", "timestamp", "origSz", "cloid")


def missing(what: str) -> NoReturn:
    """Skip a module that cannot run, or fail with FASTTAIL_NEED_SDKS=1."""
    if os.environ.get("FASTTAIL_NEED_SDKS") == "1":
        pytest.fail(what, pytrace=False)
    pytest.skip(what, allow_module_level=True)


def update(event: dict[str, Any]) -> dict[str, Any]:
    """Return the element for an event: the node's own values, and the event's time in ms."""
    return {
        "order": {field: event["order"][field] for field in FIELDS},
        "status": event["status"],
        "statusTimestamp": time_ns(event["time"]) // 10**6,
    }


def updates(events: list[dict[str, Any]], *users: str) -> list[dict[str, Any]]:
    """Return the elements that a subscriber to these users gets."""
    return [update(event) for event in events if event["user"] in users]


def mixed(first: int, count: int, users: tuple[str, ...] = (USER, OTHER)) -> list[dict[str, Any]]:
    """Return events of alternating users with all kinds of statuses, times and coins; oids count up."""
    statuses = ("open", "filled", "canceled", "triggered", "badAloPxRejected", "scheduledCancel", "newSince")
    fractions = ("", ".852", ".852711", ".852711983", ".000000001")
    coins = ("BTC", "xyz:XYZ100", "@107", "PURR/USDC", "kPEPE")
    child = event(oid=7, reduceOnly=True, tif=None)["order"]
    return [
        event(
            user=users[i % len(users)],
            oid=10**11 + i,
            status=statuses[i % len(statuses)],
            time=f"2026-05-05T17:39:{i % 60:02d}{fractions[i % len(fractions)]}",
            coin=coins[i % len(coins)],
            side="AB"[i // 2 % 2],
            limitPx=f"{i}.5",
            sz=f"0.{i}",
            origSz=f"{i}.0",
            timestamp=1778002753024 + i,
            cloid=None if i % 3 else f"0x{i:032x}",
            children=[child] if i % 11 == 5 else [],
        )
        for i in range(first, first + count)
    ]


def render(events: list[dict[str, Any]], layout: str) -> bytes:
    """Render events as the node's lines."""
    if layout == "plain":
        return plain(*events)
    if layout == "streaming":
        return b"".join(envelope([each]) for each in events)
    return b"".join(envelope(events[i : i + 7]) for i in range(0, len(events), 7))
