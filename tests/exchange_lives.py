"""Follows each order from its first status to its last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from exchange_books import NO_STATUS_USERS, same_children
from exchange_findings import Report
from exchange_folder import Block, Snapshot, SnapshotOrder, scaled

NEW = "new"
CHILD = "child"  # part of a parent order, no status of its own yet
WAITING = "waiting"  # a trigger order that has not triggered
OPEN = "open"
TRIGGERED = "triggered"
ENDED = "ended"

STEPS: dict[tuple[str, str], str] = {
    (NEW, "open"): OPEN,
    (NEW, "open trigger"): WAITING,
    (NEW, "rejected"): ENDED,
    (CHILD, "open trigger"): WAITING,
    (CHILD, "canceled"): ENDED,
    (WAITING, "triggered"): TRIGGERED,
    (WAITING, "canceled"): ENDED,
    (OPEN, "filled"): ENDED,
    (OPEN, "canceled"): ENDED,
    (TRIGGERED, "filled"): ENDED,
    (TRIGGERED, "canceled"): ENDED,
    (TRIGGERED, "rejected"): ENDED,
}
"""State and kind of status -> next state. A pair that is not here does not occur."""


def kind_of(status: str, is_trigger: bool) -> str:
    """Return the kind of a status: one for all rejections, and one for all cancellations."""
    if status == "open":
        return "open trigger" if is_trigger else "open"
    if status in ("filled", "triggered"):
        return status
    return "rejected" if status.endswith("ejected") else "canceled"


class Lasting(NamedTuple):
    """What all statuses of an order repeat; the timestamp until it triggers."""

    coin: str
    side: str
    limitPx: str
    origSz: str
    orderType: str
    reduceOnly: bool
    cloid: str | None
    timestamp: int


lasting = itemgetter(*Lasting._fields)


@dataclass(slots=True, eq=False)
class Life:
    """An order that has not ended. Sizes are integers, times 10^8.

    left:     what it has left, None when no status tells: the size of a position's TP/SL.
    order:    the order of its open status while it waits for its trigger.
    children: the oids of its child orders.
    """

    state: str
    user: str | None
    lasting: Lasting
    left: int | None
    order: dict[str, Any] | None = None
    children: tuple[int, ...] = ()


@dataclass(slots=True)
class Events:
    """What the statuses of one block did.

    opened: oid -> user and order of the statuses with which orders may enter a book.
    hashes: oid -> hash of its open status.
    ended:  oid -> status, its sz, index of its event.
    first:  oid -> index of its first event.
    """

    opened: dict[int, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    ended: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)

    def filled(self) -> set[int]:
        return {oid for oid, (status, _, _) in self.ended.items() if status == "filled"}


class Lives:
    """All orders that have not ended."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.lives: dict[int, Life] = {}
        self.reserved: set[int] = set()
        """Oids of child orders that have had no status of their own."""
        self.highest = 0
        self.start: int | None = None
        """From this oid on, all orders are known. None: from the first new order on."""

    # The beginning and the end.

    def install(self, snapshot: Snapshot) -> None:
        for value in snapshot.coins.values():
            for resting in value.bids + value.asks:
                self._install(resting, OPEN)
            for waiting in value.waiting or ():
                self._install(waiting, WAITING)
        if all(value.waiting is not None for value in snapshot.coins.values()):
            self.start = 0

    def _install(self, each: SnapshotOrder, state: str) -> None:
        user, order = each
        oid = order["oid"]
        children = tuple(child["oid"] for child in order["children"])
        if user not in NO_STATUS_USERS:
            life = self._life(state, user, order)
            if order["triggerCondition"] == "Triggered":
                life.state = TRIGGERED
            life.left = life.left or None  # a position's TP/SL
            life.children = children
            self.lives[oid] = life
        self.reserved.update(children)
        self.highest = max(self.highest, oid, *children)

    def compare(self, snapshot: Snapshot) -> None:
        """Compare the waiting trigger orders with a snapshot of the same height."""
        ours: dict[str, dict[int, Life]] = {}
        for oid, life in self.lives.items():
            if life.state == WAITING:
                ours.setdefault(life.lasting.coin, {})[oid] = life
        for coin, value in snapshot.coins.items():
            mine = ours.pop(coin, {})
            if value.waiting is not None:
                theirs = {each.order["oid"]: each for each in value.waiting}
                self._compare(snapshot.height, coin, mine, theirs)
        if any(value.waiting is not None for value in snapshot.coins.values()):
            for coin, mine in ours.items():
                self._compare(snapshot.height, coin, mine, {})

    def _compare(
        self, height: int, coin: str, mine: dict[int, Life], theirs: dict[int, SnapshotOrder]
    ) -> None:
        self.report.counts["snapshot: waiting trigger orders"] += len(theirs)
        for oid in sorted(mine.keys() ^ theirs.keys()):
            where = "statuses" if oid in mine else "snapshot"
            if oid in mine or self.start == 0:
                self.report.add(
                    "snapshot-trigger", height, "snapshot", f"{coin} oid {oid} waits in {where} only"
                )
        for oid in mine.keys() & theirs.keys():
            life, (user, found) = mine[oid], theirs[oid]
            known = life.order or found
            for name, value in known.items():
                right = (
                    same_children(value, found[name], oid) if name == "children" else value == found.get(name)
                )
                if not right:
                    text = f"{coin} oid {oid}: {name} {value!r}, in the snapshot {found.get(name)!r}"
                    self.report.add("snapshot-trigger", height, "snapshot", text)
            if None not in (user, life.user) and user != life.user:
                self.report.add("snapshot-trigger", height, "snapshot", f"{coin} oid {oid} is {life.user}'s")

    def forget(self, oid: int, status: str) -> None:
        """Forget an order that has ended. Child orders of a filled one may still open."""
        life = self.lives.pop(oid)
        if status != "filled":
            self.reserved.difference_update(life.children)

    def from_before(self, oid: int) -> bool:
        """Tell whether an order may have been placed before the first block, and is not known for that."""
        return self.start is None or oid < self.start

    # Statuses.

    @staticmethod
    def _life(state: str, user: str | None, order: dict[str, Any]) -> Life:
        return Life(
            state,
            user,
            Lasting._make(lasting(order)),
            scaled(order["sz"]),
            order if state == WAITING else None,
        )

    def _found(self, rule: str, block: Block, index: int, text: str) -> None:
        self.report.add(rule, block.number, block.where("orders", index), text)

    def statuses(self, block: Block) -> Events:
        """Read a block's statuses in their order."""
        seen = Events()
        words: Counter[str] = Counter()
        for index, event in enumerate(block.events("orders")):
            order = event["order"]
            oid, status = order["oid"], event["status"]
            words[status] += 1
            if event["user"] in NO_STATUS_USERS:
                self._found("no-status-user", block, index, f"oid {oid} has the status {status}")
            kind = kind_of(status, order["isTrigger"])
            life = self.lives.get(oid)
            if life is None:
                life = self._first(block, index, oid, kind, event)
                if life is None:
                    continue
            else:
                self._same(block, index, life, event)
            seen.first.setdefault(oid, index)
            self._step(block, index, life, kind, event, seen)
        self.report.counts.update({f"status: {word}": count for word, count in words.items()})
        return seen

    def _same(self, block: Block, index: int, life: Life, event: dict[str, Any]) -> None:
        """Check that a later status repeats what lasts."""
        order = event["order"]
        last = -1 if life.state == TRIGGERED else None
        known, found = life.lasting[:last], lasting(order)[:last]
        if known != found or life.user not in (None, event["user"]):
            text = f"oid {order['oid']} of {event['user']} with {found}, was {life.user}'s with {known}"
            self._found("status-order", block, index, text)

    def _first(self, block: Block, index: int, oid: int, kind: str, event: dict[str, Any]) -> Life | None:
        """Return the life that begins with a status, None when there is nothing to follow."""
        order = event["order"]
        opens = kind.startswith("open") or kind == "rejected"
        if oid > self.highest and opens:
            self.highest = oid
            if self.start is None:
                self.start = oid
            self.reserved.discard(oid)
            if order["timestamp"] != block.time_ms:
                self._found("timestamp", block, index, f"oid {oid}: {order['timestamp']} at {block.time_ms}")
            if order["sz"] != order["origSz"]:
                self._found("orig-size", block, index, f"oid {oid}: {order['sz']} of {order['origSz']}")
            if kind == "rejected":
                return None
            life = self._life(NEW, event["user"], order)
        elif oid in self.reserved:
            self.reserved.discard(oid)
            self.report.counts["orders: children"] += 1
            life = self._life(CHILD, event["user"], order)
        else:
            if self.from_before(oid):
                self.report.counts["statuses of orders from before"] += 1
            elif opens:
                self._found("oid-rises", block, index, f"oid {oid} is {kind} after {self.highest}")
            else:
                self._found("life", block, index, f"oid {oid} is {event['status']}, but it is not alive")
            return None
        self.lives[oid] = life
        return life

    def _step(
        self, block: Block, index: int, life: Life, kind: str, event: dict[str, Any], seen: Events
    ) -> None:
        order = event["order"]
        oid, status = order["oid"], event["status"]
        before, after = life.state, STEPS.get((life.state, kind))
        if after is None:
            self._found("life", block, index, f"oid {oid} is {status} while {life.state}")
            after = STEPS.get((NEW, kind), ENDED)
        life.state = after
        if after in (OPEN, TRIGGERED):
            seen.opened[oid] = event["user"], order
            life.left = scaled(order["sz"]) or None
            life.order = None
        if after == WAITING:
            life.order = order
        if after == ENDED:
            seen.ended[oid] = status, scaled(order["sz"]), index
            return
        if kind.startswith("open"):
            seen.hashes[oid] = event["hash"]
            if before == NEW:
                self._reserve(oid, life, order["children"])

    def _reserve(self, oid: int, life: Life, children: Sequence[dict[str, Any]]) -> None:
        """Note the oids of child orders. Where they show their parent's, they have those that follow it."""
        own = (child["oid"] for child in children)
        life.children = tuple(oid + place if each == oid else each for place, each in enumerate(own, 1))
        self.reserved.update(life.children)
