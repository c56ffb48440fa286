"""The fixed pool of workers."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.parser.table cimport Table
from fasttail.parser.types cimport Chunk, Reject, Stream
from fasttail.parser.words cimport Words

cdef enum:
    UNCODED = 4096           # per worker and region; when there are more, all its rows are looked at for them
    REJECTS = 1024           # per worker and region; when full, the worker pauses until they are taken


@cython.final
cdef class Pool:
    cdef readonly int workers
    cdef uint64_t irregular_batches      # that had to be cut again
    cdef uint64_t busy                   # of debug builds: a region runs
    cdef Chunk* chunks                   # owned; chunks[0:workers]
    cdef Reject* rejects                 # owned; REJECTS per worker
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
    cdef int start(self, const char* data, const char* begin, const char* limit, const char* readable) noexcept nogil
    cdef int run(self) noexcept nogil
    cdef uint64_t lines(self) noexcept nogil
    cdef int _share_out(self, bint within_lines) noexcept nogil
    cdef int _region(self) noexcept nogil
    cdef int _finish(self) noexcept nogil
    cdef int _share(self, int k) noexcept nogil


cdef bint has_team() noexcept nogil
