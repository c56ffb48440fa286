"""Routes the rows of a batch to topics."""
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
    cdef uint32_t max_topics         # besides the old channels'
    cdef uint32_t count              # registered topics, besides the old channels'
    cdef uint32_t capacity           # of `unindexed`, `jobs` and `groups`, including the old channels' two topics
    cdef void** unindexed            # owned; topics that get a job for every batch, unordered
    cdef uint32_t unindexed_len
    cdef BucketNode** buckets                 # owned; BUCKETS lists
    cdef uint64_t* bucket_visited             # owned; per bucket: the last batch that visited it,
    cdef uint64_t* bucket_hash                # owned; … and for which hash
    cdef uint16_t* bucket_of_coin             # owned; parser's coin code -> bucket + 1; 0: not known yet
    cdef uint32_t coin_indexed, user_indexed  # topics in buckets, by coin or by user
    cdef uint64_t batch_number
    cdef InternTable users           # owned; users of `orderUpdates`: code -> topic_of_user[code]
    cdef void** topic_of_user        # owned
    cdef uint32_t* job_of_user       # owned; index of the user's job in this batch + 1; 0: none
    cdef uint32_t users_capacity
    cdef uint32_t filtered_topics    # topics that do not select every order
    cdef uint32_t user_topics        # entries of `users` with a topic; the others are stale
    cdef Job* jobs                   # owned; one for each topic
    cdef QuotaGroup* groups          # owned; one for each topic
    cdef FilterKey* keys             # owned; per row
    cdef uint32_t* next_user_row     # owned; per row: the next row of the same user
    cdef uint64_t oversize           # orders that fitted into no message of the old channels
    cdef uint64_t quota_batches      # batches that needed quotas
    cdef bint enforce_quotas         # false for replays, which leave nothing out
    cdef int register_topic(self, void* topic) noexcept nogil
    cdef void unregister_topic(self, void* topic) noexcept nogil
    cdef size_t route_batch(self, RowTable table, const BatchLocation* location, const uint32_t* selection, size_t selected,
                            int64_t now_ns, Outbox* outboxes) noexcept nogil
    cdef int _insert_topic(self, void* topic) noexcept nogil
    cdef int _reserve_topic(self) noexcept nogil
    cdef void _forget_dead_users(self) noexcept nogil
    cdef uint32_t _collect_jobs(self, RowTable table, const char* data) noexcept nogil
    cdef uint32_t _visit_bucket(self, uint32_t bucket, uint64_t hash, uint32_t jobs) noexcept nogil
    cdef uint32_t _group_by_user(self, RowTable table, const char* data, uint32_t jobs) noexcept nogil
    cdef void _assign_quotas(self, RowTable table, const BatchLocation* location, uint32_t jobs, bint parallel) noexcept nogil
    cdef void _bound_job_bytes(self, Job* job, RowTable table, const BatchLocation* location) noexcept nogil
    cdef void _run_job(self, Job* job, Outbox* outbox, RowTable table, const BatchLocation* location, const uint32_t* selection,
                       size_t selected, int64_t now_ns) noexcept nogil
