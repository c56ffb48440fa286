"""Where the rows of a batch lie."""
cimport cython

from libc.stdint cimport int64_t, uint64_t

from fasttail.parser.types cimport Envelope, Row


cdef struct Segment:         # rows[first:first + count]: one worker's rows of one batch
    size_t first
    size_t count


@cython.final
cdef class Table:
    # owned: mapped at construction, unmapped at the end; only pages that were written to are resident
    cdef Row* rows
    cdef Envelope* envelopes
    cdef Segment* segments
    cdef size_t rows_cap
    cdef size_t envelopes_cap
    cdef size_t segments_cap
    cdef size_t segments_len
    cdef size_t rows_len         # in all segments
    cdef int clear(self) noexcept nogil
    cdef int trim(self, size_t keep_bytes) noexcept nogil
    cdef int compact(self) noexcept nogil
