"""Generates order statuses from a seed, as text, like the actions of an exchange's users.

How it is fast in plain Python
    A *maker* (user, coin, side) is rendered once into the text around an order's own values, so that an order
    is one f-string. Random numbers are drawn in chunks of 64-bit words. Each order uses one word, whose bits
    make the choices:

        0..15 kind of event   16..26 maker          28..35 price            36..41 size
        48..52 partly filled  61..63 gap in oids    28..63 which of the resting orders
"""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate, chain

from fasttail.tools.synth.constants import Style
from fasttail.tools.synth.layouts import text_time
from fasttail.tools.synth.population import Maker, population, price_text, trim_zeros

_FIRST_OID = 452_916_386_247
_CHUNK = 4096  # words drawn at once
MAX_RESTING = 16_384  # bounds memory: beyond it, orders are canceled instead of opened
MAX_TRIGGERS = 512

# Other statuses and their shares (per cent of orders), grouped by the kind of order they need.
_REJECTIONS = {
    "minTradeNtlRejected": 0.010, "reduceOnlyRejected": 0.012, "tickRejected": 0.0008,
    "oracleRejected": 0.0008,
    "positionIncreaseAtOpenInterestCapRejected": 0.002, "positionFlipAtOpenInterestCapRejected": 0.0005,
    "tooAggressiveAtOpenInterestCapRejected": 0.001, "openInterestIncreaseRejected": 0.0005,
    "insufficientSpotBalanceRejected": 0.001, "perpMaxPositionRejected": 0.0005, "rejected": 0.0003,
    "tooManyOpenOrdersRejected": 0.0005,
}  # fmt: skip
_CANCELS = {
    "reduceOnlyCanceled": 0.010, "selfTradeCanceled": 0.010, "scheduledCancel": 0.005,
    "marginCanceled": 0.004,
    "liquidatedCanceled": 0.0008, "vaultWithdrawalCanceled": 0.0005, "openInterestCapCanceled": 0.0005,
    "delistedCanceled": 0.0003, "outcomeSettledCanceled": 0.0003, "internalCancel": 0.0005,
}  # fmt: skip
# (order type, tif) of orders that execute at once: they open and fill in the same block.
_TAKERS = {
    ("Market", "FrontendMarket"): 0.010,
    ("Market", "LiquidationMarket"): 0.0003,
    ("Twap Slice", "Ioc"): 0.002,
    ("Vault Close", "FrontendMarket"): 0.0005,
    ("Spot Dust Conversion", "FrontendMarket"): 0.0003,
}
_TRIGGER_KINDS = ("Stop Market", "Stop Limit", "Take Profit Market", "Take Profit Limit")
_TRIGGER_OPEN, _TRIGGER_CANCEL, _TRIGGER_FIRE, _TRIGGER_REJECT = 0.014, 0.006, 0.004, 0.001

# Kinds of event by the word's low 16 bits, in the order in which the loop tests them. Shares are per cent of
# draws; the rest goes to _KIND_CLOSE.
(
    _KIND_BAD_ALO,
    _KIND_MARGIN,
    _KIND_IOC,
    _KIND_OPEN,
    _KIND_GTC,
    _KIND_TAKE,
    _KIND_CLOSE,
    _KIND_FILL,
    _KIND_RARE,
) = range(9)
_KIND_SHARES = {
    _KIND_BAD_ALO: 59.0,
    _KIND_OPEN: 19.4,
    _KIND_MARGIN: 1.0,
    _KIND_IOC: 0.55,
    _KIND_FILL: 0.45,
    _KIND_GTC: 0.3,
    _KIND_TAKE: 0.15,
}

_LIMIT_ORDER_TEXT = (
    ',"triggerCondition":"N/A","isTrigger":false,"triggerPx":"0.0","children":[],'
    '"isPositionTpsl":false,"reduceOnly":false,"orderType":"Limit","origSz":"'
)

# An open order that may be canceled or filled later: (maker, px, sz, rest).
_RestingOrder = tuple[Maker, str, str, str]


def _order_tail(
    oid: int,
    timestamp: str,
    *,
    orig: str,
    tif: str,
    cloid: str,
    kind: str = "Limit",
    trigger: tuple[str, str] | None = None,
    children: str = "",
    tpsl: bool = False,
    reduce_only: bool = False,
) -> str:
    """Return an order's text from `","oid":` to its closing brace.

    `trigger` is (condition, price); `tif` and `cloid` are JSON.
    """
    condition, trigger_px = trigger or ("N/A", "0.0")
    return (
        f'","oid":{oid},"timestamp":{timestamp},"triggerCondition":"{condition}",'
        f'"isTrigger":{"true" if trigger else "false"},"triggerPx":"{trigger_px}","children":[{children}],'
        f'"isPositionTpsl":{"true" if tpsl else "false"},"reduceOnly":{"true" if reduce_only else "false"},'
        f'"orderType":"{kind}","origSz":"{orig}","tif":{tif},"cloid":{cloid}}}'
    )


class OrderStatuses:
    """Generates the order statuses of a seed one by one, as text. Memory is bounded (about 25 MB).

    The arguments are those of `Synth`. Begin a block, then take its events. The cut into blocks affects only
    their times and transaction hashes.
    """

    def __init__(self, seed: int, style: Style, children: float) -> None:
        self._style = style
        self._draws = random.Random(f"{seed}:draws")
        self._rare = random.Random(f"{seed}:rare")
        self._makers = population(random.Random(f"{seed}:makers"), style)
        self._random_words = chain.from_iterable(self._random_word_chunks())
        self._hashes = chain.from_iterable(self._hash_chunks(random.Random(f"{seed}:hashes")))
        self._kinds = self._kind_table(children)
        self._resting: list[_RestingOrder] = []
        self._triggers: list[_RestingOrder] = []
        self._oid = _FIRST_OID
        # Rendered once per maker: most of the traffic, and every rejection of the two other common kinds.
        self._bad = [self._render_around(maker, "badAloPxRejected", "Alo") for maker in self._makers]
        self._ioc = [self._render_around(maker, "iocCancelRejected", "Ioc") for maker in self._makers]
        funds = {True: "insufficientSpotBalanceRejected", False: "perpMarginRejected"}
        self._margin = [self._render_around(maker, funds[maker.spot], "Ioc") for maker in self._makers]
        # The current block
        self._start_text = ""
        self._timestamp = ""
        self._hash_block = ""

    @property
    def resting(self) -> int:
        """Number of resting orders, at most MAX_RESTING."""
        return len(self._resting)

    @property
    def waiting_triggers(self) -> int:
        """Number of waiting trigger orders, at most MAX_TRIGGERS."""
        return len(self._triggers)

    # -- set-up

    def _kind_table(self, children: float) -> bytes:
        """Return the kind for each value of a word's low 16 bits, and set up the choice of rare kinds."""
        rare_weights: dict[Callable[[list[str], Maker, str], None], float] = {
            self._other_rejection: sum(_REJECTIONS.values()),
            self._other_cancel: sum(_CANCELS.values()),
            self._taker: sum(_TAKERS.values()),
            self._trigger_open: _TRIGGER_OPEN,
            self._trigger_cancel: _TRIGGER_CANCEL,
            self._trigger_fire: _TRIGGER_FIRE,
            self._trigger_reject: _TRIGGER_REJECT,
            self._parent: 50.0 * children,  # each appears twice: opened, then canceled
        }
        self._rare_events = list(rare_weights)
        self._rare_weights = list(accumulate(rare_weights.values()))
        total = self._rare_weights[-1]
        # The share of the rare kinds reduces all others in proportion.
        scale = (100.0 - total) / 100.0
        shares = {kind: share * scale for kind, share in _KIND_SHARES.items()} | {_KIND_RARE: total}
        counts = {kind: max(1, round(share * 655.36)) for kind, share in shares.items()}
        kinds = b"".join(bytes([kind]) * count for kind, count in counts.items())[:65536]
        return kinds + bytes([_KIND_CLOSE]) * (65536 - len(kinds))

    def _render_around(
        self, maker: Maker, status: str, tif: str
    ) -> tuple[str, list[str], list[str], str, bool]:
        """Return the texts around an order's own values, and the values to choose from.

        The tuple is (text to the price, quoted prices, sizes, text from origSz to the cloid's digits, has
        a cloid).
        """
        tail = f'","tif":"{tif}","cloid":'
        tail += "null}}" if maker.prefix is None else f'"0x{maker.prefix}'
        return maker.head(status), maker.quoted, maker.sizes, tail, maker.prefix is not None

    def _random_word_chunks(self) -> Iterator[Iterator[tuple[int, str]]]:
        while True:
            words = array("Q", self._draws.randbytes(8 * _CHUNK))
            if sys.byteorder == "big":
                words.byteswap()
            digits = self._draws.randbytes(8 * _CHUNK).hex()
            yield zip(words, [digits[i : i + 16] for i in range(0, 16 * _CHUNK, 16)], strict=True)

    @staticmethod
    def _hash_chunks(rng: random.Random) -> Iterator[list[str]]:
        while True:
            digits = rng.randbytes(26 * 1024).hex()
            yield [digits[i : i + 52] for i in range(0, 52 * 1024, 52)]

    # -- events

    def begin_block(self, number: int, time_ns: int) -> None:
        """Assign the following events to this block."""
        self._start_text = f'{{"time":"{text_time(time_ns)}'
        self._timestamp = str(time_ns // 1_000_000)
        self._hash_block = f"04{number & 0xFFFFFFFF:08x}"

    def events(self, count: int) -> list[str]:
        """Return `count` to `count` + 2 events. The hot loop: frequent kinds first, few pieces each."""
        out: list[str] = []
        append = out.append
        start = self._start_text
        limit = f',"timestamp":{self._timestamp}{_LIMIT_ORDER_TEXT}'
        kinds, bad, makers, resting = self._kinds, self._bad, self._makers, self._resting
        oid = self._oid
        for word, digits in self._random_words:
            kind = kinds[word & 0xFFFF]
            if kind <= _KIND_IOC:  # rejected: appears once
                rendered = (
                    bad if kind == _KIND_BAD_ALO else self._margin if kind == _KIND_MARGIN else self._ioc
                )
                head, quoted, sizes, tail, has_cloid = rendered[word >> 16 & 0x7FF]
                px = quoted[word >> 28 & 0xFF]
                sz = sizes[word >> 36 & 0x3F]
                oid += 1
                if has_cloid:
                    append(f'{start}{head}{px}{sz}","oid":{oid}{limit}{sz}{tail}{digits}"}}}}')
                else:
                    append(f'{start}{head}{px}{sz}","oid":{oid}{limit}{sz}{tail}')
            elif kind == _KIND_RARE:
                self._oid = oid
                append_events = self._rare.choices(self._rare_events, cum_weights=self._rare_weights)[0]
                append_events(out, makers[word >> 16 & 0x7FF], digits)
                oid = self._oid
            elif kind == _KIND_TAKE or (kind <= _KIND_GTC and len(resting) < MAX_RESTING) or not resting:
                maker = makers[word >> 16 & 0x7FF]
                px = maker.prices[word >> 28 & 0xFF]
                sz = maker.sizes[word >> 36 & 0x3F]
                oid += 1 + (word >> 61)  # orders that only other streams saw leave gaps
                tif = "Ioc" if kind == _KIND_TAKE else "Gtc" if kind == _KIND_GTC else "Alo"
                tail_text = f'","oid":{oid}{limit}{sz}","tif":"{tif}","cloid":{maker.cloid(digits)}}}'
                append(
                    f'{start}{maker.open_hash}{self._tx_hash()}{maker.open_head}{px}","sz":"{sz}{tail_text}}}'
                )
                if kind == _KIND_TAKE:
                    append(f'{start}{maker.head("filled")}{px}","sz":"0.0{tail_text}}}')
                else:
                    resting.append((maker, px, sz, tail_text))
            else:  # a resting order is canceled or filled, and the last one moves to its index
                index = (word >> 28) % len(resting)
                maker, px, sz, tail_text = resting[index]
                last = resting.pop()
                if index < len(resting):
                    resting[index] = last
                if kind == _KIND_FILL:
                    append(f'{start}{maker.head("filled")}{px}","sz":"0.0{tail_text}}}')
                else:
                    if word >> 48 & 31 == 0:
                        sz = self._partly_filled_size(sz)
                    append(f'{start}{maker.canceled}{px}","sz":"{sz}{tail_text}}}')
            if len(out) >= count:
                break
        self._oid = oid
        return out

    def _partly_filled_size(self, sz: str) -> str:
        """Return the rest of a partly filled order, rarely with the noise of binary floats in its text."""
        whole = float(sz)
        decimals = len(sz.partition(".")[2])
        remaining = whole * self._rare.uniform(0.1, 0.9)
        text = f"{remaining:.10f}" if self._rare.random() < 0.02 else trim_zeros(f"{remaining:.{decimals}f}")
        return text if 0.0 < float(text) <= whole else sz

    def _tx_hash(self) -> str:
        """Return the digits of a transaction hash, or "" for 2024.

        They include the block's number, as in genuine ones.
        """
        if self._style == "2024":
            return ""
        part = next(self._hashes)
        return f"{part[:20]}{self._hash_block}{part[20:24]}00{part[24:]}"

    # -- rare events: (events so far, a maker, random digits) -> appends one to three events

    def _next_oid(self) -> int:
        self._oid += 1
        return self._oid

    def _open_event(self, order: _RestingOrder) -> str:
        maker, px, sz, tail_text = order
        head = f"{self._start_text}{maker.open_hash}{self._tx_hash()}{maker.open_head}"
        return f'{head}{px}","sz":"{sz}{tail_text}}}'

    def _status_event(self, status: str, order: _RestingOrder) -> str:
        maker, px, sz, tail_text = order
        return f'{self._start_text}{maker.head(status)}{px}","sz":"{sz}{tail_text}}}'

    def _maker_in_market(self, spot: bool, maker: Maker) -> Maker:
        """Return the maker, or another one if its market is not of the wanted kind."""
        while maker.spot != spot:
            maker = self._rare.choice(self._makers)
        return maker

    def _other_rejection(self, out: list[str], maker: Maker, digits: str) -> None:
        status = self._rare.choices(list(_REJECTIONS), list(_REJECTIONS.values()))[0]
        maker = self._maker_in_market(status == "insufficientSpotBalanceRejected", maker)
        px, sz = self._rare.choice(maker.prices), self._rare.choice(maker.sizes)
        tif = self._rare.choices(('"Alo"', '"Ioc"', '"Gtc"'), (6, 2, 2))[0]
        tail_text = _order_tail(
            self._next_oid(), self._timestamp, orig=sz, tif=tif, cloid=maker.cloid(digits),
            reduce_only=status == "reduceOnlyRejected",
        )  # fmt: skip
        out.append(self._status_event(status, (maker, px, sz, tail_text)))

    def _other_cancel(self, out: list[str], maker: Maker, digits: str) -> None:
        if not self._resting:
            self._other_rejection(out, maker, digits)
            return
        status = self._rare.choices(list(_CANCELS), list(_CANCELS.values()))[0]
        index = self._rare.randrange(len(self._resting))
        self._resting[index], self._resting[-1] = self._resting[-1], self._resting[index]
        maker, px, sz, tail_text = self._resting.pop()
        if status == "reduceOnlyCanceled":
            head, found, tail = tail_text.rpartition(
                '"reduceOnly":false'
            )  # the parent's own follows its children
            tail_text = f'{head}"reduceOnly":true{tail}' if found else tail_text
        out.append(self._status_event(status, (maker, px, sz, tail_text)))

    def _taker(self, out: list[str], maker: Maker, digits: str) -> None:
        kind, tif = self._rare.choices(list(_TAKERS), list(_TAKERS.values()))[0]
        maker = self._maker_in_market(kind == "Spot Dust Conversion", maker)
        px, sz = self._rare.choice(maker.prices), self._rare.choice(maker.sizes)
        tail_text = _order_tail(
            self._next_oid(), self._timestamp, orig=sz, tif=f'"{tif}"', cloid=maker.cloid(digits), kind=kind,
            reduce_only=kind == "Vault Close",
        )  # fmt: skip
        if self._rare.random() < 0.03:
            out.append(self._status_event("marketOrderNoLiquidityRejected", (maker, px, sz, tail_text)))
        else:
            out.append(self._open_event((maker, px, sz, tail_text)))
            out.append(self._status_event("filled", (maker, px, "0.0", tail_text)))

    def _trigger_of(self, side: str, px: str) -> tuple[str, tuple[str, str], str]:
        """Return (order type, (condition, trigger price), limit price) of a trigger order near a price."""
        kind = self._rare.choices(_TRIGGER_KINDS, (5, 2, 4, 1))[0]
        above = (side == "B") == kind.startswith("Stop")
        distance = self._rare.uniform(0.002, 0.08) * (1 if above else -1)
        trigger_px = price_text(float(px) * (1 + distance))
        limit = price_text(float(trigger_px) * (1 + (0.08 if side == "B" else -0.08)))
        condition = f"Price {'above' if above else 'below'} {trigger_px.removesuffix('.0')}"
        return kind, (condition, trigger_px), limit

    def _trigger(self, maker: Maker, digits: str) -> _RestingOrder:
        kind, trigger, px = self._trigger_of(maker.side, self._rare.choice(maker.prices))
        tpsl = self._rare.random() < 0.3  # for a whole position, so it has no size
        sz = "0.0" if tpsl else self._rare.choice(maker.sizes)
        tail_text = _order_tail(
            self._next_oid(), self._timestamp, orig=sz, tif="null",
            cloid="null" if self._rare.random() < 0.6 else maker.cloid(digits),
            kind=kind, trigger=trigger, tpsl=tpsl, reduce_only=tpsl or self._rare.random() < 0.8,
        )  # fmt: skip
        return (maker, px, sz, tail_text)

    def _trigger_open(self, out: list[str], maker: Maker, digits: str) -> None:
        if len(self._triggers) >= MAX_TRIGGERS:
            self._trigger_cancel(out, maker, digits)
            return
        order = self._trigger(self._maker_in_market(False, maker), digits)
        self._triggers.append(order)
        out.append(self._open_event(order))

    def _trigger_reject(self, out: list[str], maker: Maker, digits: str) -> None:
        order = self._trigger(self._maker_in_market(False, maker), digits)
        out.append(self._status_event("badTriggerPxRejected", order))

    def _trigger_cancel(self, out: list[str], maker: Maker, digits: str) -> None:
        if not self._triggers:
            self._trigger_open(out, maker, digits)
            return
        order = self._triggers.pop(self._rare.randrange(len(self._triggers)))
        status = "siblingFilledCanceled" if self._rare.random() < 0.4 else "canceled"
        out.append(self._status_event(status, order))

    def _trigger_fire(self, out: list[str], maker: Maker, digits: str) -> None:
        if not self._triggers:
            self._trigger_open(out, maker, digits)
        order = self._triggers.pop(self._rare.randrange(len(self._triggers)))
        out.append(self._status_event("triggered", order))
        if self._rare.random() < 0.8:
            maker, px, _, tail_text = order
            out.append(self._status_event("filled", (maker, px, "0.0", tail_text)))
        else:
            out.append(self._status_event("minTradeNtlRejected", order))

    def _parent(self, out: list[str], maker: Maker, digits: str) -> None:
        """Open an order with take-profit or stop orders as children; it is canceled later like any other."""
        maker = self._maker_in_market(False, maker)
        px, sz = self._rare.choice(maker.prices), self._rare.choice(maker.sizes)
        oid, cloid = self._next_oid(), maker.cloid(digits)
        other = "A" if maker.side == "B" else "B"
        children = []
        for _ in range(self._rare.choice((1, 1, 2))):
            kind, trigger, limit = self._trigger_of(other, px)
            child_oid = oid if self._rare.random() < 0.7 else self._next_oid()
            tail_text = _order_tail(
                child_oid,
                self._timestamp,
                orig=sz,
                tif="null",
                cloid=cloid,
                kind=kind,
                trigger=trigger,
                reduce_only=True,
            )
            children.append(
                f'{{"coin":"{maker.coin}","side":"{other}","limitPx":"{limit}","sz":"{sz}{tail_text}'
            )
        tif = self._rare.choice(('"Gtc"', '"Gtc"', '"Alo"'))
        tail_text = _order_tail(
            oid, self._timestamp, orig=sz, tif=tif, cloid=cloid, children=",".join(children)
        )
        out.append(self._open_event((maker, px, sz, tail_text)))
        if len(self._resting) < MAX_RESTING:
            self._resting.append((maker, px, sz, tail_text))
