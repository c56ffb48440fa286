"""The fixed pool of workers that parse a batch."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport NO_ENVELOPE, Chunk, Reject, RowHead, StreamSpec
from fasttail.streams.intern cimport InternTable

cdef enum:
    MAX_UNCODED_ROWS = 4096        # per worker and region; beyond it, all rows of the worker are scanned
    MAX_REJECTS_PER_WORKER = 1024  # per worker and region; when full, the worker pauses until they are collected

cdef enum BatchCode:         # how a batch ended
    BATCH_DONE = 0
    BATCH_NO_MEMORY          # out of memory
    BATCH_BROKEN             # an array bound was exceeded: a bug
    BATCH_CODES              # first value for other codes


@cython.final
cdef class WorkerPool:
    cdef readonly int workers
    cdef uint64_t recut_count            # batches that were cut again
    cdef uint64_t busy                   # debug builds: a region is running
    cdef Chunk* chunks                   # owned; chunks[0:workers]
    cdef Reject* rejects                 # owned; MAX_REJECTS_PER_WORKER per worker
    cdef uint64_t rejected               # rejected lines of the batch; `kept` has the first of them
    cdef Reject* kept                    # owned; kept[0:kept_len], in line order unless a worker had to pause
    cdef size_t kept_len
    cdef size_t kept_cap
    cdef size_t max_rejects              # maximum of kept_len
    cdef uint32_t* uncoded_rows          # owned; MAX_UNCODED_ROWS per worker
    cdef const StreamSpec* stream        # the table's
    cdef InternTable coins               # owned; grows between regions, or within one if there is one worker
    cdef RowTable table                  # receives the rows
    cdef const char* data
    cdef const char* begin
    cdef const char* limit
    cdef const char* readable
    cdef size_t first_row
    cdef size_t first_envelope
    cdef bint split_inside_lines
    cdef int stall_ms
    cdef int parse_batch(self, const char* data, const char* begin, const char* limit, const char* readable) noexcept nogil
    cdef uint64_t lines(self) noexcept nogil
    cdef void drop_rejects(self) noexcept nogil
    cdef void _start(self, const char* data, const char* begin, const char* limit, const char* readable) noexcept nogil
    cdef int _run(self) noexcept nogil
    cdef int _take_rejects(self) noexcept nogil
    cdef void _split(self, bint split_inside_lines) noexcept nogil
    cdef void _run_region(self) noexcept nogil
    cdef void _collect_results(self) noexcept nogil
    cdef void _run_chunk(self, int k) noexcept nogil


cdef bint openmp_usable() noexcept nogil
cdef int check_batch(int code) except -1


cdef inline const RowHead* chunk_row(const Chunk* c, size_t row_bytes, size_t i) noexcept nogil:
    return <const RowHead*>(c.rows + i * row_bytes)


cdef inline size_t skip_plain_rows(const Chunk* c, size_t row_bytes, size_t i) noexcept nogil:
    """Return the first row from `i` on whose line is not plain."""
    while i < c.rows_len and chunk_row(c, row_bytes, i).envelope == <uint32_t>NO_ENVELOPE:
        i += 1
    return i


cdef inline size_t skip_line_rows(const Chunk* c, size_t row_bytes, size_t i, size_t line) noexcept nogil:
    """Return the first row from `i` on that is not of the line with `c.envelopes[line]`, which may have none."""
    while i < c.rows_len and chunk_row(c, row_bytes, i).envelope == c.envelope_base + <uint32_t>line:
        i += 1
    return i
