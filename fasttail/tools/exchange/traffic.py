"""What the users of the exchange do: their orders and cancels, in the shares of genuine files.

How it is fast in plain Python
    Random numbers are drawn in chunks of 64-bit words. Each action uses one word. Its bits make the choices:

        0..15 kind of action   16..28 maker   29..38 distance   39..44 size   45..47 ticks past the touch
        48..53 place in the queue   54..63 share of the distance   29..63 which of the resting orders
"""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Iterator
from itertools import chain

from fasttail.tools.exchange.accounts import Maker
from fasttail.tools.exchange.book import PLAIN_TERMS, Order, swap_out
from fasttail.tools.exchange.engine import Engine
from fasttail.tools.exchange.rare import RareActions

_CHUNK = 4096  # words drawn at once

# Kinds of action by the word's low 16 bits. The shares are per cent of the actions; the rest are cancels.
_BAD_ALO, _MARGIN, _IOC, _OPEN, _CANCEL, _TAKE, _RARE = range(7)
_OPEN_SHARE, _TAKE_SHARE = 19.6, 0.11
_STATUSES_PER_ACTION = 1.013
_REJECTED = {_BAD_ALO: 59.0, _MARGIN: 1.0, _IOC: 0.55}
REJECTED_SHARE = round(sum(_REJECTED.values()) / 100, 6)


class Traffic:
    """Fills blocks with the actions of users. Memory is bounded by the number of resting orders.

    resting:  number of orders that rest in all books, about. They exist before the first block.
    rejected: share of the order statuses that are rejections of Alo, Ioc and margin, from 0 to 0.9.
    """

    def __init__(
        self, engine: Engine, makers: list[Maker], rare: RareActions, seed: int, resting: int, rejected: float
    ) -> None:
        self._engine = engine
        self._makers = makers
        self._rare = rare
        self._draws = random.Random(f"{seed}:draws")
        self._words = chain.from_iterable(self._word_chunks())
        self._target = resting
        self._resting = rare.resting
        self._older: list[Order] = []  # mostly Gtc, and rarely canceled
        self._kinds = self._kind_table(rejected, rare.share)
        self._single_kinds = bytes(_CANCEL if kind in (_TAKE, _RARE) else kind for kind in self._kinds)

    @staticmethod
    def _kind_table(rejected: float, rare: float) -> bytes:
        """Return the kind for each value of a word's low 16 bits. rare: per cent of rare actions."""
        active = (1 - rejected) / (1 - REJECTED_SHARE)
        shares = {
            kind: share * rejected / REJECTED_SHARE * _STATUSES_PER_ACTION
            for kind, share in _REJECTED.items()
        }
        shares |= {_OPEN: _OPEN_SHARE * active, _TAKE: _TAKE_SHARE, _RARE: rare}
        kinds = b"".join(bytes([kind]) * max(1, round(share * 655.36)) for kind, share in shares.items())
        return (kinds + bytes([_CANCEL]) * 65536)[:65536]

    def _word_chunks(self) -> Iterator[Iterator[tuple[int, str]]]:
        while True:
            words = array("Q", self._draws.randbytes(8 * _CHUNK))
            if sys.byteorder == "big":
                words.byteswap()
            digits = self._draws.randbytes(8 * _CHUNK).hex()
            yield zip(words, [digits[i : i + 16] for i in range(0, 16 * _CHUNK, 16)], strict=True)

    def populate(self, now_ms: int) -> None:
        """Put the first resting orders into the books, without events. They are up to a day old."""
        makers = self._makers
        step = 86_400_000 // max(self._target, 1)
        for index, (word, digits) in zip(range(self._target), self._words, strict=False):
            maker = makers[word >> 16 & 0x1FFF]
            px = self._quote(maker, word)
            sz = maker.market.sizes[word >> 39 & 0x3F]
            placed = now_ms - (self._target - index) * step
            if index % 5:
                order = self._rare.older_order(maker, px, sz, placed, digits, word >> 45 & 0x3FF)
                self._older.append(order)
            else:
                order = Order(maker, self._engine.next_oid(), px, sz, placed, '"Alo"', maker.cloid(digits))
                self._resting.append(order)
            maker.market.ladder(maker.is_bid).add(order)
        self._rare.populate_triggers(self._target // 200)

    @staticmethod
    def _quote(maker: Maker, word: int) -> int:
        """Return the price of a quote that does not cross: some ticks behind the coin's price."""
        market = maker.market
        # A share of the distance, so that there are more prices than distances.
        away = market.offsets[word >> 29 & 0x3FF] * (512 + (word >> 54)) // 1024 * market.tick
        if maker.is_bid:
            px, best = market.fair - away, market.asks.best()
            if best and px >= best:
                px = best - market.tick
            return px if px > 0 else market.tick
        px, best = market.fair + market.tick + away, market.bids.best()
        return px if px > best else best + market.tick

    def act(self, until: int, *, single: bool = False) -> None:
        """Let users act until the block has `until` order statuses, or a few more if one action has several.

        single: do nothing that has several, so that there are exactly `until`.
        """
        engine, events = self._engine, self._engine.events
        makers, kinds, out = self._makers, self._single_kinds if single else self._kinds, events.orders
        texts, head = events.texts, events.head
        middle = f',"timestamp":{events.time_ms},{PLAIN_TERMS}"origSz":"'
        append = out.append
        most = self._target * 1.1 + 100
        if len(out) >= until:
            return
        for word, digits in self._words:
            kind = kinds[word & 0xFFFF]
            maker = makers[word >> 16 & 0x1FFF]
            if kind == _BAD_ALO:
                market = maker.market
                away = (word >> 45 & 7) * market.tick
                if maker.is_bid:
                    px = (market.asks.best() or market.fair) + away
                else:
                    px = (market.bids.best() or market.fair) - away
                    if px <= 0:
                        px = market.tick
                sz = texts[market.sizes[word >> 39 & 0x3F]]
                engine.oid += 1
                cloid = "null" if maker.prefix is None else f'"0x{maker.prefix}{digits}"'
                append(
                    f'{head}{maker.bad_head}{texts[px]}","sz":"{sz}","oid":{engine.oid}{middle}{sz}'
                    f'","tif":"Alo","cloid":{cloid}}}}}'
                )
            elif kind == _CANCEL:
                self._cancel_one(word, maker, digits)
            elif kind == _OPEN:
                if len(self._resting) + len(self._older) > most:
                    self._cancel_one(word, maker, digits)
                else:
                    self._open_one(word, maker, digits)
            elif kind == _RARE:
                self._rare.act(maker, digits)
            else:
                self._other(kind, word, maker, digits)
            if len(out) >= until:
                return

    def _new_order(self, maker: Maker, px: int, word: int, digits: str, tif: str) -> Order:
        engine = self._engine
        engine.oid += 1
        sz = maker.market.sizes[word >> 39 & 0x3F]
        return Order(maker, engine.oid, px, sz, engine.events.time_ms, tif, maker.cloid(digits))

    def _open_one(self, word: int, maker: Maker, digits: str) -> None:
        order = self._new_order(maker, self._quote(maker, word), word, digits, '"Alo"')
        engine = self._engine
        if maker.market.state != "open":
            engine.reject(order, "rejected")
            return
        anchor = None
        if word >> 48 & 0x3F == 0:  # pays for a place in front of the queue
            level = maker.market.ladder(maker.is_bid).levels.get(order.px)
            anchor = next(iter(level.values())) if level else None
        engine.events.opened(order, engine.events.tx_digits())
        engine.rest(order, anchor)
        self._resting.append(order)

    def _cancel_one(self, word: int, maker: Maker, digits: str) -> None:
        resting = self._resting
        chosen = word >> 29
        if word >> 57 == 0 and len(self._older) > self._target // 2:
            resting = self._older
        least = self._target * 0.9 - 100 - len(self._older)
        while resting and len(resting) > least:
            order = swap_out(resting, chosen % len(resting))
            if order.resting:
                self._engine.cancel(order)
                return
        self._open_one(word, maker, digits)

    def _other(self, kind: int, word: int, maker: Maker, digits: str) -> None:
        """Take from the book, or be rejected as an Ioc order or for want of margin."""
        market, engine = maker.market, self._engine
        if kind == _TAKE:
            # Buyers come when the asks are below the coin's price, so that the book follows it.
            best_ask, best_bid = market.asks.best(), market.bids.best()
            side = (
                "B" if best_ask and best_ask <= market.fair else "A" if best_bid > market.fair else maker.side
            )
            taker = maker if side == maker.side else self._rare.other_side(maker)
            best = best_ask if taker.is_bid else best_bid
            px = (best or market.fair) + (market.tick if taker.is_bid else -market.tick) * (word >> 45 & 3)
            order = self._new_order(taker, max(px, market.tick), word, digits, '"Ioc"')
            if market.state != "open":
                engine.reject(order, "rejected")
            else:
                engine.execute(order, no_match="iocCancelRejected")
            return
        order = self._new_order(maker, self._quote(maker, word), word, digits, '"Ioc"')
        if kind == _IOC:
            engine.reject(order, "iocCancelRejected")
        else:
            engine.reject(
                order, "perpMarginRejected" if market.is_perp else "insufficientSpotBalanceRejected"
            )
