"""One topic: from the rows that it wants to its messages."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport Row
from fasttail.engine.buffer cimport Outbox, OutboxEntry
from fasttail.engine.filters cimport FilterKey, Selector

cdef extern from "<stdint.h>" nogil:
    const size_t NO_QUOTA "SIZE_MAX"


cdef enum TopicKind:
    ORDERS                   # what a filter selects
    USER_ORDERS              # what one user's orders are; found by the user, not by asking each topic
    LEGACY_UPDATES           # the old service's two channels
    LEGACY_BATCHES


cdef enum Format:
    FULL                     # the flat object of `fasttail parse --format json`
    WS                       # an element of the public API's `orderUpdates`
    RAW                      # the node's plain event


cdef struct MessageBuilder:  # a message that is being written
    OutboxEntry entry        # .orders 0: not begun
    size_t total_orders      # orders of all messages so far
    const Row* last_row      # the row of its last order
    size_t max_end           # size of the box beyond which the message may not grow,
    size_t quota_end         # … and beyond which none of the topic's may


cdef struct BatchLocation:   # where the bytes of a batch stand, and how its cursors begin
    const char* data
    size_t size
    uint64_t offset          # of `data` in its file
    char cursor_prefix[16]   # layout, hour and a dash
    size_t cursor_prefix_size
    bint late                # lines of a former hour: all their cursors are that place where reading goes on,
    uint64_t resume_offset   # … at this offset of the prefix's hour


cdef enum:
    MAX_ORDER_OVERHEAD = 640  # an order in any format needs at most so many bytes more than its event
    MAX_BUCKET_NODES = 8      # a topic of so few coins or users is looked up by them
    BUCKETS = 8192            # lists of topics: half of them by a coin's hash, half by a user's
    FIRST_USER_BUCKET = BUCKETS // 2  # the first list by a user's hash; those before it are by a coin's


cdef struct BucketNode:      # a topic in the list of one of its coins or users
    void* topic
    BucketNode* prev         # NULL: the first
    BucketNode* next
    uint32_t bucket          # which list


@cython.final
cdef class Topic:
    cdef readonly uint32_t id
    cdef readonly object key
    cdef int kind
    cdef int format
    cdef size_t format_overhead      # bytes that an order in this format may have more than its event
    cdef bint with_seq               # its messages carry seq and prev
    cdef uint64_t seq                # of the last message; while the pipeline has the topic, only that thread touches it
    cdef size_t max_message, target_size  # payload bytes of a message
    cdef Selector selector
    cdef uint64_t quota_group  # whose quota its messages count to; 0: its own. The main thread writes, the pipeline reads
    cdef BucketNode nodes[MAX_BUCKET_NODES]  # the pipeline's, while it has the topic
    cdef int nodes_len                       # 0: of none: it is asked about every batch
    cdef uint32_t unindexed_slot             # in `Router.always`
    cdef uint64_t last_job_batch             # the last batch in which it got a job
    cdef bint registered                     # the pipeline has it
    cdef uint64_t register_failed            # it could not take it: written before it answers the command
    cdef uint64_t skip_line_offset           # of a replay: the orders up to this place in the file are not wanted;
    cdef uint32_t skip_events                # 0: all are
    cdef tuple _texts                        # owner of the three that follow
    cdef const char* user_text               # lower case
    cdef const char* message_head            # a message up to its first order
    cdef const char* message_tail            # … and what stands between its last one and the cursor
    cdef size_t user_size
    cdef size_t message_head_size
    cdef size_t message_tail_size
    cdef size_t encode_selected(self, Outbox* outbox, RowTable table, const FilterKey* keys, const BatchLocation* location,
                                size_t quota) noexcept nogil
    cdef size_t encode_linked(self, Outbox* outbox, RowTable table, const FilterKey* keys, const BatchLocation* location,
                              size_t quota, const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil
    cdef size_t measure(self, RowTable table, const FilterKey* keys, const BatchLocation* location) noexcept nogil
    cdef size_t measure_linked(self, RowTable table, const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil
    cdef bint _is_skipped(self, RowTable table, const Row* row, uint32_t event_number,
                          const BatchLocation* location) noexcept nogil
    cdef void _begin_batch(self, MessageBuilder* builder, const Outbox* outbox, size_t quota) noexcept nogil
    cdef int _append_order(self, MessageBuilder* builder, Outbox* outbox, RowTable table, const Row* row, uint32_t event_number,
                           const BatchLocation* location) noexcept nogil
    cdef int _finish_message(self, MessageBuilder* builder, Outbox* outbox, RowTable table,
                             const BatchLocation* location) noexcept nogil
    cdef void _advance_cursor(self, MessageBuilder* builder, RowTable table, const Row* row, uint32_t event_number,
                              const BatchLocation* location) noexcept nogil
    cdef size_t _size_bound(self, RowTable table, const Row* row) noexcept nogil
    cdef size_t _with_messages(self, size_t bytes, size_t orders) noexcept nogil
    cdef int _choose_buckets(self) except -1
    cdef int _encode_order(self, Outbox* outbox, RowTable table, const Row* row, const char* data) noexcept nogil


cdef to_topic_message(const Outbox* outbox, const OutboxEntry* entry, const BatchLocation* location)
cdef int set_prefix(BatchLocation* location, bytes prefix) except -1
