"""Routes the rows of a batch to topics, and shares the encoding among the workers.

    rows ─┬─► filter of topic 1 ──► orders, 256 KiB at most a message ──► outbox of the worker that runs the job
          ├─► filter of topic 2 ──► …
          └─► user ─► the user's topic (one look-up per order, however many users are subscribed)

The workers share the jobs, each of which is a topic with its rows. An outbox belongs to one worker, and all messages of a topic
are in one outbox, in order. A topic gets a job only if the batch may have something for it: a topic of few coins or users is in
a bucket by the hash of each, and a batch visits only the buckets of the coins and users that occur in it.
"""
from cython.parallel import prange, threadid
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc

from fasttail.system.atomics cimport ft_add_single_writer
from fasttail.system.checks cimport ft_assert
from fasttail.streams.json cimport DECODED_TEXT_BYTES
from fasttail.engine.pool cimport openmp_usable
from fasttail.engine.table cimport RowTable, row_line, table_row
from fasttail.streams.types cimport NO_CODE, RowHead
from fasttail.streams.intern cimport intern_add, intern_clear, intern_find, intern_free, intern_init
from fasttail.engine.buffer cimport Outbox
from fasttail.engine.filters cimport FilterKey, find_interned, filter_key, decode_text, text_hash
from fasttail.engine.legacy_encoder cimport encode_legacy_fragments, encode_legacy_updates
from fasttail.engine.quotas cimport MIN_BATCH_LIMIT, BATCH_LIMIT_PER_BYTE, QuotaGroup, Job, assign_quotas
from fasttail.engine.topics cimport (
    BUCKETS, MAX_ORDER_OVERHEAD, NO_QUOTA, LEGACY_UPDATES, FILTERED, FIRST_USER_BUCKET, PER_USER, BucketNode, BatchLocation,
    Topic)

cdef enum:
    MIN_PARALLEL_ROWS = 2000     # rows × jobs: below this, waking the workers costs more than it saves
    LEGACY_TOPICS = 2            # topics of the old channels, which are never refused
    MAX_COIN_CODES = 65536
    MAX_USERS = 1 << 24
    MAX_STALE_USERS = 1024


cdef void _make_filter_keys(RowTable table, FilterKey* keys, bint filtered) noexcept nogil:
    """Fill keys[row] with the values that filters check first, or only the event number if there are no filters."""
    cdef size_t k, i
    cdef uint64_t line, before = ~<uint64_t>0
    cdef uint32_t n = 0
    cdef const RowHead* row
    for k in range(table.segments_len):
        for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
            row = table_row(table, i)
            line = row_line(table, row)
            n = n + 1 if line == before else 1
            before = line
            if table.stream.event_number:
                n = (<const uint32_t*>(<const char*>row + table.stream.event_number))[0]
            if filtered:
                keys[i] = filter_key(table.stream, row, n)
            else:
                keys[i].event_number = n


cdef class Router:
    """The topics of one pipeline. Only the pipeline thread may call it; the main thread keeps the topics alive.

    max_topics: limit of topics, beyond which they are refused, except the old channels' two.
    """

    def __cinit__(self, int workers, RowTable table not None, *, uint32_t max_topics=MAX_TOPICS):
        self.workers = workers
        self.rows_cap = table.rows_cap
        self.max_topics = max_topics
        self.enforce_quotas = True
        self.keys = <FilterKey*>calloc(self.rows_cap, sizeof(FilterKey))
        self.next_user_row = <uint32_t*>calloc(self.rows_cap, sizeof(uint32_t))
        self.buckets = <BucketNode**>calloc(BUCKETS, sizeof(BucketNode*))
        self.bucket_visited = <uint64_t*>calloc(BUCKETS, sizeof(uint64_t))
        self.bucket_hash = <uint64_t*>calloc(BUCKETS, sizeof(uint64_t))
        self.bucket_of_coin = <uint16_t*>calloc(MAX_COIN_CODES, sizeof(uint16_t))
        if (self.keys == NULL or self.next_user_row == NULL or self.buckets == NULL or self.bucket_visited == NULL
                or self.bucket_hash == NULL or self.bucket_of_coin == NULL or not self._reserve_topic()):
            raise MemoryError
        intern_init(&self.users, MAX_USERS)

    def __dealloc__(self):
        intern_free(&self.users)
        free(self.unindexed)
        free(self.buckets)
        free(self.bucket_visited)
        free(self.bucket_hash)
        free(self.bucket_of_coin)
        free(self.topic_of_user)
        free(self.job_of_user)
        free(self.jobs)
        free(self.groups)
        free(self.keys)
        free(self.next_user_row)

    cdef int _reserve_topic(self) noexcept nogil:
        """Reserve memory for one more topic besides those of the old channels. Return 1, or 0 if out of memory."""
        cdef uint32_t capacity = self.capacity * 2 if self.capacity else 64
        cdef void* grown
        if self.count + LEGACY_TOPICS >= self.capacity:
            grown = realloc(self.unindexed, capacity * sizeof(void*))
            if grown == NULL:
                return 0
            self.unindexed = <void**>grown
            grown = realloc(self.jobs, capacity * sizeof(Job))
            if grown == NULL:
                return 0
            self.jobs = <Job*>grown
            grown = realloc(self.groups, capacity * sizeof(QuotaGroup))
            if grown == NULL:
                return 0
            self.groups = <QuotaGroup*>grown
            self.capacity = capacity
        if self.users.count + 1 >= self.users_capacity:
            capacity = self.users_capacity * 2 if self.users_capacity else 64
            grown = realloc(self.topic_of_user, capacity * sizeof(void*))
            if grown == NULL:
                return 0
            self.topic_of_user = <void**>grown
            grown = realloc(self.job_of_user, capacity * sizeof(uint32_t))
            if grown == NULL:
                return 0
            self.job_of_user = <uint32_t*>grown
            self.users_capacity = capacity
        return 1

    cdef int register_topic(self, void* topic) noexcept nogil:
        """Start producing the topic's messages. Return 1, or mark the topic as refused and return 0."""
        if self._insert_topic(topic):
            (<Topic>topic).registered = True
            self.count += (<Topic>topic).kind == FILTERED or (<Topic>topic).kind == PER_USER
            self.filtered_topics += (<Topic>topic).kind == FILTERED and not (<Topic>topic).selector.filter.match_all
            return 1
        (<Topic>topic).register_failed = 1
        return 0

    cdef int _insert_topic(self, void* topic) noexcept nogil:
        cdef uint32_t code
        cdef int k
        cdef BucketNode* node
        cdef int kind = (<Topic>topic).kind
        if kind == FILTERED or kind == PER_USER:
            if self.count >= self.max_topics or not self._reserve_topic():
                return 0
        if kind == PER_USER:
            code = intern_add(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)
            if code == 0:
                return 0
            self.topic_of_user[code] = topic
            self.job_of_user[code] = 0
            self.user_topics += 1
            return 1
        if (<Topic>topic).nodes_len == 0:
            (<Topic>topic).unindexed_slot = self.unindexed_len
            self.unindexed[self.unindexed_len] = topic
            self.unindexed_len += 1
            return 1
        for k in range((<Topic>topic).nodes_len):
            node = &(<Topic>topic).nodes[k]
            node.prev = NULL
            node.next = self.buckets[node.bucket]
            if node.next != NULL:
                node.next.prev = node
            self.buckets[node.bucket] = node
        if (<Topic>topic).nodes[0].bucket < FIRST_USER_BUCKET:
            self.coin_indexed += 1
        else:
            self.user_indexed += 1
        return 1

    cdef void unregister_topic(self, void* topic) noexcept nogil:
        """Stop producing the topic's messages. Does nothing for a topic that was refused."""
        cdef uint32_t code, stale
        cdef int k
        cdef BucketNode* node
        if not (<Topic>topic).registered:
            return
        (<Topic>topic).registered = False
        self.count -= (<Topic>topic).kind == FILTERED or (<Topic>topic).kind == PER_USER
        self.filtered_topics -= (<Topic>topic).kind == FILTERED and not (<Topic>topic).selector.filter.match_all
        if (<Topic>topic).kind != PER_USER and (<Topic>topic).nodes_len == 0:
            self.unindexed_len -= 1
            self.unindexed[(<Topic>topic).unindexed_slot] = self.unindexed[self.unindexed_len]
            (<Topic>self.unindexed[(<Topic>topic).unindexed_slot]).unindexed_slot = (<Topic>topic).unindexed_slot
            return
        if (<Topic>topic).kind != PER_USER:
            for k in range((<Topic>topic).nodes_len):
                node = &(<Topic>topic).nodes[k]
                if node.prev != NULL:
                    node.prev.next = node.next
                else:
                    self.buckets[node.bucket] = node.next
                if node.next != NULL:
                    node.next.prev = node.prev
            if (<Topic>topic).nodes[0].bucket < FIRST_USER_BUCKET:
                self.coin_indexed -= 1
            else:
                self.user_indexed -= 1
            return
        code = intern_find(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)
        self.topic_of_user[code] = NULL
        self.user_topics -= 1
        stale = self.users.count - self.user_topics
        if stale > MAX_STALE_USERS and stale > self.users.count // 2:
            self._forget_dead_users()

    cdef void _forget_dead_users(self) noexcept nogil:
        """Renumber the users that have a topic: the intern table cannot remove single entries."""
        cdef uint32_t code, n = 0
        cdef void* topic
        for code in range(1, self.users.count + 1):
            if self.topic_of_user[code] != NULL:
                n += 1
                self.topic_of_user[n] = self.topic_of_user[code]
        intern_clear(&self.users)
        for code in range(1, n + 1):
            topic = self.topic_of_user[code]
            intern_add(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)   # is given this code again
            self.job_of_user[code] = 0

    cdef uint32_t _visit_bucket(self, uint32_t bucket, uint64_t hash, uint32_t jobs) noexcept nogil:
        """Add a job for each topic in a bucket that has this hash (coins: 0), once per batch. Return the number of jobs."""
        cdef BucketNode* node = self.buckets[bucket]
        if node == NULL or (self.bucket_visited[bucket] == self.batch_number and self.bucket_hash[bucket] == hash):
            return jobs
        self.bucket_visited[bucket] = self.batch_number
        self.bucket_hash[bucket] = hash
        while node != NULL:
            if node.hash == hash and (<Topic>node.topic).last_job_batch != self.batch_number:
                (<Topic>node.topic).last_job_batch = self.batch_number
                self.jobs[jobs].topic = node.topic
                jobs += 1
            node = node.next
        return jobs

    cdef uint32_t _collect_jobs(self, RowTable table, const char* data) noexcept nogil:
        """Add a job for each topic for which the batch may have something. Return their number."""
        cdef uint32_t jobs = 0, i, code, bucket
        cdef uint64_t hash
        cdef size_t k, r, n
        cdef const RowHead* row
        cdef const char* text
        cdef char scratch[DECODED_TEXT_BYTES]
        self.batch_number += 1
        for i in range(self.unindexed_len):
            self.jobs[jobs].topic = self.unindexed[i]
            jobs += 1
        if self.coin_indexed or self.user_indexed:
            for k in range(table.segments_len):
                for r in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                    row = table_row(table, r)
                    if self.coin_indexed:
                        code = self.keys[r].coin
                        if code == NO_CODE or self.bucket_of_coin[code] == 0:
                            text = decode_text(row, data, &row.coin_text, False, scratch, &n)
                            bucket = <uint32_t>(text_hash(text, n) % FIRST_USER_BUCKET) if text != NULL else 0
                            if code != NO_CODE:
                                self.bucket_of_coin[code] = <uint16_t>(bucket + 1)
                        else:
                            bucket = self.bucket_of_coin[code] - 1
                        jobs = self._visit_bucket(bucket, 0, jobs)
                    if self.user_indexed:
                        text = decode_text(row, data, &row.user, True, scratch, &n)
                        if text != NULL:
                            hash = text_hash(text, n)
                            bucket = FIRST_USER_BUCKET + <uint32_t>(hash % (BUCKETS - FIRST_USER_BUCKET))
                            jobs = self._visit_bucket(bucket, hash, jobs)
        if self.user_topics:
            jobs = self._group_by_user(table, data, jobs)
        return jobs

    cdef uint32_t _group_by_user(self, RowTable table, const char* data, uint32_t jobs) noexcept nogil:
        """Add a job for each user topic with orders in the batch, its rows linked in order. Return the new number of jobs."""
        cdef size_t k, i
        cdef uint32_t code, j, first = jobs
        cdef const RowHead* row
        for k in range(table.segments_len):
            for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                row = table_row(table, i)
                code = find_interned(&self.users, row, data, &row.user, True)
                ft_assert(code < self.users_capacity or code == 0)
                if code == 0 or self.topic_of_user[code] == NULL:
                    continue
                j = self.job_of_user[code]
                if j == 0:
                    ft_assert(jobs < self.capacity)
                    jobs += 1
                    self.job_of_user[code] = jobs
                    self.jobs[jobs - 1].topic = self.topic_of_user[code]
                    self.jobs[jobs - 1].first_row = <uint32_t>i
                    self.jobs[jobs - 1].user = code
                else:
                    self.next_user_row[self.jobs[j - 1].last_row] = <uint32_t>i
                j = self.job_of_user[code]
                self.jobs[j - 1].last_row = <uint32_t>i
        for j in range(first, jobs):
            self.job_of_user[self.jobs[j].user] = 0
        return jobs

    cdef void _bound_job_bytes(self, Job* job, RowTable table, const BatchLocation* location) noexcept nogil:
        """Set job.bytes to an upper bound for its messages; 0 for the old channels, which have no quota."""
        cdef void* topic = job.topic
        if (<Topic>topic).kind == PER_USER:
            job.bytes = (<Topic>topic).measure_linked(table, self.next_user_row, job.first_row, job.last_row)
        elif (<Topic>topic).kind == FILTERED:
            job.bytes = (<Topic>topic).measure(table, self.keys, location)
        else:
            job.bytes = 0

    cdef void _assign_quotas(self, RowTable table, const BatchLocation* location, uint32_t jobs, bint parallel) noexcept nogil:
        """Assign quotas for a batch whose messages may exceed the batch limit."""
        cdef int j
        if parallel:
            for j in prange(<int>jobs, schedule="dynamic", chunksize=16, num_threads=self.workers):
                self._bound_job_bytes(&self.jobs[j], table, location)
        else:
            for j in range(<int>jobs):
                self._bound_job_bytes(&self.jobs[j], table, location)
        if assign_quotas(self.jobs, jobs, self.groups, MIN_BATCH_LIMIT + BATCH_LIMIT_PER_BYTE * location.size):
            ft_add_single_writer(&self.quota_batches, 1)

    cdef size_t route_batch(self, RowTable table, const BatchLocation* location, const uint32_t* selection, size_t selected,
                            int64_t now_ns, Outbox* outboxes) noexcept nogil:
        """Write the messages of a batch into outboxes[0:workers].

        selection: the rows that pass the server's own filter, for the old channels. Return the largest number of orders that
        one topic, or all `orderUpdates` together, received.
        """
        cdef uint32_t i, jobs
        cdef int j, count
        cdef size_t orders = 0, user_orders = 0
        cdef uint64_t oversize = 0
        cdef size_t job_bound
        cdef bint parallel
        if (self.count == 0 and self.unindexed_len == 0) or table.rows_len == 0:
            return 0
        ft_assert(table.rows_cap <= self.rows_cap)
        _make_filter_keys(table, self.keys, self.filtered_topics > 0)
        jobs = self._collect_jobs(table, location.data)
        ft_assert(jobs <= self.capacity)
        count = <int>jobs
        parallel = self.workers > 1 and count > 1 and <size_t>count * table.rows_len >= MIN_PARALLEL_ROWS and openmp_usable()
        for i in range(jobs):
            self.jobs[i].quota = NO_QUOTA
        # Upper bound of every job: every order in the longest format, in messages of the smallest size.
        job_bound = 2 * location.size + table.rows_len * 2 * MAX_ORDER_OVERHEAD
        if self.enforce_quotas and jobs * job_bound > MIN_BATCH_LIMIT + BATCH_LIMIT_PER_BYTE * location.size:
            self._assign_quotas(table, location, jobs, parallel)
        if parallel:
            for j in prange(count, schedule="dynamic", chunksize=1, num_threads=self.workers):
                ft_assert(threadid() < self.workers)
                self._run_job(&self.jobs[j], &outboxes[threadid()], table, location, selection, selected, now_ns)
        else:
            for j in range(count):
                self._run_job(&self.jobs[j], &outboxes[0], table, location, selection, selected, now_ns)
        for i in range(jobs):
            if (<Topic>self.jobs[i].topic).kind == PER_USER:
                user_orders += self.jobs[i].orders
            else:
                orders = max(orders, self.jobs[i].orders)
                oversize = max(oversize, self.jobs[i].oversize)
        ft_add_single_writer(&self.oversize, oversize)  # relaxed: the main thread only reports it
        return max(orders, user_orders)

    cdef void _run_job(self, Job* job, Outbox* outbox, RowTable table, const BatchLocation* location, const uint32_t* selection,
                       size_t selected, int64_t now_ns) noexcept nogil:
        """Write one topic's messages of this batch. The outbox records if memory runs out."""
        cdef void* topic = job.topic
        cdef int kind = (<Topic>topic).kind
        job.oversize = 0
        if kind == FILTERED:
            job.orders = (<Topic>topic).encode_selected(outbox, table, self.keys, location, job.quota)
        elif kind == PER_USER:
            job.orders = (<Topic>topic).encode_linked(outbox, table, self.keys, location, job.quota, self.next_user_row,
                                                      job.first_row, job.last_row)
        elif kind == LEGACY_UPDATES:
            job.orders = encode_legacy_updates(table, location.data, selection, selected, now_ns, (<Topic>topic).max_message,
                                               (<Topic>topic).id, outbox, &job.oversize)
        else:
            job.orders = encode_legacy_fragments(table, location.data, selection, selected, (<Topic>topic).max_message,
                                                 (<Topic>topic).id, outbox, &job.oversize)
