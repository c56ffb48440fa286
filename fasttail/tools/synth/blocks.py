"""Generates blocks of orders from a seed: the size and the time of each."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypedDict, Unpack

from fasttail.tools.synth.constants import (
    BLOCK_LINES,
    BLOCK_NS,
    CHILDREN_SHARE,
    DEFAULT_START,
    LAG_NS,
    NS,
    SHORT_TIMES_SHARE,
    Style,
    SynthError,
)
from fasttail.tools.synth.layouts import MEAN_LINE_GAP_NS, Block, check_layout, render
from fasttail.tools.synth.orders import OrderStatuses

_BLOCK_JITTER_NS = 20_000_000
# Lines per block are log-normal; median and maximum in units of the mean.
_MEDIAN, _LARGEST = 1243 / BLOCK_LINES, 3886 / BLOCK_LINES
_SIGMA = 0.62
_EMPTY_SHARE = 0.004
_FIRST_BLOCK = 1_019_927_126


class Synth:
    """Generates orders and blocks from a seed. Not thread-safe. Memory is bounded (about 25 MB).

    seed:        determines all output.
    start:       time of the first block (naive: UTC).
    block_lines: mean number of events per block; fractions below 1 give mostly empty blocks.
    style:       "2024" omits `hash` and `builder` and has whole milliseconds, like node files of that year.
    children:    approximate share of orders with children.
    short_times: share of blocks with a 6-digit time.

    Use either `blocks`, or `begin_block` and then `take_events` until the block is complete. Raises
    SynthError for values out of range.
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
        # A separate generator, so that orders do not depend on how they are cut into blocks.
        self._random = random.Random(f"{seed}:blocks")
        self._events = OrderStatuses(seed, style, children)
        # The current block
        self._time_ns = _utc_ns(start or DEFAULT_START) - BLOCK_NS + _BLOCK_JITTER_NS // 2
        self._number = _FIRST_BLOCK - 1
        self._made_blocks = 0
        self.orders = 0
        self.size = 0
        self._events_taken = 0
        self._local_ns = self._local_end = 0
        self._span_ns = BLOCK_NS

    @property
    def resting(self) -> int:
        """Number of resting orders, at most MAX_RESTING."""
        return self._events.resting

    @property
    def waiting_triggers(self) -> int:
        """Number of waiting trigger orders, at most MAX_TRIGGERS."""
        return self._events.waiting_triggers

    def begin_block(
        self, time_ns: int | None = None, local_ns: int | None = None, span_ns: int = BLOCK_NS
    ) -> int:
        """Begin the next block and return its number of events. Pairs may add up to two.

        time_ns, local_ns: real times. By default the block is 64 ms after the last one, and this node sees it
                           0.35 s later.
        span_ns:           local time that its streaming lines may span.
        """
        rng = self._random
        factor = _MEDIAN * rng.lognormvariate(0.0, _SIGMA)
        deficit = self._made_blocks * self.block_lines - self.orders  # keeps the mean exact in the long run
        target = min(max(0.0, self.block_lines * factor + 0.1 * deficit), self.block_lines * _LARGEST)
        rounding, empty, gap, short, lag = (rng.random() for _ in range(5))
        self.size = 0 if empty < _EMPTY_SHARE else int(target + rounding)
        now = self._time_ns + BLOCK_NS + int((gap - 0.5) * _BLOCK_JITTER_NS)
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
        # Never before the last block's last line: real clocks step back, and blocks may follow quickly.
        local_time = now + LAG_NS + int(lag * 400_000) if local_ns is None else local_ns
        self._local_ns = max(self._local_end, local_time)
        self._local_end = self._local_ns + min(span_ns, 50_000 + int(self.size * MEAN_LINE_GAP_NS * 1.2))
        self._span_ns = span_ns
        self._number += 1
        self._made_blocks += 1
        self._events_taken = 0
        self._events.begin_block(self._number, now)
        return self.size

    @property
    def local_ns(self) -> int:
        """When this node sees the current block, UTC ns."""
        return self._local_ns

    @property
    def events_left(self) -> int:
        """Events that the current block still lacks."""
        return self.size - self._events_taken

    def take_events(self, count: int) -> Block:
        """Return the next `count` events of the block, or up to two more if one brings others with it."""
        first = self._events_taken
        events = (
            self._events.events(min(count, self.events_left)) if count > 0 and self.events_left > 0 else []
        )
        self._events_taken += len(events)
        self.orders += len(events)
        return Block(self._number, self._time_ns, self._local_ns, events, first, self.size, self._span_ns)

    def blocks(self, orders: int | None = None) -> Iterator[Block]:
        """Yield whole blocks, including empty ones, with exactly `orders` events in total (None: endless)."""
        remaining = math.inf if orders is None else orders
        while remaining > 0:
            block = self.take_events(self.begin_block())
            if len(block.events) > remaining:
                block = block._replace(events=block.events[: int(remaining)])
            remaining -= len(block.events)
            yield block


class _Options(TypedDict, total=False):
    """The keyword arguments of `Synth`."""

    start: datetime | None
    block_lines: float
    style: Style
    children: float
    short_times: float


def iter_blocks(orders: int | None = None, seed: int = 1, **options: Unpack[_Options]) -> Iterator[Block]:
    """Return an iterator over whole blocks with exactly `orders` events in total (None: endless).

    The options are those of `Synth`.
    """
    return Synth(seed, **options).blocks(orders)


def generate(orders: int, layout: str = "plain", seed: int = 1, **options: Unpack[_Options]) -> bytes:
    """Return a file with exactly `orders` events. Equal arguments give equal bytes, anywhere and any day."""
    check_layout(layout, options.get("style", "2026"))
    return b"".join(render(block, layout) for block in iter_blocks(orders, seed, **options))


def _utc_ns(moment: datetime) -> int:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000
