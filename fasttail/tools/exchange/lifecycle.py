"""Lists, halts, delists and settles coins while the exchange runs."""

from __future__ import annotations

import random

from fasttail.tools.exchange.accounts import Account, Maker, seed_position
from fasttail.tools.exchange.decimals import SCALE
from fasttail.tools.exchange.engine import Engine
from fasttail.tools.exchange.markets import Market, make_market, new_market
from fasttail.tools.exchange.prices import Prices

_MINOR = 0.3  # per cent of the orders; larger coins stay


class Lifecycle:
    """Changes one coin every `every` blocks: halt, resume, delist and list, settle an outcome, in turn.

    A delisted coin's makers go to the coin that is listed instead. 0: coins never change.
    """

    def __init__(
        self, engine: Engine, markets: list[Market], accounts: list[Account], makers: list[Maker],
        prices: Prices, seed: int, every: int,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._markets = markets
        self._accounts = accounts
        self._makers = makers
        self._prices = prices
        self._rng = random.Random(f"{seed}:lifecycle")
        self._every = every
        self._turn = self._listed = 0
        self._halted: Market | None = None
        self._next_outcome = 2000

    def act(self, number: int) -> None:
        """Change a coin if this block's turn has come."""
        if not self._every or number % self._every:
            return
        turn = (self._halt, self._resume, self._delist, self._settle)[self._turn % 4]
        self._turn += 1
        turn()

    def _minor(self, kind: str) -> Market | None:
        rng = self._rng
        chosen = [
            market for market in self._markets
            if market.kind == kind and market.weight < _MINOR and market.state == "open"
        ]  # fmt: skip
        return rng.choice(chosen) if chosen else None

    def _halt(self) -> None:
        self._halted = self._minor("perp")
        if self._halted is not None:
            self._halted.state = "halted"

    def _resume(self) -> None:
        if self._halted is not None:
            self._halted.state = "open"

    def _delist(self) -> None:
        market = self._minor("perp")
        if market is not None:
            self._engine.close_market(market, self._accounts, "delistedCanceled", market.fair)
            self._listed += 1
            self._replace(market, new_market(self._listed, 1000 + self._listed, self._rng))

    def _settle(self) -> None:
        market = self._minor("outcome")
        if market is None:
            return
        name = f"#{int(market.name[1:]) ^ 1}"
        pair = [market, *(one for one in self._markets if one.name == name and one.state == "open")]
        yes = self._rng.random()
        for leg, (one, px) in enumerate(zip(pair, (SCALE, 0), strict=False)):
            self._engine.close_market(one, self._accounts, "outcomeSettledCanceled", px)
            new = f"#{self._next_outcome + leg}"
            first = 0.05 + 0.9 * (yes if leg == 0 else 1 - yes)
            asset = 100_000_000 + self._next_outcome + leg
            listed = make_market(new, 0.01, first, 0, asset, self._rng)
            listed.fee_token = f"+{new[1:]}"
            self._replace(one, listed)
        self._next_outcome += 2

    def _replace(self, closed: Market, listed: Market) -> None:
        self._markets[self._markets.index(closed)] = listed
        for index, maker in enumerate(self._makers):
            if maker.market is closed:
                self._makers[index] = Maker(maker.account, listed, maker.side, maker.prefix)
                seed_position(maker.account, listed, self._rng)
        self._prices.set_markets(self._markets)
