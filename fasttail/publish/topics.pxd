"""One topic: from the rows that it wants to its messages."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.parser.table cimport RowTable
from fasttail.parser.types cimport Row
from fasttail.publish.buffer cimport Box, Message
from fasttail.publish.filters cimport RowKey, Selector

cdef extern from "<stdint.h>" nogil:
    const size_t NO_QUOTA "SIZE_MAX"


cdef enum TopicKind:
    ORDERS                   # what a filter selects
    USER_ORDERS              # what one user's orders are; found by the user, not by asking each topic
    OLD_UPDATES              # the old service's two channels
    OLD_BATCHES


cdef enum Format:
    FULL                     # the flat object of `fasttail parse --format json`
    WS                       # an element of the public API's `orderUpdates`
    RAW                      # the node's plain event


cdef struct Draft:           # a message that is being written
    Message message          # .orders 0: not begun
    size_t total             # orders of all messages so far
    const Row* last          # the row of its last order
    size_t limit             # size of the box beyond which the message may not grow,
    size_t quota_end         # … and beyond which none of the topic's may


cdef struct Place:           # where the bytes of a batch stand, and how its cursors begin
    const char* data
    size_t size
    uint64_t offset          # of `data` in its file
    char prefix[16]          # layout, hour and a dash
    size_t prefix_size
    bint late                # lines of a former hour: all their cursors are that place where reading goes on,
    uint64_t goes_on         # … at this offset of the prefix's hour


cdef enum:
    MORE_THAN_EVENT = 640    # an order in any format needs at most so many bytes more than its event
    MOST_LINKS = 8           # a topic of so few coins or users is looked up by them
    LINK_HEADS = 8192        # lists of topics: half of them by a coin's hash, half by a user's
    USERS_LISTS = LINK_HEADS // 2    # the first list by a user's hash; those before it are by a coin's


cdef struct Link:            # a topic in the list of one of its coins or users
    void* topic
    Link* before             # NULL: the first
    Link* next
    uint32_t head            # which list


@cython.final
cdef class Topic:
    cdef readonly uint32_t id
    cdef readonly object key
    cdef int kind
    cdef int format
    cdef size_t more                 # bytes that an order in this format may have more than its event
    cdef bint numbered               # its messages carry seq and prev
    cdef uint64_t seq                # of the last message; while the pipeline has the topic, only that thread touches it
    cdef size_t most, aim                 # payload bytes of a message
    cdef Selector selector
    cdef uint64_t group              # whose quota its messages count to; 0: its own. The main thread writes, the pipeline reads
    cdef Link links[MOST_LINKS]      # the pipeline's, while it has the topic
    cdef int links_len               # 0: of none: it is asked about every batch
    cdef uint32_t at                 # in `Topics.always`
    cdef uint64_t seen               # the last batch in which it got a job
    cdef bint held                   # the pipeline has it
    cdef uint64_t failed             # it could not take it: written before it answers the command
    cdef uint64_t after_line         # of a replay: the orders up to this place in the file are not wanted;
    cdef uint32_t after_events       # 0: all are
    cdef tuple _texts                # owner of the three that follow
    cdef const char* user_text       # lower case
    cdef const char* head            # a message up to its first order
    cdef const char* tail            # … and what stands between its last one and the cursor
    cdef size_t user_size
    cdef size_t head_size
    cdef size_t tail_size
    cdef size_t encode(self, Box* box, RowTable table, const RowKey* keys, const Place* place, size_t quota) noexcept nogil
    cdef size_t encode_linked(self, Box* box, RowTable table, const RowKey* keys, const Place* place, size_t quota,
                              const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil
    cdef size_t measure(self, RowTable table, const RowKey* keys, const Place* place) noexcept nogil
    cdef size_t measure_linked(self, RowTable table, const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil
    cdef bint _had(self, RowTable table, const Row* row, uint32_t nth, const Place* place) noexcept nogil
    cdef void _begin(self, Draft* draft, const Box* box, size_t quota) noexcept nogil
    cdef int _add(self, Draft* draft, Box* box, RowTable table, const Row* row, uint32_t nth, const Place* place) noexcept nogil
    cdef int _end(self, Draft* draft, Box* box, RowTable table, const Place* place) noexcept nogil
    cdef void _stands_at(self, Draft* draft, RowTable table, const Row* row, uint32_t nth, const Place* place) noexcept nogil
    cdef size_t _needs(self, RowTable table, const Row* row) noexcept nogil
    cdef size_t _with_messages(self, size_t bytes, size_t orders) noexcept nogil
    cdef int _look_up(self) except -1
    cdef int _put_order(self, Box* box, RowTable table, const Row* row, const char* data) noexcept nogil


cdef message_tuple(const Box* box, const Message* message, const Place* place)
cdef int set_prefix(Place* place, bytes prefix) except -1
