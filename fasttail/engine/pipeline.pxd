"""The pipeline thread: reads blocks, parses them and publishes their messages."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.histogram cimport Histogram
from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.table cimport RowTable
from fasttail.engine.filters cimport Selector
from fasttail.engine.router cimport Router
from fasttail.engine.topics cimport BatchLocation
from fasttail.engine.ring cimport EventKind, Ring, RingSlot
from fasttail.sources.reader cimport Reader
from fasttail.sources.watcher cimport Watcher


cdef struct Counters:
    uint64_t batches, lines, orders, selected, rejected, bytes, failed_chunks, late_lines, nul_bytes, height_regressions
    uint64_t last_data_ns, loop_ns, in_batch_ns, batch_number
    uint64_t topics_ns       # from rows to messages
    uint64_t height
    uint64_t last_block      # of the last line that had one; lines of previous hours excluded
    uint64_t last_event_ns   # the newest event's own time,
    uint64_t last_local_ns   # … when the node wrote its line (0: not in this layout),
    uint64_t last_event_seen_ns  # … and when it was published


@cython.final
cdef class Pipeline:
    cdef Reader reader
    cdef Watcher watcher
    cdef RowTable table
    cdef WorkerPool pool
    cdef Selector selector, next_selector
    cdef object follower
    cdef object start_barrier
    cdef object thread
    cdef object error
    cdef object path
    cdef object identity             # (device, inode) of the file at `path`, or None
    cdef const char* running_begin   # the running batch in the reader's memory; NULL: no batch, or a final line held elsewhere
    cdef const char* running_limit
    cdef int wake_fd
    cdef uint64_t truncations        # truncations reported to the main thread
    cdef uint32_t* selection         # owned; rows that the selector passes
    cdef uint64_t stopping, selector_pending
    cdef Router router
    cdef Ring ring
    cdef BatchLocation location      # of the running batch
    cdef uint32_t hour
    cdef uint64_t log_every_ns       # minimum time between logged batches; 0: log every batch
    cdef uint64_t logged_ns
    cdef uint64_t min_batch_ns
    cdef uint64_t stall_ms
    cdef bint late
    cdef Counters counters
    cdef readonly Histogram batch_times  # durations of batches; only the pipeline thread adds
    cdef object _check_follower(self, bint at_end)
    cdef int _loop(self, uint64_t check_ns, bint check_at_end) noexcept nogil
    cdef void _read_lines(self) noexcept nogil
    cdef void _run_commands(self) noexcept nogil
    cdef void _post_file_opened(self) noexcept nogil
    cdef RingSlot* _claim_slot(self, EventKind kind, uint64_t number) noexcept nogil
    cdef void _run_batch(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil
    cdef void _publish(self, RingSlot* slot, const char* begin, uint64_t offset) noexcept nogil
    cdef void _record_batch_counts(self, RingSlot* slot, uint64_t offset) noexcept nogil
    cdef void _record_newest_times(self, RingSlot* slot) noexcept nogil
    cdef void _count(self, const RingSlot* slot) noexcept nogil
    cdef void _count_height_regressions(self) noexcept nogil
    cdef object _run_final_line(self, bytes line, uint64_t offset)
    cdef bint _set_file(self, path, identity) except -1
    cdef object _set_resume_point(self)
    cdef object _set_cursor_prefix(self, path)
