"""Hyperliquidity (HIP-2): the exchange's own orders on spot pairs, which have book diffs but no statuses."""

from __future__ import annotations

from fasttail.tools.exchange.accounts import HIP2_USER, Account, Position
from fasttail.tools.exchange.book import Order
from fasttail.tools.exchange.constants import NS
from fasttail.tools.exchange.engine import Engine
from fasttail.tools.exchange.markets import Market

_LEVELS = 4
_EVERY_NS = 3 * NS


class Hyperliquidity:
    """Quotes spot pairs, and moves its quotes every three seconds."""

    def __init__(self, engine: Engine, markets: list[Market]) -> None:
        self._engine = engine
        self._account = Account(HIP2_USER)
        self._quotes: dict[str, list[Order]] = {}
        self._markets = [market for market in markets if market.has_hip2]
        self._next = 0  # index of the market whose quotes are due
        self._due_ns = 0

    def populate(self, now_ms: int) -> None:
        """Put the first quotes into the books, without events. There are tokens enough for long."""
        for market in self._markets:
            self._account.positions[market.name] = Position(max(market.sizes) * 10**6, market.first_px)
            for order in self._orders(market, now_ms):
                market.ladder(order.maker.is_bid).add(order)

    def requote(self) -> None:
        """Replace the quotes of the pairs that are due in this block, a few at a time."""
        now = self._engine.events.time_ns
        if not self._markets:
            return
        pause = _EVERY_NS // len(self._markets)
        self._due_ns = max(self._due_ns, now - _EVERY_NS)
        while self._due_ns <= now:
            self._due_ns += pause
            market = self._markets[self._next]
            self._next = (self._next + 1) % len(self._markets)
            for order in self._quotes[market.name]:
                if order.resting:
                    self._engine.cancel(order)
            for order in self._orders(market, self._engine.events.time_ms):
                self._engine.rest(order)

    def _orders(self, market: Market, now_ms: int) -> list[Order]:
        """Return new quotes around the pair's price, which do not cross the book."""
        engine = self._engine
        step = max(market.fair // 300 // market.tick, 1) * market.tick
        sz = max(market.sizes) // market.lot * market.lot
        orders = []
        for level in range(1, _LEVELS + 1):
            for side in "BA":
                px = market.fair - level * step if side == "B" else market.fair + level * step
                best = market.ladder(side != "B").best()
                if px <= 0 or (best and (px >= best if side == "B" else px <= best)):
                    continue
                maker = engine.maker(self._account, market, side)
                orders.append(Order(maker, engine.next_oid(), px, sz, now_ms, '"Alo"', "null"))
        self._quotes[market.name] = orders
        return orders
