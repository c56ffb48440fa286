"""The coins of the exchange: perps, HIP-3 perps, spot pairs and outcomes, with their price and size steps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from fasttail.tools.exchange.book import Ladder, Order, TriggerOrder
from fasttail.tools.exchange.decimals import SCALE, scaled

Kind = Literal["perp", "hip3", "spot", "outcome"]

# Coins with a share of the orders of their own (per cent), price in USD, and decimals of their sizes.
_MAJORS: tuple[tuple[str, float, float, int], ...] = (
    ("BTC", 13.0, 68_000.0, 5), ("ETH", 8.0, 2_400.0, 4), ("SOL", 5.0, 118.0, 2), ("HYPE", 6.0, 44.7, 2),
    ("XRP", 2.3, 1.31, 0), ("DOGE", 1.8, 0.142, 0), ("kPEPE", 1.3, 0.00843, 0), ("kBONK", 0.7, 0.0127, 0),
    ("SUI", 1.4, 1.92, 1), ("AVAX", 1.0, 17.4, 2), ("LINK", 1.0, 14.2, 1), ("ZEC", 1.4, 356.4, 2),
    ("AAVE", 0.8, 180.5, 2), ("ENA", 0.7, 0.331, 0), ("FARTCOIN", 0.7, 0.52, 1), ("PENGU", 0.6, 0.0294, 0),
    ("TAO", 0.6, 331.0, 3), ("BNB", 0.7, 702.0, 3), ("W", 0.3, 0.0812, 1), ("S", 0.3, 0.122, 0),
    ("xyz:XYZ100", 11.0, 30_505.0, 4), ("xyz:TSLA", 3.8, 402.0, 3), ("xyz:NVDA", 4.3, 188.2, 3),
    ("xyz:GOLD", 3.8, 4_205.0, 4), ("xyz:SILVER", 2.8, 58.3, 2), ("flx:BTC", 1.8, 68_010.0, 5),
    ("cash:BTC", 1.3, 67_990.0, 5), ("km:USOIL", 3.3, 92.9, 3), ("km:US500", 2.3, 6_902.0, 3),
    ("vntl:SPACEX", 1.0, 1_190.0, 2), ("para:AVGO", 1.2, 342.0, 2), ("abcd:USA500", 1.2, 6_980.0, 3),
    ("@107", 1.6, 44.6, 2), ("@142", 0.8, 68_020.0, 5), ("@151", 0.5, 2_402.0, 4),
    ("PURR/USDC", 0.4, 0.118, 0),
    ("#1890", 0.08, 0.437, 0), ("#1891", 0.08, 0.563, 0),
)  # fmt: skip
_OTHER_PERPS = """
    LDO INJ JTO WLD BCH PAXG PUMP ARB ADA DOT LTC TRX TON UNI APT OP NEAR ATOM FIL ICP ETC XLM HBAR ALGO
    SEI TIA STX IMX RUNE GRT MKR SNX CRV COMP SUSHI YGG DYDX GMX PENDLE JUP PYTH ONDO STRK ZK ZRO EIGEN
    ETHFI BLUR MEME WIF POPCAT MEW BOME TURBO kSHIB kFLOKI kLUNC kNEIRO kDOGS MOODENG GOAT PNUT CHILLGUY
    AIXBT VIRTUAL GRASS MOVE USUAL BIO ANIME VINE TRUMP MELANIA BERA IP KAITO LAYER NIL BABY HYPER INIT
    SIGN SOPH RESOLV SYRUP SPX GRIFFAIN ZEREBRO SAGA DYM ALT MANTA XAI ACE MAV REZ IO NOT TNSR OMNI
    BLAST MERL BANANA RENDER FET AR GALA SAND MANA AXS ENS LPT ORDI BSV NEO XMR DASH KAS CELO MINA CFX
    ROSE IOTA GAS ASTER WLFI LINEA AVNT MET MON 2Z 0G STBL ZORA
"""
_OTHER_HIP3 = {
    "xyz": """
        AAPL MSFT AMZN META GOOGL COIN HOOD PLTR MSTR INTC AMD MU NFLX ORCL CRCL BABA RIVN COPPER
        EUR JPY CL
    """,
    "flx": """
        TSLA NVDA COIN CRCL GOLD SILVER OIL GAS COPPER PLATINUM PALLADIUM XMR
    """,
    "vntl": """
        OPENAI ANTHROPIC MAG7 SEMIS ROBOT INFOTECH NUCLEAR DEFENSE ENERGY BIOTECH
    """,
    "km": """
        US100 SMALL2000 BABA TENCENT XIAOMI EUR GLDMINE USBOND NVDA TSLA GOOGL PLTR
    """,
    "cash": """
        USA500 TSLA NVDA GOOGL META MSFT AMZN INTC HOOD GOLD SILVER WTI
    """,
    "para": """
        BTCD TOTAL2 OTHERS AVGO2 TSM ARM QCOM
    """,
}
_SPOT_INDICES = range(1, 151)
_OUTCOMES = range(1900, 1960, 2)
_RESERVE = tuple(f"NEW{index}" for index in range(1, 1000))

Lifecycle = Literal["open", "halted", "closed"]


@dataclass(eq=False, slots=True)
class Market:
    """One coin.

    asset:    its index in the actions of users.
    tick:     step of its prices, scaled by 10^8; valid up to twice its first price.
    lot:      step of its sizes, scaled by 10^8.
    fair:     price around which its users quote, scaled; it moves with time.
    offsets:  1,024 distances from the touch, in ticks.
    sizes:    64 sizes of orders, scaled.
    state:    "halted" coins reject orders; "closed" ones were delisted or settled.
    bids, asks: the book.
    rising, falling: heaps of (price, oid, order): triggers that fire when the price rises or falls to theirs
                     (negated prices in `falling`). Ended ones stay until their price is reached.
    """

    name: str
    kind: Kind
    weight: float
    asset: int
    size_decimals: int
    first_px: int
    tick: int
    lot: int
    fair: int
    offsets: list[int]
    sizes: list[int]
    state: Lifecycle = "open"
    has_hip2: bool = False
    fee_token: str = "USDC"
    is_perp: bool = field(init=False)
    bids: Ladder = field(default_factory=lambda: Ladder(True))
    asks: Ladder = field(default_factory=lambda: Ladder(False))
    rising: list[tuple[int, int, TriggerOrder]] = field(default_factory=list)
    falling: list[tuple[int, int, TriggerOrder]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.is_perp = self.kind in ("perp", "hip3")

    def orders(self) -> Iterator[Order]:
        """Yield the orders in the book: the bids, then the asks, each best first."""
        yield from self.bids.orders()
        yield from self.asks.orders()

    def on_tick(self, px: int) -> int:
        """Return a price rounded down to the coin's steps, at least one of them."""
        return max(px // self.tick, 1) * self.tick

    def ladder(self, is_bid: bool) -> Ladder:
        """Return one side of the book."""
        return self.bids if is_bid else self.asks

    @property
    def dex(self) -> str:
        """The HIP-3 dex of the coin, or ""."""
        return self.name.partition(":")[0] if self.kind == "hip3" else ""


def kind_of(name: str) -> Kind:
    """Return the kind of a coin, which its name tells."""
    if name[0] == "#":
        return "outcome"
    if name[0] == "@" or "/" in name:
        return "spot"
    return "hip3" if ":" in name else "perp"


def _tick(px: float, size_decimals: int, kind: Kind) -> int:
    """Return the step of prices up to twice `px`: five significant digits, and the decimals allowed."""
    if kind == "outcome":
        return scaled(0.0001)
    most_decimals = (8 if kind == "spot" else 6) - size_decimals
    digits = len(str(int(2 * px * SCALE)))
    tick = int(max(10 ** max(digits - 5, 0), 10 ** (8 - max(most_decimals, 0))))
    return min(tick, SCALE) if px >= 1 else tick  # whole prices are always allowed


def _distances(ticks: int, rng: random.Random) -> list[int]:
    """Return 1,024 distances of quotes for a price of so many ticks.

    A quarter is some ticks from the touch. The others reach far, log-normally around 1 % of the price, so
    that a large book has thousands of levels, as a genuine one has.
    """
    near = [int(rng.expovariate(0.1)) for _ in range(256)]
    far = [int(ticks * min(rng.lognormvariate(-4.6, 1.5), 0.9)) for _ in range(1024 - len(near))]
    distances = [min(distance, max(ticks * 9 // 10, 1)) for distance in near + far]
    rng.shuffle(distances)
    return distances


def make_market(
    name: str, weight: float, px: float, size_decimals: int, asset: int, rng: random.Random
) -> Market:
    """Return a market with its tables of distances and sizes."""
    kind = kind_of(name)
    tick = _tick(px, size_decimals, kind)
    lot = 10 ** (8 - size_decimals)
    first = max(scaled(px) // tick, 1) * tick
    offsets = _distances(first // tick, rng)
    sizes = [max(scaled(max(12.0, rng.lognormvariate(6.5, 1.5)) / px) // lot, 1) * lot for _ in range(64)]
    return Market(name, kind, weight, asset, size_decimals, first, tick, lot, first, offsets, sizes)


def all_markets(rng: random.Random) -> list[Market]:
    """Return the coins that trade at the start, with weights in per cent. Several hundred."""
    rows = list(_MAJORS)
    others = [
        *_OTHER_PERPS.split(),
        *(f"{dex}:{name}" for dex, names in _OTHER_HIP3.items() for name in names.split()),
        *(f"@{index}" for index in _SPOT_INDICES if index not in (107, 142, 151)),
    ]
    rng.shuffle(others)
    total = sum(1 / (rank + 10) for rank in range(len(others)))
    left = 100.0 - sum(row[1] for row in rows) - 0.01 * len(_OUTCOMES) * 2
    for rank, name in enumerate(others):
        px = round(10 ** rng.uniform(-2.0, 3.0), 6)
        rows.append((name, left / (rank + 10) / total, px, rng.choice((0, 1, 1, 2) if px < 100 else (2, 3))))
    for index in _OUTCOMES:
        yes = round(rng.uniform(0.05, 0.95), 3)
        rows += [(f"#{index}", 0.01, yes, 0), (f"#{index + 1}", 0.01, 1 - yes, 0)]
    counts = {"perp": 0, "hip3": 110_000, "spot": 10_000, "outcome": 100_000_000}
    markets = []
    for name, weight, px, size_decimals in rows:
        kind = kind_of(name)
        asset = (
            10_000 + int(name[1:])
            if name[0] == "@"
            else 100_000_000 + int(name[1:])
            if name[0] == "#"
            else counts[kind]
        )
        counts[kind] += kind in ("perp", "hip3")
        market = make_market(name, weight, px, size_decimals, asset, rng)
        if kind == "spot":
            market.has_hip2 = rng.random() < 0.5
            market.fee_token = {"@107": "HYPE", "@142": "UBTC", "@151": "UETH", "PURR/USDC": "PURR"}.get(
                name, f"TOK{name[1:]}"
            )
        elif kind == "outcome":
            market.fee_token = f"+{name[1:]}"
        markets.append(market)
    return markets


def new_market(number: int, asset: int, rng: random.Random) -> Market:
    """Return the coin that is listed as the `number`-th since the start."""
    return make_market(
        _RESERVE[number % len(_RESERVE)], 0.05, round(10 ** rng.uniform(-1.0, 2.0), 4), 1, asset, rng
    )
