"""Where the rows of a batch lie: arrays mapped once, each worker's rows in a stretch of their own.

    data       |── share of worker 0 ──|── share of worker 1 ──|
    rows       |r r r r . . . . . . . .|r r r r r . . . . . . .|     room by the share's size: no counting pass before
    segments   (0, 4)                  (12, 5)                       what is really there
"""
from libc.stdint cimport uint64_t
from libc.string cimport memmove

from fasttail.parser.types cimport MIN_ENVELOPE, MIN_EVENT

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t n, int prot, int flags, int fd, long offset)
    int munmap(void* addr, size_t n)
    int madvise(void* addr, size_t n, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED
    void* MAP_FAILED

cdef enum:
    PAGE = 4096


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


cdef class Table:
    """Rows, envelopes and segments for up to `data_bytes` of data in `shares` shares.

    Lifetime: rows point into the data by offset, not by address; the table never owns the data.
    """

    def __cinit__(self, size_t data_bytes, size_t shares):
        # two more per share: a worker may start one row past its share before it notices, and an inner share has a
        # place for the envelope that another worker found
        self.rows_cap = data_bytes // MIN_EVENT + 2 * shares + 2
        self.envelopes_cap = data_bytes // MIN_ENVELOPE + 3 * shares + 2
        self.segments_cap = shares
        self.rows = <Row*>_map(self.rows_cap * sizeof(Row))
        self.envelopes = <Envelope*>_map(self.envelopes_cap * sizeof(Envelope))
        self.segments = <Segment*>_map((shares + 1) * sizeof(Segment))
        self.segments_len = 0
        self.rows_len = 0

    def __dealloc__(self):
        if self.rows != NULL:
            munmap(self.rows, self.rows_cap * sizeof(Row))
        if self.envelopes != NULL:
            munmap(self.envelopes, self.envelopes_cap * sizeof(Envelope))
        if self.segments != NULL:
            munmap(self.segments, (self.segments_cap + 1) * sizeof(Segment))

    cdef int clear(self) noexcept nogil:
        """Forget all rows; memory stays."""
        self.segments_len = 0
        self.rows_len = 0
        return 0

    cdef int trim(self, size_t keep_bytes) noexcept nogil:
        """Give back what only an oversize line needed: keep room for `keep_bytes` of data resident."""
        _give_back(<char*>self.rows, self.rows_cap * sizeof(Row), (keep_bytes // MIN_EVENT + 2) * sizeof(Row))
        _give_back(<char*>self.envelopes, self.envelopes_cap * sizeof(Envelope),
                   (keep_bytes // MIN_ENVELOPE + 3) * sizeof(Envelope))
        return 0

    cdef int compact(self) noexcept nogil:
        """Move all rows to the front, into one segment, so that a column is one strided array."""
        cdef size_t i, to = 0
        for i in range(self.segments_len):
            if self.segments[i].first != to and self.segments[i].count:
                memmove(&self.rows[to], &self.rows[self.segments[i].first], self.segments[i].count * sizeof(Row))
            to += self.segments[i].count
        self.segments[0].first = 0
        self.segments[0].count = to
        self.segments_len = 1
        return 0
