"""The ring between the pipeline thread and the main thread: events in one direction, commands in the other."""
cimport cython

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fasttail.streams.types cimport StreamSpec
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
    RING_SLOTS = 16          # events on their way to the main thread; reading stops when all slots are in use


cdef enum EventKind:
    EVENT_BATCH_START = 1     # a logged batch has started
    EVENT_BATCH_END = 2       # a batch has ended; carries its messages
    EVENT_TOPICS_CHANGED = 3  # topics were added or removed, effective with the next batch
    EVENT_FILE_OPENED = 4     # another file is being read
    EVENT_STREAM_OPENED = 5   # the pipeline has begun to follow the stream


# Commands from the main thread to the pipeline form a list, newest first, that the pipeline takes as a whole.
cdef enum CommandKind:
    ADD_TOPIC
    REMOVE_TOPIC
    FOLLOW                   # begin to follow a stream,
    UNFOLLOW                 # … and stop
    SWAP_FLOW                # begin to count a stream's rows, or leave what was counted to the main thread,
    STOP_FLOW                # … and stop counting


cdef struct Command:
    uint8_t kind
    int source               # index of the stream's source
    void* topic              # borrowed; the main thread keeps it until the pipeline has answered. NULL: concerns no topic
    uint64_t number
    Command* older


cdef struct RingSlot:
    uint8_t kind
    int source               # index of the stream's source
    bint logged
    uint64_t number          # of the batch
    uint64_t file_number     # counts the files read so far
    uint64_t lines
    uint64_t bytes
    uint64_t orders          # rows parsed
    uint64_t selected        # rows that pass the server's own filter
    uint64_t published       # largest number of orders that one topic, or all `orderUpdates` together, received
    uint64_t failed          # chunks over a bound and outboxes out of memory
    uint64_t rejected
    uint64_t reject_offset   # offset of the first rejected line in its file
    uint8_t reject_reason
    const StreamSpec* stream
    uint8_t reject_field
    uint64_t started_ns
    uint64_t ended_ns
    int64_t event_ns         # the newest order's own time; 0: no order, or a chunk failed
    int64_t local_ns         # when the node wrote the newest line, by its own clock; 0: as above, or not in this layout
    uint64_t* worker_counts  # owned; lines and orders of each worker, two words each; used if `logged`
    Outbox* outboxes         # owned; one per worker
    uint64_t message_bytes   # bytes in the outboxes
    BatchLocation location   # of the batch; its `data` is no longer valid
    uint32_t hour            # YYYYMMDDHH; 0: not an hourly file
    uint64_t end             # offset after the batch, where reading continues,
    uint64_t height          # … up to where everything was read: block (0: unknown)
    uint64_t events          # … and number of its events;
    uint64_t last_height     # likewise where the last line ends, which may be of a block that is written again
    uint64_t last_events
    bint late                # lines of a previous hour: reading does not continue at `end`


@cython.final
cdef class Ring:
    cdef int workers
    cdef list streams                # names of the streams, by the index of their sources
    cdef readonly int ready_fd       # owned
    cdef int wake_fd                 # borrowed; the pipeline thread also waits for it
    cdef uint64_t main_thread, pipeline_thread  # debug builds: check who calls what
    cdef RingSlot* slots             # owned; slots[i % RING_SLOTS]; the pipeline writes while head <= i < tail + RING_SLOTS
    cdef uint64_t head               # next slot to fill; written by the pipeline only
    cdef uint64_t tail               # next slot to drain; written by the main thread only
    cdef uint64_t published_bytes    # bytes of messages; written by the pipeline only
    cdef uint64_t drained_bytes      # … of those that were drained; written by the main thread only
    cdef uint64_t wakeup_pending     # ready_fd has been signalled and not yet answered
    cdef int slots_to_trim           # number of slots to drain without keeping their memory; main thread
    cdef uint64_t file_number        # of the last file
    cdef list recent_files           # for each source, its last files by number: (path, device, inode), or None
    cdef Command* commands           # owned; pushed by the main thread, taken by the pipeline
    cdef uint64_t commands_sent      # commands sent so far; main thread
    cdef dict active_topics          # topic id -> topic that the pipeline uses; main thread
    cdef object pending_removals     # (command number, topic to release when it is answered), oldest first; main thread
    cdef bint is_full(self) noexcept nogil
    cdef RingSlot* claim(self) noexcept nogil
    cdef bint has_messages(self, const RingSlot* slot) noexcept nogil
    cdef void post(self) noexcept nogil
    cdef Command* take_commands(self) noexcept nogil
    cdef object set_file(self, int source, path, identity)
    cdef object push_command(self, CommandKind kind, int source, topic)
    cdef list drain(self, int max_events)
    cdef object _event(self, RingSlot* slot)
    cdef list _slot_messages(self, RingSlot* slot)
    cdef void trim(self) noexcept
    cdef tuple held_bytes(self)
