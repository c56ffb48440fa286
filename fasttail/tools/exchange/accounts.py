"""The exchange's users: their positions, and the makers that quote a coin's side for them."""

from __future__ import annotations

import random
from itertools import accumulate

from fasttail.tools.exchange.book import Order
from fasttail.tools.exchange.decimals import product
from fasttail.tools.exchange.markets import Market

HIP2_USER = "0x" + "f" * 40
"""The user of Hyperliquidity (HIP-2), whose orders have no status."""

_USERS = 1000
_BUILDER_FEES = (0, 5, 10, 15, 20, 25, 40, 50)
MAKERS = 8192


class Position:
    """A user's position in a perp, or balance of a spot token. Amounts are scaled by 10^8.

    szi:   signed size.
    entry: average price at which it was opened; 0 for a balance.
    """

    __slots__ = ("entry", "szi")

    def __init__(self, szi: int, entry: int) -> None:
        self.szi = szi
        self.entry = entry

    def trade(self, signed_sz: int, px: int) -> int:
        """Change the size by a trade, and return the profit or loss that it realizes."""
        before = self.szi
        after = self.szi = before + signed_sz
        if before == 0 or (before > 0) == (signed_sz > 0):
            size = abs(before) + abs(signed_sz)
            self.entry = (abs(before) * self.entry + abs(signed_sz) * px) // size
            return 0
        closed = min(abs(signed_sz), abs(before))
        gain = product(closed, px - self.entry if before > 0 else self.entry - px)
        if after == 0 or (after > 0) != (before > 0):
            self.entry = px
        return gain


class Account:
    """One user.

    builder: JSON of the builder that its orders name, or "null".
    positions: coin -> position or balance.
    reduce_only: coin -> its resting reduce-only orders, by oid.
    """

    __slots__ = ("address", "builder", "builder_address", "builder_fee", "positions", "reduce_only")

    def __init__(self, address: str, builder: tuple[str, int] | None = None) -> None:
        self.address = address
        self.builder_address, self.builder_fee = builder or ("", 0)
        self.builder = f'{{"b":"{builder[0]}","f":{builder[1]}}}' if builder else "null"
        self.positions: dict[str, Position] = {}
        self.reduce_only: dict[str, dict[int, Order]] = {}

    def reducible(self, coin: str, is_bid: bool) -> int:
        """Return by how much an order on this side may reduce the position in a coin."""
        position = self.positions.get(coin)
        szi = 0 if position is None else position.szi
        return max(-szi if is_bid else szi, 0)

    def position(self, coin: str) -> Position:
        """Return the position in a coin, made if it is new."""
        position = self.positions.get(coin)
        if position is None:
            position = self.positions[coin] = Position(0, 0)
        return position


class _Heads(dict[str, str]):
    """Maps a status to the text of an event between its time and its price. Made when first asked for."""

    def __init__(self, user: str, builder: str, coin: str, side: str) -> None:
        self._texts = (user, builder, coin, side)

    def __missing__(self, status: str) -> str:
        user, builder, coin, side = self._texts
        text = self[status] = (
            f'","user":"{user}","hash":null,"builder":{builder},"status":"{status}",'
            f'"order":{{"coin":"{coin}","side":"{side}","limitPx":"'
        )
        return text


class Maker:
    """One user on one side of one coin, with the texts that all its orders share.

    prefix:    first 16 digits of its cloids, or None for a user without cloids.
    heads:     status -> text from after the time to the price.
    open_head: the two texts around the hash of an `open`.
    """

    __slots__ = (
        "account",
        "bad_head",
        "diff_head",
        "diff_tail",
        "heads",
        "is_bid",
        "market",
        "open_head",
        "prefix",
        "side",
    )

    def __init__(self, account: Account, market: Market, side: str, prefix: str | None) -> None:
        self.account = account
        self.market = market
        self.side = side
        self.is_bid = side == "B"
        self.prefix = prefix
        self.heads = _Heads(account.address, account.builder, market.name, side)
        self.bad_head = self.heads["badAloPxRejected"]
        before, after = self.heads["open"].split("null", 1)
        self.open_head = (f'{before}"0x', f'"{after}')
        self.diff_head = f'{{"user":"{account.address}","oid":'
        self.diff_tail = f',"coin":"{market.name}","side":"{side}","px":"'

    def cloid(self, digits: str) -> str:
        """Return a cloid as JSON; `digits` are 16 hexadecimal ones."""
        return "null" if self.prefix is None else f'"0x{self.prefix}{digits}"'


def hex_digits(rng: random.Random, length: int) -> str:
    """Return random hexadecimal digits."""
    return f"{rng.getrandbits(4 * length):0{length}x}"


def make_accounts(rng: random.Random) -> list[Account]:
    """Return the users; a few name a builder."""
    builders = [(f"0x{hex_digits(rng, 40)}", fee) for fee in _BUILDER_FEES]
    with_builder = set(rng.sample(range(_USERS), 40))
    return [
        Account(f"0x{hex_digits(rng, 40)}", rng.choice(builders) if index in with_builder else None)
        for index in range(_USERS)
    ]


def make_makers(accounts: list[Account], markets: list[Market], rng: random.Random) -> list[Maker]:
    """Return makers whose uniform choice gives the shares of coins and users. Each coin has both sides.

    Of the makers, 11.4 % send no cloid. Each maker begins with a position in its coin.
    """
    # Users without a builder make most of the traffic, so that 0.6 % of the orders name one.
    plain = [account for account in accounts if account.builder == "null"]
    named = [account for account in accounts if account.builder != "null"]
    cum_weights = list(accumulate(1.0 / (rank + 3) for rank in range(len(plain))))
    spare = MAKERS - 2 * len(markets)
    makers: list[Maker] = []
    owed = 0.0
    for first_side, market in enumerate(markets):
        owed += market.weight / 100.0 * spare
        extra = int(owed)
        owed -= extra
        for index in range(2 + extra):
            account = (
                rng.choice(named) if rng.random() < 0.006 else rng.choices(plain, cum_weights=cum_weights)[0]
            )
            prefix = None if rng.random() < 0.114 else "0" * 16 if rng.random() < 0.8 else hex_digits(rng, 16)
            makers.append(Maker(account, market, "AB"[first_side + index & 1], prefix))
            seed_position(account, market, rng)
    while len(makers) < MAKERS:
        makers.append(rng.choice(makers[:64]))
    return makers


def seed_position(account: Account, market: Market, rng: random.Random) -> None:
    """Give a user a first position in a perp, or a large balance of a token."""
    if market.name in account.positions:
        return
    if market.is_perp:
        szi = rng.choice((-1, 1)) * rng.choice(market.sizes) * rng.randrange(1, 40)
        account.positions[market.name] = Position(szi, market.first_px)
    else:
        account.positions[market.name] = Position(
            rng.choice(market.sizes) * 100_000 + rng.randrange(10**6), market.first_px
        )
