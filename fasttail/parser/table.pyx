"""Where the rows of a batch lie: arrays mapped once, each worker's rows in a stretch of their own.

    data       |── share of worker 0 ──|── share of worker 1 ──|
    rows       |r r r r . . . . . . . .|r r r r r . . . . . . .|     room by the share's size: no counting pass before
    segments   (0, 4)                  (12, 5)                       what is really there
"""
from libc.stdint cimport uint64_t
from libc.string cimport memmove

from fasttail.checks cimport ft_assert
from fasttail.parser.types cimport Envelope, Stream

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t n, int prot, int flags, int fd, long offset)
    int munmap(void* addr, size_t n)
    int madvise(void* addr, size_t n, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED, MADV_HUGEPAGE
    void* MAP_FAILED

cdef enum:
    PAGE = 65536                 # a multiple of every page size in use: ARM64 has 4, 16 and 64 KiB
    SPARE_BYTES = 64 << 20       # resident memory that the spare table may keep
    HUGE_FROM = 16 << 20         # bytes: from here on large pages save more time than they waste memory


# The table that was given back last: what it has mapped need not be mapped and cleared again. Under the GIL.
cdef Table _spare = None


cdef Table table_take(const Stream* stream, size_t data_bytes, size_t shares):
    """An empty table for so much data: the spare one if it is large enough. Raises MemoryError."""
    global _spare
    cdef Table table = _spare
    if table is None or not table.fits(stream, data_bytes, shares):
        table = table_new(stream, data_bytes, shares)
        if table.rows_cap * stream.row_size >= HUGE_FROM:
            madvise(table.rows, table.rows_cap * stream.row_size, MADV_HUGEPAGE)
            madvise(table.envelopes, table.envelopes_cap * sizeof(Envelope), MADV_HUGEPAGE)
    else:
        _spare = None
        table.clear()
    return table


cdef int table_give(Table table) except -1:
    """Keep a table that nobody needs any more as the spare one, or drop it."""
    global _spare
    if _spare is None or _spare.rows_cap < table.rows_cap:
        _keep_rows(table, SPARE_BYTES // 4 * 3)
        _give_back(<char*>table.envelopes, table.envelopes_cap * sizeof(Envelope), SPARE_BYTES // 4)
        _spare = table
    return 0


cdef void* _map(size_t n) except NULL:
    cdef void* p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        raise MemoryError(f"cannot reserve {n} bytes of address space")
    return p


cdef int _give_back(char* base, size_t n, size_t keep) noexcept nogil:
    """Return the pages of base[keep:n] to the system; they read as zeros afterwards."""
    keep = (keep + PAGE - 1) // PAGE * PAGE
    if keep < n:
        madvise(base + keep, n - keep, MADV_DONTNEED)
    return 0


cdef int _keep_rows(Table table, size_t most) noexcept nogil:
    """Keep `most` bytes of rows resident: those at the start of each segment, where the next ones will be written as well. Always 0."""
    cdef size_t k, begin, end, kept, left = table.segments_len, size = table.stream.row_size
    for k in range(table.segments_len):
        begin = table.segments[k].first * size
        end = table.rows_cap * size if left == 1 else table.segments[k + 1].first * size
        kept = min(table.segments[k].count * size, most // left)    # the first ones are short, and leave more to the others
        _give_back(table.rows, end, begin + kept)
        most -= kept
        left -= 1
    return 0


cdef inline size_t _rows_cap(const Stream* stream, size_t data_bytes, size_t shares) noexcept nogil:
    # two more per share: a worker may start one row past its share before it notices
    return data_bytes // stream.min_event + 2 * shares + 2


cdef inline size_t _envelopes_cap(const Stream* stream, size_t data_bytes, size_t shares) noexcept nogil:
    # an inner share has a place for the envelope that another worker found
    return data_bytes // stream.min_envelope + 3 * shares + 2


cdef Table table_new(const Stream* stream, size_t data_bytes, size_t shares):
    """A table for the rows of up to `data_bytes` of data in `shares` shares. Raises MemoryError."""
    cdef Table table = Table.__new__(Table)
    table.stream = stream
    table.rows_cap = _rows_cap(stream, data_bytes, shares)
    table.envelopes_cap = _envelopes_cap(stream, data_bytes, shares)
    table.segments_cap = shares
    table.rows = <char*>_map(table.rows_cap * stream.row_size)
    table.envelopes = <Envelope*>_map(table.envelopes_cap * sizeof(Envelope))
    table.segments = <Segment*>_map((shares + 1) * sizeof(Segment))
    return table


cdef class Table:
    """Rows, envelopes and segments. Made by `table_new` or `table_take` only.

    Lifetime: rows point into the data by offset, not by address; the table never owns the data.
    """

    def __init__(self):
        raise TypeError("a Table is made by compiled code")

    def __dealloc__(self):
        if self.rows != NULL:
            munmap(self.rows, self.rows_cap * self.stream.row_size)
        if self.envelopes != NULL:
            munmap(self.envelopes, self.envelopes_cap * sizeof(Envelope))
        if self.segments != NULL:
            munmap(self.segments, (self.segments_cap + 1) * sizeof(Segment))

    cdef bint fits(self, const Stream* stream, size_t data_bytes, size_t shares) noexcept nogil:
        """Whether it is large enough for so much data of that stream."""
        return (self.stream == stream and self.rows_cap >= _rows_cap(stream, data_bytes, shares)
                and self.envelopes_cap >= _envelopes_cap(stream, data_bytes, shares) and self.segments_cap >= shares)

    cdef int clear(self) noexcept nogil:
        """Forget all rows; memory stays."""
        self.segments_len = 0
        self.rows_len = 0
        return 0

    cdef int trim(self, size_t keep_bytes) noexcept nogil:
        """Give back what only an oversize line needed: keep room for `keep_bytes` of data resident."""
        _give_back(self.rows, self.rows_cap * self.stream.row_size,
                   (keep_bytes // self.stream.min_event + 2) * self.stream.row_size)
        _give_back(<char*>self.envelopes, self.envelopes_cap * sizeof(Envelope),
                   (keep_bytes // self.stream.min_envelope + 3) * sizeof(Envelope))
        return 0

    cdef int compact(self) noexcept nogil:
        """Move all rows to the front, into one segment, so that a column is one strided array."""
        cdef size_t i, to = 0, size = self.stream.row_size
        for i in range(self.segments_len):
            if self.segments[i].first != to and self.segments[i].count:
                memmove(self.rows + to * size, self.rows + self.segments[i].first * size, self.segments[i].count * size)
            to += self.segments[i].count
            ft_assert(self.segments[i].first + self.segments[i].count <= self.rows_cap)
            ft_assert(to <= self.segments[i].first + self.segments[i].count)     # rows move to the front only
        self.segments[0].first = 0
        self.segments[0].count = to
        self.segments_len = 1
        return 0
