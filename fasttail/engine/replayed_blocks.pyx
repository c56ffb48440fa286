"""Drops events of blocks that the node writes again, as it does after a restart.

    blocks of the lines   7  8  9  7  8  9  10            a 9 that a crash tore is completed by its second writing
    delivered             7  8  9           10

A position is a block and a number of its events. What was read up to the highest one is not delivered again. Only a block number
that decreases begins such a replay: a block that is written again directly after itself cannot be told from its continuation.
One that decreases by more than MAX_REPLAYED_BLOCKS is another history, of which nothing is dropped.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memmove

from fasttail.system.atomics cimport ft_add_single_writer, ft_store_relaxed
from fasttail.system.checks cimport ft_assert
from fasttail.engine.pool cimport WorkerPool
from fasttail.streams.types cimport NO_ENVELOPE, Chunk, RowHead


cdef enum:
    MAX_REPLAYED_BLOCKS = 100000     # a node resumes from a state that is at most some 10,000 blocks old


cdef inline const RowHead* _row(const Chunk* c, size_t row_bytes, size_t i) noexcept nogil:
    return <const RowHead*>(c.rows + i * row_bytes)


cdef class ReplayedBlocks:
    """Follows the blocks of a stream's lines in the order of its files. Plain lines have no blocks, and all pass.

    deliver: drop nothing, and only count regressions
    """

    def __cinit__(self, *, bint deliver=False):
        self.deliver = deliver

    cdef void reset(self) noexcept nogil:
        """Forget the position, before lines that do not follow those read so far."""
        self.block = self.index = self.highest = self.highest_index = 0
        self.replaying = False

    cdef void drop_rows(self, WorkerPool pool) noexcept nogil:
        """Remove the rows of the pool's last batch that were delivered before."""
        cdef size_t rows = 0
        cdef int k
        if not self.replaying and self._advance(pool):
            return
        for k in range(pool.workers):
            self._drop_chunk_rows(&pool.chunks[k], <uint32_t>pool.table.row_bytes)
            pool.table.segments[pool.table.segments_len - <size_t>(pool.workers - k)].count = pool.chunks[k].rows_len
            rows += pool.chunks[k].rows_len
        ft_assert(rows <= pool.table.rows_len)
        pool.table.rows_len = rows

    cdef bint _advance(self, WorkerPool pool) noexcept nogil:
        """Move the position past a batch in which no block number decreases. Return False for another one."""
        cdef const Chunk* c
        cdef uint64_t number, before = self.block, last = self.block, events = 0
        cdef size_t i
        cdef int k
        cdef bint all_rows = True            # of the batch, so far, are of the last block
        for k in range(pool.workers):
            for i in range(pool.chunks[k].envelopes_len):
                number = pool.chunks[k].envelopes[i].block_number
                if number < last:
                    return False
                last = number
        if last == 0:
            return True                      # plain lines, or none
        for k in range(pool.workers - 1, -1, -1):
            c = &pool.chunks[k]
            i = c.rows_len
            while all_rows and i > 0:
                i -= 1
                number = c.envelopes[_row(c, pool.table.row_bytes, i).envelope - c.envelope_base].block_number
                all_rows = number == last
                events += all_rows
        self.index = events + (self.index if last == before else 0)
        self.block = self.highest = last
        self.highest_index = self.index
        return True

    cdef void _drop_chunk_rows(self, Chunk* c, uint32_t row_bytes) noexcept nogil:
        """Remove the rows of a chunk's lines that were delivered before."""
        cdef size_t e, begin, end = 0, kept = 0, rows = c.rows_len
        cdef uint32_t number
        for e in range(c.envelopes_len):
            begin = end
            number = c.envelope_base + <uint32_t>e
            while end < rows and _row(c, row_bytes, end).envelope == number:
                end += 1
            if self._is_replayed(c.envelopes[e].block_number, end - begin):
                ft_add_single_writer(&self.dropped, end - begin)
                continue
            if kept != begin:
                memmove(c.rows + kept * row_bytes, c.rows + begin * row_bytes, (end - begin) * row_bytes)
            kept += end - begin
        ft_assert(end == rows or _row(c, row_bytes, end).envelope == <uint32_t>NO_ENVELOPE)
        if kept != end:
            memmove(c.rows + kept * row_bytes, c.rows + end * row_bytes, (rows - end) * row_bytes)
        ft_store_relaxed(<uint64_t*>&c.rows_len, kept + rows - end)

    cdef bint _is_replayed(self, uint64_t number, uint64_t events) noexcept nogil:
        """Move the position past a line. Return whether its events were delivered before."""
        if number < self.block:
            ft_add_single_writer(&self.regressions, 1)
            self.replaying = self.highest - number <= MAX_REPLAYED_BLOCKS
        if number != self.block:
            self.block = number
            self.index = 0
        self.index += events
        if self.replaying and (number < self.highest or (number == self.highest and self.index <= self.highest_index)):
            return not self.deliver
        self.replaying = False
        self.highest = number
        self.highest_index = self.index
        return False
