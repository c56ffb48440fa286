"""Rows -> the messages of each topic."""
cimport cython

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fasttail.engine.table cimport RowTable
from fasttail.streams.intern cimport InternTable
from fasttail.engine.buffer cimport Outbox
from fasttail.engine.filters cimport FilterKey
from fasttail.engine.quotas cimport QuotaGroup, Job
from fasttail.engine.topics cimport BucketNode, BatchLocation

cdef enum:
    MAX_TOPICS = 1 << 20     # of a pipeline, besides the old channels'


@cython.final
cdef class Router:
    cdef int workers
    cdef size_t rows_cap
    cdef uint32_t max_topics         # topics besides the old channels'
    cdef uint32_t count              # likewise
    cdef uint32_t capacity           # of `always`, `jobs`, `groups`: two more than there are topics, for the old channels
    cdef void** unindexed            # owned; the topics that are asked about every batch, in no order
    cdef uint32_t unindexed_len
    cdef BucketNode** buckets                 # owned; BUCKETS lists
    cdef uint64_t* bucket_visited             # owned; per list: the last batch in which it was walked
    cdef uint16_t* bucket_of_coin             # owned; parser's coin code -> list + 1, 0: not known yet
    cdef uint32_t coin_indexed, user_indexed  # topics that are in lists
    cdef uint64_t batch_number
    cdef InternTable users           # owned; of `orderUpdates`: code -> topic_of_user[code]
    cdef void** topic_of_user        # owned
    cdef uint32_t* job_of_user       # owned; job + 1 in this batch, 0: none
    cdef uint32_t users_capacity
    cdef uint32_t filtered_topics    # topics that do not want every order
    cdef uint32_t user_topics        # words of `users` with a topic; the others are left over
    cdef Job* jobs                   # owned; room for every topic
    cdef QuotaGroup* groups          # owned; likewise
    cdef FilterKey* keys             # owned; per row
    cdef uint32_t* next_user_row     # owned; per row: the user's next row
    cdef uint64_t oversize           # orders that fitted into no message of the old channels
    cdef uint64_t quota_batches      # batches in which quotas were needed
    cdef bint enforce_quotas         # whether there are any: a replay leaves nothing out
    cdef int register_topic(self, void* topic) noexcept nogil
    cdef void unregister_topic(self, void* topic) noexcept nogil
    cdef size_t route_batch(self, RowTable table, const BatchLocation* location, const uint32_t* selection, size_t selected,
                            int64_t now_ns, Outbox* outboxes) noexcept nogil
    cdef int _insert_topic(self, void* topic) noexcept nogil
    cdef int _reserve_topic(self) noexcept nogil
    cdef void _forget_dead_users(self) noexcept nogil
    cdef uint32_t _collect_jobs(self, RowTable table, const char* data) noexcept nogil
    cdef uint32_t _visit_bucket(self, uint32_t bucket, uint32_t jobs) noexcept nogil
    cdef uint32_t _group_by_user(self, RowTable table, const char* data, uint32_t jobs) noexcept nogil
    cdef void _assign_quotas(self, RowTable table, const BatchLocation* location, uint32_t jobs, bint parallel) noexcept nogil
    cdef void _bound_job_bytes(self, Job* job, RowTable table, const BatchLocation* location) noexcept nogil
    cdef void _run_job(self, Job* job, Outbox* outbox, RowTable table, const BatchLocation* location, const uint32_t* selection,
                       size_t selected, int64_t now_ns) noexcept nogil
