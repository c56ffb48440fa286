"""Compares what statuses, book diffs and fills say of each order that a block touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from exchange_books import NO_STATUS_USERS, Books, Change
from exchange_fills import ORDINARY, Leg, is_outcome
from exchange_findings import Report
from exchange_folder import UNIT, Block, scaled
from exchange_lives import ENDED, OPEN, TRIGGERED, Events, Life, Lives

Found = Callable[[str, str], None]
"""Reports a broken rule, and how."""


class Touched(NamedTuple):
    """What a block did to one order. Sizes are integers, times 10^8.

    made, took: its fills as maker and as taker.
    """

    oid: int
    change: Change | None
    legs: Sequence[Leg]
    made: int
    took: int


class Sizes:
    """The comparison after each block.

    has_diffs, has_fills: which streams there are to compare with.
    """

    def __init__(self, report: Report, books: Books, lives: Lives, has_diffs: bool, has_fills: bool) -> None:
        self.report = report
        self.books = books
        self.lives = lives
        self.has_diffs = has_diffs
        self.has_fills = has_fills

    def settle(
        self,
        block: Block,
        seen: Events,
        changes: Mapping[int, Change],
        fills: Mapping[int, Sequence[Leg]],
    ) -> None:
        """Compare all orders that a block touched, and forget those that ended.

        fills: oid -> its fills.
        """
        for oid in dict.fromkeys([*seen.first, *changes, *fills]):
            legs = fills.get(oid, ())
            made = sum(scaled(leg.fill["sz"]) for leg in legs if not leg.fill["crossed"])
            took = sum(scaled(leg.fill["sz"]) for leg in legs if leg.fill["crossed"])
            touched = Touched(oid, changes.get(oid), legs, made, took)
            life = self.lives.lives.get(oid)
            if life is None:
                self._without_statuses(block, touched)
            else:
                self._with_statuses(block, touched, life, seen)
        for oid, (status, _, _) in seen.ended.items():
            self.lives.forget(oid, status)

    def _without_statuses(self, block: Block, touched: Touched) -> None:
        """Check an order without statuses: HIP-2's, a TWAP's slice, or one from before."""
        oid, change, legs, made, _ = touched
        for leg in legs:
            known = (
                leg.user in NO_STATUS_USERS
                or leg.fill["twapId"] is not None
                or "liquidation" in leg.fill
                or leg.fill["dir"] not in ORDINARY
                or is_outcome(leg.fill["coin"])
                or self.lives.from_before(oid)
            )
            if not known:
                text = f"oid {oid} of {leg.user} is not known"
                self.report.add("fill-order", block.number, block.where("fills", leg.at), text)
        if change is None or change.order.user not in NO_STATUS_USERS or not self.has_fills:
            return
        self.report.counts["sizes: orders without statuses"] += 1
        if made not in (change.taken, change.taken + (change.removed or 0)):
            text = f"oid {oid}: fills {made / UNIT}, diffs took {change.taken / UNIT}"
            self.report.add("maker-size", block.number, block.where("bookDiffs", change.at), text)

    def _with_statuses(self, block: Block, touched: Touched, life: Life, seen: Events) -> None:
        oid, change, _, made, _ = touched
        where = _where(block, touched, seen)

        def found(rule: str, text: str) -> None:
            self.report.add(rule, block.number, where, f"oid {oid}: {text}")

        self.report.counts["sizes: orders"] += 1
        self._fills(block, touched, life)
        status, size, _ = seen.ended.get(oid, ("", 0, 0))
        if self.has_diffs and self.has_fills:
            consumed = 0 if change is None else change.taken
            if change is not None and status == "filled":
                consumed += change.removed or 0
            if made != consumed:
                found("maker-size", f"maker's fills {made / UNIT}, diffs took {consumed / UNIT}")
        left = self._left(touched, life, found)
        if life.state == ENDED:
            self._end(touched, life, status, size, left, found)
        elif life.state in (OPEN, TRIGGERED):
            life.left = self._rest(touched, left, found)

    def _left(self, touched: Touched, life: Life, found: Found) -> int | None:
        """Return what an order has left after a block; None when it is not known."""
        _, change, _, made, took = touched
        left = life.left
        if not self.has_fills:
            if change is None:
                return left
            return change.order.sz if change.removed is None else change.removed
        entered = change.new if change is not None else None
        if left is None:
            return None if entered is None else entered - made
        left -= took
        if entered is not None and entered != left:
            if life.lasting.reduceOnly and entered < left:
                self.report.counts["orders: reduce-only, cut when they entered the book"] += 1
            else:
                found("new-size", f"entered the book with {entered / UNIT}, not {left / UNIT}")
            left = entered
        left -= made
        if left < 0:
            found("rest-size", f"filled by {-left / UNIT} more than it had")
        return left

    def _end(
        self, touched: Touched, life: Life, status: str, size: int, left: int | None, found: Found
    ) -> None:
        if touched.oid in self.books.orders:
            found("ended-resting", f"is {status}, but rests in the book")
        if status != "filled":
            if left is not None and size != left:
                found("cancel-size", f"is {status} with a sz of {size / UNIT}, but {left / UNIT} is left")
            return
        if size:
            found("filled-size", f"is filled, with a sz of {size / UNIT}")
        if not self.has_fills:
            return
        if left and life.lasting.reduceOnly:
            self.report.counts["orders: reduce-only, filled with less than their size"] += 1
        elif left or not touched.legs:
            found("filled-size", f"is filled by {len(touched.legs)} fills, but {(left or 0) / UNIT} is left")

    def _rest(self, touched: Touched, left: int | None, found: Found) -> int | None:
        """Check an order that stays open; return what it has left."""
        oid, change = touched.oid, touched.change
        resting = self.books.orders.get(oid)
        if left == 0 and self.has_fills:
            found("filled-size", "nothing is left, but it is not filled")
        elif not self.has_diffs:
            return left
        elif resting is None and change is not None and change.removed is not None:
            found("remove-unended", "left the book without a status that ends it")
        elif resting is None:
            found("open-not-resting", "is open, but does not rest in the book")
        elif left is None:
            return resting.sz
        elif resting.sz != left:
            found("rest-size", f"{left / UNIT} is left, but {resting.sz / UNIT} rests in the book")
        return left

    def _fills(self, block: Block, touched: Touched, life: Life) -> None:
        """Check the fills of an order against what it was placed with."""
        oid, change, legs, _, _ = touched
        coin, side, limit, *_ = life.lasting
        for leg in legs:
            where = block.where("fills", leg.at)
            if (leg.fill["coin"], leg.fill["side"]) != (coin, side) or life.user not in (None, leg.user):
                text = f"oid {oid} is {life.user}'s, {coin} {side}; its fill is {leg.user}'s"
                self.report.add("fill-order", block.number, where, text)
            px = scaled(leg.fill["px"])
            worse = px - scaled(limit) if side == "B" else scaled(limit) - px
            if not leg.fill["crossed"]:
                if change is not None and px != change.order.px:
                    text = f"oid {oid} rests at {change.order.px / UNIT}, its fill is at {leg.fill['px']}"
                    self.report.add("maker-order", block.number, where, text)
            elif worse > 0:
                text = f"oid {oid}: {leg.fill['px']} is worse than its limit {limit}"
                self.report.add("fill-limit", block.number, where, text)


def _where(block: Block, touched: Touched, seen: Events) -> str:
    oid, change, legs, _, _ = touched
    if oid in seen.ended:
        return block.where("orders", seen.ended[oid][2])
    if oid in seen.first:
        return block.where("orders", seen.first[oid])
    if change is not None:
        return block.where("bookDiffs", change.at)
    return block.where("fills", legs[0].at)
