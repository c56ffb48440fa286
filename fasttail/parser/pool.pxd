"""The fixed pool of workers."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.parser.table cimport Table
from fasttail.parser.types cimport Chunk, Reject, Stream
from fasttail.parser.words cimport Words

cdef enum:
    UNCODED = 4096           # per worker and region; when there are more, all its rows are looked at for them
    REJECTS = 1024           # per worker and region; when full, the worker pauses until they are taken

cdef enum BatchCode:         # how a batch ended
    BATCH_DONE = 0
    BATCH_NO_MEMORY          # memory ran out
    BATCH_BROKEN             # an array's bound did not hold: a bug
    BATCH_CODES              # others may count on from here


@cython.final
cdef class Pool:
    cdef readonly int workers
    cdef uint64_t irregular_batches      # that had to be cut again
    cdef uint64_t busy                   # of debug builds: a region runs
    cdef Chunk* chunks                   # owned; chunks[0:workers]
    cdef Reject* rejects                 # owned; REJECTS per worker
    cdef uint64_t rejected               # lines of the batch that were rejected: the first of them are
    cdef Reject* kept                    # owned; kept[0:kept_len], in the order of the lines as far as no worker had to pause
    cdef size_t kept_len
    cdef size_t kept_cap
    cdef size_t max_rejects              # so many are kept at most
    cdef uint32_t* uncoded               # owned; UNCODED per worker
    cdef const Stream* stream            # the table's
    cdef Words coins                     # owned; grows between regions, or where a worker is alone
    cdef Table table                     # where rows go
    cdef const char* data
    cdef const char* begin
    cdef const char* limit
    cdef const char* readable
    cdef size_t first_row
    cdef size_t first_envelope
    cdef bint within_lines
    cdef int stall_ms
    cdef int parse_batch(self, const char* data, const char* begin, const char* limit, const char* readable) noexcept nogil
    cdef uint64_t lines(self) noexcept nogil
    cdef void drop_rejects(self) noexcept nogil
    cdef void _start(self, const char* data, const char* begin, const char* limit, const char* readable) noexcept nogil
    cdef int _run(self) noexcept nogil
    cdef int _take_rejects(self) noexcept nogil
    cdef void _share_out(self, bint within_lines) noexcept nogil
    cdef void _region(self) noexcept nogil
    cdef void _finish(self) noexcept nogil
    cdef void _share(self, int k) noexcept nogil


cdef bint has_team() noexcept nogil
cdef int check_batch(int code) except -1
