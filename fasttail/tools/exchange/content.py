"""The content of a node's files as bytes, without writing them."""

from __future__ import annotations

from dataclasses import replace

from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.chain import Exchange, ExchangeOptions
from fasttail.tools.exchange.constants import LAG_NS
from fasttail.tools.exchange.layouts import Part, check_layout, render


def block_lines(block: Block, layout: str, stream: str = "orders", *, local_ns: int | None = None) -> bytes:
    """Return the lines of a whole block.

    local_ns: when the node sees it; by default 0.35 s after its time.
    """
    events = block.events[stream]
    local = block.time_ns + LAG_NS if local_ns is None else local_ns
    return render(Part(stream, block.number, block.time_ns, local, events, 0, len(events)), layout)


def generate(
    orders: int,
    layout: str = "plain",
    seed: int = 1,
    *,
    stream: str = "orders",
    options: ExchangeOptions | None = None,
) -> bytes:
    """Return the lines of one stream for exactly `orders` order statuses.

    The last 100 of them come from actions with one status each, and the exchange acts by itself (funding,
    oracles, TWAPs, changes of coins) only while some 3,000 are left.

    options: what kind of exchange; its `seed` and `streams` are replaced. Equal arguments give equal bytes,
             anywhere and on any day. Raises SynthError for an unknown layout or stream.
    """
    check_layout(layout)
    options = replace(options or ExchangeOptions(), seed=seed, streams=tuple({stream, "orders"}))
    return b"".join(block_lines(block, layout, stream) for block in Exchange(options).blocks(orders))
