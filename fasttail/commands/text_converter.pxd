"""Converter from blocks of lines to text, for `fasttail parse` and `fasttail tail`."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.columns cimport ColumnSums
from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.table cimport RowTable
from fasttail.engine.buffer cimport Buffer
from fasttail.engine.filters cimport Selector
from fasttail.streams.types cimport StreamSpec


@cython.final
cdef class Converter:
    cdef RowTable table              # None: the stream is not known yet
    cdef size_t capacity
    cdef int workers
    cdef WorkerPool pool
    cdef Selector selector
    cdef int format
    cdef bint compute_sums
    cdef uint32_t* selection         # owned
    cdef Buffer out                  # owned
    cdef ColumnSums sums
    cdef readonly uint64_t lines
    cdef readonly uint64_t orders
    cdef readonly uint64_t rejected
    cdef readonly uint64_t bytes
    cdef readonly list rejects              # (line offset, reason) of the last call, at most 64
    cdef readonly uint64_t rejects_omitted  # rejected lines of the last call beyond `rejects`
    cdef int _open(self, const StreamSpec* stream) except -1
    cdef int _convert(self, const char* begin, const char* limit, const char* readable, uint64_t offset) except -1
