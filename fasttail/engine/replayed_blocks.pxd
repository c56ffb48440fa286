"""Follows the blocks of a stream, and drops events of those that the node writes again."""
cimport cython

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fasttail.engine.pool cimport WorkerPool
from fasttail.streams.types cimport Chunk, Envelope


@cython.final
cdef class ReplayedBlocks:
    cdef bint deliver                # drop nothing
    cdef uint64_t block              # of the last line,
    cdef uint64_t index              # … and how many of the block's events it and the lines before it held
    cdef uint64_t lowest             # the first block that was read; 0: none
    cdef uint64_t highest            # the highest block so far,
    cdef uint64_t highest_index      # … and how many of its events were read
    cdef int64_t highest_time_ns     # its time
    cdef bint replaying              # the lines being read are at or before that position
    cdef uint64_t line_began         # how many of the block's events the lines before the last one held
    cdef bint line_dropped           # the last line was dropped
    cdef bint block_known            # the last line's block had been read before it was written now
    cdef uint64_t* known             # owned; one bit for each of the last blocks: it has been read
    cdef uint64_t regressions        # times that the block number decreased
    cdef uint64_t dropped            # events
    cdef void reset(self) noexcept nogil
    cdef void seek(self, uint64_t block, uint64_t events) noexcept nogil
    cdef void drop_rows(self, WorkerPool pool) noexcept nogil
    cdef bint _advance(self, WorkerPool pool) noexcept nogil
    cdef void _drop_chunk_rows(self, Chunk* c, uint32_t row_bytes) noexcept nogil
    cdef void _learn(self, uint64_t number) noexcept nogil
    cdef bint _is_known(self, uint64_t number) noexcept nogil
    cdef bint _is_replayed(self, Envelope* line, uint64_t events, bint continued) noexcept nogil
