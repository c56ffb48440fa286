"""TWAP orders: a large order that the exchange executes in slices, 30 seconds apart."""

from __future__ import annotations

import random
from dataclasses import dataclass
from heapq import heappop, heappush

from fasttail.tools.exchange.accounts import Maker
from fasttail.tools.exchange.book import Order, terms_text
from fasttail.tools.exchange.constants import NS
from fasttail.tools.exchange.decimals import product
from fasttail.tools.exchange.engine import Engine

_SLICE_NS = 30 * NS
_MAX_ACTIVE = 512
_FIRST_ACTIVE = 60
_MINUTES = (5, 5, 10, 15, 25, 30, 60)


@dataclass(slots=True)
class Twap:
    """One TWAP. Amounts are scaled by 10^8."""

    twap_id: int
    maker: Maker
    sz: int
    minutes: int
    randomize: bool
    timestamp: int
    slices_left: int
    executed: int = 0
    executed_ntl: int = 0


class Twaps:
    """Starts TWAPs and executes their slices when they are due."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine = engine
        self._rng = random.Random(f"{seed}:twaps")
        self._due: list[tuple[int, int, Twap]] = []
        self._next_id = 2_017_900

    def start(self, maker: Maker, sz: int) -> None:
        """Activate a TWAP, whose first slice follows at once."""
        if len(self._due) >= _MAX_ACTIVE:
            return
        events = self._engine.events
        twap = self._new(maker, sz, events.time_ms)
        self._report(twap, '"activated"')
        heappush(self._due, (events.time_ns + 1, twap.twap_id, twap))

    def _new(self, maker: Maker, sz: int, now_ms: int) -> Twap:
        self._next_id += 1
        minutes = self._rng.choice(_MINUTES)
        return Twap(self._next_id, maker, sz, minutes, self._rng.random() < 0.5, now_ms, 2 * minutes)

    def populate(self, makers: list[Maker], time_ns: int) -> None:
        """Let a few TWAPs be active before the first block, without events."""
        for index in range(_FIRST_ACTIVE):
            maker = self._rng.choice(makers)
            if maker.market.is_perp:
                twap = self._new(maker, self._rng.choice(maker.market.sizes) * 30, time_ns // 1_000_000)
                slices = 2 * twap.minutes
                done = self._rng.randrange(slices) if index % 6 else slices
                twap.slices_left -= done
                twap.executed = twap.sz * done // slices // maker.market.lot * maker.market.lot
                twap.executed_ntl = product(maker.market.fair, twap.executed)
                heappush(self._due, (time_ns + self._rng.randrange(_SLICE_NS), twap.twap_id, twap))

    def run_due(self) -> None:
        """Execute the slices that are due in this block, and end TWAPs."""
        now = self._engine.events.time_ns
        while self._due and self._due[0][0] <= now:
            _, _, twap = heappop(self._due)
            ending = self._end_of(twap)
            if ending is not None:
                self._report(twap, ending)
                continue
            self._slice(twap)
            twap.slices_left -= 1
            jitter = self._rng.randrange(-5 * NS, 5 * NS) if twap.randomize else 0
            heappush(self._due, (now + _SLICE_NS + jitter, twap.twap_id, twap))

    def _end_of(self, twap: Twap) -> str | None:
        """Return the status with which a TWAP ends now, as JSON, or None if it continues."""
        if twap.slices_left <= 0 or twap.executed >= twap.sz or twap.maker.market.state == "closed":
            return '"finished"'
        chance = self._rng.random()
        if chance < 0.004:
            return '{"error":"Insufficient margin to place order."}'
        return '"terminated"' if chance < 0.01 else None

    def _slice(self, twap: Twap) -> None:
        engine, maker = self._engine, twap.maker
        market = maker.market
        if market.state != "open":
            return
        sz = max((twap.sz - twap.executed) // max(twap.slices_left, 1) // market.lot, 1) * market.lot
        far = market.fair * (103 if maker.is_bid else 97) // 100
        order = Order(
            maker, engine.next_oid(), market.on_tick(far), min(sz, twap.sz - twap.executed),
            engine.events.time_ms, '"Ioc"', "null", terms_text("Twap Slice"),
        )  # fmt: skip
        before = len(engine.events.trades)
        engine.execute(order, no_match="iocCancelRejected", twap_id=twap.twap_id)
        for trade in engine.events.trades[before:]:
            twap.executed += trade.sz
            twap.executed_ntl += product(trade.px, trade.sz)

    def _report(self, twap: Twap, status: str) -> None:
        events, texts, maker = self._engine.events, self._engine.events.texts, twap.maker
        events.add(
            "twapStatuses",
            f'{events.head}","twap_id":{twap.twap_id},"state":{{"coin":"{maker.market.name}",'
            f'"user":"{maker.account.address}","side":"{maker.side}","sz":"{texts[twap.sz]}",'
            f'"executedSz":"{texts[twap.executed]}","executedNtl":"{texts[twap.executed_ntl]}",'
            f'"minutes":{twap.minutes},"reduceOnly":false,'
            f'"randomize":{"true" if twap.randomize else "false"},"timestamp":{twap.timestamp}}},'
            f'"status":{status}}}',
        )
