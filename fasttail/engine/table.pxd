"""The table that holds the rows of a batch."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.streams.types cimport NO_ENVELOPE, Envelope, RowHead, StreamSpec


cdef struct Segment:         # rows[first:first + count]: one worker's rows of one batch
    size_t first
    size_t count


@cython.final
cdef class RowTable:
    # Owned: mapped at construction and unmapped at the end; only pages that were written to are resident.
    cdef char* rows              # `stream.row_bytes` bytes each
    cdef const StreamSpec* stream
    cdef size_t row_bytes        # the stream's
    cdef Envelope* envelopes
    cdef RowTable base           # whose envelopes these are; None: its own
    cdef bint borrows_envelopes
    cdef Segment* segments
    cdef size_t rows_cap
    cdef size_t envelopes_cap
    cdef size_t segments_cap
    cdef size_t segments_len
    cdef size_t rows_len         # in all segments
    cdef bint fits(self, const StreamSpec* stream, size_t data_bytes, size_t shares) noexcept nogil
    cdef void clear(self) noexcept nogil
    cdef void trim(self, size_t keep_bytes) noexcept nogil
    cdef void trim_rows(self, size_t keep_bytes) noexcept nogil
    cdef void compact(self) noexcept nogil


cdef RowTable table_new(const StreamSpec* stream, size_t data_bytes, size_t shares)
cdef RowTable table_derive(const StreamSpec* stream, RowTable base)
cdef RowTable table_acquire(const StreamSpec* stream, size_t data_bytes, size_t shares)
cdef int table_release(RowTable table) except -1


cdef inline RowHead* table_row(RowTable table, size_t i) noexcept nogil:
    return <RowHead*>(table.rows + i * table.row_bytes)


cdef inline const Envelope* row_envelope(RowTable table, const RowHead* row) noexcept nogil:
    """Return the envelope of the row's line, or NULL for a plain line."""
    return &table.envelopes[row.envelope] if row.envelope != <uint32_t>NO_ENVELOPE else NULL


cdef inline uint64_t row_line(RowTable table, const RowHead* row) noexcept nogil:
    """Return the offset of the row's line in the data (of a plain line: that of its event)."""
    cdef const Envelope* block = row_envelope(table, row)
    return block.offset if block != NULL else row.offset
