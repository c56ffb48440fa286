"""Checks TWAPs: their statuses, and their slices' fills."""

from __future__ import annotations

from dataclasses import dataclass

from exchange_fills import Leg
from exchange_findings import Report
from exchange_folder import UNIT, Block, scaled

BEGINNINGS = ("activated", "waitingForTrigger")


@dataclass(slots=True)
class Twap:
    """A TWAP that runs, or waits for its trigger.

    whole:    whether its beginning was seen, so that all its fills are known.
    executed: the sum of its fills' sizes times 10^8.
    notional: the sum of their sizes times prices, times 10^16.
    """

    user: str
    coin: str
    side: str
    whole: bool
    status: str
    executed: int = 0
    notional: int = 0


class Twaps:
    """All TWAPs that have not ended."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.twaps: dict[int, Twap] = {}
        self.first: int | None = None
        """The id of the first TWAP whose beginning was seen: those after it are all known."""
        self.highest = 0

    def _found(self, rule: str, block: Block, index: int, text: str) -> None:
        self.report.add(rule, block.number, block.where("twapStatuses", index), text)

    def begin(self, block: Block) -> None:
        """Note the TWAPs that begin in a block. To be called before its fills."""
        for index, event in enumerate(block.events("twapStatuses")):
            status, number, state = event["status"], event["twap_id"], event["state"]
            if status not in BEGINNINGS:
                continue
            waiting = self.twaps.get(number)
            if waiting is not None and (waiting.status, status) == BEGINNINGS[::-1]:
                waiting.status = status
                continue
            self.report.counts["TWAPs begun"] += 1
            if number <= self.highest:
                self._found("twap-life", block, index, f"TWAP {number} begins after {self.highest}")
            if scaled(state["executedSz"]):
                self._found("twap-executed", block, index, f"TWAP {number} begins with {state['executedSz']}")
            self.first = number if self.first is None else self.first
            self.highest = max(self.highest, number)
            self.twaps[number] = Twap(state["user"], state["coin"], state["side"], True, status)

    def fills(self, block: Block) -> None:
        """Add a block's fills to their TWAPs."""
        for index, (user, fill) in enumerate(block.events("fills")):
            if fill["twapId"] is not None:
                self._slice(block, Leg(index, user, fill))

    def _slice(self, block: Block, leg: Leg) -> None:
        fill, number = leg.fill, leg.fill["twapId"]
        self.report.counts["fills: TWAP slices"] += 1
        twap = self.twaps.get(number)
        where = block.where("fills", leg.at)
        if twap is None:
            if self.first is not None and number >= self.first:
                self.report.add("twap-fill", block.number, where, f"TWAP {number} does not run")
            twap = self.twaps[number] = Twap(leg.user, fill["coin"], fill["side"], False, "activated")
        if (twap.user, twap.coin, twap.side) != (leg.user, fill["coin"], fill["side"]):
            text = f"TWAP {number} is {twap.user}'s: {twap.coin} {twap.side}"
            self.report.add("twap-fill", block.number, where, text)
        if twap.status != "activated":
            self.report.add("twap-fill", block.number, where, f"TWAP {number} is {twap.status}")
        size = scaled(fill["sz"])
        twap.executed += size
        twap.notional += size * scaled(fill["px"])

    def end(self, block: Block) -> None:
        """Check the TWAPs that end in a block. To be called after its fills."""
        for index, event in enumerate(block.events("twapStatuses")):
            status, number, state = event["status"], event["twap_id"], event["state"]
            if status in BEGINNINGS:
                continue
            self.report.counts["TWAPs ended"] += 1
            twap = self.twaps.pop(number, None)
            if twap is None:
                if self.first is not None and number >= self.first:
                    self._found("twap-life", block, index, f"TWAP {number} ends ({status}), but does not run")
                continue
            if (state["user"], state["coin"], state["side"]) != (twap.user, twap.coin, twap.side):
                self._found(
                    "twap-life", block, index, f"TWAP {number} is {twap.user}'s: {twap.coin} {twap.side}"
                )
            executed, notional = scaled(state["executedSz"]), scaled(state["executedNtl"])
            if executed > scaled(state["sz"]):
                self._found("twap-executed", block, index, f"TWAP {number} executed more than its sz")
            value = twap.notional // UNIT
            rounded = abs(notional - value) <= UNIT // 100 + value // 10**6
            if twap.whole and (executed != twap.executed or not rounded):
                text = f"{state['executedSz']} for {state['executedNtl']}"
                text += f", its fills {twap.executed / UNIT} for {value / UNIT}"
                self._found("twap-executed", block, index, f"TWAP {number}: {text}")
