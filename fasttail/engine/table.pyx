"""The table that holds the rows of a batch: arrays mapped once, with a range for each worker.

    data       |─── chunk of worker 0 ───|─── chunk of worker 1 ───|
    rows       |r r r r . . . . . . . . .|r r r r r . . . . . . . .|   capacity by the chunk's size, without counting first
    segments   (0, 4)                    (13, 5)                       the rows that exist
"""
from libc.stdint cimport uint64_t
from libc.string cimport memmove

from fasttail.system.checks cimport ft_assert
from fasttail.streams.types cimport MIN_ENVELOPE_BYTES, Envelope, StreamSpec

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t n, int prot, int flags, int fd, long offset)
    int munmap(void* addr, size_t n)
    int madvise(void* addr, size_t n, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED, MADV_HUGEPAGE
    void* MAP_FAILED

cdef enum:
    PAGE = 65536                   # a multiple of every page size in use: ARM64 has 4, 16 and 64 KiB
    MAX_SPARE_BYTES = 64 << 20     # resident memory that the spare table may keep
    MIN_HUGEPAGE_BYTES = 16 << 20  # bytes above which large pages save more time than they waste memory


# The table that was released last. Reusing it saves mapping and clearing its pages. Guarded by the GIL.
cdef RowTable _spare = None


cdef RowTable table_acquire(const StreamSpec* stream, size_t data_bytes, size_t shares):
    """Return an empty table for `data_bytes` of data, the spare one if it is large enough. Raises MemoryError."""
    global _spare
    cdef RowTable table = _spare
    if table is None or not table.fits(stream, data_bytes, shares):
        table = table_new(stream, data_bytes, shares)
        if table.rows_cap * stream.row_bytes >= MIN_HUGEPAGE_BYTES:
            madvise(table.rows, table.rows_cap * stream.row_bytes, MADV_HUGEPAGE)
            madvise(table.envelopes, table.envelopes_cap * sizeof(Envelope), MADV_HUGEPAGE)
    else:
        _spare = None
        table.clear()
    return table


cdef int table_release(RowTable table) except -1:
    """Keep a released table as the spare one, or drop it."""
    global _spare
    if _spare is None or _spare.rows_cap < table.rows_cap:
        _trim_rows(table, MAX_SPARE_BYTES // 4 * 3)
        _release_pages(<char*>table.envelopes, table.envelopes_cap * sizeof(Envelope), MAX_SPARE_BYTES // 4)
        _spare = table
    return 0


cdef void* _map_pages(size_t n) except NULL:
    cdef void* p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        raise MemoryError(f"cannot reserve {n} bytes of address space")
    return p


cdef void _release_pages(char* base, size_t n, size_t keep) noexcept nogil:
    """Return the pages of base[keep:n] to the system; they read as zeros afterwards."""
    keep = (keep + PAGE - 1) // PAGE * PAGE
    if keep < n:
        madvise(base + keep, n - keep, MADV_DONTNEED)


cdef void _trim_rows(RowTable table, size_t budget) noexcept nogil:
    """Keep `budget` bytes of rows resident, at the start of each segment, where the next rows will be written."""
    cdef size_t k, begin, end, kept, segments_left = table.segments_len, size = table.row_bytes
    for k in range(table.segments_len):
        begin = table.segments[k].first * size
        end = table.rows_cap * size if segments_left == 1 else table.segments[k + 1].first * size
        # A short segment leaves more to those after it.
        kept = min(table.segments[k].count * size, budget // segments_left)
        _release_pages(table.rows, end, begin + kept)
        budget -= kept
        segments_left -= 1


cdef inline size_t _rows_cap(const StreamSpec* stream, size_t data_bytes, size_t shares) noexcept nogil:
    # Two more per chunk: a worker may start one row past its chunk before it notices.
    return data_bytes // stream.min_event_bytes + 2 * shares + 2


cdef inline size_t _envelopes_cap(size_t data_bytes, size_t shares) noexcept nogil:
    # An inner chunk reserves an entry for the envelope that another worker found.
    return data_bytes // <size_t>MIN_ENVELOPE_BYTES + 3 * shares + 2


cdef RowTable table_new(const StreamSpec* stream, size_t data_bytes, size_t shares):
    """Return a table for the rows of up to `data_bytes` of data in `shares` chunks. Raises MemoryError."""
    cdef RowTable table = RowTable.__new__(RowTable)
    table.stream = stream
    table.row_bytes = stream.row_bytes
    table.rows_cap = _rows_cap(stream, data_bytes, shares)
    table.envelopes_cap = _envelopes_cap(data_bytes, shares)
    table.segments_cap = shares
    table.rows = <char*>_map_pages(table.rows_cap * stream.row_bytes)
    table.envelopes = <Envelope*>_map_pages(table.envelopes_cap * sizeof(Envelope))
    table.segments = <Segment*>_map_pages((shares + 1) * sizeof(Segment))
    return table


cdef RowTable table_derive(const StreamSpec* stream, RowTable base):
    """Return a table for rows that are made of those of `base`, one of each at most, and have their envelopes.

    Raises MemoryError.
    """
    cdef RowTable table = RowTable.__new__(RowTable)
    table.stream = stream
    table.row_bytes = stream.row_bytes
    table.rows_cap = base.rows_cap
    table.envelopes_cap = base.envelopes_cap
    table.segments_cap = 1
    table.base = base
    table.envelopes = base.envelopes
    table.borrows_envelopes = True
    table.rows = <char*>_map_pages(table.rows_cap * stream.row_bytes)
    table.segments = <Segment*>_map_pages(2 * sizeof(Segment))
    return table


cdef class RowTable:
    """Rows, envelopes and segments. Created by `table_new` or `table_acquire` only.

    Rows refer to the data by offset, not by address; the table never owns the data.
    """

    def __init__(self):
        raise TypeError("a Table is made by compiled code")

    def __dealloc__(self):
        if self.rows != NULL:
            munmap(self.rows, self.rows_cap * self.row_bytes)
        if self.envelopes != NULL and not self.borrows_envelopes:
            munmap(self.envelopes, self.envelopes_cap * sizeof(Envelope))
        if self.segments != NULL:
            munmap(self.segments, (self.segments_cap + 1) * sizeof(Segment))

    cdef bint fits(self, const StreamSpec* stream, size_t data_bytes, size_t shares) noexcept nogil:
        return (self.stream == stream and self.rows_cap >= _rows_cap(stream, data_bytes, shares)
                and self.envelopes_cap >= _envelopes_cap(data_bytes, shares) and self.segments_cap >= shares)

    cdef void clear(self) noexcept nogil:
        """Remove all rows; keep the memory."""
        self.segments_len = 0
        self.rows_len = 0

    cdef void trim(self, size_t keep_bytes) noexcept nogil:
        """Return pages that only an oversize line needed. Rows for `keep_bytes` of data stay resident."""
        self.trim_rows(keep_bytes)
        _release_pages(<char*>self.envelopes, self.envelopes_cap * sizeof(Envelope),
                       (keep_bytes // <size_t>MIN_ENVELOPE_BYTES + 3) * sizeof(Envelope))

    cdef void trim_rows(self, size_t keep_bytes) noexcept nogil:
        """Likewise, of the rows alone."""
        _release_pages(self.rows, self.rows_cap * self.row_bytes,
                       (keep_bytes // self.stream.min_event_bytes + 2) * self.row_bytes)

    cdef void compact(self) noexcept nogil:
        """Move all rows to the front, into one segment, so that a column is one strided array."""
        cdef size_t i, next_row = 0, size = self.row_bytes
        for i in range(self.segments_len):
            if self.segments[i].first != next_row and self.segments[i].count:
                memmove(self.rows + next_row * size, self.rows + self.segments[i].first * size, self.segments[i].count * size)
            next_row += self.segments[i].count
            ft_assert(self.segments[i].first + self.segments[i].count <= self.rows_cap)
            ft_assert(next_row <= self.segments[i].first + self.segments[i].count)  # rows only move to the front
        self.segments[0].first = 0
        self.segments[0].count = next_row
        self.segments_len = 1
