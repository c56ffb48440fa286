"""The rarer actions of users: markets, triggers, brackets, TWAPs, reduce-only orders, modifies, outcomes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import accumulate

from fasttail.tools.exchange.accounts import HIP2_USER, Account, Maker, hex_digits
from fasttail.tools.exchange.book import Order, ParentOrder, TriggerOrder, swap_out, terms_text
from fasttail.tools.exchange.decimals import SCALE, decimal_text
from fasttail.tools.exchange.engine import Engine
from fasttail.tools.exchange.events import order_json
from fasttail.tools.exchange.markets import Market
from fasttail.tools.exchange.twaps import Twaps

MAX_TRIGGERS = 4096
# Rejections that a user meets now and then, per cent of the order statuses.
_REJECTIONS = {
    "minTradeNtlRejected": 0.010, "reduceOnlyRejected": 0.012, "tickRejected": 0.0008,
    "oracleRejected": 0.0008,
    "positionIncreaseAtOpenInterestCapRejected": 0.002, "positionFlipAtOpenInterestCapRejected": 0.0005,
    "tooAggressiveAtOpenInterestCapRejected": 0.001, "openInterestIncreaseRejected": 0.0005,
    "insufficientSpotBalanceRejected": 0.001, "perpMaxPositionRejected": 0.0005, "rejected": 0.0003,
    "tooManyOpenOrdersRejected": 0.0005,
}  # fmt: skip
# Cancels that the exchange does itself.
_CANCELS = {
    "scheduledCancel": 0.005, "marginCanceled": 0.004, "vaultWithdrawalCanceled": 0.0005,
    "openInterestCapCanceled": 0.0005, "internalCancel": 0.0005,
}  # fmt: skip
_TRIGGER_DISTANCES = math.log(0.0002), math.log(0.08)  # shares of the price
_MOST_REDUCE_ONLY = 3  # of a user in a coin before the first block, so that closing a position ends few
_TRIGGER_KINDS = ("Stop Market", "Stop Limit", "Take Profit Market", "Take Profit Limit")


class RareActions:
    """Does one rare action when asked. `children` is the share of order statuses with child orders.

    resting: orders in the books, some of which have ended; shared with `Traffic`.
    share:   how many per cent of the actions are rare.
    """

    def __init__(
        self,
        engine: Engine,
        accounts: list[Account],
        makers: list[Maker],
        twaps: Twaps,
        seed: int,
        children: float,
    ) -> None:
        self._engine = engine
        self._accounts = accounts
        self._makers = makers
        self._twaps = twaps
        self._rng = random.Random(f"{seed}:rare")
        self.resting: list[Order] = []
        self._triggers: list[TriggerOrder] = []
        weights: dict[Callable[[Maker, str], None], float] = {
            self._other_rejection: sum(_REJECTIONS.values()),
            self._other_cancel: sum(_CANCELS.values()),
            self._market_order: 0.010,
            self._vault_close: 0.0005,
            self._dust_conversion: 0.0003,
            self._liquidation: 0.0005,
            self._self_trade: 0.010,
            self._reduce_only: 0.012,
            self._gtc: 0.3,
            self._batch: 0.2,
            self._modify: 0.3,
            self._trigger_open: 0.014,
            self._trigger_cancel: 0.006,
            self._trigger_reject: 0.001,
            self._twap: 0.002,
            self._outcome: 0.002,
            self._parent: 50.0 * children,  # each appears twice: opened, then ended
        }
        self._actions = list(weights)
        self._cum_weights = list(accumulate(weights.values()))
        self.share = self._cum_weights[-1]

    def act(self, maker: Maker, digits: str) -> None:
        """Do one of the actions. digits: 16 random hexadecimal digits for a cloid."""
        if maker.market.state != "open":
            self._engine.reject(self._order(maker, maker.market.fair, digits, "Gtc"), "rejected")
            return
        self._rng.choices(self._actions, cum_weights=self._cum_weights)[0](maker, digits)

    def other_side(self, maker: Maker) -> Maker:
        """Return the maker's account on the other side of its coin."""
        return self._engine.maker(maker.account, maker.market, "A" if maker.is_bid else "B")

    # -- parts

    def _order(
        self, maker: Maker, px: int, digits: str, tif: str, *, kind: str = "Limit", reduce_only: bool = False,
        sz: int | None = None,
    ) -> Order:  # fmt: skip
        engine = self._engine
        return Order(
            maker, engine.next_oid(), px, self._rng.choice(maker.market.sizes) if sz is None else sz,
            engine.events.time_ms, f'"{tif}"', maker.cloid(digits), terms_text(kind, reduce_only=reduce_only),
            reduce_only,
        )  # fmt: skip

    def _in_market(self, maker: Maker, wanted: Callable[[Market], bool]) -> Maker:
        """Return the maker, or another one whose coin is open and of the wanted kind."""
        while not (wanted(maker.market) and maker.market.state == "open"):
            maker = self._rng.choice(self._makers)
        return maker

    def _perp(self, maker: Maker) -> Maker:
        return self._in_market(maker, lambda market: market.is_perp)

    def _away(self, maker: Maker, ticks: int) -> int:
        """Return a price some ticks behind the coin's, on the maker's side; negative ticks: across it."""
        market = maker.market
        px = market.fair - ticks * market.tick if maker.is_bid else market.fair + (ticks + 1) * market.tick
        return max(px, market.tick)

    def _far(self, maker: Maker) -> int:
        """Return the limit of a market order: 8 % through the coin's price."""
        return maker.market.on_tick(maker.market.fair * (108 if maker.is_bid else 92) // 100)

    # -- actions

    def _other_rejection(self, maker: Maker, digits: str) -> None:
        status = self._rng.choices(list(_REJECTIONS), list(_REJECTIONS.values()))[0]
        if status == "insufficientSpotBalanceRejected":
            maker = self._in_market(maker, lambda market: not market.is_perp)
        tif = self._rng.choices(("Alo", "Ioc", "Gtc"), (6, 2, 2))[0]
        order = self._order(
            maker, self._away(maker, 3), digits, tif, reduce_only=status == "reduceOnlyRejected"
        )
        if order.oid % 4 == 0:  # a sum of binary floats in the user's software
            order.sz = order.orig = max(order.sz - 1, 1)
        self._engine.reject(order, status)

    def _other_cancel(self, maker: Maker, digits: str) -> None:
        status = self._rng.choices(list(_CANCELS), list(_CANCELS.values()))[0]
        order = self._pick_resting()
        if order is None:
            self._other_rejection(maker, digits)
        else:
            self._engine.cancel(order, status)

    def _pick_resting(self) -> Order | None:
        """Take a random resting order out of the list."""
        while self.resting:
            order = swap_out(self.resting, self._rng.randrange(len(self.resting)))
            if order.resting:
                return order
        return None

    def _market_order(self, maker: Maker, digits: str) -> None:
        order = self._order(maker, self._far(maker), digits, "FrontendMarket", kind="Market")
        self._engine.execute(order, no_match="marketOrderNoLiquidityRejected")

    def _close(self, maker: Maker, digits: str, kind: str) -> None:
        """Close the position that an account has in a perp."""
        szi = maker.account.position(maker.market.name).szi
        if szi == 0:
            self._market_order(maker, digits)
            return
        if (szi > 0) == maker.is_bid:
            maker = self.other_side(maker)
        order = self._order(
            maker, self._far(maker), digits, "FrontendMarket", kind=kind, reduce_only=True, sz=abs(szi)
        )
        self._engine.execute(order, no_match="marketOrderNoLiquidityRejected")

    def _vault_close(self, maker: Maker, digits: str) -> None:
        self._close(self._perp(maker), digits, "Vault Close")

    def _dust_conversion(self, maker: Maker, digits: str) -> None:
        maker = self._in_market(maker, lambda market: market.kind == "spot")
        if maker.is_bid:
            maker = self.other_side(maker)
        order = self._order(
            maker,
            self._far(maker),
            digits,
            "FrontendMarket",
            kind="Spot Dust Conversion",
            sz=maker.market.lot,
        )
        self._engine.execute(order, no_match="marketOrderNoLiquidityRejected")

    def _liquidation(self, maker: Maker, digits: str) -> None:
        minor = self._in_market(maker, lambda market: market.is_perp and market.weight < 2)
        if not self._engine.liquidate(minor.account, minor.market):
            self._market_order(maker, digits)

    def _self_trade(self, maker: Maker, digits: str) -> None:
        """Let the owner of the best order trade against it, so that it is canceled."""
        ladder = maker.market.ladder(not maker.is_bid)
        if not ladder.keys:
            self._gtc(maker, digits)
            return
        owner = next(iter(ladder.levels[ladder.best()].values())).maker
        if owner.account.address == HIP2_USER:
            self._gtc(maker, digits)
            return
        taker = self._engine.maker(owner.account, maker.market, maker.side)
        order = self._order(taker, ladder.best(), digits, "Ioc")
        self._engine.execute(order, no_match="iocCancelRejected")

    def _reduce_only(self, maker: Maker, digits: str) -> None:
        """Rest an order that may only reduce, or close the position so that such orders are canceled."""
        maker = self._perp(maker)
        if maker.account.reduce_only.get(maker.market.name):
            self._close(maker, digits, "Market")
            return
        szi = maker.account.position(maker.market.name).szi
        if szi and (szi > 0) == maker.is_bid:
            maker = self.other_side(maker)
        order = self._order(maker, self._away(maker, 5), digits, "Gtc", reduce_only=True)
        if szi == 0:
            self._engine.reject(order, "reduceOnlyRejected")
        else:
            self._engine.place(order)
            self._remember(order)

    def _remember(self, order: Order) -> None:
        if order.resting:
            self.resting.append(order)

    def _gtc(self, maker: Maker, digits: str) -> None:
        order = self._order(maker, self._away(maker, self._rng.choice((-1, 0, 1, 2, 5, 20))), digits, "Gtc")
        self._engine.place(order)
        self._remember(order)

    def _batch(self, maker: Maker, digits: str) -> None:
        """Open some orders with one transaction, so that they share its hash."""
        engine = self._engine
        tx_digits = engine.events.tx_digits()
        for index in range(self._rng.randrange(2, 6)):
            cloid_digits = f"{digits[:-1]}{index:x}"
            order = self._order(maker, self._away(maker, 2 + 3 * index), cloid_digits, "Alo")
            if engine.can_match(order):
                engine.reject(order, "badAloPxRejected")
            else:
                engine.events.opened(order, tx_digits)
                engine.rest(order)
                self.resting.append(order)

    def _modify(self, maker: Maker, digits: str) -> None:
        """Replace a resting order by one with another size, under a new oid."""
        old = self._pick_resting()
        if old is None:
            self._gtc(maker, digits)
            return
        self._engine.cancel(old)
        if type(old) is not Order or old.reduce_only or old.maker.market.state != "open":
            return
        new = self._order(old.maker, old.px, digits, "Alo")
        new.cloid = old.cloid
        if self._engine.can_match(new):
            self._engine.reject(new, "badAloPxRejected")
        else:
            self._engine.place(new)
            self._remember(new)

    def _twap(self, maker: Maker, digits: str) -> None:
        maker = self._perp(maker)
        self._twaps.start(maker, self._rng.choice(maker.market.sizes) * self._rng.randrange(10, 60))
        self._gtc(maker, digits)

    def _outcome(self, maker: Maker, digits: str) -> None:
        """Split a dollar into both legs of an outcome, or merge them."""
        outcomes = [
            one for one in self._makers if one.market.kind == "outcome" and one.market.state == "open"
        ]
        if not outcomes:
            self._gtc(maker, digits)
            return
        one = self._rng.choice(outcomes)
        name = f"#{int(one.market.name[1:]) ^ 1}"
        other = next((two.market for two in outcomes if two.market.name == name), None)
        if other is None:
            self._gtc(maker, digits)
            return
        engine, sz = self._engine, self._rng.randrange(10, 500) * SCALE
        held = min(one.account.position(market.name).szi for market in (one.market, other))
        side, direction = ("A", "Merge Outcome") if held >= sz and sz & 1 == 0 else ("B", "Split Outcome")
        tx_hash = f"0x{engine.events.tx_digits()}"
        for market, px in ((one.market, one.market.fair), (other, SCALE - one.market.fair)):
            engine.one_sided(one.account, market, side, sz, px, direction, tx_hash)
        self._gtc(maker, digits)

    # -- triggers and parents

    def _new_trigger(
        self, maker: Maker, digits: str, near: int, sz: int | None = None, child: bool = False
    ) -> TriggerOrder:
        """Return a stop or take-profit order of a maker, near a price."""
        rng, market = self._rng, maker.market
        kind = rng.choices(_TRIGGER_KINDS, (5, 2, 4, 1))[0]
        above = maker.is_bid == kind.startswith("Stop")
        distance = math.exp(rng.uniform(*_TRIGGER_DISTANCES)) * (1 if above else -1)
        trigger_px = market.on_tick(round(near * (1 + distance)))
        limit = market.on_tick(trigger_px * (108 if maker.is_bid else 92) // 100)
        tpsl = not child and rng.random() < 0.3  # for a whole position, so it has no size
        reduce_only = child or tpsl or rng.random() < 0.8
        condition = f"Price {'above' if above else 'below'} {decimal_text(trigger_px).removesuffix('.0')}"
        order = TriggerOrder(
            maker, self._engine.next_oid(), limit if kind.endswith("Market") else trigger_px,
            0 if tpsl else rng.choice(market.sizes) if sz is None else sz,
            self._engine.events.time_ms, "null",
            "null" if rng.random() < 0.6 else maker.cloid(digits),
            terms_text(
                kind, trigger=(condition, decimal_text(trigger_px)), tpsl=tpsl, reduce_only=reduce_only
            ),
            reduce_only,
        )  # fmt: skip
        order.above, order.is_market, order.kind = above, kind.endswith("Market"), kind
        order.trigger_px, order.waiting, order.sibling = trigger_px, False, None
        return order

    def _trigger_open(self, maker: Maker, digits: str) -> None:
        if len(self._triggers) >= MAX_TRIGGERS:
            self._triggers = [trigger for trigger in self._triggers if trigger.waiting]
            if len(self._triggers) >= MAX_TRIGGERS:
                self._trigger_cancel(maker, digits)
                return
        maker = self._perp(maker)
        order = self._new_trigger(maker, digits, maker.market.fair)
        engine = self._engine
        engine.events.opened(order, engine.events.tx_digits())
        engine.await_trigger(order)
        self._triggers.append(order)

    def _trigger_reject(self, maker: Maker, digits: str) -> None:
        maker = self._perp(maker)
        self._engine.reject(self._new_trigger(maker, digits, maker.market.fair), "badTriggerPxRejected")

    def _trigger_cancel(self, maker: Maker, digits: str) -> None:
        while self._triggers:
            order = self._triggers.pop(self._rng.randrange(len(self._triggers)))
            if order.waiting:
                self._engine.cancel(order)
                return
        self._trigger_open(maker, digits)

    def _parent(self, maker: Maker, digits: str) -> None:
        """Open an order with take-profit and stop orders as children, near the touch."""
        maker, rng, engine = self._perp(maker), self._rng, self._engine
        px = self._away(maker, rng.choice((-1, 0, 1)))
        tif = rng.choice(("Gtc", "Gtc", "Alo"))
        parent = self._new_parent(
            maker, px, rng.choice(maker.market.sizes), engine.events.time_ms, tif, digits
        )
        if tif == "Alo" and engine.can_match(parent):
            engine.reject(parent, "badAloPxRejected")
            return
        engine.place(parent)
        self._remember(parent)

    def _new_parent(self, maker: Maker, px: int, sz: int, placed: int, tif: str, digits: str) -> ParentOrder:
        rng, engine = self._rng, self._engine
        parent = ParentOrder(maker, engine.next_oid(), px, sz, placed, f'"{tif}"', maker.cloid(digits))
        other = self.other_side(maker)
        parent.children = [
            self._new_trigger(other, digits, px, parent.sz, child=True) for _ in range(rng.choice((1, 1, 2)))
        ]
        if len(parent.children) == 2:
            parent.children[0].sibling, parent.children[1].sibling = parent.children[1], parent.children[0]
        for child in parent.children:
            child.cloid = parent.cloid
            if rng.random() < 0.7:
                child.oid = parent.oid  # gets an own one when it opens
        texts = engine.events.texts
        parent.terms = terms_text(children=",".join(order_json(child, texts) for child in parent.children))
        return parent

    # -- before the first block

    def older_order(self, maker: Maker, px: int, sz: int, placed: int, digits: str, roll: int) -> Order:
        """Return an order that rests since before the first block. roll: a random number below 1024.

        Of a genuine book's orders, 70 % are Gtc, 6 % have children, 13 % only reduce, a few were triggered.
        """
        market, account = maker.market, maker.account
        tif = "Gtc" if roll % 10 < 7 else "Alo"
        if market.is_perp and roll < 64:
            return self._new_parent(maker, px, sz, placed, tif, digits)
        order = Order(maker, self._engine.next_oid(), px, sz, placed, f'"{tif}"', maker.cloid(digits))
        if roll == 64:
            order.terms, order.tif = terms_text("Stop Limit", triggered=True), '"Gtc"'
        elif market.is_perp and roll < 256 and account.reducible(market.name, maker.is_bid):
            others = account.reduce_only.setdefault(market.name, {})
            if len(others) < _MOST_REDUCE_ONLY:
                others[order.oid] = order
                order.terms, order.reduce_only = terms_text(reduce_only=True), True
        elif roll % 16 == 0:
            order.orig += (1 + roll % 7) * market.lot  # partly filled
        return order

    def populate_triggers(self, count: int) -> None:
        """Let orders wait for their triggers since before the first block."""
        for _ in range(min(count, MAX_TRIGGERS // 2)):
            maker = self._perp(self._rng.choice(self._makers))
            order = self._new_trigger(maker, hex_digits(self._rng, 16), maker.market.fair)
            self._engine.await_trigger(order)
            self._triggers.append(order)
