"""Rows -> the messages of each topic."""
cimport cython

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fasttail.parser.table cimport Table
from fasttail.parser.types cimport Row
from fasttail.parser.words cimport Words
from fasttail.publish.buffer cimport Box, Message
from fasttail.publish.filters cimport RowKey, Selector


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
    MOST_TOPICS = 1 << 20    # of a pipeline, besides the old channels'
    MOST_LINKS = 8           # a topic of so few coins or users is looked up by them
    LINK_HEADS = 8192        # lists of topics: half of them by a coin's hash, half by a user's


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
    cdef uint32_t group              # whose quota its messages count to; 0: its own. The main thread writes, the pipeline reads
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
    cdef int encode(self, Draft* draft, Box* box, Table table, const RowKey* keys, const Place* place) noexcept nogil
    cdef bint _had(self, Table table, const Row* row, uint32_t nth, const Place* place) noexcept nogil
    cdef int begin(self, Draft* draft, const Box* box, size_t quota) noexcept nogil
    cdef int add(self, Draft* draft, Box* box, Table table, const Row* row, uint32_t nth, const Place* place) noexcept nogil
    cdef int end(self, Draft* draft, Box* box, Table table, const Place* place) noexcept nogil
    cdef int _stands_at(self, Draft* draft, Table table, const Row* row, uint32_t nth, const Place* place) noexcept nogil
    cdef size_t _needs(self, Table table, const Row* row) noexcept nogil
    cdef int _look_up(self) except -1
    cdef int _put_order(self, Box* box, Table table, const Row* row, const char* data) noexcept nogil


cdef struct Job:
    void* topic              # borrowed: the main thread keeps it
    uint32_t first           # of a user's rows, linked by `next`; not used by the other kinds
    uint32_t last
    uint32_t user            # code
    uint64_t group
    size_t bytes             # no more than its messages will have; known if they were measured
    size_t quota
    size_t orders            # that the topic's messages hold
    uint64_t oversize


cdef struct Group:           # jobs[first:first + count]
    size_t bytes
    uint32_t first
    uint32_t count


@cython.final
cdef class Topics:
    cdef int workers
    cdef size_t rows_cap
    cdef uint32_t most               # topics besides the old channels'
    cdef uint32_t count              # likewise
    cdef uint32_t room               # of `always`, `jobs`, `groups`: two more than there are topics, for the old channels
    cdef void** always               # owned; the topics that are asked about every batch, in no order
    cdef uint32_t always_len
    cdef Link** heads                # owned; LINK_HEADS lists
    cdef uint64_t* visited           # owned; per list: the last batch in which it was walked
    cdef uint16_t* head_of_coin      # owned; parser's coin code -> list + 1, 0: not known yet
    cdef uint32_t by_coin, by_user   # topics that are in lists
    cdef uint64_t batch
    cdef Words users                 # owned; of `orderUpdates`: code -> of_user[code]
    cdef void** of_user              # owned
    cdef uint32_t* job_of_user       # owned; job + 1 in this batch, 0: none
    cdef uint32_t users_room
    cdef uint32_t filtered           # topics that do not want every order
    cdef uint32_t user_topics        # words of `users` with a topic; the others are left over
    cdef Job* jobs                   # owned; room for every topic
    cdef Group* groups               # owned; likewise
    cdef RowKey* keys                # owned; per row
    cdef uint32_t* next              # owned; per row: the user's next row
    cdef uint64_t oversize           # orders that fitted into no message of the old channels
    cdef uint64_t crowded            # batches in which quotas were needed
    cdef bint bounded                # whether there are any: a replay leaves nothing out
    cdef int add(self, void* topic) noexcept nogil
    cdef int remove(self, void* topic) noexcept nogil
    cdef size_t run(self, Table table, const Place* place, const uint32_t* selection, size_t selected, int64_t now_ns,
                    Box* boxes) noexcept nogil
    cdef int _add(self, void* topic) noexcept nogil
    cdef int _grow(self) noexcept nogil
    cdef uint32_t _find_jobs(self, Table table, const char* data) noexcept nogil
    cdef uint32_t _walk(self, uint32_t head, uint32_t jobs) noexcept nogil
    cdef uint32_t _group_by_user(self, Table table, const char* data, uint32_t jobs) noexcept nogil
    cdef int _share_out(self, Table table, const Place* place, uint32_t jobs, bint parallel) noexcept nogil
    cdef int _measure(self, Job* job, Table table, const Place* place) noexcept nogil
    cdef int _do(self, Job* job, Box* box, Table table, const Place* place, const uint32_t* selection, size_t selected,
                 int64_t now_ns) noexcept nogil

cdef int make_keys(Table table, RowKey* keys, bint filtered) noexcept nogil
cdef message_tuple(const Box* box, const Message* message, const Place* place)
