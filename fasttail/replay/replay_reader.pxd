"""The messages of topics once more, from the node's files."""
cimport cython

from libc.stdint cimport uint64_t

from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.table cimport RowTable
from fasttail.engine.buffer cimport Outbox
from fasttail.engine.router cimport Router
from fasttail.engine.topics cimport BatchLocation
from fasttail.sources.reader cimport Reader


@cython.final
cdef class ReplayReader:
    cdef readonly Reader reader
    cdef RowTable table
    cdef WorkerPool pool
    cdef Router router
    cdef dict topics_by_id           # the topics: `topics` only borrows them
    cdef Outbox outbox               # owned; what the last step has made, …
    cdef size_t messages_taken       # … and how many messages of it have been taken
    cdef BatchLocation location
    cdef uint64_t limit              # of the present step
    cdef bint limit_is_line_end
    cdef size_t max_bytes
    cdef int step_result             # how the last step ended
    cdef void run_step(self) noexcept nogil
    cdef int _read_step(self, uint64_t limit, bint limit_is_line_end, size_t max_bytes) noexcept nogil
    cdef int _encode_block(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil
