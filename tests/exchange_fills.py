"""Checks fills: their pairs, positions and directions."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from exchange_books import NO_STATUS_USERS
from exchange_findings import Report
from exchange_folder import UNIT, Block, scaled

ZERO_HASH = "0x" + "0" * 64
OPENING = frozenset(("Open Long", "Open Short", "Buy"))
ORDINARY = OPENING | {"Close Long", "Close Short", "Long > Short", "Short > Long", "Sell"}
ONE_SIDED = frozenset(("Settlement", "Spot Dust Conversion"))
"""What the exchange itself does to a position: the fill has no other side."""
REMEMBERED_TRADES = 200_000
"""So many trade ids are remembered to find one that occurs again."""


Positions = dict[str, dict[str, int]]
"""User -> coin -> position after the last fill, times 10^8."""


class Leg(NamedTuple):
    """One fill: its place among the block's fills, its user, its values."""

    at: int
    user: str
    fill: dict[str, Any]


def is_spot(coin: str) -> bool:
    return coin[0] == "@" or "/" in coin


def is_outcome(coin: str) -> bool:
    return coin[0] == "#"


def direction(coin: str, side: str, start: int, size: int) -> str:
    """Return the dir of an ordinary fill. `start` is the position before it."""
    if is_spot(coin) or is_outcome(coin):
        return "Buy" if side == "B" else "Sell"
    mine, other, signed = ("Long", "Short", start) if side == "B" else ("Short", "Long", -start)
    if signed >= 0:
        return f"Open {mine}"
    return f"Close {other}" if signed + size <= 0 else f"{other} > {mine}"


def position_after(fill: Mapping[str, Any]) -> int:
    """Return the position after a fill, times 10^8.

    A spot fee is paid in what the user receives, a rebate in what he gives: a buyer's fee and a seller's
    rebate change the balance of the coin.
    """
    size, fee = scaled(fill["sz"]), 0
    if is_spot(fill["coin"]) or is_outcome(fill["coin"]):
        fee = scaled(fill["fee"])
        fee = fee if (fee > 0) == (fill["side"] == "B") else 0
    return scaled(fill["startPosition"]) + (size if fill["side"] == "B" else -size) - fee


def same_position(one: int, other: int) -> bool:
    """Tell whether two positions are equal, but for noise and the 9th decimal that some coins have."""
    return abs(one - other) <= max(2, abs(one) >> 48)


class Fills:
    """All users' positions, checked fill by fill."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.positions: Positions = defaultdict(dict)
        self.recent: set[tuple[str, int]] = set()
        self.order: deque[tuple[str, int]] = deque()

    def _found(self, rule: str, block: Block, leg: Leg, text: str) -> None:
        text = f"{leg.fill['coin']} trade {leg.fill['tid']}: {text}"
        self.report.add(rule, block.number, block.where("fills", leg.at), text)

    def fills(self, block: Block, hashes: Mapping[int, str]) -> tuple[dict[int, list[Leg]], list[list[Leg]]]:
        """Check a block's fills. Return them by oid, and the trades, each the list of its fills.

        hashes: oid -> the hash of its open status, of the orders that open in this block.
        """
        trades: dict[tuple[str, int], list[Leg]] = {}
        by_oid: dict[int, list[Leg]] = defaultdict(list)
        for index, (user, fill) in enumerate(block.events("fills")):
            leg = Leg(index, user, fill)
            trades.setdefault((fill["coin"], fill["tid"]), []).append(leg)
            by_oid[fill["oid"]].append(leg)
            self._fill(block, leg, hashes)
        one_sided = [legs[0] for legs in trades.values() if len(legs) == 1]
        for key, legs in trades.items():
            self._remember(block, key, legs[0])
            if len(legs) == 1 and (is_outcome(key[0]) or legs[0].fill["dir"] in ONE_SIDED):
                self._one_sided(block, legs[0], one_sided)
            else:
                self._trade(block, legs)
        self.report.counts["fills"] += len(block.events("fills"))
        self.report.counts["trades"] += len(trades)
        return by_oid, list(trades.values())

    def _remember(self, block: Block, key: tuple[str, int], leg: Leg) -> None:
        if key in self.recent:
            self._found("trade-again", block, leg, "was in an earlier block already")
            return
        self.recent.add(key)
        self.order.append(key)
        if len(self.order) > REMEMBERED_TRADES:
            self.recent.discard(self.order.popleft())

    def _one_sided(self, block: Block, leg: Leg, others: list[Leg]) -> None:
        """Check the leg of an outcome that is minted, burned or merged: the other outcome has one, too."""
        fill = leg.fill
        self.report.counts["fills: one-sided"] += 1
        if fill["dir"] in ONE_SIDED:
            return
        twin = f"#{int(fill['coin'][1:]) ^ 1}"
        same = ("hash", "sz", "dir")
        if not any(
            other.fill["coin"] == twin and all(other.fill[name] == fill[name] for name in same)
            for other in others
        ):
            self._found("one-sided", block, leg, f"one fill, and none of {twin}")

    def _trade(self, block: Block, legs: list[Leg]) -> None:
        sides = "".join(leg.fill["side"] for leg in legs)
        if sides != "BA" or legs[1].at != legs[0].at + 1:
            self._found(
                "trade-pair", block, legs[0], f"fills of sides {sides}, at {[leg.at for leg in legs]}"
            )
            return
        buyer, seller = legs
        one, other = buyer.fill, seller.fill
        for name in ("px", "sz", "hash", "time"):
            if one[name] != other[name]:
                self._found("trade-equal", block, seller, f"{name} {one[name]} and {other[name]}")
        if one["crossed"] == other["crossed"]:
            self._found("trade-taker", block, buyer, f"crossed is {one['crossed']} in both")
        if buyer.user == seller.user:
            self._found("self-trade", block, buyer, f"{buyer.user} on both sides")
        if one.get("liquidation") != other.get("liquidation"):
            self._found("liquidation", block, seller, "the liquidation differs between the fills")
        elif "liquidation" in one:
            self.report.counts["trades: liquidations"] += 1
            if one["liquidation"]["liquidatedUser"] not in (buyer.user, seller.user):
                self._found("liquidation", block, buyer, "neither user is the liquidated one")
        twaps = sum(leg.fill["twapId"] is not None for leg in legs)
        if twaps > 1:
            self._found("twap-fill", block, buyer, "both fills carry a twapId")
        system = any(leg.user in NO_STATUS_USERS for leg in legs) or "liquidation" in one
        ordinary = {one["dir"], other["dir"]} <= ORDINARY
        if one["hash"] == ZERO_HASH and not twaps and not system and ordinary:
            self._found("zero-hash", block, buyer, "no hash, but neither a TWAP's nor a system's")

    def _fill(self, block: Block, leg: Leg, hashes: Mapping[int, str]) -> None:
        fill, coin = leg.fill, leg.fill["coin"]
        start, size = scaled(fill["startPosition"]), scaled(fill["sz"])
        known = self.positions[leg.user].get(coin)
        if known is not None:
            self.report.counts["fills: positions compared"] += 1
            if not same_position(known, start):
                self._found(
                    "start-position", block, leg, f"{leg.user} had {known / UNIT}, not {start / UNIT}"
                )
        self.positions[leg.user][coin] = position_after(fill)
        if is_spot(coin) and start < (size if fill["side"] == "A" else 0):
            self._found(
                "spot-balance", block, leg, f"{leg.user} has {fill['startPosition']}, side {fill['side']}"
            )
        wanted = direction(coin, fill["side"], start, size)
        if fill["dir"] != wanted and fill["dir"] in ORDINARY:
            self._found("dir", block, leg, f"{fill['dir']} from {start / UNIT}, not {wanted}")
        if fill["dir"] in OPENING and scaled(fill["closedPnl"]):
            self._found("closed-pnl", block, leg, f"{fill['dir']} with a closedPnl of {fill['closedPnl']}")
        if "builderFee" in fill:
            self.report.counts["fills: builder fees"] += 1
            if "builder" not in fill or scaled(fill["builderFee"]) > scaled(fill["fee"]):
                self._found("builder-fee", block, leg, f"{fill['builderFee']} of {fill['fee']}")
        if fill["crossed"] and fill["twapId"] is None and hashes.get(fill["oid"]) not in (None, fill["hash"]):
            self._found("taker-hash", block, leg, f"hash {fill['hash']}, oid {fill['oid']} opened by another")
        if fill["twapId"] is not None and (fill["hash"] != ZERO_HASH or not fill["crossed"]):
            self._found("twap-fill", block, leg, f"slice of TWAP {fill['twapId']} with a hash or as maker")
