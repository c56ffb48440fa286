"""A topic, which encodes the rows it selects into messages."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport RowHead
from fasttail.engine.buffer cimport Outbox, OutboxEntry
from fasttail.engine.filters cimport FilterKey, Selector

cdef extern from "<stdint.h>" nogil:
    const size_t NO_QUOTA "SIZE_MAX"


cdef enum TopicKind:
    FILTERED                 # rows that a filter selects
    PER_USER                 # rows of one user; found by user, without evaluating each topic
    LEGACY_UPDATES           # the two channels of the old service
    LEGACY_BATCHES


cdef enum Format:
    FULL                     # the flat object of `fasttail parse --format json`
    WS                       # an element of the public API's `orderUpdates`,
    TRADE                    # … `trades`,
    FILL                     # … and `userFills`
    RAW                      # the node's plain event


cdef struct MessageBuilder:  # a message that is being written
    OutboxEntry entry        # .orders is 0 until the message has begun
    size_t total_orders      # orders of all messages so far
    const RowHead* last_row  # row of the message's last order,
    uint32_t last_event      # … and which of its line's events that is, from 1 on
    size_t max_end           # outbox size that the message may not exceed,
    size_t quota_end         # … and that none of the topic's messages may exceed


cdef struct CursorPrefix:
    char text[32]
    size_t size


cdef struct BatchLocation:   # the location of a batch, and the prefixes of its cursors
    const char* data
    size_t size
    uint64_t offset          # of `data` in its file
    CursorPrefix file_prefix   # of cursors that name a file: stream, layout, hour and a dash
    CursorPrefix block_prefix  # of those that name a block: the stream. Empty: none does, because blocks may come twice
    bint late                # lines of a previous hour: all their cursors are the resume point,
    uint64_t resume_offset   # … at this offset of the prefix's hour,
    uint64_t resume_block    # … which is after this block (0: unknown),
    uint64_t resume_events   # … or after so many of its events


cdef enum:
    MAX_BLOCK = 999999999999  # the largest block number that a cursor can name
    MAX_ORDER_OVERHEAD = 640  # bytes that an order in any format needs at most, beyond its event
    MAX_BUCKET_NODES = 8      # a topic with more coins or users than this is not indexed
    BUCKETS = 8192            # lists of topics: half by the hash of a coin, half by that of a user
    FIRST_USER_BUCKET = BUCKETS // 2  # first bucket by a user's hash; those before it are by a coin's


cdef struct BucketNode:      # a topic's entry in one bucket
    void* topic
    BucketNode* prev         # NULL: the first
    BucketNode* next
    uint32_t bucket          # index of the list
    uint64_t hash            # of the user; 0: the list is by coins


@cython.final
cdef class Topic:
    cdef readonly uint32_t id
    cdef readonly object key
    cdef readonly str stream         # that is followed for it
    cdef bint of_stage               # its rows are those that the stream's stage makes
    cdef int kind
    cdef int format
    cdef size_t format_overhead      # bytes that an order in this format may need beyond its event
    cdef bint with_seq               # messages carry seq and prev
    cdef uint64_t seq                # of the last message; only the pipeline touches it while it has the topic
    cdef size_t max_message, target_size  # payload bytes of a message
    cdef Selector selector
    cdef uint64_t quota_group  # the client whose quota it counts toward; 0: its own. Written by the main thread
    cdef BucketNode nodes[MAX_BUCKET_NODES]  # owned by the pipeline while it has the topic
    cdef int nodes_len                       # 0: not indexed, gets a job for every batch
    cdef uint32_t unindexed_slot             # index in `Router.unindexed`
    cdef uint64_t last_job_batch             # the last batch in which it got a job
    cdef bint registered                     # the pipeline has the topic
    cdef uint64_t register_failed            # it was refused; written before the command is answered
    cdef uint64_t skip_line_offset           # replay: offset of the line up to which orders are skipped,
    cdef uint32_t skip_events                # … and how many of its events; 0: skip nothing
    cdef tuple _texts                        # owns the three texts that follow
    cdef const char* user_text               # lower case
    cdef const char* message_head            # a message up to its first order
    cdef const char* message_tail            # … and from its last order to the cursor
    cdef size_t user_size
    cdef size_t message_head_size
    cdef size_t message_tail_size
    cdef size_t encode_selected(self, Outbox* outbox, RowTable table, const FilterKey* keys, const BatchLocation* location,
                                size_t quota) noexcept nogil
    cdef size_t encode_linked(self, Outbox* outbox, RowTable table, const FilterKey* keys, const BatchLocation* location,
                              size_t quota, const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil
    cdef size_t measure(self, RowTable table, const FilterKey* keys, const BatchLocation* location) noexcept nogil
    cdef size_t measure_linked(self, RowTable table, const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil
    cdef bint _is_skipped(self, RowTable table, const RowHead* row, uint32_t event_number,
                          const BatchLocation* location) noexcept nogil
    cdef void _begin_batch(self, MessageBuilder* builder, const Outbox* outbox, size_t quota) noexcept nogil
    cdef int _append_order(self, MessageBuilder* builder, Outbox* outbox, RowTable table, const RowHead* row,
                           uint32_t event_number, const BatchLocation* location) noexcept nogil
    cdef int _finish_message(self, MessageBuilder* builder, Outbox* outbox, RowTable table,
                             const BatchLocation* location) noexcept nogil
    cdef void _set_position(self, MessageBuilder* builder, RowTable table, const BatchLocation* location) noexcept nogil
    cdef size_t _size_bound(self, RowTable table, const RowHead* row) noexcept nogil
    cdef size_t _with_messages(self, size_t bytes, size_t orders) noexcept nogil
    cdef int _choose_buckets(self) except -1
    cdef int _encode_order(self, Outbox* outbox, RowTable table, const RowHead* row, const char* data) noexcept nogil


cdef to_topic_message(const Outbox* outbox, const OutboxEntry* entry, const BatchLocation* location)
cdef int set_prefix(CursorPrefix* prefix, bytes text) except -1
