"""Moves the prices of the coins, and reports the oracles of HIP-3 dexes."""

from __future__ import annotations

import random
from itertools import accumulate

from fasttail.tools.exchange.constants import NS
from fasttail.tools.exchange.decimals import decimal_text
from fasttail.tools.exchange.engine import Engine
from fasttail.tools.exchange.markets import Market

_MOVES = 12  # coins whose price moves in a block
_ORACLE_NS = 3 * NS
_NEVER = "1970-01-01T00:00:00"


class Prices:
    """A random walk for each coin, drawn back to its first price so that it stays within a factor of 1.5."""

    def __init__(self, engine: Engine, markets: list[Market], seed: int) -> None:
        self._engine = engine
        self._rng = random.Random(f"{seed}:prices")
        self._oracle_due: dict[str, int] = {}
        self.set_markets(markets)

    def set_markets(self, markets: list[Market]) -> None:
        """Use these coins from now on."""
        self._markets = markets
        self._cum_weights = list(accumulate(market.weight + 0.1 for market in markets))
        self._dexes: dict[str, list[Market]] = {}
        for market in markets:
            if market.dex:
                self._dexes.setdefault(market.dex, []).append(market)

    def move(self) -> None:
        """Move the prices of a few coins, which may trigger orders."""
        rng = self._rng
        for market in rng.choices(self._markets, cum_weights=self._cum_weights, k=_MOVES):
            if market.state != "open":
                continue
            spread = max(market.fair // market.tick // 20_000, 1)
            pull = (market.first_px - market.fair) / market.first_px  # back to the first price
            ticks = round(rng.gauss(pull * 4, 1.2) * spread)
            fair = market.fair + ticks * market.tick
            low, high = market.first_px * 2 // 3, market.first_px * 3 // 2
            if market.kind == "outcome":
                high = min(high, 10**8 - market.tick)
            if ticks and max(low, market.tick) < fair < high:
                self._engine.move_price(market, fair)

    def report_oracles(self) -> None:
        """Report the oracle prices of each HIP-3 dex, every three seconds."""
        events = self._engine.events
        for dex, markets in self._dexes.items():
            due = self._oracle_due.setdefault(dex, events.time_ns + self._rng.randrange(_ORACLE_NS))
            if events.time_ns >= due:
                self._oracle_due[dex] = due + _ORACLE_NS
                is_fallback = self._rng.random() < 0.05
                shown = [market for market in markets if market.state == "open"]
                if "oracleUpdates" in events.wanted and shown:
                    events.add(
                        "oracleUpdates", self._oracle_text(shown[:1] if is_fallback else shown, is_fallback)
                    )

    def _oracle_text(self, markets: list[Market], is_fallback: bool) -> str:
        now = self._engine.events.time_text

        def pairs(factor: int) -> list[tuple[str, str]]:
            return [
                (market.name, decimal_text(market.fair * factor // 1000 // 100 * 100)) for market in markets
            ]

        def inputs(values: list[tuple[str, str]]) -> str:
            return ",".join(f'["{coin}","{px}"]' for coin, px in values)

        def outputs(values: list[tuple[str, str]], moment: str) -> str:
            return ",".join(
                f'["{coin}",{{"px":"{px}","last_update_time":"{moment}","daily_px":"{px}"}}]'
                for coin, px in values
            )

        mark, oracle, external = (
            pairs(1000),
            pairs(1000 if is_fallback else 999),
            pairs(1000 if is_fallback else 998),
        )
        return (
            f'{{"update_class":"{"Fallback" if is_fallback else "Deployer"}",'
            f'"mark_px_inputs":[{inputs(mark)}],'
            f'"spot_px_inputs":[{inputs(oracle)}],'
            f'"external_perp_px_inputs":[{"" if is_fallback else inputs(external)}],'
            f'"oracle_pxs":{{"coin_to_mark_px":[{outputs(mark, now)}],'
            f'"coin_to_oracle_px":[{outputs(oracle, now)}],'
            f'"coin_to_external_perp_px":[{outputs(external, _NEVER if is_fallback else now)}]}}}}'
        )
