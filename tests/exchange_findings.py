"""The rules that a node's files keep, and what the checks report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

RULES: dict[str, str] = {
    # lines and blocks
    "line": "a line is whole and can be read",
    "number": "block numbers rise in each stream; with one line per block they rise by one",
    "block-time": "a later block has a later block_time, and a block has the same one in all streams",
    "local-time": "local_time rises from line to line and is later than block_time",
    "hour-file": "a line stands in the file of the hour of its local_time",
    "event-time": "an event's time is its block's, a fill's is the same in whole milliseconds",
    "hash-block": "a transaction hash that is not zero carries the number of its block",
    "hash-order": "the action numbers in the hashes of a block's open statuses do not fall",
    "hash-open": "an open status has a transaction hash, all other statuses have none",
    "shape": "an event has exactly the keys of its stream, in their order, and values of their kinds",
    # lives of orders
    "oid-rises": "a new order's oid is greater than all before, unless it is a known child order",
    "life": "the statuses of an order follow each other as the schema says",
    "no-status-user": "users 0xffff…ffff and 0xfefe…fefe have no statuses",
    "status-order": "all statuses of an order repeat what it was placed with, and its book diffs too",
    "orig-size": "the status that places or rejects an order has an sz of its origSz",
    "timestamp": "the status that places or rejects an order carries the block's time in milliseconds",
    # books
    "new-unopened": "an order that enters the book has an open or triggered status in the same block",
    "new-twice": "an order enters the book once",
    "new-size": "an order enters the book with what it has left, a reduce-only order with no more than that",
    "new-price": "an order enters the book at its limit price",
    "open-not-resting": "an order that opens rests in the book at the block's end, unless it has ended",
    "insert-before": "the order that insertBefore names rests at the same level",
    "diff-unknown": "an update or remove finds its order in the book",
    "diff-price": "an update or remove has the price at which the order rests",
    "update-size": "an update's origSz is the order's size in the book, and its newSz is smaller",
    "remove-unended": "an order that leaves the book has ended in the same block",
    "ended-resting": "an order that has ended is not in the book",
    "crossed": "at a block's end the best bid is below the best ask",
    # sizes
    "rest-size": "what an order has left after its fills is what rests in the book",
    "cancel-size": "the sz of a status that ends an order is what the order has left",
    "filled-size": "an order with the status filled has nothing left, and without anything left it has it",
    "maker-size": "a maker's fills of a block are what book diffs took from its order",
    "maker-order": "a maker's fill is at its order's price, and in its coin, side and user",
    "fill-limit": "a taker's fill is not worse than its order's limit price",
    "priority": "a fill takes the first order of the best price",
    "fill-order": "a fill belongs to an order that is known, and to its coin, side and user",
    # snapshots
    "snapshot-queue": "a level of the last snapshot has the orders of the replayed book, in its order",
    "snapshot-order": "each order of the last snapshot has the fields of the replayed order",
    "snapshot-trigger": "the waiting trigger orders of the last snapshot are those known from statuses",
    # fills
    "trade-pair": "a trade has two fills, one per side, next to each other, the buyer's first",
    "trade-equal": "both fills of a trade have the same px, sz, hash and time",
    "trade-taker": "exactly one fill of a trade is crossed",
    "trade-again": "a trade id occurs in one block only",
    "one-sided": "a one-sided fill has its other leg in the same block",
    "self-trade": "the fills of a trade have different users",
    "start-position": "a fill's startPosition is the user's position after the fill before",
    "spot-balance": "a spot balance is not negative, and nobody sells more than he has",
    "dir": "a fill's dir follows from its startPosition, size and side",
    "closed-pnl": "a fill that opens a position, or buys spot, has a closedPnl of zero",
    "liquidation": "both fills of a trade have the same liquidation, and one is the liquidated user's",
    "twap-fill": "a TWAP's slice takes, has a zero hash and carries twapId on its owner's side only",
    "zero-hash": "a fill without hash is a TWAP's slice or a system's",
    "builder-fee": "a builderFee comes with a builder and is part of the fee",
    "taker-hash": "a taker's fill has the hash of the open status of its order",
    "node-trade": "each trade of node_trades is one pair of fills, and each pair is a trade",
    # other streams
    "twap-life": "a TWAP is activated, then finishes, terminates or fails, once",
    "twap-executed": "a TWAP's executedSz and executedNtl are the sums of its slices' fills",
    "funding": "funding comes once in an hour, at its start",
    "funding-delta": "a funding amount has the sign of the payment, for the position that the fills left",
    "oracle-coin": "oracle updates name HIP-3 coins only",
}
"""Rule -> what it says. A finding names the rule that was broken."""


class Finding(NamedTuple):
    """One broken rule.

    block: the block's number, or None where the layout has none.
    where: the file and its line.
    """

    rule: str
    block: int | None
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: block {self.block}, {self.where}: {self.text}"


@dataclass
class Report:
    """What the checks saw.

    counts:   what was compared, by name: a rule that met no case proves nothing.
    broken:   rule -> how often it was broken.
    findings: the first findings of each rule.
    """

    keep: int = 20
    counts: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.broken

    def add(self, rule: str, block: int | None, where: str, text: str) -> None:
        """Count a broken rule; keep its first findings."""
        if rule not in RULES:
            raise KeyError(rule)
        self.broken[rule] += 1
        if self.broken[rule] <= self.keep:
            self.findings.append(Finding(rule, block, where, text))

    def __str__(self) -> str:
        lines = [f"{name} {count:,}" for name, count in sorted(self.counts.items())]
        lines += [f"BROKEN {rule} {count:,}: {RULES[rule]}" for rule, count in self.broken.most_common()]
        return "\n".join(lines + [str(finding) for finding in self.findings])
