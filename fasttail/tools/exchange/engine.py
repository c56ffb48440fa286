"""The matching engine: places, matches, cancels and triggers orders, and reports what follows from it."""

from __future__ import annotations

from heapq import heappop, heappush

from fasttail.tools.exchange.accounts import HIP2_USER, Account, Maker
from fasttail.tools.exchange.book import Order, ParentOrder, TriggerOrder, terms_text
from fasttail.tools.exchange.decimals import SCALE, product
from fasttail.tools.exchange.events import NO_HASH, BlockEvents, Side, Trade
from fasttail.tools.exchange.markets import Market

_FIRST_OID = 452_916_386_247
_MIN_NOTIONAL = 10 * SCALE
_MOST_MATCHES = 40  # per order; what remains then is canceled
_TID_STEP, _TID_MASK = 0x1851F42D4C957F2D, (1 << 49) - 1
_MAX_ENDED_TRIGGERS = 256

Liquidation = tuple[str, int, str]
"""Liquidated user, mark price (scaled), method."""


class Engine:
    """The books and what changes them. Every method belongs to the current block of `events`."""

    def __init__(self, events: BlockEvents) -> None:
        self.events = events
        self.oid = _FIRST_OID
        self._trades = 0
        self._makers: dict[tuple[str, str, str], Maker] = {}

    def next_oid(self) -> int:
        """Return the id of a new order. Ids rise."""
        self.oid += 1
        return self.oid

    def maker(self, account: Account, market: Market, side: str) -> Maker:
        """Return the account's maker on a side of a coin."""
        key = (account.address, market.name, side)
        maker = self._makers.get(key)
        if maker is None:
            maker = self._makers[key] = Maker(account, market, side, None)
        return maker

    # -- orders in the book

    def rest(self, order: Order, anchor: Order | None = None) -> None:
        """Put an order into the book: at the back of its price level, or in front of `anchor`."""
        maker = order.maker
        ladder = maker.market.ladder(maker.is_bid)
        if anchor is None:
            ladder.add(order)
            self.events.diff_new(order)
        else:
            ladder.insert_before(order, anchor)
            self.events.diff_new(order, anchor.oid)
        if order.reduce_only:
            maker.account.reduce_only.setdefault(maker.market.name, {})[order.oid] = order

    def cancel(self, order: Order, status: str = "canceled") -> None:
        """End an order that rests, or waits for its trigger."""
        if order.resting:
            self._take_out(order)
            self.events.diff_remove(order)
        elif isinstance(order, TriggerOrder):
            order.waiting = False
        if order.maker.account.address != HIP2_USER:
            self.events.status(order, status, order.sz)

    def reject(self, order: Order, status: str) -> None:
        """Report a new order as rejected."""
        self.events.status(order, status, order.sz)

    def _take_out(self, order: Order) -> None:
        maker = order.maker
        maker.market.ladder(maker.is_bid).remove(order)
        if order.reduce_only:
            maker.account.reduce_only[maker.market.name].pop(order.oid, None)

    # -- orders that execute

    def can_match(self, order: Order) -> bool:
        """Whether the best price of the other side is within the order's limit."""
        maker = order.maker
        if maker.is_bid:
            best = maker.market.asks.best()
            return 0 < best <= order.px
        best = maker.market.bids.best()
        return best >= order.px and best > 0

    def execute(
        self,
        order: Order,
        *,
        no_match: str,
        liquidation: Liquidation | None = None,
        twap_id: int | None = None,
    ) -> None:
        """Execute an order at once and cancel what remains. no_match: status if nothing can match."""
        if not self.can_match(order):
            self.reject(order, no_match)
            return
        digits = self.events.tx_digits()
        self.events.opened(order, digits)
        self._match(order, digits, liquidation, twap_id)
        self._end_taker(order)

    def place(self, order: Order, anchor: Order | None = None) -> None:
        """Open a limit order, match it, and let what remains rest."""
        digits = self.events.tx_digits()
        self.events.opened(order, digits)
        if self.can_match(order):
            self._match(order, digits, None, None)
        if self._may_rest(order):
            self.rest(order, anchor)
        else:
            self._end_taker(order)

    def _end_taker(self, order: Order) -> None:
        if order.sz == 0:
            self.events.status(order, "filled", 0)
            self._filled(order)
        else:
            status = "canceled" if self._may_trade(order) else "reduceOnlyCanceled"
            self.events.status(order, status, order.sz)

    def _room(self, order: Order) -> int:
        """Return by how much an order may reduce its account's position."""
        maker = order.maker
        return maker.account.reducible(maker.market.name, maker.is_bid)

    def _may_trade(self, order: Order) -> bool:
        """Whether an order is not one that may only reduce a position that is not there."""
        return not order.reduce_only or self._room(order) > 0

    def _may_rest(self, order: Order) -> bool:
        return order.sz > 0 and not self.can_match(order) and self._may_trade(order)

    def _match(self, taker: Order, digits: str, liquidation: Liquidation | None, twap_id: int | None) -> None:
        """Match an order against the other side, best price first, within a price by time."""
        ladder = taker.maker.market.ladder(not taker.maker.is_bid)
        for _ in range(_MOST_MATCHES):
            if not (taker.sz and self.can_match(taker)):
                return
            resting = next(iter(ladder.levels[ladder.best()].values()))
            if resting.maker.account is taker.maker.account:
                self.cancel(resting, "selfTradeCanceled")
                continue
            sz = min(taker.sz, resting.sz)
            if resting.reduce_only:
                sz = min(sz, self._room(resting))
                if sz == 0:
                    self.cancel(resting, "reduceOnlyCanceled")
                    continue
            if taker.reduce_only:
                sz = min(sz, self._room(taker))
                if sz == 0:
                    return
            self._trade(taker, resting, sz, digits, liquidation, twap_id)

    def _trade(
        self,
        taker: Order,
        resting: Order,
        sz: int,
        digits: str,
        liquidation: Liquidation | None,
        twap_id: int | None,
    ) -> None:
        events, px, market = self.events, resting.px, taker.maker.market
        before = resting.sz
        taker.sz -= sz
        resting.sz -= sz
        if resting.sz:
            events.diff_update(resting, before)
        else:
            if resting.oid & 1:
                events.diff_update(resting, before)
            self._take_out(resting)
            events.diff_remove(resting)
        sides = {
            order.maker.side: self._side(order, px, sz, order is taker, twap_id) for order in (taker, resting)
        }
        notional = product(px, sz)
        events.trade(Trade(
            market.name, px, sz, events.time_ms, self._next_tid(),
            NO_HASH if twap_id is not None else f"0x{digits}",
            sides["B"], sides["A"], liquidation,
            deployer_fee=notional * 20 // 10**6 // 100 * 100 if market.kind == "hip3" else 0,
            priority_gas=SCALE // 1000 if twap_id is None and taker.oid % 500 == 0 else 0,
        ))  # fmt: skip
        if resting.sz == 0 and resting.maker.account.address != HIP2_USER:
            events.status(resting, "filled", 0)
            self._filled(resting)
        for account in (resting.maker.account, taker.maker.account):
            self._cancel_reduce_only(account, market.name)

    def _next_tid(self) -> int:
        self._trades += 1
        return self._trades * _TID_STEP & _TID_MASK

    def _side(self, order: Order, px: int, sz: int, crossed: bool, twap_id: int | None) -> Side:
        """Change the account's position by its side of a trade, and return the side."""
        maker = order.maker
        market, account = maker.market, maker.account
        position = account.position(market.name)
        start = position.szi
        direction = _direction(market, start, sz, maker.is_bid)
        closed_pnl = position.trade(sz if maker.is_bid else -sz, px) // 100 * 100
        in_token = maker.is_bid and not market.is_perp
        base = sz if in_token else product(px, sz)
        fee = 0 if market.kind == "outcome" else _fee(base, market.is_perp, crossed, maker)
        builder_fee = base * account.builder_fee // 10**5 // 100 * 100 if account.builder_fee else 0
        if in_token:
            position.szi -= fee + builder_fee
        return Side(
            order, start, direction, closed_pnl, fee + builder_fee,
            market.fee_token if in_token else "USDC", builder_fee, twap_id if crossed else None, crossed,
        )  # fmt: skip

    def _cancel_reduce_only(self, account: Account, coin: str) -> None:
        """Cancel the account's reduce-only orders that would no longer reduce its position."""
        orders = account.reduce_only.get(coin)
        if orders:
            for order in list(orders.values()):
                if not self._may_trade(order):
                    self.cancel(order, "reduceOnlyCanceled")

    # -- triggers

    def await_trigger(self, order: TriggerOrder) -> None:
        """Let an order wait until the price passes its trigger."""
        order.waiting = True
        market = order.maker.market
        heap = market.rising if order.above else market.falling
        if len(heap) > _MAX_ENDED_TRIGGERS and sum(entry[2].waiting for entry in heap) < len(heap) // 2:
            heap[:] = sorted(entry for entry in heap if entry[2].waiting)
        heappush(heap, (order.trigger_px if order.above else -order.trigger_px, order.oid, order))

    def move_price(self, market: Market, fair: int) -> None:
        """Set the price of a coin, and trigger the orders that waited for it."""
        market.fair = fair
        while market.rising and market.rising[0][0] <= fair:
            self._fire(heappop(market.rising)[2])
        while market.falling and -market.falling[0][0] >= fair:
            self._fire(heappop(market.falling)[2])

    def _fire(self, order: TriggerOrder) -> None:
        if not order.waiting:
            return
        order.waiting = False
        events = self.events
        events.status(order, "triggered", order.sz)
        if not self._may_trade(order):
            events.status(order, "reduceOnlyRejected", order.sz)
            return
        if order.orig == 0:  # for a whole position
            order.sz = self._room(order)
        if product(order.px, order.sz) < _MIN_NOTIONAL:
            events.status(order, "minTradeNtlRejected", order.sz if order.orig else 0)
            return
        before = order.sz
        if order.is_market and not self.can_match(order):
            events.status(order, "marketOrderNoLiquidityRejected", order.sz)
            return
        if self.can_match(order):
            self._match(order, events.tx_digits(), None, None)
        if order.is_market or not self._may_rest(order):
            self._end_taker(order)
        else:
            order.terms = terms_text(
                order.kind, tpsl=order.orig == 0, reduce_only=order.reduce_only, triggered=True
            )
            order.tif, order.timestamp = '"Gtc"', events.time_ms
            self.rest(order)
        if order.sz < before and order.sibling is not None and order.sibling.waiting:
            self.cancel(order.sibling, "siblingFilledCanceled")

    def _filled(self, order: Order) -> None:
        """Open the take-profit and stop orders of a filled parent."""
        if isinstance(order, ParentOrder):
            for child in order.children:
                if child.oid == order.oid:
                    child.oid = self.next_oid()
                child.timestamp = self.events.time_ms
                self.events.opened(child, self.events.tx_digits())
                self.await_trigger(child)
            order.children = []

    # -- liquidations, settlements, outcomes

    def liquidate(self, account: Account, market: Market) -> bool:
        """Close an account's position at any price. Return False if it has none."""
        position = account.positions.get(market.name)
        if position is None or position.szi == 0 or not market.is_perp:
            return False
        own = [order for order in market.orders() if order.maker.account is account]
        if len(own) > _MOST_MATCHES:
            return False
        for order in own:
            self.cancel(order, "liquidatedCanceled")
        side = "A" if position.szi > 0 else "B"
        maker = self.maker(account, market, side)
        far = market.fair // 2 if side == "A" else market.fair * 3 // 2
        order = Order(
            maker, self.next_oid(), market.on_tick(far), abs(position.szi), self.events.time_ms,
            '"LiquidationMarket"', "null", terms_text("Market", reduce_only=True), reduce_only=True,
        )  # fmt: skip
        liquidation = (account.address, market.fair, "market")
        self.execute(order, no_match="marketOrderNoLiquidityRejected", liquidation=liquidation)
        return True

    def close_market(self, market: Market, accounts: list[Account], status: str, px: int) -> None:
        """Cancel all orders of a coin and settle all positions in it at a price."""
        market.state = "closed"
        for order in list(market.orders()):
            self.cancel(order, status)
        for _, _, trigger in [*market.rising, *market.falling]:
            if trigger.waiting:
                self.cancel(trigger, status)
        market.rising, market.falling = [], []
        for account in accounts:
            position = account.positions.get(market.name)
            if position is not None and position.szi:
                side = "A" if position.szi > 0 else "B"
                self.one_sided(account, market, side, abs(position.szi), px, "Settlement", NO_HASH)
            account.positions.pop(market.name, None)

    def one_sided(
        self, account: Account, market: Market, side: str, sz: int, px: int, direction: str, tx_hash: str
    ) -> None:
        """Report a trade without a counterparty, such as a leg of an outcome's split or a settlement."""
        order = Order(
            self.maker(account, market, side), self.next_oid(), px, 0, self.events.time_ms, "null", "null"
        )
        position = account.position(market.name)
        start = position.szi
        closed_pnl = position.trade(sz if side == "B" else -sz, px) // 100 * 100
        token = market.fee_token if side == "B" and not market.is_perp else "USDC"
        half = Side(order, start, direction, closed_pnl, 0, token, 0, None, True)
        buyer, seller = (half, None) if side == "B" else (None, half)
        self.events.trade(
            Trade(market.name, px, sz, self.events.time_ms, self._next_tid(), tx_hash, buyer, seller)
        )


def _direction(market: Market, start: int, sz: int, is_bid: bool) -> str:
    """Return the `dir` of a fill from the position before it."""
    if not market.is_perp:
        return "Buy" if is_bid else "Sell"
    if is_bid:
        if start >= 0:
            return "Open Long"
        return "Close Short" if start + sz <= 0 else "Short > Long"
    if start <= 0:
        return "Open Short"
    return "Close Long" if start - sz >= 0 else "Long > Short"


def _fee(base: int, is_perp: bool, crossed: bool, maker: Maker) -> int:
    """Return a fee of at most six decimals. It is negative, a rebate, for makers with cloids on perps.

    Orders that pay a builder earn none.
    """
    if crossed:
        rate = 45 if is_perp else 70
    elif is_perp:
        rate = 15 if maker.prefix is None or maker.account.builder_fee else -1
    else:
        rate = 40
    return base * rate // 10**5 // 100 * 100
