"""Runs simulated nodes on a small exchange, and reads what stands in their files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import plain_reader

from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.chain import Exchange, ExchangeOptions
from fasttail.tools.exchange.constants import STREAMS
from fasttail.tools.exchange.layouts import PAIRED_STREAMS, folder_name
from fasttail.tools.exchange.node import NodeOptions, Summary, run

START = datetime(2026, 5, 31, 22, 59, 59, tzinfo=UTC)
ALL = tuple(STREAMS)


def small_exchange(options: NodeOptions, block_lines: float | None = 100.0) -> ExchangeOptions:
    """Return the options of a node's exchange with few resting orders, and small blocks (None: its own)."""
    exchange = replace(options.exchange, resting=500)
    return exchange if block_lines is None else replace(exchange, block_lines=block_lines)


class SmallExchange:
    """An exchange in which each block with orders also has events of the streams that hold two in a line."""

    def __init__(self, options: NodeOptions, block_lines: float | None) -> None:
        self._exchange = Exchange(small_exchange(options, block_lines))

    def next_block(self, time_ns: int | None = None, max_orders: int | None = None) -> Block:
        block = self._exchange.next_block(time_ns, max_orders)
        count = block.number % 4 if block.events.get("orders") else 0
        for stream in PAIRED_STREAMS & set(block.events):
            block.events[stream][:] = [f'{{"invented":{block.number},"index":{i}}}' for i in range(count)]
        return block


def run_node(
    directory: Path, options: NodeOptions, *, block_lines: float | None = None, **callbacks: Any
) -> Summary:
    """Run a node on a small exchange. Blocks are small as well, unless the node has a rate."""
    if block_lines is None and options.rate is None:
        block_lines = 100.0
    return run(directory, options, source=SmallExchange(options, block_lines), **callbacks)


def chain_blocks(
    options: NodeOptions, count: int | None = None, block_lines: float | None = 100.0
) -> list[Block]:
    """Return the first blocks (None: all) of a run's exchange. An exact end changes those before it."""
    exchange = SmallExchange(options, block_lines)
    blocks: list[Block] = []
    remaining = options.lines
    while remaining != 0 and len(blocks) != count:
        blocks.append(exchange.next_block(max_orders=remaining))
        if remaining is not None:
            remaining -= len(blocks[-1].events["orders"])
    return blocks


def chain_events(options: NodeOptions, block_lines: float | None = 100.0) -> dict[str, list[bytes]]:
    """Return what a run with `lines` writes: stream -> its events, in the plain layout's text."""
    events: dict[str, list[bytes]] = {stream: [] for stream in options.streams}
    for block in chain_blocks(options, None, block_lines):
        for stream, texts in block.events.items():
            events[stream] += [text.encode("ascii") for text in texts]
    return events


def hour_files(root: Path, stream: str = "orders", layout: str = "plain") -> list[Path]:
    """Return a stream's hour files, oldest first."""
    hourly = root / folder_name(stream, layout) / "hourly"
    return sorted(hourly.glob("*/*"), key=lambda path: (path.parent.name, int(path.name)))


def content(root: Path, stream: str = "orders", layout: str = "plain") -> bytes:
    return b"".join(path.read_bytes() for path in hour_files(root, stream, layout))


class Line(NamedTuple):
    """A line that can be read. In plain, only `events` is known."""

    events: list[bytes]
    number: int = 0
    block_time: str = ""
    local_time: str = ""


def read_lines(data: bytes, layout: str) -> Iterator[Line]:
    """Yield the lines that can be read. Halves of lines, and what is stuck to them, are left out."""
    for text in data.split(b"\n"):
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if layout == "plain":
            yield Line([text])
        else:
            events = [orjson.dumps(event) for event in value["events"]]
            yield Line(events, value["block_number"], value["block_time"], value["local_time"])


def lines_of(root: Path, stream: str = "orders", layout: str = "plain") -> list[Line]:
    return list(read_lines(content(root, stream, layout), layout))


def events_of(root: Path, stream: str = "orders", layout: str = "plain") -> list[bytes]:
    return [event for line in lines_of(root, stream, layout) for event in line.events]


def ns_of(text: str) -> int:
    """Return a text time as UTC ns."""
    assert len(text.partition(".")[2]) in (0, 3, 6, 9), text
    return plain_reader.time_ns(text)
