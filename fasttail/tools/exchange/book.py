"""Orders, and one side of a coin's book in price-time priority."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttail.tools.exchange.accounts import Maker

PLAIN_TERMS = (
    '"triggerCondition":"N/A","isTrigger":false,"triggerPx":"0.0","children":[],'
    '"isPositionTpsl":false,"reduceOnly":false,"orderType":"Limit",'
)
"""The text of a plain limit order from `triggerCondition` to `orderType`."""


def terms_text(
    kind: str = "Limit",
    *,
    trigger: tuple[str, str] | None = None,
    children: str = "",
    tpsl: bool = False,
    reduce_only: bool = False,
    triggered: bool = False,
) -> str:
    """Return an order's text from `triggerCondition` to `orderType`.

    trigger:   (condition, price) of an order that waits.
    triggered: whether it is one that was triggered, and rests as a limit order now.
    """
    condition, trigger_px = trigger or ("Triggered" if triggered else "N/A", "0.0")
    return (
        f'"triggerCondition":"{condition}","isTrigger":{"true" if trigger else "false"},'
        f'"triggerPx":"{trigger_px}","children":[{children}],"isPositionTpsl":{"true" if tpsl else "false"},'
        f'"reduceOnly":{"true" if reduce_only else "false"},"orderType":"{kind}",'
    )


class Order:
    """An order from its opening to its end.

    px, sz, orig: scaled by 10^8; `sz` is what remains.
    timestamp:    when it was placed, ms since 1970.
    terms:        its text from `triggerCondition` to `orderType`.
    tif, cloid:   JSON.
    resting:      whether it is in the book.
    """

    __slots__ = (
        "cloid", "maker", "oid", "orig", "px", "reduce_only", "resting", "sz", "terms", "tif", "timestamp"
    )  # fmt: skip

    def __init__(
        self, maker: Maker, oid: int, px: int, sz: int, timestamp: int, tif: str, cloid: str,
        terms: str = PLAIN_TERMS, reduce_only: bool = False,
    ) -> None:  # fmt: skip
        self.maker = maker
        self.oid = oid
        self.px = px
        self.sz = sz
        self.orig = sz
        self.timestamp = timestamp
        self.tif = tif
        self.cloid = cloid
        self.terms = terms
        self.reduce_only = reduce_only
        self.resting = False


def swap_out(orders: list[Order], index: int) -> Order:
    """Take an order out of a list, in which the last one takes its place."""
    order = orders[index]
    orders[index] = orders[-1]
    orders.pop()
    return order


class ParentOrder(Order):
    """An order whose take-profit and stop orders wait until it is filled."""

    __slots__ = ("children",)
    children: list[TriggerOrder]


class TriggerOrder(Order):
    """A stop or take-profit order, which waits until the price passes `trigger_px`.

    is_market: whether it then executes at once; otherwise it is placed as a limit order.
    waiting:   whether it may still be triggered.
    sibling:   the other child of its parent, which ends when this one is filled.
    """

    __slots__ = ("above", "is_market", "kind", "sibling", "trigger_px", "waiting")
    above: bool
    is_market: bool
    kind: str
    trigger_px: int
    waiting: bool
    sibling: TriggerOrder | None


class Ladder:
    """One side of a book: price levels, each a queue of orders by oid.

    keys: prices in ascending order for bids, negated ones for asks, so that the best is the last.
    """

    __slots__ = ("_sign", "keys", "levels")

    def __init__(self, is_bid: bool) -> None:
        self._sign = 1 if is_bid else -1
        self.keys: list[int] = []
        self.levels: dict[int, dict[int, Order]] = {}

    def best(self) -> int:
        """Return the best price, or 0."""
        return self.keys[-1] * self._sign if self.keys else 0

    def add(self, order: Order) -> None:
        """Put an order at the back of its price level."""
        order.resting = True
        level = self.levels.get(order.px)
        if level is None:
            self.levels[order.px] = {order.oid: order}
            insort(self.keys, order.px * self._sign)
        else:
            level[order.oid] = order

    def insert_before(self, order: Order, anchor: Order) -> None:
        """Put an order directly in front of another one of the same price."""
        order.resting = True
        queue = self.levels[anchor.px]
        rebuilt: dict[int, Order] = {}
        for oid, other in queue.items():
            if oid == anchor.oid:
                rebuilt[order.oid] = order
            rebuilt[oid] = other
        self.levels[anchor.px] = rebuilt

    def remove(self, order: Order) -> None:
        """Take an order out, and its price level if that is empty then."""
        order.resting = False
        level = self.levels[order.px]
        del level[order.oid]
        if not level:
            del self.levels[order.px]
            del self.keys[bisect_left(self.keys, order.px * self._sign)]

    def orders(self) -> Iterator[Order]:
        """Yield the orders, best price first, and within a price in the order of their queue."""
        for key in reversed(self.keys):
            yield from self.levels[key * self._sign].values()

    def __len__(self) -> int:
        return sum(map(len, self.levels.values()))
