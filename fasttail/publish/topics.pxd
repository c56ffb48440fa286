"""Rows -> the messages of each topic."""
cimport cython

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fasttail.parser.table cimport Table
from fasttail.parser.types cimport Row
from fasttail.parser.words cimport Words
from fasttail.publish.filters cimport Selector
from fasttail.publish.frames cimport Box, Message


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


cdef struct Place:           # where the bytes of a batch stand, and how its cursors begin
    const char* data
    size_t size
    uint64_t offset          # of `data` in its file
    char prefix[16]          # layout, hour and a dash
    size_t prefix_size
    bint late                # lines of a former hour: all their cursors are that place where reading goes on,
    uint64_t goes_on         # … at this offset of the prefix's hour


@cython.final
cdef class Topic:
    cdef readonly uint32_t id
    cdef readonly object key
    cdef int kind
    cdef int format
    cdef bint numbered               # its messages carry seq and prev
    cdef uint64_t seq                # of the last message; while the pipeline has the topic, only that thread touches it
    cdef size_t most, aim                 # payload bytes of a message
    cdef Selector selector
    cdef tuple _texts                # owner of the three that follow
    cdef const char* user_text       # lower case
    cdef const char* head            # a message up to its first order
    cdef const char* tail            # … and what stands between its last one and the cursor
    cdef size_t user_size
    cdef size_t head_size
    cdef size_t tail_size
    cdef int encode(self, Draft* draft, Box* box, Table table, const uint32_t* nth, const Place* place, uint64_t after_line,
                    uint32_t after_events) noexcept nogil
    cdef int begin(self, Draft* draft) noexcept nogil
    cdef int add(self, Draft* draft, Box* box, Table table, const Row* row, uint32_t nth, const Place* place) noexcept nogil
    cdef int end(self, Draft* draft, Box* box, Table table, const Place* place) noexcept nogil
    cdef int _stands_at(self, Draft* draft, Table table, const Row* row, uint32_t nth, const Place* place) noexcept nogil
    cdef int _put_order(self, Box* box, Table table, const Row* row, const char* data) noexcept nogil


cdef struct Job:
    void* topic              # borrowed: the main thread keeps it
    uint32_t first           # of a user's rows, linked by `next`; not used by the other kinds
    uint32_t last
    uint32_t user            # code
    size_t orders            # that the topic's messages hold
    uint64_t oversize


@cython.final
cdef class Topics:
    cdef int workers
    cdef size_t rows_cap
    cdef void** topics               # owned array of borrowed Topic objects, in no order
    cdef uint32_t count
    cdef uint32_t room
    cdef Words users                 # owned; code -> of_user[code]
    cdef void** of_user              # owned
    cdef uint32_t* job_of_user       # owned; job + 1 in this batch, 0: none
    cdef uint32_t users_room
    cdef uint32_t user_topics        # words of `users` with a topic; the others are left over
    cdef Job* jobs                   # owned; room for every topic
    cdef uint32_t* nth               # owned; per row: its number among the events of its line, from 1
    cdef uint32_t* next              # owned; per row: the user's next row
    cdef uint64_t oversize           # orders that fitted into no message of the old channels
    cdef int add(self, void* topic) noexcept nogil
    cdef int remove(self, void* topic) noexcept nogil
    cdef size_t run(self, Table table, const Place* place, const uint32_t* selection, size_t selected, int64_t now_ns,
                    Box* boxes) noexcept nogil
    cdef size_t _group_by_user(self, Table table, const char* data, uint32_t jobs) noexcept nogil
    cdef int _grow(self) noexcept nogil
    cdef int _do(self, Job* job, Box* box, Table table, const Place* place, const uint32_t* selection, size_t selected,
                 int64_t now_ns) noexcept nogil

cdef int number_events(Table table, uint32_t* nth) noexcept nogil
cdef message_tuple(const Box* box, const Message* message, const Place* place)
