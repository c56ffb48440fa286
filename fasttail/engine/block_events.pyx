"""Finds an event by its block and its number in the block."""
from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.pool cimport WorkerPool, check_batch
from fasttail.engine.table cimport RowTable, table_acquire, table_release
from fasttail.streams.registry cimport find_stream
from fasttail.streams.types cimport Chunk, RowHead

from typing import NamedTuple


class BlockEvents(NamedTuple):
    """How far `pass_block_events` came: to the line at `offset` of the data, of which `events` events belong to those to pass.

    remaining: events that are still to be passed, if the data ended before
    lower_block: the line is of a lower block, so the node has begun again
    """

    offset: int
    events: int
    remaining: int = 0
    lower_block: bool = False


def pass_block_events(bytes lines, uint64_t block, uint64_t events, str stream="orders") -> BlockEvents:
    """Pass the first `events` events of a block, with which the whole lines begin. Plain and rejected lines do not count.

    Raises MemoryError.
    """
    cdef RowTable table = table_acquire(find_stream(stream), <size_t>len(lines), 2)
    cdef WorkerPool pool = WorkerPool(1, table, max_rejects=1)
    cdef const char* data = lines
    cdef size_t size = <size_t>len(lines), row = 0, first, e
    cdef const Chunk* c = &pool.chunks[0]
    cdef int code
    with nogil:
        code = pool.parse_batch(data, data, data + size, data + size)
    try:
        check_batch(code)
        for e in range(c.envelopes_len):
            if c.envelopes[e].block_number > block or events == 0:
                return BlockEvents(c.envelopes[e].offset, 0)
            if c.envelopes[e].block_number < block:
                return BlockEvents(c.envelopes[e].offset, 0, events, True)
            while row < c.rows_len and _envelope(c, table.row_bytes, row) != c.envelope_base + <uint32_t>e:
                row += 1
            first = row
            while row < c.rows_len and _envelope(c, table.row_bytes, row) == c.envelope_base + <uint32_t>e:
                row += 1
            if row - first > events:
                return BlockEvents(c.envelopes[e].offset, events)
            events -= row - first
        return BlockEvents(size, 0, events)
    finally:
        table_release(table)


cdef inline uint32_t _envelope(const Chunk* c, size_t row_bytes, size_t row) noexcept nogil:
    return (<const RowHead*>(c.rows + row * row_bytes)).envelope


def count_last_events(bytes lines, uint64_t block, str stream="orders") -> tuple:
    """Return how many events of a block the whole lines end with, and whether a line of another block is before them.

    Raises MemoryError.
    """
    cdef RowTable table = table_acquire(find_stream(stream), <size_t>len(lines), 2)
    cdef WorkerPool pool = WorkerPool(1, table, max_rejects=1)
    cdef const char* data = lines
    cdef size_t size = <size_t>len(lines), row
    cdef const Chunk* c = &pool.chunks[0]
    cdef size_t e
    cdef int code
    with nogil:
        code = pool.parse_batch(data, data, data + size, data + size)
    try:
        check_batch(code)
        e = c.envelopes_len
        row = c.rows_len
        while e > 0 and c.envelopes[e - 1].block_number == block:
            e -= 1
        if e > 0:
            while row > 0 and _envelope(c, table.row_bytes, row - 1) >= c.envelope_base + <uint32_t>e:
                row -= 1
            return c.rows_len - row, True
        return c.rows_len, False
    finally:
        table_release(table)
