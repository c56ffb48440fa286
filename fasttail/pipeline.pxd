"""The pipeline thread and its ring."""
cimport cython

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fasttail.parser.pool cimport Pool
from fasttail.parser.table cimport Table
from fasttail.publish.filters cimport Selector
from fasttail.publish.frames cimport Out, Pieces
from fasttail.tail.blocks cimport Reader
from fasttail.tail.inotify cimport Watcher

cdef enum:
    SLOTS = 16               # notes on their way to the main thread; when all are taken, reading stops


cdef enum Note:
    NOTE_START = 1           # a batch that is to be logged has begun
    NOTE_END = 2             # a batch has ended: its frames


cdef struct Slot:
    uint8_t note
    bint logged
    uint64_t number          # of the batch
    uint64_t file            # which of the files read so far
    uint64_t lines
    uint64_t bytes
    uint64_t orders          # rows parsed
    uint64_t selected        # rows that pass the filter
    uint64_t published       # rows in frames or pieces
    uint64_t failed          # chunks
    uint64_t rejected
    uint64_t reject_at       # of the first rejected line: its offset in the file,
    uint8_t reject_reason
    uint8_t reject_field
    uint64_t started_ns
    uint64_t ended_ns
    uint64_t* shares         # owned; lines and orders of each worker, two words each; filled if `logged`
    Out frames
    Pieces pieces


cdef struct Counters:
    uint64_t batches, lines, orders, selected, rejected, bytes, failed_chunks, late_lines, oversize_orders, nul_bytes
    uint64_t last_data_ns, loop_ns, in_batch_ns, batch_number
    uint64_t height
    int64_t last_event_ns


@cython.final
cdef class Pipeline:
    cdef Reader reader
    cdef Watcher watcher
    cdef Table table
    cdef Pool pool
    cdef Selector selector
    cdef object follower
    cdef object thread
    cdef object error
    cdef object path
    cdef dict paths                  # the last files by number
    cdef uint64_t file
    cdef const char* running_begin   # the running batch's lines in the reader's memory; NULL: none, or not there
    cdef const char* running_limit
    cdef uint64_t posted_bytes       # of frames and pieces: written by the pipeline only
    cdef uint64_t taken_bytes        # … that the main thread has taken: written by it only
    cdef readonly int ready_fd
    cdef int wake_fd
    cdef uint32_t* selection         # owned
    cdef Slot* slots                 # owned; slots[i % SLOTS]; written by the pipeline while head <= i < tail + SLOTS
    cdef uint64_t head               # next slot the pipeline fills: written by the pipeline only
    cdef uint64_t tail               # next slot the main thread takes: written by the main thread only
    cdef uint64_t signalled          # ready_fd was written and not yet answered
    cdef uint64_t stopping
    cdef uint64_t want_frames        # somebody listens on orderUpdate / orderBatch: written by the main thread
    cdef uint64_t want_pieces
    cdef uint64_t log_every_ns       # a group of log lines at most so often; 0: every batch
    cdef uint64_t logged_ns
    cdef uint64_t min_batch_ns
    cdef uint64_t stall_ms
    cdef size_t max_message
    cdef bint late
    cdef Counters counters
    cdef int _loop(self, uint64_t check_ns, bint check_at_end) noexcept nogil
    cdef int _batch(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil
    cdef Slot* _claim(self) noexcept nogil
    cdef int _post(self) noexcept nogil
    cdef object _final_line(self, bytes line, uint64_t offset)
    cdef object _in_file(self, path)
