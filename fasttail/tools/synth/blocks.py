"""Blocks of orders from a seed: how many events each has, and when it comes."""

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
# A block's lines are log-normal: median and largest in units of the mean
_MEDIAN, _LARGEST = 1243 / BLOCK_LINES, 3886 / BLOCK_LINES
_SIGMA = 0.62
_EMPTY_SHARE = 0.004
_FIRST_BLOCK = 1_019_927_126


class Synth:
    """Orders and blocks from a seed. Not thread safe; memory is bounded (about 25 MB) however long it runs.

    seed: everything follows from it.
    start: time of the first block (naive = UTC).
    block_lines: mean events of a block; fractions below 1 give mostly empty blocks.
    style: "2024" leaves out `hash` and `builder` and has whole milliseconds, as node files of that year.
    children: about the share of orders with children. short_times: share of blocks with a 6-digit time.
    Raises SynthError for values out of range.

    Either take whole blocks (`blocks`), or `begin_block` and then `take_events` until it is complete.
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
        # A source of its own, so that orders do not depend on how they are cut into blocks
        self._random = random.Random(f"{seed}:blocks")
        self._events = OrderStatuses(seed, style, children)
        # The block being made
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
        """How many orders rest in the book, at most MAX_RESTING."""
        return self._events.resting

    @property
    def waiting_triggers(self) -> int:
        """How many trigger orders wait, at most MAX_TRIGGERS."""
        return self._events.waiting_triggers

    def begin_block(
        self, time_ns: int | None = None, local_ns: int | None = None, span_ns: int = BLOCK_NS
    ) -> int:
        """Start the next block and give the number of events it is to have (pairs may make it two more).

        time_ns, local_ns: the real clock's, if it is to count; by default the block comes 64 ms after the
        last one and this node sees it 0.35 s later. span_ns: what its streaming lines may take of local time.
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
        # Never before the last block's last line: real clocks step back, and blocks may come in a hurry
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
        """When this node sees the block begun last, UTC ns."""
        return self._local_ns

    @property
    def events_left(self) -> int:
        """Events that the block begun last still lacks."""
        return self.size - self._events_taken

    def take_events(self, count: int) -> Block:
        """The next events of the block: `count`, or up to two more where one brings others with it."""
        first = self._events_taken
        events = (
            self._events.events(min(count, self.events_left)) if count > 0 and self.events_left > 0 else []
        )
        self._events_taken += len(events)
        self.orders += len(events)
        return Block(self._number, self._time_ns, self._local_ns, events, first, self.size, self._span_ns)

    def blocks(self, orders: int | None = None) -> Iterator[Block]:
        """Whole blocks, empty ones included, until they hold exactly `orders` (None: without end)."""
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
    """Whole blocks with exactly `orders` events in all (None: without end). Options as those of `Synth`."""
    return Synth(seed, **options).blocks(orders)


def generate(orders: int, layout: str = "plain", seed: int = 1, **options: Unpack[_Options]) -> bytes:
    """A file with exactly `orders` events in a layout: equal bytes for equal arguments, anywhere, any day."""
    check_layout(layout, options.get("style", "2026"))
    return b"".join(render(block, layout) for block in iter_blocks(orders, seed, **options))


def _utc_ns(moment: datetime) -> int:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000
