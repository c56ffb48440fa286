"""Between the pipeline's thread and the main thread: batches one way, commands the other."""
cimport cython

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fasttail.engine.buffer cimport Outbox
from fasttail.engine.topics cimport BatchLocation

cdef extern from *:
    """
    #include <stdint.h>
    #include <unistd.h>
    static inline void ft_eventfd_signal(int fd) { uint64_t one = 1; ssize_t n = write(fd, &one, 8); (void)n; }
    static inline void ft_eventfd_clear(int fd) { uint64_t count; ssize_t n = read(fd, &count, 8); (void)n; }
    """
    void ft_eventfd_signal(int fd) noexcept nogil
    void ft_eventfd_clear(int fd) noexcept nogil

cdef enum:
    RING_SLOTS = 16          # notes on their way to the main thread; when all are taken, reading stops


cdef enum EventKind:
    EVENT_BATCH_START = 1     # a batch that is to be logged has begun
    EVENT_BATCH_END = 2       # a batch has ended: its messages
    EVENT_TOPICS_CHANGED = 3  # topics were added or removed: from the next batch on
    EVENT_FILE_OPENED = 4     # reading goes on in another file


# Something the main thread wants of the pipeline; a list, newest first, that the pipeline takes as a whole.
cdef enum CommandKind:
    ADD_TOPIC
    REMOVE_TOPIC


cdef struct Command:
    uint8_t kind
    void* topic              # borrowed; the main thread keeps it until the pipeline has answered
    uint64_t number
    Command* older


cdef struct RingSlot:
    uint8_t kind
    bint logged
    uint64_t number          # of the batch
    uint64_t file_number     # which of the files read so far
    uint64_t lines
    uint64_t bytes
    uint64_t orders          # rows parsed
    uint64_t selected        # rows that pass the server's own filter
    uint64_t published       # rows in messages of the old channels
    uint64_t failed          # chunks
    uint64_t rejected
    uint64_t reject_offset   # of the first rejected line: its offset in the file,
    uint8_t reject_reason
    uint8_t reject_field
    uint64_t started_ns
    uint64_t ended_ns
    int64_t event_ns         # the newest order's own time; 0: no order, or a chunk failed
    int64_t local_ns         # when the node wrote the newest line, by its own clock; 0: likewise, or the layout does not tell
    uint64_t* worker_counts  # owned; lines and orders of each worker, two words each; filled if `logged`
    Outbox* outboxes         # owned; a worker's messages each
    uint64_t message_bytes   # bytes in them
    BatchLocation location   # of the batch; its data are gone
    uint32_t hour            # YYYYMMDDHH, 0: of no hour's file
    uint64_t end             # where the file is read on after it
    bint late                # lines of a former hour: `end` is not where reading goes on


@cython.final
cdef class Ring:
    cdef int workers
    cdef readonly int ready_fd       # owned
    cdef int wake_fd                 # the pipeline's thread waits for it, too
    cdef uint64_t main_thread, pipeline_thread  # of debug builds: who may call what
    cdef RingSlot* slots             # owned; slots[i % RING_SLOTS]; written by the pipeline while head <= i < tail + RING_SLOTS
    cdef uint64_t head               # next slot the pipeline fills: written by the pipeline only
    cdef uint64_t tail               # next slot the main thread takes: written by the main thread only
    cdef uint64_t published_bytes    # of messages: written by the pipeline only
    cdef uint64_t drained_bytes      # … that the main thread has taken: written by it only
    cdef uint64_t wakeup_pending     # ready_fd was written and not yet answered
    cdef int slots_to_trim           # of the next so many slots that are drained nothing is kept: the main thread's
    cdef uint64_t file_number        # of the lines that come now
    cdef dict recent_files           # the last files by number: (path, device, inode), or None
    cdef Command* commands           # owned; not yet taken: pushed by the main thread, taken by the pipeline
    cdef uint64_t commands_sent      # ever given: the main thread's
    cdef dict active_topics          # the main thread's: topic id -> topic that the pipeline has
    cdef object pending_removals     # … (number of a command, topic that the pipeline lets go with it), oldest first
    cdef bint is_full(self) noexcept nogil
    cdef RingSlot* claim(self) noexcept nogil
    cdef void post(self) noexcept nogil
    cdef Command* take_commands(self) noexcept nogil
    cdef object set_file(self, path, identity)
    cdef object push_command(self, CommandKind kind, topic)
    cdef list drain(self, int max_events)
    cdef object _event(self, RingSlot* slot)
    cdef list _slot_messages(self, RingSlot* slot)
    cdef void trim(self) noexcept
    cdef tuple held_bytes(self)
