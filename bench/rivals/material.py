"""Makes the lines that all rivals get, each with a unique number, and what each rival must deliver."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fasttail.tools import exchange

BASE = 500_000_000_000
"""oid of line 0, with as many digits as the node's."""
OID = re.compile(rb'"oid":(\d{12})')
SYMBOLS = [{"symbol": coin, "min_liquidity": 100} for coin in ("BTC", "ETH", "HYPE", "SOL")]
STATUSES = {
    "open": "open",
    "filled": "filled",
    "triggered": "triggered",
    "canceled": "canceled",
    "cancelled": "canceled",
    "vaultWithdrawalCanceled": "canceled",
}


@dataclass(frozen=True)
class Material:
    """Streaming lines; line i has the oid BASE + i."""

    lines: list[bytes]

    @classmethod
    def of(cls, lines: int, seed: int) -> Material:
        made = exchange.generate(lines, "streaming", seed).splitlines(keepends=True)
        # The first oid of a line is the order's own; children come later.
        return cls([OID.sub(b'"oid":%d' % (BASE + i), line, count=1) for i, line in enumerate(made)])

    def expected(self, kind: str) -> Mapping[int, Any]:
        """Return by line number: lines, events (the node's plain line) or orders (of the old channel)."""
        if kind == "lines":
            return dict(enumerate(line[:-1] for line in self.lines))
        if kind == "events":
            return {
                i: line[line.index(b'"events":[') + len(b'"events":[') : -len(b"]}\n")]
                for i, line in enumerate(self.lines)
            }
        orders = {i: _order(json.loads(line)["events"][0]) for i, line in enumerate(self.lines)}
        return {i: order for i, order in orders.items() if order is not None}


def _order(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what /ws/orderUpdate sends for an event, or None if it is filtered out."""
    order, status = event["order"], STATUSES.get(event["status"])
    least = {str(each["symbol"]): float(str(each["min_liquidity"])) for each in SYMBOLS}
    price, size = float(order["limitPx"]), float(order["origSz"])
    if status is None or order["coin"] not in least or price * size < least[order["coin"]]:
        return None
    whole, _, fraction = event["time"].partition(".")
    return {
        "id": str(order["oid"]),
        "symbol": order["coin"],
        "side": {"B": "Bid", "A": "Ask"}[order["side"]],
        "price": price,
        "size": size,
        "owner": event["user"],
        "timestamp": f"{whole}.{(fraction + '000000')[:6]}",
        "status": status,
    }
