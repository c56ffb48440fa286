"""The chain of the simulated exchange: blocks whose events depend on the seed alone."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from fasttail.tools.exchange.accounts import make_accounts, make_makers
from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.constants import (
    BLOCK_LINES,
    BLOCK_NS,
    DEFAULT_START,
    FIRST_HEIGHT,
    NS,
    STREAMS,
    SynthError,
)
from fasttail.tools.exchange.engine import Engine
from fasttail.tools.exchange.events import BlockEvents, Trade
from fasttail.tools.exchange.hyperliquidity import Hyperliquidity
from fasttail.tools.exchange.ledger import Ledger
from fasttail.tools.exchange.lifecycle import Lifecycle
from fasttail.tools.exchange.markets import Market, all_markets
from fasttail.tools.exchange.prices import Prices
from fasttail.tools.exchange.rare import RareActions
from fasttail.tools.exchange.traffic import REJECTED_SHARE, Traffic
from fasttail.tools.exchange.twaps import Twaps

CHILDREN_SHARE = 3 / 200_000
SHORT_TIMES_SHARE = 1 / 1850
_JITTER_NS = 20_000_000
# Order statuses per block are log-normal; median and maximum in units of the mean.
_MEDIAN, _LARGEST = 1243 / BLOCK_LINES, 3886 / BLOCK_LINES
_SIGMA = 0.62
_EMPTY_SHARE = 0.05
_MOST_HEIGHT = (1 << 32) - 100_000_000  # transaction hashes have 32 bits for the block's number
_CAREFUL = 100  # statuses before the exact end, in which no action may have several


@dataclass(frozen=True, kw_only=True)
class ExchangeOptions:
    """What kind of exchange to simulate. Raises SynthError for values out of range.

    seed:           determines every byte of all events.
    start:          chain time before the first block (naive: UTC).
    first_height:   number of the first block.
    block_lines:    mean number of order statuses per block; below 1, most blocks are empty.
    streams:        the streams whose events are rendered; see `constants.STREAMS`.
    resting:        orders in the books before the first block, and about so many later.
    rejected:       share of order statuses that are rejections, from 0 to 0.9. With 0.34 there are two
                    book diffs for three statuses, as in a busy hour of June 2026.
    children:       approximate share of order statuses with child orders, from 0 to 0.1.
    short_times:    share of blocks whose time has six digits or fewer.
    funding_deltas: least number of entries in an hourly `Funding` event.
    lifecycle:      blocks between changes of a coin's state; 0: none.
    long_sides:     write `Bid` and `Ask` in book diffs.
    """

    seed: int = 1
    start: datetime = DEFAULT_START
    first_height: int = FIRST_HEIGHT
    block_lines: float = BLOCK_LINES
    streams: tuple[str, ...] = ("orders",)
    resting: int = 20_000
    rejected: float = REJECTED_SHARE
    children: float = CHILDREN_SHARE
    short_times: float = SHORT_TIMES_SHARE
    funding_deltas: int = 0
    lifecycle: int = 500
    long_sides: bool = False

    def __post_init__(self) -> None:
        if not (self.block_lines > 0 and math.isfinite(self.block_lines)):
            raise SynthError(f"block_lines must be above 0, not {self.block_lines}")
        for name, most in (("children", 0.1), ("short_times", 1.0), ("rejected", 0.9)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise SynthError(f"{name} must be a share from 0 to {most:g}, not {value}")
        for name in ("resting", "funding_deltas", "lifecycle", "first_height"):
            if getattr(self, name) < 0:
                raise SynthError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.first_height > _MOST_HEIGHT:
            raise SynthError(f"first_height must be at most {_MOST_HEIGHT}, not {self.first_height}")
        unknown = [stream for stream in self.streams if stream not in STREAMS]
        if unknown:
            raise SynthError(f"streams are {', '.join(STREAMS)}, not {unknown[0]}")


class Exchange:
    """A simulated exchange. Not thread-safe.

    height, time_ns: of the last block; before the first one, of the block before it.
    markets:         the coins that trade now.
    trades:          those of the last block.
    """

    def __init__(self, options: ExchangeOptions | None = None) -> None:
        self.options = options = options or ExchangeOptions()
        seed = options.seed
        rng = random.Random(f"{seed}:exchange")
        self.height = options.first_height - 1
        self.time_ns = utc_ns(options.start) - BLOCK_NS + _JITTER_NS // 2
        self.orders = 0
        self._random = random.Random(f"{seed}:blocks")
        self._events = BlockEvents(options.streams, seed, options.long_sides)
        self._engine = engine = Engine(self._events)
        self.markets: list[Market] = all_markets(rng)
        self.accounts = make_accounts(rng)
        makers = make_makers(self.accounts, self.markets, rng)
        self._twaps = Twaps(engine, seed)
        rare = RareActions(engine, self.accounts, makers, self._twaps, seed, options.children)
        self._traffic = Traffic(engine, makers, rare, seed, options.resting, options.rejected)
        self._prices = Prices(engine, self.markets, seed)
        self._ledger = Ledger(engine, self.accounts, makers, seed, options.funding_deltas, self.time_ns)
        self._lifecycle = Lifecycle(
            engine, self.markets, self.accounts, makers, self._prices, seed, options.lifecycle
        )
        self._hyperliquidity = Hyperliquidity(engine, self.markets)
        self._events.begin(self.height, self.time_ns)  # the block before the first one; its events are lost
        now_ms = self.time_ns // 1_000_000
        self._hyperliquidity.populate(now_ms)
        self._traffic.populate(now_ms)
        self._twaps.populate(makers, self.time_ns)

    @property
    def trades(self) -> list[Trade]:
        """The trades of the last block."""
        return self._events.trades

    def next_block(self, time_ns: int | None = None, max_orders: int | None = None) -> Block:
        """Make the next block.

        time_ns:    its time instead of the chain's own; the events depend on it only in their times, and in
                    what happens at a certain time (funding, TWAPs, oracles).
        max_orders: end exactly after so many order statuses, if the block would have more.
        """
        size, now = self._size_and_time(time_ns)
        self.height += 1
        self.time_ns = now
        events = self._events
        events.begin(self.height, now)
        limit = math.inf if max_orders is None else max_orders
        if size:
            if limit > 20 * _CAREFUL + self.options.resting // 20:
                self._act_by_itself()
            self._traffic.act(int(min(size, limit - _CAREFUL)))
            if size > limit - _CAREFUL:
                self._traffic.act(int(min(size, limit)), single=True)
        self.orders += len(events.orders)
        return Block(self.height, now, events.by_stream)

    def blocks(self, orders: int | None = None) -> Iterator[Block]:
        """Yield whole blocks, with exactly `orders` order statuses in total (None: without end)."""
        remaining = orders
        while remaining is None or remaining > 0:
            block = self.next_block(max_orders=remaining)
            if remaining is not None:
                remaining -= len(self._events.orders)
            yield block

    def _act_by_itself(self) -> None:
        """Do what the exchange does without its users."""
        self._lifecycle.act(self.height)
        self._ledger.act()
        self._prices.move()
        self._prices.report_oracles()
        self._twaps.run_due()
        self._hyperliquidity.requote()

    def _size_and_time(self, time_ns: int | None) -> tuple[int, int]:
        """Return the next block's number of order statuses (0: no events at all) and its time."""
        rng, mean = self._random, self.options.block_lines
        factor = _MEDIAN * rng.lognormvariate(0.0, _SIGMA)
        blocks = self.height - self.options.first_height + 1
        deficit = blocks * mean - self.orders  # keeps the mean exact in the long run
        target = min(max(0.0, mean * factor + 0.1 * deficit), mean * _LARGEST)
        rounding, empty, gap, short = (rng.random() for _ in range(4))
        size = 0 if empty < _EMPTY_SHARE else int(target + rounding)
        now = self.time_ns + BLOCK_NS + int((gap - 0.5) * _JITTER_NS)
        if time_ns is not None:
            now = max(self.time_ns + 1, time_ns)
        if short < self.options.short_times:
            unit = 1_000_000 if short < self.options.short_times / 500 else 1000
            now = max(now - now % unit, self.time_ns + unit - self.time_ns % unit)
        elif now % 1000 == 0:
            now += 1
        return size, now


def utc_ns(moment: datetime) -> int:
    """Return a moment as ns since 1970 (naive: UTC)."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000
