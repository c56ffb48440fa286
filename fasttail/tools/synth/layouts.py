"""Blocks of orders, and their lines in each of the node's layouts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from fasttail.tools.synth.constants import BLOCK_NS, NS, SynthError

LAYOUTS: dict[str, str] = {
    "plain": "node_order_statuses",
    "by_block": "node_order_statuses_by_block",
    "streaming": "node_order_statuses_streaming",
}
"""Layout name -> the node's folder for it."""


def check_layout(layout: str, style: str) -> None:
    if layout not in LAYOUTS:
        raise SynthError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout}")
    if style == "2024" and layout != "plain":
        raise SynthError("style 2024 has the plain layout only")


class Block(NamedTuple):
    """A block, or a slice of one, with its events rendered.

    events:            plain-layout lines as ASCII text, without newlines.
    first:             index of events[0] in the block (0 unless this is a later slice).
    time_ns, local_ns: time of consensus, and of the block's first line in this node; UTC ns since 1970.
    span_ns:           time that the streaming lines may span, so that local_time does not reach the next
                       block.
    """

    number: int
    time_ns: int
    local_ns: int
    events: list[str]
    first: int = 0
    lines: int = 0  # of the whole block
    span_ns: int = BLOCK_NS


@lru_cache(maxsize=16)
def _second_text(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def text_time(ns: int) -> str:
    """Format UTC ns like the node: 9, 6, 3 or 0 fractional digits, without trailing groups of three zeros."""
    second, fraction = divmod(ns, NS)
    digits = f"{fraction:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{_second_text(second)}.{digits}" if digits else _second_text(second)


def _line_offsets() -> list[int]:
    """Return the cumulative gaps (ns) between a block's streaming lines: 9 to 40 µs each, most near 10."""
    rng = random.Random("gaps")
    return [0, *accumulate(9_000 + int(31_000 * rng.random() ** 3) for _ in range(4096))]


_LINE_OFFSETS = _line_offsets()
MEAN_LINE_GAP_NS = _LINE_OFFSETS[-1] / 4096


def _local_times(block: Block) -> list[int]:
    """Return the local_time (ns) of each streaming line, ascending within the block's span_ns."""
    last = len(_LINE_OFFSETS) - 1
    indices = range(block.first, block.first + len(block.events))
    if indices.stop <= last:
        steps = _LINE_OFFSETS[indices.start : indices.stop]
    else:  # beyond the table, which is repeated
        steps = [i // last * _LINE_OFFSETS[last] + _LINE_OFFSETS[i % last] for i in indices]
    share = block.span_ns / (max(block.lines, 1) * MEAN_LINE_GAP_NS * 1.2)
    base = block.local_ns
    return [base + step for step in steps] if share >= 1 else [base + int(step * share) for step in steps]


def plain_lines(block: Block) -> bytes:
    """Return one line per event, without an envelope."""
    return "\n".join([*block.events, ""]).encode("ascii")


def streaming_lines(block: Block) -> bytes:
    """Return one line per event, each in an envelope of its own."""
    middle = f'","block_time":"{text_time(block.time_ns)}","block_number":{block.number},"events":['
    second, fraction = divmod(block.local_ns, NS)
    head = f'{{"local_time":"{_second_text(second)}.'
    base = block.local_ns - fraction
    lines = []
    for event, local in zip(block.events, _local_times(block), strict=True):
        ns = local - base
        if ns < NS and ns % 1000:
            lines.append(f"{head}{ns:09d}{middle}{event}]}}\n")
        else:  # past the second, or with fewer digits
            lines.append(f'{{"local_time":"{text_time(local)}{middle}{event}]}}\n')
    return "".join(lines).encode("ascii")


def by_block_line(block: Block) -> bytes:
    """Return the whole block as one line, even if it has no event."""
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
    """Return the block's lines in a layout. An empty block has one in by_block, else none."""
    return _RENDER[layout](block)
