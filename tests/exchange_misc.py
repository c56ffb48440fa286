"""Checks funding, transfers and oracle updates."""

from __future__ import annotations

from typing import Any

from exchange_fills import Positions, is_spot, same_position
from exchange_findings import Report
from exchange_folder import UNIT, Block, scaled

FUNDING_WITHIN_MS = 60_000
"""Funding comes at most so long after the hour began."""
HOUR_MS = 3_600_000


class Misc:
    """What the blocks before told.

    positions: those that the fills left; spot balances that a transfer may change are taken out.
    hourly:    whether there is the stream that funding comes in.
    """

    def __init__(self, report: Report, positions: Positions, hourly: bool) -> None:
        self.report = report
        self.positions = positions
        self.hourly = hourly
        self.checked: int | None = None
        """The last hour whose funding was looked for, in hours since 1970; the first one began too early."""
        self.funded: int | None = None
        """The hour of the last funding."""

    def block(self, block: Block) -> None:
        """Check a block. To be called before its fills."""
        users: set[str] = set()
        funded = False
        for index, event in enumerate(block.events("miscEvents")):
            inner = event["inner"]
            if "LedgerUpdate" in inner:
                users.update(inner["LedgerUpdate"]["users"])
            elif "Funding" in inner:
                self._funding(block, index, inner["Funding"]["deltas"], again=funded)
                funded = True
        for event in block.events("writerActions"):
            users.add(event["user"])
            users.add(event["action"].get("destination", event["user"]))
        if users:
            self._forget(users)
        self._hour(block)
        self._oracle(block)

    def _forget(self, users: set[str]) -> None:
        """Forget the spot balances that a transfer may have changed."""
        for user in users & self.positions.keys():
            coins = self.positions[user]
            for coin in [coin for coin in coins if is_spot(coin)]:
                del coins[coin]

    def _funding(self, block: Block, index: int, deltas: list[dict[str, Any]], again: bool) -> None:
        where = block.where("miscEvents", index)
        self.report.counts["funding: lines"] += 1
        self.report.counts["funding: deltas"] += len(deltas)
        hour, since = divmod(block.time_ms, HOUR_MS)
        if not again and (hour == self.funded or since > FUNDING_WITHIN_MS):
            self.report.add(
                "funding", block.number, where, f"funding {since / 1000} s after the hour, or again"
            )
        self.funded = hour
        for delta in deltas:
            amount, size = scaled(delta["funding_amount"]), scaled(delta["szi"])
            paid = size * scaled(delta["funding_rate"])
            who = f"{delta['user']} {delta['coin']}"
            if amount and (amount > 0) == (paid > 0):
                text = f"{who}: {delta['funding_amount']} for {delta['szi']} at {delta['funding_rate']}"
                self.report.add("funding-delta", block.number, where, text)
            known = self.positions.get(delta["user"], {}).get(delta["coin"])
            if known is not None:
                self.report.counts["funding: positions compared"] += 1
                if not same_position(known, size):
                    text = f"{who}: szi {delta['szi']}, the fills left {known / UNIT}"
                    self.report.add("funding-delta", block.number, where, text)

    def _hour(self, block: Block) -> None:
        """Check that each hour that began during the run has had its funding."""
        hour, since = divmod(block.time_ms, HOUR_MS)
        if self.checked is None:
            self.checked = hour
        elif self.hourly and hour != self.checked and since > FUNDING_WITHIN_MS:
            self.checked = hour
            if self.funded != hour:
                where = next(iter(block.streams.values())).lines[0]
                self.report.add(
                    "funding", block.number, str(where), f"no funding since {block.time}'s hour began"
                )

    def _oracle(self, block: Block) -> None:
        for index, event in enumerate(block.events("oracleUpdates")):
            self.report.counts["oracle updates"] += 1
            coins = [coin for name in INPUTS for coin, _ in event[name]]
            coins += [coin for values in event["oracle_pxs"].values() for coin, _ in values]
            wrong = sorted({coin for coin in coins if ":" not in coin})
            if wrong:
                where = block.where("oracleUpdates", index)
                self.report.add("oracle-coin", block.number, where, f"{', '.join(wrong)}")


INPUTS = ("mark_px_inputs", "spot_px_inputs", "external_perp_px_inputs")
