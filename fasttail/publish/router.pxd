"""Rows -> the messages of each topic."""
cimport cython

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fasttail.parser.table cimport RowTable
from fasttail.parser.words cimport InternTable
from fasttail.publish.buffer cimport Box
from fasttail.publish.filters cimport RowKey
from fasttail.publish.quotas cimport Group, Job
from fasttail.publish.topics cimport Link, Place

cdef enum:
    MOST_TOPICS = 1 << 20    # of a pipeline, besides the old channels'


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
    cdef InternTable users           # owned; of `orderUpdates`: code -> of_user[code]
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
    cdef void remove(self, void* topic) noexcept nogil
    cdef size_t run(self, RowTable table, const Place* place, const uint32_t* selection, size_t selected, int64_t now_ns,
                    Box* boxes) noexcept nogil
    cdef int _add(self, void* topic) noexcept nogil
    cdef int _grow(self) noexcept nogil
    cdef void _forget_dead_users(self) noexcept nogil
    cdef uint32_t _find_jobs(self, RowTable table, const char* data) noexcept nogil
    cdef uint32_t _walk(self, uint32_t head, uint32_t jobs) noexcept nogil
    cdef uint32_t _group_by_user(self, RowTable table, const char* data, uint32_t jobs) noexcept nogil
    cdef void _share_out(self, RowTable table, const Place* place, uint32_t jobs, bint parallel) noexcept nogil
    cdef void _measure(self, Job* job, RowTable table, const Place* place) noexcept nogil
    cdef void _do(self, Job* job, Box* box, RowTable table, const Place* place, const uint32_t* selection, size_t selected,
                  int64_t now_ns) noexcept nogil
