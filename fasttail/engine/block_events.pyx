"""Finds an event by its block and its number in the block."""
from libc.stdint cimport uint64_t

from fasttail.engine.columns cimport Batch
from fasttail.engine.pool cimport skip_line_rows, skip_plain_rows
from fasttail.streams.types cimport Chunk

from typing import NamedTuple

from fasttail.engine.parse import parse


class BlockEvents(NamedTuple):
    """How far `pass_block_events` came: to the line at `offset` of the data, of which `events` events belong to those to pass.

    remaining: events that are still to be passed, if the data ended before
    lower_block: the line is of a lower block, so the node has begun again
    """

    offset: int
    events: int
    remaining: int = 0
    lower_block: bool = False


def pass_block_events(bytes lines not None, uint64_t block, uint64_t events, str stream="orders") -> BlockEvents:
    """Pass the first `events` events of a block, with which the whole lines begin. Plain and rejected lines do not count.

    Raises MemoryError.
    """
    cdef Batch batch = parse(lines, stream=stream)
    cdef const Chunk* c = &batch.pool.chunks[0]
    cdef size_t row_bytes = batch.table.row_bytes, row = 0, first, e
    for e in range(c.envelopes_len):
        if c.envelopes[e].block_number > block or events == 0:
            return BlockEvents(c.envelopes[e].offset, 0)
        if c.envelopes[e].block_number < block:
            return BlockEvents(c.envelopes[e].offset, 0, events, True)
        row = skip_plain_rows(c, row_bytes, row)
        first = row
        row = skip_line_rows(c, row_bytes, row, e)
        if row - first > events:
            return BlockEvents(c.envelopes[e].offset, events)
        events -= row - first
    return BlockEvents(<size_t>len(lines), 0, events)
