"""Renders what happens in a block as the events of the node's streams, as text."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from fasttail.tools.exchange.accounts import Account, Maker
from fasttail.tools.exchange.book import Order
from fasttail.tools.exchange.constants import STREAMS
from fasttail.tools.exchange.decimals import DecimalTexts
from fasttail.tools.exchange.layouts import text_time

NO_HASH = "0x" + "0" * 64


class Side(NamedTuple):
    """One side of a trade, as the fills need it. Amounts are scaled by 10^8."""

    order: Order
    start: int  # position before the trade
    direction: str
    closed_pnl: int
    fee: int
    fee_token: str
    builder_fee: int
    twap_id: int | None
    crossed: bool


class Trade(NamedTuple):
    """One match, or one leg of an outcome's split, merge or settlement (then only one side is set)."""

    coin: str
    px: int
    sz: int
    time_ms: int
    tid: int
    hash: str
    buyer: Side | None
    seller: Side | None
    liquidation: tuple[str, int, str] | None = None  # user, mark price, method
    deployer_fee: int = 0
    priority_gas: int = 0

    @property
    def taker_side(self) -> str:
        """Side of the order that crossed."""
        return "B" if self.buyer is not None and self.buyer.crossed else "A"


def fill_text(trade: Trade, side: Side, letter: str, texts: DecimalTexts) -> str:
    """Return one side of a trade as an event of the fills: `[user, fill]`. letter: `B` or `A`."""
    account: Account = side.order.maker.account
    optional = [""] * 5
    if side.builder_fee:
        optional[0] = f'"builderFee":"{texts[side.builder_fee]}",'
    if side.order.cloid != "null":
        optional[1] = f'"cloid":{side.order.cloid},'
    if trade.liquidation is not None:
        user, mark, method = trade.liquidation
        optional[2] = (
            f'"liquidation":{{"liquidatedUser":"{user}","markPx":"{texts[mark]}","method":"{method}"}},'
        )
    if account.builder_address:
        optional[3] = f'"builder":"{account.builder_address}",'
    if trade.deployer_fee and side.crossed:
        optional[4] = f',"deployerFee":"{texts[trade.deployer_fee]}"'
    gas = f',"priorityGas":"{texts[trade.priority_gas]}"' if trade.priority_gas and side.crossed else ""
    twap = "null" if side.twap_id is None else side.twap_id
    return (
        f'["{account.address}",{{"coin":"{trade.coin}","px":"{texts[trade.px]}","sz":"{texts[trade.sz]}",'
        f'"side":"{letter}","time":{trade.time_ms},"startPosition":"{texts[side.start]}",'
        f'"dir":"{side.direction}","closedPnl":"{texts[side.closed_pnl]}","hash":"{trade.hash}",'
        f'"oid":{side.order.oid},"crossed":{"true" if side.crossed else "false"},'
        f'"fee":"{texts[side.fee]}",{optional[0]}"tid":{trade.tid},{optional[1]}{optional[2]}'
        f'"feeToken":"{side.fee_token}",{optional[3]}"twapId":{twap}{optional[4]}{gas}}}]'
    )


def _order_text(order: Order, sz: int, texts: DecimalTexts) -> str:
    """Return an order's text from its price on, without the quote before it, to its closing brace."""
    return (
        f'{texts[order.px]}","sz":"{texts[sz]}","oid":{order.oid},"timestamp":{order.timestamp},{order.terms}'
        f'"origSz":"{texts[order.orig]}","tif":{order.tif},"cloid":{order.cloid}}}'
    )


def order_json(order: Order, texts: DecimalTexts) -> str:
    """Return an order as the node's snapshots and a parent's `children` have it."""
    maker = order.maker
    head = f'{{"coin":"{maker.market.name}","side":"{maker.side}","limitPx":"'
    return head + _order_text(order, order.sz, texts)


class BlockEvents:
    """The events of the current block. The lists of streams that are not wanted stay empty.

    long_sides: write `Bid` and `Ask` in book diffs, as the node's documentation does.
    """

    def __init__(self, wanted: Iterable[str], seed: int, long_sides: bool) -> None:
        self.wanted = frozenset(wanted)
        self.texts = DecimalTexts()
        self.by_stream: dict[str, list[str]] = {stream: [] for stream in STREAMS if stream in self.wanted}
        self.orders: list[str] = []
        self.trades: list[Trade] = []
        self._diffs: list[str] = []
        self._want_diffs = "bookDiffs" in self.wanted
        self._want_fills = "fills" in self.wanted
        self._want_trades = "nodeTrades" in self.wanted
        self._long_sides = long_sides
        self._hashes = chain.from_iterable(self._hash_chunks(random.Random(f"{seed}:hashes")))
        self.number = 0
        self.time_ns = 0
        self.time_ms = 0
        self.time_text = ""
        self.head = ""
        self._hash_block = ""
        self._actions = 0

    @staticmethod
    def _hash_chunks(rng: random.Random) -> Iterator[list[str]]:
        while True:
            digits = rng.randbytes(24 * 1024).hex()
            yield [digits[i : i + 48] for i in range(0, 48 * 1024, 48)]

    def begin(self, number: int, time_ns: int) -> None:
        """Begin a block without events."""
        self.number = number
        self.time_ns = time_ns
        self.time_ms = time_ns // 1_000_000
        self.time_text = text_time(time_ns)
        self.head = f'{{"time":"{self.time_text}'
        self._hash_block = f"04{number & 0xFFFFFFFF:08x}"
        self._actions = 0
        self.trades = []
        self.by_stream = {stream: [] for stream in self.by_stream}
        self.orders = self.by_stream.get("orders", [])
        self._diffs = self.by_stream.get("bookDiffs", [])

    def add(self, stream: str, event: str) -> None:
        """Append an event of a stream, if it is wanted."""
        if stream in self.wanted:
            self.by_stream[stream].append(event)

    # -- transactions

    def tx_digits(self) -> str:
        """Return the 64 digits of the hash of a new transaction, which carry the block's number."""
        digits = next(self._hashes)
        action = self._actions
        self._actions = action + 1
        if action < 256:
            index = f"01{action:02x}" if action else "00"
        else:
            index = f"02{action:04x}" if action < 65_536 else f"03{action:06x}"
        head = f"{digits[:20]}{self._hash_block}{index}00"
        return head + digits[len(head) - 64 :]

    # -- order statuses

    def opened(self, order: Order, digits: str) -> None:
        """Report an order as `open`. digits: of its transaction's hash, see `tx_digits`."""
        before, after = order.maker.open_head
        self.orders.append(f"{self.head}{before}{digits}{after}{_order_text(order, order.sz, self.texts)}}}")

    def status(self, order: Order, status: str, sz: int) -> None:
        """Report another status of an order. sz: what remains of it."""
        self.orders.append(f"{self.head}{order.maker.heads[status]}{_order_text(order, sz, self.texts)}}}")

    # -- book diffs

    def _diff(self, order: Order, change: str) -> None:
        maker: Maker = order.maker
        tail = maker.diff_tail
        if self._long_sides:
            tail = tail.replace('"side":"B"', '"side":"Bid"').replace('"side":"A"', '"side":"Ask"')
        self._diffs.append(
            f'{maker.diff_head}{order.oid}{tail}{self.texts[order.px]}","raw_book_diff":{change}}}'
        )

    def diff_new(self, order: Order, before: int | None = None) -> None:
        """Report that an order entered the book. before: oid of the order that it went in front of."""
        if self._want_diffs:
            anchor = "" if before is None else f',"insertBefore":{before}'
            self._diff(order, f'{{"new":{{"sz":"{self.texts[order.sz]}"{anchor}}}}}')

    def diff_update(self, order: Order, size_before: int) -> None:
        """Report the new size of an order in the book."""
        if self._want_diffs:
            texts = self.texts
            self._diff(order, f'{{"update":{{"origSz":"{texts[size_before]}","newSz":"{texts[order.sz]}"}}}}')

    def diff_remove(self, order: Order) -> None:
        """Report that an order left the book."""
        if self._want_diffs:
            self._diff(order, '"remove"')

    # -- fills and trades

    def trade(self, trade: Trade) -> None:
        """Report a trade: its one or two fills, buyer first, and the trade itself."""
        self.trades.append(trade)
        if self._want_fills:
            fills = self.by_stream["fills"]
            for side, letter in ((trade.buyer, "B"), (trade.seller, "A")):
                if side is not None:
                    fills.append(fill_text(trade, side, letter, self.texts))
        if self._want_trades and trade.buyer is not None and trade.seller is not None:
            self.by_stream["nodeTrades"].append(self._trade_text(trade, trade.buyer, trade.seller))

    def _trade_text(self, trade: Trade, buyer: Side, seller: Side) -> str:
        texts = self.texts
        sides = ",".join(
            f'{{"user":"{side.order.maker.account.address}","start_pos":"{texts[side.start]}",'
            f'"oid":{side.order.oid},"twap_id":{"null" if side.twap_id is None else side.twap_id},'
            f'"cloid":{side.order.cloid}}}'
            for side in (buyer, seller)
        )
        override = "LiquidatedMarket" if trade.liquidation is not None else "Na"
        return (
            f'{{"coin":"{trade.coin}","side":"{trade.taker_side}","time":"{self.time_text}",'
            f'"px":"{texts[trade.px]}","sz":"{texts[trade.sz]}","hash":"{trade.hash}",'
            f'"trade_dir_override":"{override}","side_info":[{sides}]}}'
        )
