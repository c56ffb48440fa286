"""Coins and the users that quote them, generated before the first order."""

from __future__ import annotations

import math
import random
from itertools import accumulate
from typing import NamedTuple

from fasttail.tools.synth.constants import Style

# As few texts as still give variety, because generating orders mostly waits for them to come from memory.
_MAKERS = 2048
_PRICES = 256  # per coin and side
_SIZES = 64
_USERS = 1000
_BUILDER_FEES = (0, 5, 10, 15, 20, 25, 40, 50)


class _Coin(NamedTuple):
    name: str
    weight: float  # share of orders, in per cent
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


def trim_zeros(text: str) -> str:
    """Return a decimal as the node writes it: no trailing zeros, but at least one digit after the point."""
    text = text.rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def price_text(price: float) -> str:
    """Return a price with five significant digits (the exchange's tick); whole numbers end in `.0`."""
    decimals = 4 - math.floor(math.log10(price))
    return trim_zeros(f"{price:.{decimals}f}") if decimals > 0 else f"{price:.0f}.0"


class _Side(NamedTuple):
    """Prices and sizes quoted on one side of a coin, shared by its makers."""

    prices: list[str]
    sizes: list[str]
    quoted: list[str]  # prices with the text up to the size


def _make_side(coin: _Coin, side: str, rng: random.Random) -> _Side:
    sign = 1.0 if side == "A" else -1.0
    tick = 10.0 ** (math.floor(math.log10(coin.price)) - 4)
    prices = []
    for _ in range(_PRICES):
        distance = coin.price * min(rng.expovariate(400.0), 0.3)
        prices.append(price_text(round((coin.price + sign * distance) / tick) * tick))
    sizes = []
    for _ in range(_SIZES):
        size = max(12.0, rng.lognormvariate(6.5, 1.5)) / coin.price
        if rng.random() < 1 / 300:  # like sums of binary floats in the node's text
            size = max(round(size, coin.size_decimals), 10.0**-coin.size_decimals)
            sizes.append(f"{size - 1e-10:.10f}")
        else:
            size = max(size, 10.0**-coin.size_decimals)
            sizes.append(
                trim_zeros(f"{size:.{max(coin.size_decimals, 1)}f}")
                if coin.size_decimals
                else f"{size:.0f}.0"
            )
    return _Side(prices, sizes, [f'{px}","sz":"' for px in prices])


class Maker:
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
        self.prefix = prefix  # first 16 digits of its cloids; None: no cloids
        self.style = style
        self.spot = coin.name[0] in "@#" or "/" in coin.name
        self.canceled = self.head("canceled")
        # Only `open` has a hash, so the text is split around its digits (2024 lines have no such key).
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


def population(rng: random.Random, style: Style) -> list[Maker]:
    """Return makers whose uniform choice gives the shares of coins and users.

    Of the makers, 11.4 % send no cloid and 0.6 % have a builder.
    """
    users = [f"0x{_hex(rng, 40)}" for _ in range(_USERS)]
    user_weights = list(accumulate(1.0 / (rank + 3) for rank in range(_USERS)))
    builders = [f'{{"b":"0x{_hex(rng, 40)}","f":{fee}}}' for fee in _BUILDER_FEES]
    scale = _MAKERS / sum(coin.weight for coin in _COINS)
    bounds = list(accumulate(coin.weight * scale for coin in _COINS))
    books = [{side: _make_side(coin, side, rng) for side in "AB"} for coin in _COINS]
    without_cloid = set(rng.sample(range(_MAKERS), round(0.114 * _MAKERS)))
    with_builder = set(rng.sample(range(_MAKERS), round(0.006 * _MAKERS)))
    makers = []
    index = 0
    for i in range(_MAKERS):
        while index < len(_COINS) - 1 and i + 0.5 >= bounds[index]:
            index += 1
        side = "AB"[i & 1]
        prefix = None if i in without_cloid else "0" * 16 if rng.random() < 0.8 else _hex(rng, 16)
        builder = rng.choice(builders) if i in with_builder else "null"
        user = rng.choices(users, cum_weights=user_weights)[0]
        makers.append(Maker(user, _COINS[index], side, books[index][side], builder, prefix, style))
    return makers
