"""What is true of a simulated exchange: books, trades, candles, open orders and fills at any height."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any

from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.book import Order
from fasttail.tools.exchange.chain import Exchange, ExchangeOptions
from fasttail.tools.exchange.constants import SynthError, write_error
from fasttail.tools.exchange.decimals import DecimalTexts, decimal_text
from fasttail.tools.exchange.events import Trade, fill_text, order_json
from fasttail.tools.exchange.markets import Market

_MINUTE_MS = 60_000
_BUFFER = 1 << 20
CHAIN_FILE = "chain.json"
_FILES = (
    CHAIN_FILE, "l4_snapshot.json", "trades.jsonl", "candles.jsonl", "open_orders.jsonl", "fills.jsonl"
)  # fmt: skip


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file, which takes the place of `path` once it is complete.

    Raises SynthError if it cannot be written, or if anything but a regular file has that name.
    """
    try:
        _refuse_special(path)
        target = Path(os.path.realpath(path))
        part = target.with_name(f".fasttail-{secrets.token_hex(8)}.part")
        with part.open("xb", buffering=_BUFFER) as file:
            try:
                yield file
                file.close()
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def _refuse_special(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise SynthError(f"cannot write {path}: it is not a regular file")


def waiting_orders(market: Market) -> list[Order]:
    """Return a coin's orders that wait for their trigger, in the order of their ids."""
    entries = chain(market.rising, market.falling)
    return sorted((entry[2] for entry in entries if entry[2].waiting), key=lambda order: order.oid)


def snapshot_parts(
    exchange: Exchange, *, users: bool = True, triggers: bool = True, height: bool = True
) -> Iterator[str]:
    """Yield the text of the `l4Snapshots` file that the node's `fileSnapshot` writes, in pieces.

    users:    each order is `[user, order]` instead of `order`.
    triggers: each coin has an object with `book_orders` and `untriggered_orders` instead of the two sides.
    height:   the books stand in `[height, books]`.
    """

    texts = DecimalTexts()

    def with_users(orders: Iterable[Order]) -> str:
        return ",".join(f'["{order.maker.account.address}",{order_json(order, texts)}]' for order in orders)

    def side(orders: Iterable[Order]) -> str:
        return with_users(orders) if users else ",".join(order_json(order, texts) for order in orders)

    yield f"[{exchange.height},[" if height else "["
    comma = ""
    for market in exchange.markets:
        book = f"[[{side(market.bids.orders())}],[{side(market.asks.orders())}]]"
        if triggers:
            book = f'{{"book_orders":{book},"untriggered_orders":[{with_users(waiting_orders(market))}]}}'
        yield f'{comma}["{market.name}",{book}]'
        comma = ","
    yield "]]" if height else "]"


@dataclass(slots=True)
class Candle:
    """One minute of a coin's trades. Prices and volume are scaled by 10^8."""

    open_ms: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    trades: int = 0

    def add(self, trade: Trade) -> None:
        """Add the next trade."""
        self.high, self.low, self.close = max(self.high, trade.px), min(self.low, trade.px), trade.px
        self.volume += trade.sz
        self.trades += 1

    def public(self, coin: str) -> dict[str, Any]:
        """Return the candle in the shape of the public API."""
        prices = {key: decimal_text(value) for key, value in (
            ("o", self.open), ("c", self.close), ("h", self.high), ("l", self.low), ("v", self.volume),
        )}  # fmt: skip
        return {
            "t": self.open_ms, "T": self.open_ms + _MINUTE_MS - 1, "s": coin, "i": "1m", **prices,
            "n": self.trades,
        }  # fmt: skip


class History:
    """The trades of an exchange since its first block, and what follows from them."""

    def __init__(self) -> None:
        self.trades: list[Trade] = []
        self._candles: dict[str, dict[int, Candle]] = {}  # by coin and time

    def add(self, trades: Iterable[Trade]) -> None:
        """Add the trades of the next block. One-sided ones count as fills, not in candles."""
        for trade in trades:
            self.trades.append(trade)
            if trade.buyer is None or trade.seller is None:
                continue
            open_ms = trade.time_ms - trade.time_ms % _MINUTE_MS
            candles = self._candles.setdefault(trade.coin, {})
            if open_ms not in candles:
                candles[open_ms] = Candle(open_ms, trade.px, trade.px, trade.px, trade.px)
            candles[open_ms].add(trade)

    def candles(self, coin: str) -> list[Candle]:
        """Return a coin's one-minute candles, oldest first. Minutes without a trade have none."""
        return list(self._candles.get(coin, {}).values())

    def fills(self, user: str) -> list[tuple[str, Trade]]:
        """Return a user's fills, oldest first, as (side, trade). A trade with itself does not happen."""
        found = []
        for trade in self.trades:
            for letter, side in (("B", trade.buyer), ("A", trade.seller)):
                if side is not None and side.order.maker.account.address == user:
                    found.append((letter, trade))
        return found


class Truth:
    """An exchange together with its history, from its options.

    It gives a node its blocks (see `run`), and then knows what is true of them. Or it makes a chain again, up
    to the height that is asked for. `streams=()` in the options saves the time for their text.

    first_time_ns: time of the first block, if a run has set it.
    orders:        number of all order statuses, if a run has set an end.
    clocked:       whether later blocks, too, got their times from the run, so that the chain cannot be made
                   again.
    history:       its trades and what follows from them; `history=False` saves the memory for it.
    lock:          held while a block is made; who looks at the exchange from another thread holds it.
    """

    def __init__(
        self,
        options: ExchangeOptions,
        first_time_ns: int | None = None,
        orders: int | None = None,
        *,
        history: bool = True,
    ) -> None:
        self.options = options
        self.has_history = history
        self.first_time_ns = first_time_ns
        self.orders = orders
        self.clocked = False
        self.lock = threading.Lock()
        self._restart()

    def _restart(self) -> None:
        self.exchange = Exchange(self.options)
        self.history = History()

    def next_block(self, time_ns: int | None = None, max_orders: int | None = None) -> Block:
        """Make the next block; see `Exchange.next_block`."""
        if self.exchange.height < self.options.first_height:
            self.first_time_ns, self.orders = time_ns, max_orders
        elif time_ns is not None:
            self.clocked = True
        return self._make(time_ns, max_orders)

    def _make(self, time_ns: int | None, max_orders: int | None) -> Block:
        with self.lock:
            block = self.exchange.next_block(time_ns, max_orders)
            if self.has_history:
                self.history.add(self.exchange.trades)
        return block

    def at(self, height: int) -> Exchange:
        """Return the exchange as it is after a block. An earlier one than the last asked for starts anew.

        Raises SynthError if there is no such block, or if the chain cannot be made again.
        """
        first = self.options.first_height
        if height < first - 1:
            raise SynthError(f"the chain begins with block {first}, so none is {height}")
        if height != self.exchange.height and self.clocked:
            raise SynthError("the run took its block times from the clock, so the chain cannot be made again")
        if height < self.exchange.height:
            self._restart()
        while self.exchange.height < height:
            left = None if self.orders is None else self.orders - self.exchange.orders
            if left == 0:
                raise SynthError(f"the chain ends with block {self.exchange.height}, so none is {height}")
            self._make(self.first_time_ns if self.exchange.height < first else None, left)
        return self.exchange

    def book(self, coin: str, height: int) -> tuple[list[Order], list[Order]]:
        """Return a coin's bids and asks after a block: best first, and in the order of their queue."""
        market = _market(self.at(height), coin)
        return list(market.bids.orders()), list(market.asks.orders())

    def open_orders(self, user: str, height: int) -> list[Order]:
        """Return a user's orders that rest or wait for their trigger after a block."""
        return open_orders(self.at(height), user)

    def snapshot(self, height: int) -> bytes:
        """Return the node's snapshot after a block, with users, triggers and height."""
        return "".join(snapshot_parts(self.at(height))).encode()


def _market(exchange: Exchange, coin: str) -> Market:
    for market in exchange.markets:
        if market.name == coin:
            return market
    raise SynthError(f"no coin is named {coin} at height {exchange.height}")


def open_orders(exchange: Exchange, user: str) -> list[Order]:
    """Return a user's orders that rest or wait for their trigger now, oldest first."""
    found = (order for order in _all_open_orders(exchange) if order.maker.account.address == user)
    return sorted(found, key=lambda order: order.oid)


def _all_open_orders(exchange: Exchange) -> Iterator[Order]:
    for market in exchange.markets:
        yield from market.orders()
        yield from waiting_orders(market)


def make_folder(folder: Path) -> None:
    """Create the folder for `write_truth`. Raises SynthError if no files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise write_error(folder, error) from error
    for name in _FILES:
        _refuse_special(folder / name)


def write_truth(folder: Path, truth: Truth) -> None:
    """Write what is true after the last block as files. Raises SynthError if they cannot be written.

    chain.json              the options that make the chain, and the height
    l4_snapshot.json        the books, as the node's `fileSnapshot` gives them
    trades.jsonl            all trades since the first block; users and oids: of the buyer and the seller
    candles.jsonl           one-minute candles in the public API's shape
    open_orders.jsonl       a line a user: its open orders
    fills.jsonl             a line a fill: `[user, fill]`, as the node writes it

    The files appear when all of them are complete, `chain.json` as the last one.
    """
    if not truth.has_history:
        raise SynthError("the truth was made without its history, so it has no trades to write")
    make_folder(folder)
    exchange, trades = truth.exchange, truth.history.trades
    texts = DecimalTexts()
    contents: tuple[Iterable[str], ...] = (
        [json.dumps(_chain_json(truth), indent=1), "\n"],
        chain(snapshot_parts(exchange), "\n"),
        (f"{json.dumps(_trade_json(trade))}\n" for trade in trades),
        (
            f"{json.dumps(candle.public(market.name))}\n"
            for market in exchange.markets for candle in truth.history.candles(market.name)
        ),
        _open_order_lines(exchange),
        (
            f"{fill_text(trade, side, letter, texts)}\n" for trade in trades
            for letter, side in (("B", trade.buyer), ("A", trade.seller)) if side is not None
        ),
    )  # fmt: skip
    with ExitStack() as stack:
        for name, lines in zip(_FILES, contents, strict=True):
            file = stack.enter_context(replacing(folder / name))
            file.writelines(line.encode("ascii") for line in lines)
            file.flush()


def _chain_json(truth: Truth) -> dict[str, Any]:
    run: dict[str, Any] = {
        "height": truth.exchange.height, "orders": truth.orders, "first_time_ns": truth.first_time_ns,
    }  # fmt: skip
    if truth.clocked:
        run["clocked"] = True
    return {"options": asdict(truth.options) | {"start": truth.options.start.isoformat()}, "run": run}


def read_truth(path: Path) -> tuple[Truth, int]:
    """Return the chain that a `chain.json` describes, before its first block, and its last height.

    Raises SynthError if the file does not describe one, or if that cannot be made again.
    """
    try:
        described = json.loads(path.read_text(encoding="ascii"))
        fields, run = described["options"], described["run"]
        fields |= {"start": datetime.fromisoformat(fields["start"]), "streams": ()}
        truth = Truth(ExchangeOptions(**fields), run["first_time_ns"], run["orders"])
        height = int(run["height"])
    except OSError as error:
        raise SynthError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SynthError(f"{path} does not describe a chain: {error}") from error
    if "clocked" in run:
        raise SynthError(f"the run of {path} took its block times from the clock, so it cannot be made again")
    return truth, height


def _open_order_lines(exchange: Exchange) -> Iterator[str]:
    by_user: dict[str, list[str]] = {}
    texts = DecimalTexts()
    for order in _all_open_orders(exchange):
        by_user.setdefault(order.maker.account.address, []).append(order_json(order, texts))
    for user, orders in sorted(by_user.items()):
        yield f'{{"user":"{user}","orders":[{",".join(orders)}]}}\n'


def _trade_json(trade: Trade) -> dict[str, Any]:
    orders = [None if side is None else side.order for side in (trade.buyer, trade.seller)]
    return {
        "coin": trade.coin, "side": trade.taker_side, "px": decimal_text(trade.px),
        "sz": decimal_text(trade.sz), "time": trade.time_ms, "hash": trade.hash, "tid": trade.tid,
        "users": [order and order.maker.account.address for order in orders],
        "oids": [order and order.oid for order in orders],
    }  # fmt: skip
