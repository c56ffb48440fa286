"""Rows -> the messages of each topic: which topics a batch concerns, and who makes their messages.

    rows ─┬─► filter of topic 1 ──► orders, 256 KiB at most a message ──► box of the worker that took the job
          ├─► filter of topic 2 ──► …
          └─► user ─► the user's topic (one look-up an order, however many users are asked for)

Jobs (a topic with its rows) are shared out among the workers; a box is one worker's, and the messages of a topic stand in one
box, in order. A topic gets a job only when a batch may have something for it: one of few coins or users stands in a list by
the hash of each, and a batch walks the lists of those that occur in it.
"""
from cython.parallel import prange, threadid
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc

from fasttail.atomics cimport ft_add_single_writer
from fasttail.checks cimport ft_assert
from fasttail.parser.json cimport DECODED_TEXT_BYTES
from fasttail.parser.pool cimport openmp_usable
from fasttail.parser.table cimport RowTable, row_line
from fasttail.parser.types cimport NO_CODE, Row
from fasttail.parser.words cimport intern_add, intern_clear, intern_find, intern_free, intern_init
from fasttail.publish.buffer cimport Box
from fasttail.publish.filters cimport RowKey, find_text, row_key, row_text, text_hash
from fasttail.publish.legacy_encoder cimport encode_pieces, encode_updates
from fasttail.publish.quotas cimport LEAST_ROOM, ROOM_PER_BYTE, Group, Job, share_out
from fasttail.publish.topics cimport (
    LINK_HEADS, MORE_THAN_EVENT, NO_QUOTA, OLD_UPDATES, ORDERS, USERS_LISTS, USER_ORDERS, Link, Place, Topic)

cdef enum:
    PARALLEL_FROM = 2000         # rows looked at in all jobs: below, waking the workers costs more than it gives
    OLD_CHANNELS = 2             # their topics always find room
    COIN_CODES_ALL = 65536
    MOST_USERS = 1 << 24
    MOST_DEAD_USERS = 1024


cdef void _make_keys(RowTable table, RowKey* keys, bint filtered) noexcept nogil:
    """keys[row] = what filters ask of it first; the number of the event alone if there are none."""
    cdef size_t k, i
    cdef uint64_t line, before = ~<uint64_t>0
    cdef uint32_t n = 0
    cdef const Row* row
    for k in range(table.segments_len):
        for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
            row = &(<Row*>table.rows)[i]
            line = row_line(table, row)
            n = n + 1 if line == before else 1
            before = line
            if filtered:
                keys[i] = row_key(row, n)
            else:
                keys[i].nth = n


cdef class Topics:
    """The topics of one pipeline. Only its thread may call; the main thread keeps the Topic objects alive meanwhile.

    most: topics that there may be; one more is refused. The
    old channels' two always find room.
    """

    def __cinit__(self, int workers, RowTable table not None, *, uint32_t most=MOST_TOPICS):
        self.workers = workers
        self.rows_cap = table.rows_cap
        self.most = most
        self.bounded = True
        self.keys = <RowKey*>calloc(self.rows_cap, sizeof(RowKey))
        self.next = <uint32_t*>calloc(self.rows_cap, sizeof(uint32_t))
        self.heads = <Link**>calloc(LINK_HEADS, sizeof(Link*))
        self.visited = <uint64_t*>calloc(LINK_HEADS, sizeof(uint64_t))
        self.head_of_coin = <uint16_t*>calloc(COIN_CODES_ALL, sizeof(uint16_t))
        if (self.keys == NULL or self.next == NULL or self.heads == NULL or self.visited == NULL or self.head_of_coin == NULL
                or not self._grow()):
            raise MemoryError
        intern_init(&self.users, MOST_USERS)

    def __dealloc__(self):
        intern_free(&self.users)
        free(self.always)
        free(self.heads)
        free(self.visited)
        free(self.head_of_coin)
        free(self.of_user)
        free(self.job_of_user)
        free(self.jobs)
        free(self.groups)
        free(self.keys)
        free(self.next)

    cdef int _grow(self) noexcept nogil:
        """Room for one more topic, and for those of the old channels. 1, or 0 when memory is out."""
        cdef uint32_t room = self.room * 2 if self.room else 64
        cdef void* grown
        if self.count + OLD_CHANNELS >= self.room:
            grown = realloc(self.always, room * sizeof(void*))
            if grown == NULL:
                return 0
            self.always = <void**>grown
            grown = realloc(self.jobs, room * sizeof(Job))
            if grown == NULL:
                return 0
            self.jobs = <Job*>grown
            grown = realloc(self.groups, room * sizeof(Group))
            if grown == NULL:
                return 0
            self.groups = <Group*>grown
            self.room = room
        if self.users.count + 1 >= self.users_room:
            room = self.users_room * 2 if self.users_room else 64
            grown = realloc(self.of_user, room * sizeof(void*))
            if grown == NULL:
                return 0
            self.of_user = <void**>grown
            grown = realloc(self.job_of_user, room * sizeof(uint32_t))
            if grown == NULL:
                return 0
            self.job_of_user = <uint32_t*>grown
            self.users_room = room
        return 1

    cdef int add(self, void* topic) noexcept nogil:
        """From now on the topic's messages are made. 1, or 0 when there is no room for it: the topic says so then."""
        if self._add(topic):
            (<Topic>topic).held = True
            self.count += (<Topic>topic).kind == ORDERS or (<Topic>topic).kind == USER_ORDERS
            self.filtered += (<Topic>topic).kind == ORDERS and not (<Topic>topic).selector.filter.every
            return 1
        (<Topic>topic).failed = 1
        return 0

    cdef int _add(self, void* topic) noexcept nogil:
        cdef uint32_t code
        cdef int k
        cdef Link* link
        cdef int kind = (<Topic>topic).kind
        if kind == ORDERS or kind == USER_ORDERS:
            if self.count >= self.most or not self._grow():
                return 0
        if kind == USER_ORDERS:
            code = intern_add(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)
            if code == 0:
                return 0
            self.of_user[code] = topic
            self.job_of_user[code] = 0
            self.user_topics += 1
            return 1
        if (<Topic>topic).links_len == 0:
            (<Topic>topic).at = self.always_len
            self.always[self.always_len] = topic
            self.always_len += 1
            return 1
        for k in range((<Topic>topic).links_len):
            link = &(<Topic>topic).links[k]
            link.before = NULL
            link.next = self.heads[link.head]
            if link.next != NULL:
                link.next.before = link
            self.heads[link.head] = link
        if (<Topic>topic).links[0].head < USERS_LISTS:
            self.by_coin += 1
        else:
            self.by_user += 1
        return 1

    cdef void remove(self, void* topic) noexcept nogil:
        """No more; one that was refused was never there."""
        cdef uint32_t code, dead
        cdef int k
        cdef Link* link
        if not (<Topic>topic).held:
            return
        (<Topic>topic).held = False
        self.count -= (<Topic>topic).kind == ORDERS or (<Topic>topic).kind == USER_ORDERS
        self.filtered -= (<Topic>topic).kind == ORDERS and not (<Topic>topic).selector.filter.every
        if (<Topic>topic).kind != USER_ORDERS and (<Topic>topic).links_len == 0:
            self.always_len -= 1
            self.always[(<Topic>topic).at] = self.always[self.always_len]
            (<Topic>self.always[(<Topic>topic).at]).at = (<Topic>topic).at
            return
        if (<Topic>topic).kind != USER_ORDERS:
            for k in range((<Topic>topic).links_len):
                link = &(<Topic>topic).links[k]
                if link.before != NULL:
                    link.before.next = link.next
                else:
                    self.heads[link.head] = link.next
                if link.next != NULL:
                    link.next.before = link.before
            if (<Topic>topic).links[0].head < USERS_LISTS:
                self.by_coin -= 1
            else:
                self.by_user -= 1
            return
        code = intern_find(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)
        self.of_user[code] = NULL
        self.user_topics -= 1
        dead = self.users.count - self.user_topics
        if dead > MOST_DEAD_USERS and dead > self.users.count // 2:
            self._forget_dead_users()

    cdef void _forget_dead_users(self) noexcept nogil:
        """Number the users with a topic anew: words cannot be taken out one by one."""
        cdef uint32_t code, n = 0
        cdef void* topic
        for code in range(1, self.users.count + 1):
            if self.of_user[code] != NULL:
                n += 1
                self.of_user[n] = self.of_user[code]
        intern_clear(&self.users)
        for code in range(1, n + 1):
            topic = self.of_user[code]
            intern_add(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)   # gets this code again
            self.job_of_user[code] = 0

    cdef uint32_t _walk(self, uint32_t head, uint32_t jobs) noexcept nogil:
        """A job for each topic of a list, once in a batch. Returns the number of jobs then."""
        cdef Link* link
        if self.visited[head] == self.batch:
            return jobs
        self.visited[head] = self.batch
        link = self.heads[head]
        while link != NULL:
            if (<Topic>link.topic).seen != self.batch:
                (<Topic>link.topic).seen = self.batch
                self.jobs[jobs].topic = link.topic
                jobs += 1
            link = link.next
        return jobs

    cdef uint32_t _find_jobs(self, RowTable table, const char* data) noexcept nogil:
        """A job for each topic for which the batch may have something. Returns their number."""
        cdef uint32_t jobs = 0, i, code, head
        cdef size_t k, r, n
        cdef const Row* row
        cdef const char* text
        cdef char room[DECODED_TEXT_BYTES]
        self.batch += 1
        for i in range(self.always_len):
            self.jobs[jobs].topic = self.always[i]
            jobs += 1
        if self.by_coin or self.by_user:
            for k in range(table.segments_len):
                for r in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                    row = &(<Row*>table.rows)[r]
                    if self.by_coin:
                        code = self.keys[r].coin
                        if code == NO_CODE or self.head_of_coin[code] == 0:
                            text = row_text(row, data, &row.coin_text, False, room, &n)
                            head = <uint32_t>(text_hash(text, n) % USERS_LISTS) if text != NULL else 0
                            if code != NO_CODE:
                                self.head_of_coin[code] = <uint16_t>(head + 1)
                        else:
                            head = self.head_of_coin[code] - 1
                        jobs = self._walk(head, jobs)
                    if self.by_user:
                        text = row_text(row, data, &row.user, True, room, &n)
                        if text != NULL:
                            head = USERS_LISTS + <uint32_t>(text_hash(text, n) % (LINK_HEADS - USERS_LISTS))
                            jobs = self._walk(head, jobs)
        if self.user_topics:
            jobs = self._group_by_user(table, data, jobs)
        return jobs

    cdef uint32_t _group_by_user(self, RowTable table, const char* data, uint32_t jobs) noexcept nogil:
        """A job, with its rows in order, for each topic of a user who has orders here. Returns the number of jobs then."""
        cdef size_t k, i
        cdef uint32_t code, j, first = jobs
        cdef const Row* row
        for k in range(table.segments_len):
            for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                row = &(<Row*>table.rows)[i]
                code = find_text(&self.users, row, data, &row.user, True)
                ft_assert(code < self.users_room or code == 0)
                if code == 0 or self.of_user[code] == NULL:
                    continue
                j = self.job_of_user[code]
                if j == 0:
                    ft_assert(jobs < self.room)
                    jobs += 1
                    self.job_of_user[code] = jobs
                    self.jobs[jobs - 1].topic = self.of_user[code]
                    self.jobs[jobs - 1].first = <uint32_t>i
                    self.jobs[jobs - 1].user = code
                else:
                    self.next[self.jobs[j - 1].last] = <uint32_t>i
                j = self.job_of_user[code]
                self.jobs[j - 1].last = <uint32_t>i
        for j in range(first, jobs):
            self.job_of_user[self.jobs[j].user] = 0
        return jobs

    cdef void _measure(self, Job* job, RowTable table, const Place* place) noexcept nogil:
        """job.bytes = no fewer than its messages will have; those of the old channels are not bounded."""
        cdef void* topic = job.topic
        if (<Topic>topic).kind == USER_ORDERS:
            job.bytes = (<Topic>topic).measure_linked(table, self.next, job.first, job.last)
        elif (<Topic>topic).kind == ORDERS:
            job.bytes = (<Topic>topic).measure(table, self.keys, place)
        else:
            job.bytes = 0

    cdef void _share_out(self, RowTable table, const Place* place, uint32_t jobs, bint parallel) noexcept nogil:
        """Quotas for a batch whose messages may have more bytes than there is room for."""
        cdef int j
        if parallel:
            for j in prange(<int>jobs, schedule="dynamic", chunksize=16, num_threads=self.workers):
                self._measure(&self.jobs[j], table, place)
        else:
            for j in range(<int>jobs):
                self._measure(&self.jobs[j], table, place)
        if share_out(self.jobs, jobs, self.groups, LEAST_ROOM + ROOM_PER_BYTE * place.size):
            ft_add_single_writer(&self.crowded, 1)

    cdef size_t run(self, RowTable table, const Place* place, const uint32_t* selection, size_t selected, int64_t now_ns,
                    Box* boxes) noexcept nogil:
        """Write the messages of a batch into boxes[0:workers]. Returns how many orders those who asked for most get.

        selection: the rows that the server's own filter passes, for the old channels.
        """
        cdef uint32_t i, jobs
        cdef int j, count
        cdef size_t orders = 0, of_users = 0
        cdef uint64_t oversize = 0
        cdef bint parallel
        if (self.count == 0 and self.always_len == 0) or table.rows_len == 0:
            return 0
        ft_assert(table.rows_cap <= self.rows_cap)
        _make_keys(table, self.keys, self.filtered > 0)
        jobs = self._find_jobs(table, place.data)
        ft_assert(jobs <= self.room)
        count = <int>jobs
        parallel = self.workers > 1 and count > 1 and <size_t>count * table.rows_len >= PARALLEL_FROM and openmp_usable()
        for i in range(jobs):
            self.jobs[i].quota = NO_QUOTA
        # No job has more than this: every order in the longest format, in messages of the least size.
        if self.bounded and jobs * (2 * place.size
                                    + table.rows_len * 2 * MORE_THAN_EVENT) > LEAST_ROOM + ROOM_PER_BYTE * place.size:
            self._share_out(table, place, jobs, parallel)
        if parallel:
            for j in prange(count, schedule="dynamic", chunksize=1, num_threads=self.workers):
                ft_assert(threadid() < self.workers)
                self._do(&self.jobs[j], &boxes[threadid()], table, place, selection, selected, now_ns)
        else:
            for j in range(count):
                self._do(&self.jobs[j], &boxes[0], table, place, selection, selected, now_ns)
        for i in range(jobs):
            if (<Topic>self.jobs[i].topic).kind == USER_ORDERS:
                of_users += self.jobs[i].orders
            else:
                orders = max(orders, self.jobs[i].orders)
                oversize = max(oversize, self.jobs[i].oversize)
        ft_add_single_writer(&self.oversize, oversize)  # relaxed: the main thread tells of it
        return max(orders, of_users)

    cdef void _do(self, Job* job, Box* box, RowTable table, const Place* place, const uint32_t* selection, size_t selected,
                  int64_t now_ns) noexcept nogil:
        """One topic's messages of this batch; memory that is out shows in the box."""
        cdef void* topic = job.topic
        cdef int kind = (<Topic>topic).kind
        job.oversize = 0
        if kind == ORDERS:
            job.orders = (<Topic>topic).encode(box, table, self.keys, place, job.quota)
        elif kind == USER_ORDERS:
            job.orders = (<Topic>topic).encode_linked(box, table, self.keys, place, job.quota, self.next, job.first, job.last)
        elif kind == OLD_UPDATES:
            job.orders = encode_updates(table, place.data, selection, selected, now_ns, (<Topic>topic).most, (<Topic>topic).id,
                                        box, &job.oversize)
        else:
            job.orders = encode_pieces(table, place.data, selection, selected, (<Topic>topic).most, (<Topic>topic).id, box,
                                       &job.oversize)
