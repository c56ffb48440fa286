"""Drops events of blocks that the node writes again."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.pool cimport WorkerPool
from fasttail.streams.types cimport Chunk


@cython.final
cdef class ReplayedBlocks:
    cdef bint deliver                # drop nothing
    cdef uint64_t block              # of the last line,
    cdef uint64_t index              # … and how many of the block's events it and the lines before it held
    cdef uint64_t highest            # the highest block so far,
    cdef uint64_t highest_index      # … and how many of its events were read
    cdef bint replaying              # the lines being read are at or before that position
    cdef uint64_t regressions        # times that the block number decreased
    cdef uint64_t dropped            # events
    cdef void reset(self) noexcept nogil
    cdef void drop_rows(self, WorkerPool pool) noexcept nogil
    cdef bint _advance(self, WorkerPool pool) noexcept nogil
    cdef void _drop_chunk_rows(self, Chunk* c, uint32_t row_bytes) noexcept nogil
    cdef bint _is_replayed(self, uint64_t number, uint64_t events) noexcept nogil
