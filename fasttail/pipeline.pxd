"""The pipeline thread and its ring."""
cimport cython

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fasttail.histogram cimport Histogram
from fasttail.parser.pool cimport Pool
from fasttail.parser.table cimport Table
from fasttail.publish.buffer cimport Box
from fasttail.publish.filters cimport Selector
from fasttail.publish.router cimport Topics
from fasttail.publish.topics cimport Place
from fasttail.tail.blocks cimport Reader
from fasttail.tail.inotify cimport Watcher

cdef enum:
    SLOTS = 16               # notes on their way to the main thread; when all are taken, reading stops


cdef enum Note:
    NOTE_START = 1           # a batch that is to be logged has begun
    NOTE_END = 2             # a batch has ended: its messages
    NOTE_TOPICS = 3          # topics were added or removed: from the next batch on
    NOTE_FILE = 4            # reading goes on in another file


# Something the main thread wants of the pipeline; a list, newest first, that the pipeline takes as a whole.
cdef enum Wish:
    ADD_TOPIC
    REMOVE_TOPIC


cdef struct Command:
    uint8_t wish
    void* topic              # borrowed; the main thread keeps it until the pipeline has answered
    uint64_t number
    Command* before


cdef struct Slot:
    uint8_t note
    bint logged
    uint64_t number          # of the batch
    uint64_t file            # which of the files read so far
    uint64_t lines
    uint64_t bytes
    uint64_t orders          # rows parsed
    uint64_t selected        # rows that pass the server's own filter
    uint64_t published       # rows in messages of the old channels
    uint64_t failed          # chunks
    uint64_t rejected
    uint64_t reject_at       # of the first rejected line: its offset in the file,
    uint8_t reject_reason
    uint8_t reject_field
    uint64_t started_ns
    uint64_t ended_ns
    int64_t event_ns         # the newest order's own time; 0: no order, or a chunk failed
    int64_t local_ns         # when the node wrote the newest line, by its own clock; 0: likewise, or the layout does not tell
    uint64_t* shares         # owned; lines and orders of each worker, two words each; filled if `logged`
    Box* boxes               # owned; a worker's messages each
    uint64_t posted          # bytes in them
    Place place              # of the batch; its data are gone
    uint32_t hour            # YYYYMMDDHH, 0: of no hour's file
    uint64_t end             # where the file is read on after it
    bint late                # lines of a former hour: `end` is not where reading goes on


cdef struct Counters:
    uint64_t batches, lines, orders, selected, rejected, bytes, failed_chunks, late_lines, nul_bytes, replays
    uint64_t last_data_ns, loop_ns, in_batch_ns, batch_number
    uint64_t topics_ns       # from rows to messages
    uint64_t height
    uint64_t block           # of the last line that told one, former hours' lines left out
    uint64_t last_event_ns   # the newest event's own time,
    uint64_t last_local_ns   # … when the node wrote its line (0: the layout does not tell),
    uint64_t last_event_seen_ns  # … and when it was published


@cython.final
cdef class Pipeline:
    cdef int workers_count           # as in `pool`; for __dealloc__, which must not read objects
    cdef uint64_t main_thread, own_thread    # of debug builds: who may call what
    cdef Reader reader
    cdef Watcher watcher
    cdef Table table
    cdef Pool pool
    cdef Selector selector, replacement
    cdef object follower
    cdef object gate
    cdef object thread
    cdef object error
    cdef object path
    cdef object identity             # (device, inode) of the file at `path`, or None
    cdef dict paths                  # the last files by number: (path, device, inode), or None
    cdef uint64_t file
    cdef const char* running_begin   # the running batch's lines in the reader's memory; NULL: none, or not there
    cdef const char* running_limit
    cdef uint64_t posted_bytes       # of messages: written by the pipeline only
    cdef uint64_t taken_bytes        # … that the main thread has taken: written by it only
    cdef readonly int ready_fd
    cdef int wake_fd
    cdef uint32_t* selection         # owned
    cdef Slot* slots                 # owned; slots[i % SLOTS]; written by the pipeline while head <= i < tail + SLOTS
    cdef uint64_t head               # next slot the pipeline fills: written by the pipeline only
    cdef uint64_t tail               # next slot the main thread takes: written by the main thread only
    cdef uint64_t signalled          # ready_fd was written and not yet answered
    cdef uint64_t stopping, replaced
    cdef int trims                   # of the next so many slots that are drained nothing is kept: the main thread's
    cdef Topics topics
    cdef Command* commands           # owned; not yet taken: pushed by the main thread, taken by the pipeline
    cdef uint64_t commands_count     # ever given: the main thread's
    cdef dict kept                   # the main thread's: topic id -> topic that the pipeline has
    cdef object leaving              # … (number of a command, topic that the pipeline lets go with it), oldest first
    cdef Place place                 # of the running batch
    cdef uint32_t hour
    cdef uint64_t log_every_ns       # a group of log lines at most so often; 0: every batch
    cdef uint64_t logged_ns
    cdef uint64_t min_batch_ns
    cdef uint64_t stall_ms
    cdef bint late
    cdef Counters counters
    cdef readonly Histogram batch_times  # how long each batch took: the pipeline's thread adds
    cdef int _loop(self, uint64_t check_ns, bint check_at_end) noexcept nogil
    cdef int _batch(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil
    cdef int _take_commands(self) noexcept nogil
    cdef int _count_replays(self) noexcept nogil
    cdef int _tell_file(self) noexcept nogil
    cdef Slot* _claim(self) noexcept nogil
    cdef int _post(self) noexcept nogil
    cdef object _final_line(self, bytes line, uint64_t offset)
    cdef bint _in_file(self, path, identity) except -1
    cdef object _stand(self)
    cdef object _put_prefix(self, path)
    cdef object _command(self, Wish wish, topic)
    cdef list _messages(self, Slot* slot)
