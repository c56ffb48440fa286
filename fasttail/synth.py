"""A synthetic node: the `node_order_statuses` folder of one, growing and rotating as a node's does.

Owns two things: `Synth`, which makes up orders and blocks from a seed, and `run`, which writes files of them.
Imports nothing of fasttail; the CLI, the demo, tests and benchmarks import it.

What the seed decides
    Every byte of every event depends on (seed, start, block size, style, shares) and on nothing else, so the
    three layouts of one seed hold the same orders. Only a *live* run (see `run`) stamps its blocks with the
    real clock; its orders are still those of the seed, apart from `time` and `timestamp`.

What is made up
    The mix of statuses, coins, users and field values follows what genuine files show: about 60 % rejections
    that appear once, orders that open and are later canceled or filled under the same oid, a few triggers and
    parents with children. Prices do not wander: every coin keeps its range.

How it is fast in plain Python
    A *maker* (user, coin, side) is rendered once into the text around an order's own values; an order is then
    one f-string. Random numbers come in chunks of 64-bit words, one word an order, its bits the choices:

        0..15 kind of event   16..26 maker          28..35 price            36..41 size
        48..52 partly filled  61..63 gap in oids    28..63 which of the resting orders
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["LAYOUTS", "Block", "Summary", "Synth", "SynthError", "generate", "iter_blocks", "render", "run"]

Layout = Literal["plain", "by_block", "streaming"]
Style = Literal["2026", "2024"]

#: Layout name -> the folder a node keeps it in.
LAYOUTS: dict[str, str] = {
    "plain": "node_order_statuses",
    "by_block": "node_order_statuses_by_block",
    "streaming": "node_order_statuses_streaming",
}

DEFAULT_START = datetime(2026, 6, 2, 10, tzinfo=UTC)
BLOCK_LINES = 1506.0  # mean of all coins in June 2026: 23,500 lines/s at 15.6 blocks/s
CHILDREN_SHARE = 3 / 200_000
SHORT_TIMES_SHARE = 1 / 1850

_NS = 1_000_000_000
_BLOCK_NS = 64_100_000  # 15.6 blocks/s
_BLOCK_JITTER_NS = 20_000_000
_BLOCK_S = _BLOCK_NS / _NS
# A block's lines are log-normal: median and largest in units of the mean
_MEDIAN, _LARGEST = 1243 / BLOCK_LINES, 3886 / BLOCK_LINES
_SIGMA = 0.62
_EMPTY_SHARE = 0.004
_FIRST_BLOCK = 1_019_927_126
_FIRST_OID = 452_916_386_247
_LAG_NS = 350_000_000
_CHUNK = 4096  # words drawn at once
# As few texts as give variety: the loop's time goes mostly into fetching them from memory
_MAKERS = 2048
_PRICES = 256  # per coin and side
_SIZES = 64
_USERS = 1000
RESTING_MAX = 16_384  # bounds memory: past it, orders are canceled instead of opened
TRIGGERS_MAX = 512
_HASTE_NS = 1_000_000  # local time of a block written as fast as it goes
_SLICE_S = 0.002  # at high rates lines are written in slices this far apart
_NAP_S = 0.05  # the longest sleep: how soon a stop is noticed
_TORN_PIECE = 32_768


class SynthError(Exception):
    """The synthetic node cannot do as asked (bad argument, no permission, disk full): one clear line."""


# -------------------------------------------------------------------------------------------------- rendering


class Block(NamedTuple):
    """A block, or a slice of one, with its events rendered.

    events: one plain-layout line each, without its newline, ASCII text.
    first: the place of events[0] in the block (0 unless this is a later slice).
    time_ns, local_ns: UTC ns since 1970, of consensus and of the block's first line in this node.
    span_ns: the time its streaming lines may take, which keeps local_time from running into the next block.
    """

    number: int
    time_ns: int
    local_ns: int
    events: list[str]
    first: int = 0
    lines: int = 0  # of the whole block
    span_ns: int = _BLOCK_NS


@lru_cache(maxsize=16)
def _second_text(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def text_time(ns: int) -> str:
    """UTC ns -> the node's text: 9, 6, 3 or 0 digits of fraction, trailing groups of three zeros dropped."""
    second, fraction = divmod(ns, _NS)
    digits = f"{fraction:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{_second_text(second)}.{digits}" if digits else _second_text(second)


def _steps() -> list[int]:
    """Running sum of the gaps (ns) between a block's streaming lines: 9 to 40 µs each, most near 10."""
    rng = random.Random("gaps")
    return [0, *accumulate(9_000 + int(31_000 * rng.random() ** 3) for _ in range(4096))]


_STEPS = _steps()
_STEP_MEAN = _STEPS[-1] / 4096


def _local_times(block: Block) -> list[int]:
    """local_time (ns) of each streaming line: rises from line to line, within the block's span_ns."""
    last = len(_STEPS) - 1
    places = range(block.first, block.first + len(block.events))
    if places.stop <= last:
        steps = _STEPS[places.start : places.stop]
    else:  # past the table: go round it again
        steps = [i // last * _STEPS[last] + _STEPS[i % last] for i in places]
    share = block.span_ns / (max(block.lines, 1) * _STEP_MEAN * 1.2)
    base = block.local_ns
    return [base + step for step in steps] if share >= 1 else [base + int(step * share) for step in steps]


def plain_lines(block: Block) -> bytes:
    """One line per event, no envelope."""
    return "\n".join([*block.events, ""]).encode("ascii")


def streaming_lines(block: Block) -> bytes:
    """One line per event, each in an envelope of its own."""
    middle = f'","block_time":"{text_time(block.time_ns)}","block_number":{block.number},"events":['
    second, fraction = divmod(block.local_ns, _NS)
    head = f'{{"local_time":"{_second_text(second)}.'
    base = block.local_ns - fraction
    lines = []
    for event, local in zip(block.events, _local_times(block), strict=True):
        ns = local - base
        if ns < _NS and ns % 1000:
            lines.append(f"{head}{ns:09d}{middle}{event}]}}\n")
        else:  # past the second, or with fewer digits
            lines.append(f'{{"local_time":"{text_time(local)}{middle}{event}]}}\n')
    return "".join(lines).encode("ascii")


def by_block_line(block: Block) -> bytes:
    """The whole block in one line, also when it has no event."""
    head = (
        f'{{"local_time":"{text_time(block.local_ns)}","block_time":"{text_time(block.time_ns)}",'
        f'"block_number":{block.number},"events":['
    )
    return f"{head}{','.join(block.events)}]}}\n".encode("ascii")


_RENDER: dict[str, Callable[[Block], bytes]] = {
    "plain": plain_lines,
    "by_block": by_block_line,
    "streaming": streaming_lines,
}


def render(block: Block, layout: str) -> bytes:
    """The block's lines in a layout. An empty block has none in plain and streaming, and one in by_block."""
    return _RENDER[layout](block)


# ------------------------------------------------------------------------------------------------- population


class _Coin(NamedTuple):
    name: str
    weight: float  # share of orders, per cent
    price: float
    size_decimals: int


_COINS = (
    *(_Coin(*row) for row in (
        ("BTC", 13.0, 68_000.0, 5), ("ETH", 8.0, 2_400.0, 4), ("SOL", 5.0, 118.0, 2), ("HYPE", 6.0, 44.7, 2),
        ("XRP", 2.5, 1.31, 0), ("DOGE", 2.0, 0.142, 0), ("kPEPE", 1.5, 0.00843, 0), ("kBONK", 0.8, 0.0127, 0),
        ("SUI", 1.6, 1.92, 1), ("AVAX", 1.2, 17.4, 2), ("LINK", 1.2, 14.2, 1), ("ZEC", 1.6, 356.4, 2),
        ("AAVE", 1.0, 180.5, 2), ("ENA", 0.9, 0.331, 0), ("FARTCOIN", 0.9, 0.52, 1),
        ("PENGU", 0.8, 0.0294, 0),
        ("LDO", 0.6, 1.18, 1), ("INJ", 0.7, 12.4, 1), ("JTO", 0.6, 0.653, 0), ("WLD", 0.7, 0.87, 1),
        ("TAO", 0.8, 331.0, 3), ("BCH", 0.6, 522.0, 3), ("W", 0.4, 0.0812, 1), ("S", 0.4, 0.122, 0),
        ("PAXG", 0.6, 4_210.0, 3), ("PUMP", 0.8, 0.003912, 0), ("ARB", 0.5, 0.31, 1), ("BNB", 0.9, 702.0, 3),
    )),
    *(_Coin(*row) for row in (
        ("xyz:XYZ100", 11.0, 30_505.0, 4), ("xyz:TSLA", 4.0, 402.0, 3), ("xyz:NVDA", 4.5, 188.2, 3),
        ("xyz:GOLD", 4.0, 4_205.0, 4), ("xyz:SILVER", 3.0, 58.3, 2), ("flx:BTC", 2.0, 68_010.0, 5),
        ("cash:BTC", 1.5, 67_990.0, 5), ("km:USOIL", 3.5, 92.9, 3), ("km:US500", 2.5, 6_902.0, 3),
        ("vntl:SPACEX", 1.2, 1_190.0, 2), ("para:AVGO", 1.4, 342.0, 2), ("abcd:USA500", 1.4, 6_980.0, 3),
    )),
    *(_Coin(*row) for row in (
        ("@107", 1.8, 44.6, 2), ("@142", 1.0, 68_020.0, 5), ("@151", 0.7, 2_402.0, 4),
        ("PURR/USDC", 0.5, 0.118, 0), ("#1890", 0.1, 0.437, 0),
    )),
)  # fmt: skip

# Other statuses and their shares (per cent of orders), each with the shape of order it comes with.
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
#: (order type, tif) of orders that take at once: they open and fill in the same block.
_TAKERS = {
    ("Market", "FrontendMarket"): 0.010,
    ("Market", "LiquidationMarket"): 0.0003,
    ("Twap Slice", "Ioc"): 0.002,
    ("Vault Close", "FrontendMarket"): 0.0005,
    ("Spot Dust Conversion", "FrontendMarket"): 0.0003,
}
_TRIGGER_KINDS = ("Stop Market", "Stop Limit", "Take Profit Market", "Take Profit Limit")
_TRIGGER_OPEN, _TRIGGER_CANCEL, _TRIGGER_FIRE, _TRIGGER_REJECT = 0.014, 0.006, 0.004, 0.001

# Kinds of event by the word's low 16 bits, in the order in which the loop tests them; shares are per cent of
# draws (what is left over goes to _CLOSE).
_BAD, _MARGIN, _IOC, _OPEN, _GTC, _TAKE, _CLOSE, _FILL, _RARE = range(9)
_SHARES = {_BAD: 59.0, _OPEN: 19.4, _MARGIN: 1.0, _IOC: 0.55, _FILL: 0.45, _GTC: 0.3, _TAKE: 0.15}

_LIMIT = (
    ',"triggerCondition":"N/A","isTrigger":false,"triggerPx":"0.0","children":[],'
    '"isPositionTpsl":false,"reduceOnly":false,"orderType":"Limit","origSz":"'
)
_BUILDER_FEES = (0, 5, 10, 15, 20, 25, 40, 50)


def _trim(text: str) -> str:
    """A decimal as the node writes it: no trailing zeros, but always one digit after the point."""
    text = text.rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def _price_text(price: float) -> str:
    """Five significant digits (the exchange's tick), whole numbers with `.0`."""
    decimals = 4 - math.floor(math.log10(price))
    return _trim(f"{price:.{decimals}f}") if decimals > 0 else f"{price:.0f}.0"


class _Side(NamedTuple):
    """The prices and sizes quoted on one side of a coin; shared by its makers."""

    prices: list[str]
    sizes: list[str]
    quoted: list[str]  # prices with the text up to the size


def _make_side(coin: _Coin, side: str, rng: random.Random) -> _Side:
    way = 1.0 if side == "A" else -1.0
    tick = 10.0 ** (math.floor(math.log10(coin.price)) - 4)
    prices = []
    for _ in range(_PRICES):
        away = coin.price * min(rng.expovariate(400.0), 0.3)
        prices.append(_price_text(round((coin.price + way * away) / tick) * tick))
    sizes = []
    for _ in range(_SIZES):
        size = max(12.0, rng.lognormvariate(6.5, 1.5)) / coin.price
        if rng.random() < 1 / 300:  # what sums of binary floats look like in the node's text
            size = max(round(size, coin.size_decimals), 10.0**-coin.size_decimals)
            sizes.append(f"{size - 1e-10:.10f}")
        else:
            size = max(size, 10.0**-coin.size_decimals)
            sizes.append(
                _trim(f"{size:.{max(coin.size_decimals, 1)}f}") if coin.size_decimals else f"{size:.0f}.0"
            )
    return _Side(prices, sizes, [f'{px}","sz":"' for px in prices])


class _Maker:
    """One user quoting one side of one coin, with the text around its orders' values rendered once.

    An event is  {"time":"  time  head(status)  px  ","sz":"  sz  rest  }   where rest starts at `","oid":`.
    """

    __slots__ = (
        "builder",
        "canceled",
        "coin",
        "open_hash",
        "open_head",
        "prefix",
        "prices",
        "quoted",
        "side",
        "sizes",
        "spot",
        "style",
        "user",
    )  # fmt: skip

    def __init__(
        self, user: str, coin: _Coin, side: str, book: _Side, builder: str, prefix: str | None, style: Style
    ) -> None:
        self.user = user
        self.coin = coin.name
        self.side = side
        self.prices = book.prices
        self.quoted = book.quoted
        self.sizes = book.sizes
        self.builder = builder
        self.prefix = prefix  # first 16 digits of its cloids; None: it sends none
        self.style = style
        self.spot = coin.name[0] in "@#" or "/" in coin.name
        self.canceled = self.head("canceled")
        # `open` alone carries a hash: the text is split around its digits (2024 lines have no such key)
        self.open_hash = f'","user":"{user}","hash":"0x' if style == "2026" else f'","user":"{user}'
        builder_key = f'"builder":{builder},' if style == "2026" else ""
        self.open_head = (
            f'",{builder_key}"status":"open","order":{{"coin":"{self.coin}","side":"{side}","limitPx":"'
        )

    def head(self, status: str) -> str:
        keys = f'"hash":null,"builder":{self.builder},' if self.style == "2026" else ""
        order = f'"order":{{"coin":"{self.coin}","side":"{self.side}","limitPx":"'
        return f'","user":"{self.user}",{keys}"status":"{status}",{order}'

    def cloid(self, digits: str) -> str:
        return "null" if self.prefix is None else f'"0x{self.prefix}{digits}"'


def _hex(rng: random.Random, length: int) -> str:
    return f"{rng.getrandbits(4 * length):0{length}x}"


def _population(rng: random.Random, style: Style) -> list[_Maker]:
    """Makers whose uniform choice gives the shares of coins, users, no cloid (11.4 %), builders (0.6 %)."""
    users = [f"0x{_hex(rng, 40)}" for _ in range(_USERS)]
    busy = list(accumulate(1.0 / (rank + 3) for rank in range(_USERS)))
    builders = [f'{{"b":"0x{_hex(rng, 40)}","f":{fee}}}' for fee in _BUILDER_FEES]
    scale = _MAKERS / sum(coin.weight for coin in _COINS)
    bounds = list(accumulate(coin.weight * scale for coin in _COINS))
    books = [{side: _make_side(coin, side, rng) for side in "AB"} for coin in _COINS]
    silent = set(rng.sample(range(_MAKERS), round(0.114 * _MAKERS)))
    built = set(rng.sample(range(_MAKERS), round(0.006 * _MAKERS)))
    makers = []
    place = 0
    for i in range(_MAKERS):
        while place < len(_COINS) - 1 and i + 0.5 >= bounds[place]:
            place += 1
        side = "AB"[i & 1]
        prefix = None if i in silent else "0" * 16 if rng.random() < 0.8 else _hex(rng, 16)
        builder = rng.choice(builders) if i in built else "null"
        user = rng.choices(users, cum_weights=busy)[0]
        makers.append(_Maker(user, _COINS[place], side, books[place][side], builder, prefix, style))
    return makers


#: An order that was opened and may be canceled or filled later: (maker, px, sz, rest).
_Resting = tuple[_Maker, str, str, str]


def _rest(
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
    """An order from `","oid":` to its closing brace. trigger: (condition, price). tif and cloid are JSON."""
    condition, trigger_px = trigger or ("N/A", "0.0")
    return (
        f'","oid":{oid},"timestamp":{timestamp},"triggerCondition":"{condition}",'
        f'"isTrigger":{"true" if trigger else "false"},"triggerPx":"{trigger_px}","children":[{children}],'
        f'"isPositionTpsl":{"true" if tpsl else "false"},"reduceOnly":{"true" if reduce_only else "false"},'
        f'"orderType":"{kind}","origSz":"{orig}","tif":{tif},"cloid":{cloid}}}'
    )


# -------------------------------------------------------------------------------------------------- generator


class Synth:
    """Orders and blocks from a seed. Not thread safe; memory is bounded (about 25 MB) however long it runs.

    seed: everything follows from it.
    start: time of the first block (naive = UTC).
    block_lines: mean events of a block; fractions below 1 give mostly empty blocks.
    style: "2024" leaves out `hash` and `builder` and has whole milliseconds, as node files of that year.
    children: about the share of orders with children. short_times: share of blocks with a 6-digit time.
    Raises SynthError for values out of range.

    Either take whole blocks (`blocks`), or `begin_block` and then `take` until it is complete.
    """

    def __init__(
        self,
        seed: int = 1,
        start: datetime | None = None,
        *,
        block_lines: float = BLOCK_LINES,
        style: Style = "2026",
        children: float = CHILDREN_SHARE,
        short_times: float = SHORT_TIMES_SHARE,
    ) -> None:
        if not (block_lines > 0 and math.isfinite(block_lines)):
            raise SynthError(f"block_lines must be above 0, not {block_lines}")
        if style not in ("2026", "2024"):
            raise SynthError(f"style must be 2026 or 2024, not {style}")
        if not 0 <= children <= 1:
            raise SynthError(f"children must be a share from 0 to 1, not {children}")
        if not 0 <= short_times <= 1:
            raise SynthError(f"short_times must be a share from 0 to 1, not {short_times}")
        self.block_lines = block_lines
        self.style = style
        self._short_times = short_times
        self._draws = random.Random(f"{seed}:draws")
        self._rare = random.Random(f"{seed}:rare")
        # One source each, so that orders do not depend on how they are cut into blocks
        self._blocks = random.Random(f"{seed}:blocks")
        self._makers = _population(random.Random(f"{seed}:makers"), style)
        self._words = chain.from_iterable(self._refill_words())
        self._hashes = chain.from_iterable(self._refill_hashes(random.Random(f"{seed}:hashes")))
        self._kinds = self._table(children)
        self._resting: list[_Resting] = []
        self._triggers: list[_Resting] = []
        self._oid = _FIRST_OID
        # Rendered once per maker: the bulk of the traffic, and every rejection of the two other common kinds
        self._bad = [self._bulk(maker, "badAloPxRejected", "Alo") for maker in self._makers]
        self._ioc = [self._bulk(maker, "iocCancelRejected", "Ioc") for maker in self._makers]
        funds = {True: "insufficientSpotBalanceRejected", False: "perpMarginRejected"}
        self._margin = [self._bulk(maker, funds[maker.spot], "Ioc") for maker in self._makers]
        # The block being made
        self._time_ns = _utc_ns(start or DEFAULT_START) - _BLOCK_NS + _BLOCK_JITTER_NS // 2
        self._number = _FIRST_BLOCK - 1
        self._made_blocks = 0
        self.orders = 0
        self.size = 0
        self._done = 0
        self._local_ns = self._local_end = 0
        self._span_ns = _BLOCK_NS
        self._start_text = ""
        self._timestamp = ""
        self._hash_block = ""

    @property
    def resting(self) -> int:
        """How many orders rest in the book, at most RESTING_MAX."""
        return len(self._resting)

    @property
    def waiting_triggers(self) -> int:
        """How many trigger orders wait, at most TRIGGERS_MAX."""
        return len(self._triggers)

    # -- set-up

    def _table(self, children: float) -> bytes:
        """Word's low 16 bits -> kind, and the choices within the rare kind."""
        rare: dict[Callable[[list[str], _Maker, str], None], float] = {
            self._other_rejection: sum(_REJECTIONS.values()),
            self._other_cancel: sum(_CANCELS.values()),
            self._taker: sum(_TAKERS.values()),
            self._trigger_open: _TRIGGER_OPEN,
            self._trigger_cancel: _TRIGGER_CANCEL,
            self._trigger_fire: _TRIGGER_FIRE,
            self._trigger_reject: _TRIGGER_REJECT,
            self._parent: 50.0 * children,  # each is seen twice: opened, then canceled
        }
        self._rare_acts = list(rare)
        self._rare_weights = list(accumulate(rare.values()))
        total = self._rare_weights[-1]
        # What the rare ones take comes off everything else alike
        squeeze = (100.0 - total) / 100.0
        shares = {kind: share * squeeze for kind, share in _SHARES.items()} | {_RARE: total}
        counts = {kind: max(1, round(share * 655.36)) for kind, share in shares.items()}
        kinds = b"".join(bytes([kind]) * count for kind, count in counts.items())[:65536]
        return kinds + bytes([_CLOSE]) * (65536 - len(kinds))

    def _bulk(self, maker: _Maker, status: str, tif: str) -> tuple[str, list[str], list[str], str, bool]:
        """(text to the price, quoted prices, sizes, text from origSz to the cloid's digits, has a cloid)."""
        tail = f'","tif":"{tif}","cloid":'
        tail += "null}}" if maker.prefix is None else f'"0x{maker.prefix}'
        return maker.head(status), maker.quoted, maker.sizes, tail, maker.prefix is not None

    def _refill_words(self) -> Iterator[Iterator[tuple[int, str]]]:
        while True:
            words = array("Q", self._draws.randbytes(8 * _CHUNK))
            if sys.byteorder == "big":
                words.byteswap()
            digits = self._draws.randbytes(8 * _CHUNK).hex()
            yield zip(words, [digits[i : i + 16] for i in range(0, 16 * _CHUNK, 16)], strict=True)

    @staticmethod
    def _refill_hashes(rng: random.Random) -> Iterator[list[str]]:
        while True:
            digits = rng.randbytes(26 * 1024).hex()
            yield [digits[i : i + 52] for i in range(0, 52 * 1024, 52)]

    # -- blocks

    def begin_block(
        self, time_ns: int | None = None, local_ns: int | None = None, span_ns: int = _BLOCK_NS
    ) -> int:
        """Start the next block and give the number of events it is to have (pairs may make it two more).

        time_ns, local_ns: the real clock's, if it is to count; by default the block comes 64 ms after the
        last one and this node sees it 0.35 s later. span_ns: what its streaming lines may take of local time.
        """
        rng = self._blocks
        factor = _MEDIAN * rng.lognormvariate(0.0, _SIGMA)
        behind = self._made_blocks * self.block_lines - self.orders  # keeps the mean exact in the long run
        wanted = min(max(0.0, self.block_lines * factor + 0.1 * behind), self.block_lines * _LARGEST)
        chance, empty, gap, short, lag = (rng.random() for _ in range(5))
        self.size = 0 if empty < _EMPTY_SHARE else int(wanted + chance)
        now = self._time_ns + _BLOCK_NS + int((gap - 0.5) * _BLOCK_JITTER_NS)
        if time_ns is not None:
            now = max(self._time_ns + 1, time_ns)
        if self.style == "2024":
            now = max(now - now % 1_000_000, self._time_ns + 1_000_000)
        elif short < self._short_times:
            unit = 1_000_000 if short < self._short_times / 500 else 1000
            now = max(now - now % unit, self._time_ns + unit - self._time_ns % unit)
        elif now % 1000 == 0:
            now += 1
        self._time_ns = now
        # Never before the last block's last line: real clocks step back, and blocks may come in a hurry
        seen = now + _LAG_NS + int(lag * 400_000) if local_ns is None else local_ns
        self._local_ns = max(self._local_end, seen)
        self._local_end = self._local_ns + min(span_ns, 50_000 + int(self.size * _STEP_MEAN * 1.2))
        self._span_ns = span_ns
        self._number += 1
        self._made_blocks += 1
        self._done = 0
        self._start_text = f'{{"time":"{text_time(now)}'
        self._timestamp = str(now // 1_000_000)
        self._hash_block = f"04{self._number & 0xFFFFFFFF:08x}"
        return self.size

    @property
    def local_ns(self) -> int:
        """When this node sees the block begun last, UTC ns."""
        return self._local_ns

    @property
    def left(self) -> int:
        """Events that the block begun last still lacks."""
        return self.size - self._done

    def take(self, count: int) -> Block:
        """The next events of the block: `count`, or up to two more where one brings others with it."""
        first = self._done
        events = self._events(min(count, self.left)) if count > 0 and self.left > 0 else []
        self._done += len(events)
        self.orders += len(events)
        return Block(
            self._number, self._time_ns, self._local_ns, events, first, self.size, self._span_ns
        )  # fmt: skip

    def blocks(self, orders: int | None = None) -> Iterator[Block]:
        """Whole blocks, empty ones included, until they hold exactly `orders` (None: without end)."""
        left = math.inf if orders is None else orders
        while left > 0:
            block = self.take(self.begin_block())
            if len(block.events) > left:
                block = block._replace(events=block.events[: int(left)])
            left -= len(block.events)
            yield block

    # -- events

    def _events(self, count: int) -> list[str]:
        """At least `count` events of the block. The hot loop: frequent kinds first, few pieces each."""
        out: list[str] = []
        append = out.append
        start = self._start_text
        limit = f',"timestamp":{self._timestamp}{_LIMIT}'
        kinds, bad, makers, resting = self._kinds, self._bad, self._makers, self._resting
        oid = self._oid
        for word, digits in self._words:
            kind = kinds[word & 0xFFFF]
            if kind <= _IOC:  # rejected: seen once
                bulk = bad if kind == _BAD else self._margin if kind == _MARGIN else self._ioc
                head, quoted, sizes, tail, named = bulk[word >> 16 & 0x7FF]
                px = quoted[word >> 28 & 0xFF]
                sz = sizes[word >> 36 & 0x3F]
                oid += 1
                if named:
                    append(f'{start}{head}{px}{sz}","oid":{oid}{limit}{sz}{tail}{digits}"}}}}')
                else:
                    append(f'{start}{head}{px}{sz}","oid":{oid}{limit}{sz}{tail}')
            elif kind == _RARE:
                self._oid = oid
                act = self._rare.choices(self._rare_acts, cum_weights=self._rare_weights)[0]
                act(out, makers[word >> 16 & 0x7FF], digits)
                oid = self._oid
            elif kind == _TAKE or (kind <= _GTC and len(resting) < RESTING_MAX) or not resting:
                maker = makers[word >> 16 & 0x7FF]
                px = maker.prices[word >> 28 & 0xFF]
                sz = maker.sizes[word >> 36 & 0x3F]
                oid += 1 + (word >> 61)  # numbers of orders that other streams saw leave gaps
                tif = "Ioc" if kind == _TAKE else "Gtc" if kind == _GTC else "Alo"
                rest = f'","oid":{oid}{limit}{sz}","tif":"{tif}","cloid":{maker.cloid(digits)}}}'
                append(f'{start}{maker.open_hash}{self._tx()}{maker.open_head}{px}","sz":"{sz}{rest}}}')
                if kind == _TAKE:
                    append(f'{start}{maker.head("filled")}{px}","sz":"0.0{rest}}}')
                else:
                    resting.append((maker, px, sz, rest))
            else:  # one that rests is canceled or filled; the last one takes its place in the list
                place = (word >> 28) % len(resting)
                maker, px, sz, rest = resting[place]
                last = resting.pop()
                if place < len(resting):
                    resting[place] = last
                if kind == _FILL:
                    append(f'{start}{maker.head("filled")}{px}","sz":"0.0{rest}}}')
                else:
                    if word >> 48 & 31 == 0:
                        sz = self._part(sz)
                    append(f'{start}{maker.canceled}{px}","sz":"{sz}{rest}}}')
            if len(out) >= count:
                break
        self._oid = oid
        return out

    def _part(self, sz: str) -> str:
        """What remains of a partly filled order, seldom with the noise of binary floats in its text."""
        whole = float(sz)
        decimals = len(sz.partition(".")[2])
        rest = whole * self._rare.uniform(0.1, 0.9)
        text = f"{rest:.10f}" if self._rare.random() < 0.02 else _trim(f"{rest:.{decimals}f}")
        return text if 0.0 < float(text) <= whole else sz

    def _tx(self) -> str:
        """The digits of a transaction hash; as in genuine ones, the block's number is in it. 2024: none."""
        if self.style == "2024":
            return ""
        part = next(self._hashes)
        return f"{part[:20]}{self._hash_block}{part[20:24]}00{part[24:]}"

    # -- the rare ones: (events so far, a maker, random digits) -> appends one to three events

    def _next_oid(self) -> int:
        self._oid += 1
        return self._oid

    def _opened(self, order: _Resting) -> str:
        maker, px, sz, rest = order
        return f'{self._start_text}{maker.open_hash}{self._tx()}{maker.open_head}{px}","sz":"{sz}{rest}}}'

    def _later(self, status: str, order: _Resting) -> str:
        maker, px, sz, rest = order
        return f'{self._start_text}{maker.head(status)}{px}","sz":"{sz}{rest}}}'

    def _of(self, spot: bool, maker: _Maker) -> _Maker:
        """The maker, or another one if it is not of the wanted kind of market."""
        while maker.spot != spot:
            maker = self._rare.choice(self._makers)
        return maker

    def _other_rejection(self, out: list[str], maker: _Maker, digits: str) -> None:
        status = self._rare.choices(list(_REJECTIONS), list(_REJECTIONS.values()))[0]
        maker = self._of(status == "insufficientSpotBalanceRejected", maker)
        px, sz = self._rare.choice(maker.prices), self._rare.choice(maker.sizes)
        tif = self._rare.choices(('"Alo"', '"Ioc"', '"Gtc"'), (6, 2, 2))[0]
        rest = _rest(
            self._next_oid(), self._timestamp, orig=sz, tif=tif, cloid=maker.cloid(digits),
            reduce_only=status == "reduceOnlyRejected",
        )  # fmt: skip
        out.append(self._later(status, (maker, px, sz, rest)))

    def _other_cancel(self, out: list[str], maker: _Maker, digits: str) -> None:
        if not self._resting:
            self._other_rejection(out, maker, digits)
            return
        status = self._rare.choices(list(_CANCELS), list(_CANCELS.values()))[0]
        place = self._rare.randrange(len(self._resting))
        self._resting[place], self._resting[-1] = self._resting[-1], self._resting[place]
        maker, px, sz, rest = self._resting.pop()
        if status == "reduceOnlyCanceled":
            head, found, tail = rest.rpartition(
                '"reduceOnly":false'
            )  # the parent's own stands after its children
            rest = f'{head}"reduceOnly":true{tail}' if found else rest
        out.append(self._later(status, (maker, px, sz, rest)))

    def _taker(self, out: list[str], maker: _Maker, digits: str) -> None:
        kind, tif = self._rare.choices(list(_TAKERS), list(_TAKERS.values()))[0]
        maker = self._of(kind == "Spot Dust Conversion", maker)
        px, sz = self._rare.choice(maker.prices), self._rare.choice(maker.sizes)
        rest = _rest(
            self._next_oid(), self._timestamp, orig=sz, tif=f'"{tif}"', cloid=maker.cloid(digits), kind=kind,
            reduce_only=kind == "Vault Close",
        )  # fmt: skip
        if self._rare.random() < 0.03:
            out.append(self._later("marketOrderNoLiquidityRejected", (maker, px, sz, rest)))
        else:
            out.append(self._opened((maker, px, sz, rest)))
            out.append(self._later("filled", (maker, px, "0.0", rest)))

    def _trigger_of(self, side: str, px: str) -> tuple[str, tuple[str, str], str]:
        """(order type, (condition, trigger price), limit price) of a trigger order at about a price."""
        kind = self._rare.choices(_TRIGGER_KINDS, (5, 2, 4, 1))[0]
        above = (side == "B") == kind.startswith("Stop")
        away = self._rare.uniform(0.002, 0.08) * (1 if above else -1)
        trigger_px = _price_text(float(px) * (1 + away))
        limit = _price_text(float(trigger_px) * (1 + (0.08 if side == "B" else -0.08)))
        condition = f"Price {'above' if above else 'below'} {trigger_px.removesuffix('.0')}"
        return kind, (condition, trigger_px), limit

    def _trigger(self, maker: _Maker, digits: str) -> _Resting:
        kind, trigger, px = self._trigger_of(maker.side, self._rare.choice(maker.prices))
        tpsl = self._rare.random() < 0.3  # of a whole position: it has no size of its own
        sz = "0.0" if tpsl else self._rare.choice(maker.sizes)
        rest = _rest(
            self._next_oid(), self._timestamp, orig=sz, tif="null",
            cloid="null" if self._rare.random() < 0.6 else maker.cloid(digits),
            kind=kind, trigger=trigger, tpsl=tpsl, reduce_only=tpsl or self._rare.random() < 0.8,
        )  # fmt: skip
        return (maker, px, sz, rest)

    def _trigger_open(self, out: list[str], maker: _Maker, digits: str) -> None:
        if len(self._triggers) >= TRIGGERS_MAX:
            self._trigger_cancel(out, maker, digits)
            return
        order = self._trigger(self._of(False, maker), digits)
        self._triggers.append(order)
        out.append(self._opened(order))

    def _trigger_reject(self, out: list[str], maker: _Maker, digits: str) -> None:
        order = self._trigger(self._of(False, maker), digits)
        out.append(self._later("badTriggerPxRejected", order))

    def _trigger_cancel(self, out: list[str], maker: _Maker, digits: str) -> None:
        if not self._triggers:
            self._trigger_open(out, maker, digits)
            return
        order = self._triggers.pop(self._rare.randrange(len(self._triggers)))
        status = "siblingFilledCanceled" if self._rare.random() < 0.4 else "canceled"
        out.append(self._later(status, order))

    def _trigger_fire(self, out: list[str], maker: _Maker, digits: str) -> None:
        if not self._triggers:
            self._trigger_open(out, maker, digits)
        order = self._triggers.pop(self._rare.randrange(len(self._triggers)))
        out.append(self._later("triggered", order))
        if self._rare.random() < 0.8:
            maker, px, _, rest = order
            out.append(self._later("filled", (maker, px, "0.0", rest)))
        else:
            out.append(self._later("minTradeNtlRejected", order))

    def _parent(self, out: list[str], maker: _Maker, digits: str) -> None:
        """An order that brings its take-profit or stop orders; it is canceled later like any other."""
        maker = self._of(False, maker)
        px, sz = self._rare.choice(maker.prices), self._rare.choice(maker.sizes)
        oid, cloid = self._next_oid(), maker.cloid(digits)
        other = "A" if maker.side == "B" else "B"
        children = []
        for _ in range(self._rare.choice((1, 1, 2))):
            kind, trigger, limit = self._trigger_of(other, px)
            child_oid = oid if self._rare.random() < 0.7 else self._next_oid()
            rest = _rest(
                child_oid,
                self._timestamp,
                orig=sz,
                tif="null",
                cloid=cloid,
                kind=kind,
                trigger=trigger,
                reduce_only=True,
            )
            children.append(f'{{"coin":"{maker.coin}","side":"{other}","limitPx":"{limit}","sz":"{sz}{rest}')
        tif = self._rare.choice(('"Gtc"', '"Gtc"', '"Alo"'))
        rest = _rest(oid, self._timestamp, orig=sz, tif=tif, cloid=cloid, children=",".join(children))
        out.append(self._opened((maker, px, sz, rest)))
        if len(self._resting) < RESTING_MAX:
            self._resting.append((maker, px, sz, rest))


def iter_blocks(
    orders: int | None = None,
    seed: int = 1,
    *,
    start: datetime | None = None,
    block_lines: float = BLOCK_LINES,
    style: Style = "2026",
    children: float = CHILDREN_SHARE,
    short_times: float = SHORT_TIMES_SHARE,
) -> Iterator[Block]:
    """Whole blocks with exactly `orders` events in all (None: without end). Arguments as those of `Synth`."""
    synth = Synth(
        seed, start, block_lines=block_lines, style=style, children=children, short_times=short_times
    )
    return synth.blocks(orders)


def generate(
    orders: int,
    layout: str = "plain",
    seed: int = 1,
    *,
    start: datetime | None = None,
    block_lines: float = BLOCK_LINES,
    style: Style = "2026",
    children: float = CHILDREN_SHARE,
    short_times: float = SHORT_TIMES_SHARE,
) -> bytes:
    """A file with exactly `orders` events in a layout: equal bytes for equal arguments, anywhere, any day."""
    _check_layout(layout, style)
    blocks = iter_blocks(
        orders,
        seed,
        start=start,
        block_lines=block_lines,
        style=style,
        children=children,
        short_times=short_times,
    )
    return b"".join(render(block, layout) for block in blocks)


# ------------------------------------------------------------------------------------------------------ files


@dataclass(frozen=True)
class Summary:
    """What a run wrote. lines: of files; orders: events in them (equal but for by_block); files: opened."""

    lines: int = 0
    orders: int = 0
    bytes: int = 0
    files: int = 0
    blocks: int = 0
    seconds: float = 0.0
    interrupted: bool = False


class _Hours:
    """Which hour file a moment of the node's clock belongs to, as hours since 1970. Never goes back.

    With hour_seconds, hours last that long, counted from the first moment asked for.
    """

    def __init__(self, hour_seconds: float | None, newest: int | None) -> None:
        self._length_ns = None if hour_seconds is None else max(1, int(hour_seconds * _NS))
        self._current = -1 if newest is None else newest
        self._origin: tuple[int, int] | None = None  # (ns, hour)

    def at(self, local_ns: int) -> int:
        hour = local_ns // (3600 * _NS)
        if self._length_ns is not None:
            if self._origin is None:
                self._origin = (local_ns, max(hour, self._current))
            hour = self._origin[1] + (local_ns - self._origin[0]) // self._length_ns
        self._current = max(hour, self._current)
        return self._current


def _newest_hour(hourly: Path) -> int | None:
    """The newest hour file under a layout's `hourly` folder, as hours since 1970; None if there is none."""
    newest: int | None = None
    for day in hourly.iterdir() if hourly.is_dir() else ():
        try:
            date = datetime.strptime(day.name, "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:
            continue
        if date.strftime("%Y%m%d") != day.name:  # strptime also takes dates of fewer digits
            continue
        for name in os.listdir(day) if day.is_dir() else ():
            if name.isdecimal() and name == str(int(name)) and int(name) < 24:
                newest = max(newest or 0, int(date.timestamp()) // 3600 + int(name))
    return newest


class _Files:
    """The growing hour files of one layout. Owns the one open descriptor.

    torn: cuts the bytes anywhere, as a node with buffered output does; what is held back follows with the
    next write, with `settle`, or before the next hour's file is opened. Whole lines otherwise.
    """

    def __init__(self, hourly: Path, torn: bool, rng: random.Random) -> None:
        self._hourly = hourly
        self._torn = torn
        self._rng = rng
        self._fd = -1
        self._hour = -1
        self._held = b""
        self._path = hourly
        self.bytes = 0
        self.files = 0

    def write(self, hour: int, data: bytes) -> None:
        """Append lines to an hour's file; an earlier one is finished and closed first. Raises SynthError."""
        if not data:
            return
        if hour != self._hour:
            self.close()
            self._open(hour)
        if not self._torn:
            self._append(data)
            return
        self._held += data
        place = 0
        stop = self._rng.randrange(len(self._held) + 1)
        while place < stop:
            cut = min(stop, place + self._rng.randrange(1, _TORN_PIECE))
            self._append(self._held[place:cut])
            place = cut
        self._held = self._held[stop:]

    @property
    def holds(self) -> bool:
        """Whether bytes of a torn line wait for `settle`."""
        return bool(self._held)

    def settle(self) -> None:
        """Write what is held back."""
        held, self._held = self._held, b""
        if held:
            self._append(held)

    def close(self) -> None:
        try:
            self.settle()
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _open(self, hour: int) -> None:
        moment = time.gmtime(hour * 3600)
        self._path = self._hourly / time.strftime("%Y%m%d", moment) / str(moment.tm_hour)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _failed(self._path, error) from error
        self._hour = hour
        self.files += 1

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._fd, view)
            except OSError as error:
                raise _failed(self._path, error) from error
            self.bytes += written
            view = view[written:]


def _failed(path: Path, error: OSError) -> SynthError:
    return SynthError(f"cannot write {path}: {error.strerror or error}")


def _utc_ns(moment: datetime) -> int:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * _NS + since.microseconds * 1000


def _check_layout(layout: str, style: str) -> None:
    if layout not in LAYOUTS:
        raise SynthError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout}")
    if style == "2024" and layout != "plain":
        raise SynthError("style 2024 has the plain layout only")


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise SynthError(f"{name} must be above 0, not {value}")


@contextmanager
def _stop_signals(stopped: list[bool]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM set stopped[0], so that a run ends at a line's end. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(_number: int, _frame: object) -> None:
        stopped[0] = True

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def run(
    directory: str | os.PathLike[str],
    *,
    rate: float | None = None,
    lines: int | None = None,
    seconds: float | None = None,
    layout: str = "plain",
    seed: int = 1,
    hour_seconds: float | None = None,
    start: datetime | None = None,
    live: bool | None = None,
    lag_s: float = _LAG_NS / _NS,
    torn: bool = False,
    style: Style = "2026",
    children: float = CHILDREN_SHARE,
    progress: Callable[[Summary], None] | None = None,
    stop: Callable[[], bool] | None = None,
    wrote: Callable[[Block], None] | None = None,
) -> Summary:
    """Write a node's order statuses under `directory` (made if missing) until an end; gives the totals.

    rate: orders a second, spread evenly; None = as fast as it goes. Blocks come at 15.6/s, growing with it.
    lines: orders to write, exactly. In by_block they stand in fewer lines: all layouts hold the same orders.
    seconds: real time to run. SIGINT and SIGTERM (main thread) or stop() being true end it too, after a line.
    progress: called about once a second with the totals so far.
    wrote: called with each block, or part of one, once it stands in the file (but for what torn holds back).
    hour_seconds: how long an "hour" of the folders lasts; they begin with the present hour.
    start: where the node's clock begins; times, local_time and folders all follow it. None: local_time and
        folders follow the real UTC clock, and writing goes on in the newest hour file if that is later.
    live: whether events too carry the real time, lag_s seconds old. None: yes for a stream (a rate and no
        `lines`); no for a set of lines, whose events then begin at DEFAULT_START, so that the seed decides
        every byte of them.
    torn: cut lines anywhere, as a node with buffered output does. style, children: see `Synth`.
    Raises SynthError for bad arguments, a folder that cannot be written, a full disk.
    """
    _check_layout(layout, style)
    _check_positive("rate", rate)
    _check_positive("seconds", seconds)
    _check_positive("hour_seconds", hour_seconds)
    if lines is not None and lines < 0:
        raise SynthError(f"lines must not be negative, not {lines}")
    root = Path(directory)
    hourly = root / LAYOUTS[layout] / "hourly"
    try:
        root.mkdir(parents=True, exist_ok=True)
        newest = _newest_hour(hourly) if start is None else None
    except (FileExistsError, NotADirectoryError) as error:
        raise SynthError(f"{root} is not a directory") from error
    except OSError as error:
        raise _failed(root, error) from error
    synth = Synth(
        seed,
        start,
        block_lines=BLOCK_LINES if rate is None else rate * _BLOCK_S,
        style=style,
        children=children,
    )
    files = _Files(hourly, torn, random.Random(f"{seed}:torn"))
    if live is None:
        live = start is None and rate is not None and lines is None
    writer = _Run(
        synth, files, _Hours(hour_seconds, newest), layout, lines,
        live_lag_ns=int(lag_s * _NS) if live else None, real_clock=start is None, seconds=seconds,
        progress=progress, stop=stop, wrote=wrote,
    )  # fmt: skip
    with _stop_signals(writer.stopped):
        try:
            writer.go(paced=rate is not None)
        finally:
            files.close()
    return writer.summary()


class _Run:
    """One run of the writer: blocks on a schedule, and the reasons to end. Used by `run`, once."""

    def __init__(
        self,
        synth: Synth,
        files: _Files,
        hours: _Hours,
        layout: str,
        lines: int | None,
        *,
        live_lag_ns: int | None,
        real_clock: bool,
        seconds: float | None,
        progress: Callable[[Summary], None] | None,
        stop: Callable[[], bool] | None,
        wrote: Callable[[Block], None] | None,
    ) -> None:
        self._synth = synth
        self._files = files
        self._hours = hours
        self._layout = layout
        self._left = math.inf if lines is None else lines
        self._live_lag_ns = live_lag_ns
        self._real_clock = real_clock
        self._progress = progress
        self._stop = stop
        self._wrote = wrote
        self._total = Summary()
        self.stopped = [False]
        self._begin = time.monotonic()
        self._end = math.inf if seconds is None else self._begin + seconds
        self._report_at = self._begin + 1.0

    def summary(self) -> Summary:
        return replace(
            self._total,
            bytes=self._files.bytes,
            files=self._files.files,
            seconds=time.monotonic() - self._begin,
            interrupted=self.stopped[0],
        )

    def go(self, *, paced: bool) -> None:
        number = 0
        while self._left > 0:
            due = self._begin + number * _BLOCK_S
            if not (self._wait(due) if paced else self._goes_on()):
                return
            self._block(due if paced else None)
            number += 1

    def _block(self, due: float | None) -> None:
        """One block: at once, or with its lines spread over the block's time from `due` on."""
        synth = self._synth
        now = time.time_ns() if self._real_clock or self._live_lag_ns is not None else 0
        size = synth.begin_block(
            None if self._live_lag_ns is None else now - self._live_lag_ns,
            now if self._real_clock else None,
            _BLOCK_NS if due is not None or not self._real_clock else _HASTE_NS,
        )
        hour = self._hours.at(synth.local_ns)  # the whole block goes into one file
        self._total = replace(self._total, blocks=self._total.blocks + 1)
        if due is None or self._layout == "by_block":
            self._put(hour, synth.take(size))
            return
        written_at = 0.0
        while synth.left > 0 and self._left > 0:
            done = size - synth.left
            if not self._wait(max(due + _BLOCK_S * done / size, written_at + _SLICE_S)):
                return
            written_at = time.monotonic()
            ready = min(size, int(size * (written_at - due) / _BLOCK_S) + 1)
            self._put(hour, synth.take(max(1, ready - done)))

    def _put(self, hour: int, block: Block) -> None:
        if len(block.events) > self._left:
            block = block._replace(events=block.events[: int(self._left)])
        self._files.write(hour, render(block, self._layout))
        if self._wrote is not None:
            self._wrote(block)
        orders = len(block.events)
        self._left -= orders
        total = self._total
        lines = 1 if self._layout == "by_block" else orders
        self._total = replace(total, lines=total.lines + lines, orders=total.orders + orders)

    def _wait(self, until: float) -> bool:
        """Sleep until a moment of the monotonic clock; False if the run is to end instead."""
        while self._goes_on():
            left = until - time.monotonic()
            if left <= 0:
                return True
            if self._files.holds:  # the rest of a torn line follows soon, not only with the next line
                time.sleep(min(left, 0.001))
                if left > _SLICE_S:
                    self._files.settle()
            else:
                time.sleep(min(left, _NAP_S, max(0.0, self._end - time.monotonic())))
        return False

    def _goes_on(self) -> bool:
        now = time.monotonic()
        if self._progress is not None and now >= self._report_at:
            self._report_at = now + 1.0
            self._progress(self.summary())
        if self._stop is not None and self._stop():
            self.stopped[0] = True
        return not self.stopped[0] and now < self._end
