"""Order books that are made of a snapshot and book diffs alone, and their rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from operator import itemgetter
from typing import Any

from exchange_findings import Report
from exchange_folder import Block, Snapshot, SnapshotCoin, SnapshotOrder, scaled

HIP2 = "0x" + "f" * 40
ASSISTANCE = "0x" + "fe" * 20
NO_STATUS_USERS = (HIP2, ASSISTANCE)
"""Users whose orders have book diffs but never a status."""

FIELDS = (
    "timestamp", "triggerCondition", "isTrigger", "triggerPx", "children", "isPositionTpsl", "reduceOnly",
    "orderType", "origSz", "tif", "cloid",
)  # fmt: skip
"""The keys of a snapshot's order that come from statuses; the others come from book diffs."""
AT_REST = {"triggerCondition": "Triggered", "isTrigger": False, "triggerPx": "0.0", "tif": "Gtc"}
"""What a snapshot shows of a trigger order that has triggered and rests."""


details: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(*FIELDS)
"""Returns the values of FIELDS."""


@dataclass(slots=True, eq=False)
class Resting:
    """An order in a book. Prices and sizes are integers, times 10^8."""

    oid: int
    user: str | None
    coin: str
    side: str
    px: int
    sz: int
    details: tuple[Any, ...]


class Side:
    """One side of a book: price -> oid -> order, the orders of a price in their queue's order."""

    def __init__(self, sign: int) -> None:
        self.levels: dict[int, dict[int, Resting]] = {}
        self.sign = sign
        self.prices: list[int] = []
        """Heap of prices times sign, best first; also prices that have no level any more."""

    def insert(self, order: Resting, before: int | None) -> bool:
        """Put an order at the back of its level or in front of another. Return whether that one is there."""
        level = self.levels.get(order.px)
        if level is None:
            level = self.levels[order.px] = {}
            heappush(self.prices, order.px * self.sign)
        found = before is None or before in level
        if before is not None and found:
            old = list(level.items())
            level.clear()
            for oid, each in old:
                if oid == before:
                    level[order.oid] = order
                level[oid] = each
        else:
            level[order.oid] = order
        return found

    def remove(self, order: Resting) -> None:
        level = self.levels[order.px]
        del level[order.oid]
        if not level:
            del self.levels[order.px]

    def best(self) -> int | None:
        """Return the best price times sign."""
        while self.prices and self.prices[0] * self.sign not in self.levels:
            heappop(self.prices)
        if len(self.prices) > 64 + 4 * len(self.levels):
            self.prices = [price * self.sign for price in self.levels]
            heapify(self.prices)
        return self.prices[0] if self.prices else None

    def best_first(self) -> Iterator[Resting]:
        for price in sorted(self.levels, key=lambda price: price * self.sign):
            yield from self.levels[price].values()


class Book:
    def __init__(self) -> None:
        self.sides = {"B": Side(-1), "A": Side(1)}

    def crossed(self) -> bool:
        bid, ask = self.sides["B"].best(), self.sides["A"].best()
        return bid is not None and ask is not None and -bid >= ask


@dataclass(slots=True)
class Change:
    """What a block's diffs did to one order.

    new:     the size with which it entered the book, None when it was there before.
    taken:   what updates took from it.
    removed: the size with which it left the book, None when it has not.
    order:   the order, also after it left.
    at:      the index of the last diff.
    """

    order: Resting
    at: int
    new: int | None = None
    taken: int = 0
    removed: int | None = None


class Books:
    """All books. Nothing is matched: the diffs alone decide.

    complete: whether every order of the books is known, because a snapshot was installed.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.books: dict[str, Book] = {}
        self.orders: dict[int, Resting] = {}
        self.complete = False

    def book(self, coin: str) -> Book:
        book = self.books.get(coin)
        if book is None:
            book = self.books[coin] = Book()
        return book

    def install(self, snapshot: Snapshot) -> None:
        for coin, value in snapshot.coins.items():
            for user, order in value.bids + value.asks:
                px, sz = scaled(order["limitPx"]), scaled(order["sz"])
                self._rest(Resting(order["oid"], user, coin, order["side"], px, sz, details(order)), None)
        self.complete = True

    def _rest(self, order: Resting, before: int | None) -> bool:
        self.orders[order.oid] = order
        return self.book(order.coin).sides[order.side].insert(order, before)

    def apply(
        self, block: Block, opened: dict[int, tuple[str, dict[str, Any]]], filled: set[int]
    ) -> dict[int, Change]:
        """Apply a block's diffs in their order.

        opened: oid -> user and order of the block's statuses with which orders may enter a book.
        filled: the orders that the block fills to their end.
        """
        changes: dict[int, Change] = {}
        counts: Counter[str] = Counter()
        for index, event in enumerate(block.events("bookDiffs")):
            diff = event["raw_book_diff"]
            if diff == "remove":
                counts["diffs: remove"] += 1
                self._leave(block, index, event, filled, changes)
            elif "update" in diff:
                counts["diffs: update"] += 1
                self._update(block, index, event, diff["update"], changes)
            else:
                counts["diffs: new"] += 1
                self._enter(block, index, event, diff["new"], opened, changes)
        self.report.counts.update(counts)
        for coin, last in {change.order.coin: change.at for change in changes.values()}.items():
            if self.books[coin].crossed():
                self._found("crossed", block, last, f"{coin} is crossed at the block's end")
        return changes

    def _found(self, rule: str, block: Block, index: int, text: str) -> None:
        self.report.add(rule, block.number, block.where("bookDiffs", index), text)

    def _enter(
        self,
        block: Block,
        index: int,
        event: dict[str, Any],
        new: dict[str, Any],
        opened: dict[int, tuple[str, dict[str, Any]]],
        changes: dict[int, Change],
    ) -> None:
        oid, user, coin, side = event["oid"], event["user"], event["coin"], _side(event)
        if oid in self.orders:
            self._found("new-twice", block, index, f"oid {oid} is in the book already")
            self._take_out(self.orders[oid])
        px, sz = scaled(event["px"]), scaled(new["sz"])
        fields: tuple[Any, ...] = ()
        if user in NO_STATUS_USERS:
            fields = (block.time_ms, "N/A", False, "0.0", [], False, False, "Limit", new["sz"], "Alo", None)
            self.report.counts["diffs: new of a user without statuses"] += 1
        elif oid in opened:
            owner, order = opened[oid]
            if (owner, order["coin"], order["side"]) != (user, coin, side):
                self._found(
                    "status-order", block, index, f"oid {oid}: {user} {coin} {side}, not as in its status"
                )
            if order["limitPx"] != event["px"] and not order["isTrigger"]:
                self._found("new-price", block, index, f"oid {oid} at {event['px']}, not {order['limitPx']}")
            fields = self._at_rest(order, block)
        else:
            self._found("new-unopened", block, index, f"oid {oid} of {user} was not opened in this block")
        resting = Resting(oid, user, coin, side, px, sz, fields)
        before = new.get("insertBefore")
        if before is not None:
            self.report.counts["diffs: insertBefore"] += 1
        if not self._rest(resting, before) and self.complete:
            self._found("insert-before", block, index, f"oid {before} is not at {coin} {side} {event['px']}")
        changes[oid] = Change(resting, index, new=sz)

    @staticmethod
    def _at_rest(order: dict[str, Any], block: Block) -> tuple[Any, ...]:
        """Return the fields that a snapshot shows of an order that enters the book."""
        if order["isTrigger"]:
            return details(order | AT_REST | {"timestamp": block.time_ms})
        return details(order | {"tif": "Gtc"} if order["tif"] == "Ioc" else order)

    def _change(
        self, block: Block, index: int, event: dict[str, Any], changes: dict[int, Change]
    ) -> Change | None:
        """Return the change of the order that an update or remove names, if it is in the book."""
        oid = event["oid"]
        order = self.orders.get(oid)
        if order is None:
            if self.complete:
                self._found("diff-unknown", block, index, f"oid {oid} is not in the book of {event['coin']}")
            return None
        if scaled(event["px"]) != order.px:
            self._found("diff-price", block, index, f"oid {oid} rests at {order.px / 1e8}, not {event['px']}")
        if (event["coin"], _side(event)) != (order.coin, order.side) or order.user not in (
            None,
            event["user"],
        ):
            self._found(
                "status-order", block, index, f"oid {oid} is of {order.user} {order.coin} {order.side}"
            )
        change = changes.get(oid)
        if change is None:
            change = changes[oid] = Change(order, index)
        change.at = index
        return change

    def _update(
        self,
        block: Block,
        index: int,
        event: dict[str, Any],
        update: dict[str, Any],
        changes: dict[int, Change],
    ) -> None:
        change = self._change(block, index, event, changes)
        if change is None:
            return
        before, after = scaled(update["origSz"]), scaled(update["newSz"])
        order = change.order
        if before != order.sz or after >= before:
            text = f"oid {order.oid} has {order.sz / 1e8} in the book, the update is {update}"
            self._found("update-size", block, index, text)
        self._check_first(block, index, order)
        change.taken += order.sz - after
        order.sz = after

    def _leave(
        self, block: Block, index: int, event: dict[str, Any], filled: set[int], changes: dict[int, Change]
    ) -> None:
        change = self._change(block, index, event, changes)
        if change is not None:
            if change.order.oid in filled and change.order.sz:
                self._check_first(block, index, change.order)
            change.removed = change.order.sz
            self._take_out(change.order)

    def _check_first(self, block: Block, index: int, order: Resting) -> None:
        """Check that an order that a fill takes is the first of its side."""
        side = self.books[order.coin].sides[order.side]
        self.report.counts["books: fills taken from the front"] += 1
        if self.complete and (
            order.px * side.sign != side.best() or next(iter(side.levels[order.px])) != order.oid
        ):
            self._found("priority", block, index, f"oid {order.oid} at {order.px / 1e8} is not the first")

    def _take_out(self, order: Resting) -> None:
        del self.orders[order.oid]
        self.books[order.coin].sides[order.side].remove(order)

    def compare(self, snapshot: Snapshot) -> None:
        """Compare all books with a snapshot of the same height: every coin, side, order, place and field."""
        ours = {coin for coin, book in self.books.items() if any(side.levels for side in book.sides.values())}
        theirs = {coin for coin, value in snapshot.coins.items() if value.bids or value.asks}
        for coin in sorted(ours ^ theirs):
            where = "replayed books" if coin in ours else "snapshot"
            self.report.add("snapshot-queue", snapshot.height, "snapshot", f"{coin} is in the {where} only")
        for coin in sorted(ours & theirs):
            self._compare_coin(coin, snapshot.coins[coin], snapshot.height)

    def _compare_coin(self, coin: str, value: SnapshotCoin, height: int) -> None:
        for name, theirs in (("B", value.bids), ("A", value.asks)):
            ours = list(self.books[coin].sides[name].best_first())
            if [order.oid for order in ours] != [each.order["oid"] for each in theirs]:
                text = f"{coin} {name}: {_first_difference(ours, theirs)}"
                self.report.add("snapshot-queue", height, "snapshot", text)
            known = {order.oid: order for order in ours}
            for each in theirs:
                order = known.get(each.order["oid"])
                difference = None if order is None else order_difference(order, each)
                if difference is not None:
                    text = f"{coin} oid {each.order['oid']}: {difference}"
                    self.report.add("snapshot-order", height, "snapshot", text)
            self.report.counts["snapshot: orders"] += len(theirs)
        self.report.counts["snapshot: coins"] += 1


def _side(event: dict[str, Any]) -> str:
    """Return the side of a book diff; a page of the docs has Bid and Ask in place of B and A."""
    side: str = event["side"]
    return side[0]


def _first_difference(ours: list[Resting], theirs: list[SnapshotOrder]) -> str:
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine.oid != other.order["oid"]:
            return f"order {place} is {mine.oid} in the replayed book, {other.order['oid']} in the snapshot"
    return f"{len(ours)} orders in the replayed book, {len(theirs)} in the snapshot"


def order_difference(order: Resting, other: SnapshotOrder) -> str | None:
    """Return how a snapshot's order differs from the replayed one."""
    user, theirs = other
    mine = (order.coin, order.side, order.px, order.sz)
    found = (theirs["coin"], theirs["side"], scaled(theirs["limitPx"]), scaled(theirs["sz"]))
    if mine != found:
        return f"coin, side, px, sz {mine}, in the snapshot {found}"
    if None not in (user, order.user) and user != order.user:
        return f"user {order.user}, in the snapshot {user}"
    if order.details:
        for name, value in zip(FIELDS, order.details, strict=True):
            right = (
                same_children(value, theirs[name], order.oid) if name == "children" else value == theirs[name]
            )
            if not right:
                return f"{name} {value!r}, in the snapshot {theirs[name]!r}"
    return None


def same_children(known: list[dict[str, Any]], found: list[dict[str, Any]], parent: int) -> bool:
    """Tell whether child orders are the same. A parent's open status shows its own oid in place of theirs."""
    if len(known) != len(found):
        return False
    return all(
        mine == (other | {"oid": parent} if mine["oid"] == parent else other)
        for mine, other in zip(known, found, strict=True)
    )
