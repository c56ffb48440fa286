"""Cuts a stream's lines into runs that name their blocks."""
cimport cython

from libc.stdint cimport uint64_t

from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.replayed_blocks cimport ReplayedBlocks
from fasttail.engine.table cimport RowTable


cdef struct Run:
    size_t begin
    size_t end
    uint64_t after_block
    uint64_t after_events
    uint64_t last_block
    uint64_t last_events
    uint64_t events
    uint64_t hash


@cython.final
cdef class BlockLines:
    cdef RowTable table
    cdef WorkerPool pool
    cdef ReplayedBlocks blocks
    cdef size_t max_bytes
    cdef uint64_t newest             # the highest block of which a line was kept
    cdef bytes rejected              # lines since the last valid one
    cdef list _take(self, const char* begin, const char* limit, const char* readable)
    cdef object _run(self, const char* begin, size_t end, Run* run, list blocks, bytearray hashes)
