"""Makes the messages of topics from the node's files, for replays."""
cimport cython

from libc.stdint cimport uint64_t

from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.table cimport RowTable
from fasttail.engine.buffer cimport Outbox
from fasttail.engine.replayed_blocks cimport ReplayedBlocks
from fasttail.engine.stream_topics cimport StreamTopics
from fasttail.engine.topics cimport BatchLocation
from fasttail.sources.reader cimport Reader


@cython.final
cdef class ReplayReader:
    cdef str stream
    cdef readonly Reader reader
    cdef RowTable table
    cdef WorkerPool pool
    cdef StreamTopics topics
    cdef ReplayedBlocks blocks
    cdef dict topics_by_id           # owns the topics, which `router` only borrows
    cdef Outbox outbox               # owned; the messages of the last step,
    cdef size_t messages_taken       # … and how many of them have been taken
    cdef BatchLocation location
    cdef uint64_t limit              # of the current step
    cdef bint limit_is_line_end
    cdef size_t max_bytes
    cdef int step_result             # of the last step; a BatchCode or a StepResult
    cdef void run_step(self) noexcept nogil
    cdef int _read_step(self, uint64_t limit, bint limit_is_line_end, size_t max_bytes) noexcept nogil
    cdef int _encode_block(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil
