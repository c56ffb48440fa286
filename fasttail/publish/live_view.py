"""What a page of figures needs, made once for all who look: `summary` each second, `tape` five times.

    pipeline ─► Flow (rows by status and coin, the largest events) ─► tick ─┬─► tape: those events
    monitoring ─► figures ──────────────────────────────────────────────────┴─► summary

The first subscriber makes the pipeline count, and the last one makes it stop. Trades are counted if the
server follows the fills; it reads them as long as somebody looks.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Protocol

import orjson

from fasttail.engine.events import FlowCounts
from fasttail.engine.flow import Flow
from fasttail.publish.public_api import PublicService
from fasttail.streams.vocabulary import STATUS_NAMES

TICK_S = 0.2
TICKS_PER_SUMMARY = 5
COINS_SUMMARIES = 60
"""Over which the coins are added up: a minute."""
TOP_COINS = 20
"""Coins of a summary with the most orders in the minute, and with the most trades, and traded notional."""


class FlowControl(Protocol):
    """Counts the rows of a stream: `Pipeline`."""

    def swap_flow(self, stream: str) -> int: ...
    def stop_flow(self, stream: str) -> int: ...


@dataclass
class CoinTotals:
    """What happened in a coin. notional: of the trades"""

    orders: int = 0
    trades: int = 0
    notional: float = 0.0

    def add(self, other: CoinTotals, sign: int = 1) -> None:
        self.orders += sign * other.orders
        self.trades += sign * other.trades
        self.notional += sign * other.notional


class CoinWindow:
    """Adds up what happened in each coin over the last `size` parts."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts: deque[dict[str, CoinTotals]] = deque()
        self._sums: dict[str, CoinTotals] = {}

    def add(self, part: dict[str, CoinTotals]) -> None:
        """Add a part, and take out one that is older."""
        self._parts.append(part)
        for name, coin in part.items():
            self._sums.setdefault(name, CoinTotals()).add(coin)
        if len(self._parts) > self._size:
            for name, coin in self._parts.popleft().items():
                left = self._sums[name]
                left.add(coin, -1)
                if not left.orders and not left.trades:
                    del self._sums[name]

    def top(self) -> dict[str, CoinTotals]:
        """Return the coins with the most orders, trades, and traded notional, TOP_COINS of each."""
        found: dict[str, CoinTotals] = {}
        for key in map(attrgetter, ("orders", "trades", "notional")):
            ranked = heapq.nlargest(TOP_COINS, self._sums, key=lambda name: key(self._sums[name]))
            found.update((name, self._sums[name]) for name in ranked if key(self._sums[name]) > 0)
        return found


@dataclass
class _Totals:
    """What happened since the last summary."""

    orders: int = 0
    trades: int = 0
    notional: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    coins: dict[str, CoinTotals] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)


class LiveView:
    """Sends `summary` and `tape` to their subscribers.

    flows: of the streams "orders" and, if it is followed, "fills". figures: what a summary has besides
    """

    def __init__(
        self,
        service: PublicService,
        control: FlowControl,
        flows: Mapping[str, Flow],
        figures: Callable[[], dict[str, Any]],
    ) -> None:
        self._service = service
        self._control = control
        self._flows = flows
        self._figures = figures
        self._asked: dict[str, int] = {}  # by stream, the number of the command that swaps its windows
        self._totals = _Totals()
        self._coins = CoinWindow(COINS_SUMMARIES)
        self._ticks = 0

    def tick(self) -> None:
        """Send what is due; call it every TICK_S."""
        members = self._service.broadcast_members
        if not members["summary"] and not members["tape"]:
            if self._asked:
                self._stop()
            return
        events: list[dict[str, Any]] = []
        left_out = 0
        for stream, flow in self._flows.items():
            feeds = self._service.streams[stream].feeds
            if stream not in self._asked:
                feeds.hold(True)
            elif feeds.applied < self._asked[stream]:
                continue  # the pipeline is busy
            else:
                counts = flow.take()
                self._add(stream, counts)
                shown = [
                    {**_READ[stream](orjson.loads(text)), "side": side}
                    for _, side, text in sorted(counts.largest)
                ]
                left_out += counts.rows - len(shown)
                events += shown
            self._asked[stream] = self._control.swap_flow(stream)
        if members["tape"] and (events or left_out):
            events.sort(key=lambda event: int(event["time"]))
            self._service.broadcast("tape", {"events": events, "leftOut": left_out})
        self._ticks += 1
        if self._ticks % TICKS_PER_SUMMARY == 0:
            self._coins.add(self._totals.coins)
            if members["summary"]:
                self._service.broadcast("summary", {**self._figures(), "flow": self._flow()})
            self._totals = _Totals()

    def _stop(self) -> None:
        for stream in self._asked:
            self._control.stop_flow(stream)
            self._service.streams[stream].feeds.hold(False)
        self._asked.clear()
        self._totals = _Totals()
        self._coins = CoinWindow(COINS_SUMMARIES)
        self._ticks = 0

    def _add(self, stream: str, counts: FlowCounts) -> None:
        totals = self._totals
        for text, rows, notional in counts.coins:
            coin = totals.coins.setdefault(_coin_name(text), CoinTotals())
            if stream == "orders":
                coin.orders += rows
            else:
                coin.trades += rows
                coin.notional += notional
        if stream == "orders":
            totals.orders += counts.rows
            for code, rows in counts.words.items():
                totals.statuses[STATUS_NAMES[code - 1] if 0 < code <= len(STATUS_NAMES) else "other"] += rows
        else:
            totals.trades += counts.rows
            totals.notional += counts.notional

    def _flow(self) -> dict[str, Any]:
        """Return the part of a summary that says what happened since the last one."""
        totals = self._totals
        return {
            "seconds": round(time.monotonic() - totals.since, 3),
            "orders": totals.orders,
            "trades": totals.trades,
            "notional": totals.notional,
            "statuses": totals.statuses,
            "coins": [{"coin": name, **vars(coin)} for name, coin in self._coins.top().items()],
        }


def _coin_name(text: bytes) -> str:
    """Return the name of a coin that was written as `text` between quotes."""
    try:
        return str(orjson.loads(b'"' + text + b'"'))
    except orjson.JSONDecodeError:
        return text.decode(errors="replace")


def _order_event(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of order statuses as the tape shows it."""
    order = event["order"]
    at = datetime.fromisoformat(event["time"][:26]).replace(tzinfo=UTC)
    return {
        "kind": "order",
        "time": int(at.timestamp() * 1000),
        "coin": order["coin"],
        "px": order["limitPx"],
        "sz": order["sz"],
        "status": event["status"],
    }


def _trade_event(event: list[Any]) -> dict[str, Any]:
    """Return the later fill of a trade as the tape shows it."""
    fill = event[1]
    return {"kind": "trade", "time": fill["time"], "coin": fill["coin"], "px": fill["px"], "sz": fill["sz"]}


_READ: Mapping[str, Callable[[Any], dict[str, Any]]] = {"orders": _order_event, "fills": _trade_event}
