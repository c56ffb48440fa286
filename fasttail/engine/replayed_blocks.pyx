"""Follows the blocks of a stream: numbers their events, and drops those that the node writes again, as it does after a restart.

    blocks of the lines   7  8  9  7  8  9  10            a 9 that a crash tore is completed by its second writing
    delivered             7  8  9           10

A position is a block and a number of its events. What was read of a block, up to the highest position, is not delivered again;
a block that comes late, and was not read before, is delivered. Only a block number that decreases begins such a replay: a block
that is written again directly after itself cannot be told from its continuation. One that decreases while the block's time
does not is another history, of which nothing is dropped.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset

from fasttail.system.atomics cimport ft_add_single_writer, ft_store_relaxed
from fasttail.system.checks cimport ft_assert
from fasttail.engine.pool cimport WorkerPool, chunk_row, skip_line_rows, skip_plain_rows
from fasttail.streams.types cimport NO_ENVELOPE, Chunk, Envelope


cdef enum:
    KNOWN_BLOCKS = 1 << 17       # a node resumes from a state that is at most some 10,000 blocks old


cdef class ReplayedBlocks:
    """Follows the blocks of a stream's lines in the order of its files. Plain lines have no blocks, and all pass.

    deliver: drop nothing, and only count regressions
    """

    def __cinit__(self, *, bint deliver=False):
        self.deliver = deliver
        self.known = <uint64_t*>calloc(KNOWN_BLOCKS // 64, sizeof(uint64_t))
        if self.known == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.known)

    cdef void reset(self) noexcept nogil:
        """Forget the position, before lines that do not follow those read so far."""
        self.block = self.index = self.line_began = self.lowest = self.highest = self.highest_index = 0
        self.highest_time_ns = 0
        self.replaying = self.line_dropped = self.block_known = False
        memset(self.known, 0, KNOWN_BLOCKS // 8)

    cdef void seek(self, uint64_t block, uint64_t events) noexcept nogil:
        """Set the position up to which nothing is delivered again, whatever the lines read so far were."""
        self.highest = block
        self.highest_index = events
        self.lowest = block + 1              # all blocks up to this one count as read, none above it
        memset(self.known, 0, KNOWN_BLOCKS // 8)
        self.replaying = self.block < block or (self.block == block and self.index < events)

    cdef void _learn(self, uint64_t number) noexcept nogil:
        """Note that a block is read. Those that are KNOWN_BLOCKS and more below the highest are forgotten."""
        cdef uint64_t i
        if self.lowest == 0:
            self.lowest = number
        if number > self.highest:
            if number - self.highest >= KNOWN_BLOCKS:
                memset(self.known, 0, KNOWN_BLOCKS // 8)
            else:
                for i in range(self.highest + 1, number + 1):
                    self.known[i % KNOWN_BLOCKS // 64] &= ~(<uint64_t>1 << (i % 64))
            self.highest = number
        if self.highest - number < KNOWN_BLOCKS:
            self.known[number % KNOWN_BLOCKS // 64] |= <uint64_t>1 << (number % 64)

    cdef bint _is_known(self, uint64_t number) noexcept nogil:
        """Whether a block was read, or comes before the position where reading began."""
        if number < self.lowest:
            return True
        return (number <= self.highest and self.highest - number < KNOWN_BLOCKS
                and (self.known[number % KNOWN_BLOCKS // 64] >> (number % 64)) & 1)

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
        cdef Envelope* line = NULL
        cdef uint64_t last = self.block
        cdef size_t e, row, first
        cdef int k
        for k in range(pool.workers):
            for e in range(pool.chunks[k].envelopes_len):
                line = &pool.chunks[k].envelopes[e]
                if line.block_number < last:
                    return False
                last = line.block_number
        if line == NULL:
            return True                      # plain lines, or none
        for k in range(pool.workers):
            c = &pool.chunks[k]
            row = 0
            for e in range(c.envelopes_len):
                line = &c.envelopes[e]
                if line.block_number != self.block:
                    self._learn(line.block_number)
                    self.block = line.block_number
                    self.index = 0
                if e > 0 or not c.starts_inside_line:
                    self.line_began = self.index
                line.events_before = self.line_began
                line.dropped = False
                first = skip_plain_rows(c, pool.table.row_bytes, row)
                row = skip_line_rows(c, pool.table.row_bytes, first, e)
                self.index += row - first
        self.highest = self.block
        self.highest_index = self.index
        self.highest_time_ns = line.block_time_ns
        return True

    cdef void _drop_chunk_rows(self, Chunk* c, uint32_t row_bytes) noexcept nogil:
        """Remove the rows of a chunk's lines that were delivered before. Plain lines among them stay."""
        cdef size_t e = 0, begin, end = 0, kept = 0, rows = c.rows_len
        cdef bint dropped
        while end < rows or e < c.envelopes_len:
            begin = end
            if begin < rows and chunk_row(c, row_bytes, begin).envelope == <uint32_t>NO_ENVELOPE:
                end += 1
                dropped = False
            else:
                # A line without events has no row; its block counts all the same.
                end = skip_line_rows(c, row_bytes, begin, e)
                dropped = self._is_replayed(&c.envelopes[e], end - begin, e == 0 and c.starts_inside_line)
                e += 1
            if dropped:
                ft_add_single_writer(&self.dropped, end - begin)
                continue
            if kept != begin:
                memmove(c.rows + kept * row_bytes, c.rows + begin * row_bytes, (end - begin) * row_bytes)
            kept += end - begin
        ft_store_relaxed(<uint64_t*>&c.rows_len, kept)

    cdef bint _is_replayed(self, Envelope* line, uint64_t events, bint continued) noexcept nogil:
        """Move the position past a line. Return whether its events were delivered before.

        continued: another worker has the line's first part, which was decided on; the rest follows it
        """
        if line.block_number < self.block:
            ft_add_single_writer(&self.regressions, 1)
            self.replaying = line.block_time_ns <= self.highest_time_ns
        if line.block_number != self.block:
            self.block = line.block_number
            self.index = 0
            self.block_known = self._is_known(self.block)
        if not continued:
            self.line_began = self.index
        line.events_before = self.line_began
        self.index += events
        if not continued:
            self.replaying = self.replaying and self.block <= self.highest
            self.line_dropped = (self.replaying and not self.deliver and self.block_known
                                 and (self.block < self.highest or self.index <= self.highest_index))
        line.dropped = self.line_dropped
        if not self.line_dropped:
            if not self.replaying:
                self.highest = min(self.highest, self.block)     # of another history, if it is lower
                self.lowest = min(self.lowest, self.block)
            if self.block >= self.highest:
                self.highest_index = self.index
                self.highest_time_ns = line.block_time_ns
            self._learn(self.block)
        return self.line_dropped
