"""One stream that the pipeline follows: its files, its rows, its topics and its counters."""
cimport cython

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fasttail.engine.flow cimport Flow
from fasttail.engine.histogram cimport Histogram
from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.replayed_blocks cimport ReplayedBlocks
from fasttail.engine.ring cimport RingSlot
from fasttail.engine.stream_topics cimport StreamTopics
from fasttail.engine.table cimport RowTable
from fasttail.engine.topics cimport BatchLocation
from fasttail.sources.reader cimport Reader
from fasttail.sources.watcher cimport StreamWatch, Watcher


cdef struct Counters:
    uint64_t batches, lines, orders, selected, rejected, bytes, failed_chunks, late_lines, nul_bytes
    uint64_t last_data_ns, in_batch_ns, batch_number
    uint64_t topics_ns       # from rows to messages
    uint64_t height
    uint64_t last_event_ns   # the newest event's own time,
    uint64_t last_local_ns   # … when the node wrote its line (0: not in this layout),
    uint64_t last_event_seen_ns  # … and when it was published


@cython.final
cdef class StreamSource:
    cdef readonly str stream
    cdef int index                   # in the pipeline's sources
    cdef Reader reader
    cdef RowTable table
    cdef WorkerPool pool
    cdef StreamTopics topics
    cdef ReplayedBlocks blocks
    cdef readonly Flow flow          # of its rows, or of those of its stage
    cdef bint primed                 # the lines before the first one are known to `blocks` and the stage
    cdef StreamWatch watch           # None while it is not followed
    cdef readonly object follower    # None until it is followed for the first time
    cdef object make_follower
    cdef object path
    cdef object identity             # (device, inode) of the file at `path`, or None
    cdef BatchLocation location      # of the running batch
    cdef uint64_t file_number        # the ring's number of the file
    cdef uint32_t hour
    cdef bint late
    cdef bint followed               # written by the pipeline thread
    cdef bint follow_wanted          # what the last command asked for
    cdef uint64_t unanswered         # number of the last command that was taken and not answered yet; 0: none
    cdef uint64_t truncations        # truncations reported to the main thread
    # the loop's state
    cdef bint may_have_data          # read again: something was written, or the last read did not reach the end
    cdef bint needs_check            # the follower must be asked before more is read,
    cdef bint at_end                 # … and the last read found nothing
    cdef bint check_at_end           # ask it as soon as nothing more can be read
    cdef uint64_t check_ns           # ask it then
    cdef uint64_t bytes_before_check
    cdef uint64_t posted_ns          # when the main thread last learnt of a batch
    cdef uint64_t unposted_end       # end of the last batch that it did not learn of; 0: it has learnt of all
    cdef const char* running_begin   # the running batch in the reader's memory; NULL: no batch, or a final line held elsewhere
    cdef const char* running_limit
    cdef Counters counters
    cdef readonly Histogram batch_times  # durations of batches; only the pipeline thread adds

    cdef uint64_t height(self) noexcept nogil
    cdef size_t pending_bytes(self) noexcept nogil
    cdef uint64_t next_block(self) noexcept nogil
    cdef size_t bytes_up_to_block(self, uint64_t block) noexcept nogil
    cdef void fill(self, uint64_t now) noexcept nogil
    cdef void note_events(self) noexcept nogil
    cdef void count_flow(self, const char* data) noexcept nogil
    cdef void begin_batch(self, uint64_t now) noexcept nogil
    cdef void record_batch(self, RingSlot* slot, uint64_t offset) noexcept nogil
    cdef void _record_newest_times(self, RingSlot* slot) noexcept nogil
    cdef void _count(self, const RingSlot* slot) noexcept nogil
    cdef object open(self, Watcher watcher)
    cdef object close(self)
    cdef object check(self)
    cdef int prime(self) except -1
    cdef bint set_file(self, path, identity) except -1
    cdef object set_resume_point(self)
    cdef object _set_file_prefix(self, path)
