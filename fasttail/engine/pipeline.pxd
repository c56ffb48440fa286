"""The pipeline thread: reads blocks of all streams, parses them and publishes their messages."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.filters cimport Selector
from fasttail.engine.ring cimport EventKind, Ring, RingSlot
from fasttail.engine.source cimport StreamSource
from fasttail.sources.watcher cimport Watcher

cdef enum:
    MAX_SOURCES = 8


@cython.final
cdef class Pipeline:
    cdef readonly list sources       # StreamSources; the first one is always followed
    cdef void* sources_by_index[MAX_SOURCES]  # the same, for code without the GIL
    cdef int sources_len
    cdef int legacy_source           # index of the order statuses, which the old channels and the batch log are about; -1: none
    cdef void* last_source           # whose batch was the last one
    cdef Watcher watcher
    cdef int workers_count
    cdef Selector selector, next_selector
    cdef object start_barrier
    cdef object thread
    cdef object error
    cdef int wake_fd
    cdef uint32_t* selection         # owned; rows that the selector passes
    cdef uint64_t stopping, selector_pending
    cdef Ring ring
    cdef uint64_t log_every_ns       # minimum time between logged batches; 0: log every batch
    cdef uint64_t logged_ns
    cdef uint64_t min_batch_ns
    cdef uint64_t stall_ms
    cdef uint64_t loop_ns            # when the loop last began a round
    cdef int _source_of(self, str stream) except -1
    cdef object _apply_follow(self, StreamSource source)
    cdef bint _check_source(self, StreamSource source) except -1
    cdef bint _set_file(self, StreamSource source, path, identity) except -1
    cdef object _run_final_line(self, StreamSource source, bytes line, uint64_t offset)
    cdef int _loop(self) noexcept nogil
    cdef void _read_all(self) noexcept nogil
    cdef void _fill_sources(self, uint64_t now) noexcept nogil
    cdef bint _must_check(self) noexcept nogil
    cdef bint _must_read(self) noexcept nogil
    cdef void* _next_source(self) noexcept nogil
    cdef bint _all_behind(self) noexcept nogil
    cdef bint _precedes(self, void* source, void* other, bint behind) noexcept nogil
    cdef size_t _run_source(self, void* source) noexcept nogil
    cdef void _wait(self, uint64_t now, uint64_t batch_began) noexcept nogil
    cdef void _read_lines(self, StreamSource source, size_t size) noexcept nogil
    cdef bint _run_commands(self) noexcept nogil
    cdef void _post_position(self, StreamSource source, EventKind kind, uint64_t number, uint64_t end) noexcept nogil
    cdef RingSlot* _claim_slot(self, StreamSource source, EventKind kind, uint64_t number) noexcept nogil
    cdef void _run_batch(self, StreamSource source, const char* begin, const char* limit, const char* readable,
                         uint64_t offset) noexcept nogil
    cdef bint _is_worth_posting(self, StreamSource source, const RingSlot* slot) noexcept nogil
    cdef void _publish(self, StreamSource source, RingSlot* slot, const char* begin, uint64_t offset) noexcept nogil
