"""Rows -> the messages of each topic: a selection and its frames, made once for all who asked for the same.

    rows ─┬─► filter of topic 1 ──► orders, 256 KiB at most a message ──► box of the worker that took the job
          ├─► filter of topic 2 ──► …
          └─► user ─► the user's topic (one look-up an order, however many users are asked for)

Jobs (a topic with its rows) are shared out among the workers; a box is one worker's, and the messages of a topic stand in one
box, in order. A message:

    {"channel":"orders","data":[order,order,…],"cursor":"…","seq":8,"prev":7,"height":…,"blockTime":"…"}

`cursor` stands behind its last order: layout and hour, offset of the line in the hour's file, events of that line that are done
with, with leading zeros, so that the byte order of cursors is the order in the files.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.parallel import prange, threadid
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from fasttail.atomics cimport ft_add
from fasttail.checks cimport ft_assert
from fasttail.parser.table cimport Table
from fasttail.parser.types cimport NO_ENVELOPE, Envelope, Row
from fasttail.parser.words cimport words_add, words_clear, words_find, words_free, words_new
from fasttail.publish.filters cimport Selector, find_text
from fasttail.publish.frames cimport (
    DATA, LEFT_OUT, Box, Message, Out, add_message, encode_json, encode_pieces, encode_raw, encode_updates, encode_ws, frame_header,
    put_int, room_for)

from typing import NamedTuple

cdef enum:
    HEADER = 10                  # most bytes of a frame's header
    LINE_DIGITS = 13
    EVENT_DIGITS = 7
    TAIL = 256                   # more than the bytes behind `data`, but for the topic's own and the block's time
    MORE_THAN_EVENT = 640        # an order in any format needs at most so many bytes more than its event
    PARALLEL_FROM = 2000         # rows looked at in all jobs: below, waking the workers costs more than it gives
    LONG_COPY = 16384            # bytes; to let go of the GIL costs less than to copy so many
    LEAST_ROOM = 32 << 20        # bytes that a worker may write in one batch,
    ROOM_PER_BYTE = 4            # … and so many for each byte of the batch
    MOST_USERS = 1 << 24
    MOST_DEAD_USERS = 1024

_KINDS = {"orders": ORDERS, "orderUpdates": USER_ORDERS, "orderUpdate": OLD_UPDATES, "orderBatch": OLD_BATCHES}
_FORMATS = {"full": FULL, "ws": WS, "raw": RAW}

cdef uint32_t _last_id = 0


class TopicMessage(NamedTuple):
    """What a topic's clients get of a batch.

    `data`: ready to send (`orderBatch`: JSON for the batcher), b"" for one order that fits into no message. `seq`: 0 where messages
    are not numbered. `cursor`: stands behind its last order.
    """

    topic: int
    data: bytes
    orders: int
    seq: int
    cursor: str


cdef message_tuple(const Box* box, const Message* message, const Place* place):
    """A message, taken out of its box."""
    cursor = place.prefix[:place.prefix_size].decode() + f"{message.line:013d}-{message.events:07d}"
    cdef size_t size = message.end - message.begin
    cdef bytes data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef char* to = PyBytes_AS_STRING(data)
    if size > LONG_COPY:
        with nogil:              # a replay's thread must not keep the event loop from the GIL
            memcpy(to, box.text.data + message.begin, size)
    else:
        memcpy(to, box.text.data + message.begin, size)
    return TopicMessage(message.topic, data, message.orders, message.seq, cursor)


cdef inline void _put(Out* out, const char* p, size_t n) noexcept nogil:
    ft_assert(out.size + n <= out.room)
    memcpy(out.data + out.size, p, n)
    out.size += n


cdef inline void _put_padded(Out* out, uint64_t value, int digits) noexcept nogil:
    cdef int i
    ft_assert(out.size + <size_t>digits <= out.room)
    for i in range(digits):
        out.data[out.size + <size_t>(digits - 1 - i)] = <char>(c'0' + value % 10)
        value //= 10
    out.size += <size_t>digits


cdef inline const Envelope* _block(Table table, const Row* row) noexcept nogil:
    return &table.envelopes[row.envelope] if row.envelope != <uint32_t>NO_ENVELOPE else NULL


cdef inline uint64_t _line(Table table, const Row* row) noexcept nogil:
    """Where the row's line begins, counted from the start of the data (of a plain line: where its event begins)."""
    cdef const Envelope* block = _block(table, row)
    return block.at if block != NULL else row.at


cdef int number_events(Table table, uint32_t* nth) noexcept nogil:
    """nth[row] = its number among the events of its line, from 1. Always 0."""
    cdef size_t k, i
    cdef uint64_t line, before = ~<uint64_t>0
    cdef uint32_t n = 0
    cdef const Row* row
    for k in range(table.segments_len):
        for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
            row = &(<Row*>table.rows)[i]
            line = _line(table, row)
            n = n + 1 if line == before else 1
            before = line
            nth[i] = n
    return 0


cdef class Topic:
    """What one distinct subscription gets. Made by the main thread; used by whoever encodes.

    kind: "orders" (what `selector` passes), "orderUpdates" (of `user`, lower case), "orderUpdate" or "orderBatch" (the old
    channels: what the server's own filter passes). format: "full", "ws" or "raw". max_message: bytes of a message's payload.
    aim: those after which the next order begins a message of its own, if that is less. numbered: its messages carry `seq` and
    `prev`; a replay's do not. seq: of the message before its first. A selector is one pool's: no two topics may share one.
    """

    def __cinit__(self, str kind, *, Selector selector=None, str user="", str format="ws", size_t max_message=262144,
                  size_t aim=0, bint numbered=True, key=None, uint64_t seq=0):
        global _last_id
        _last_id += 1
        self.id = _last_id
        self.key = key
        self.kind = _KINDS[kind]
        self.format = _FORMATS[format]
        self.numbered = numbered
        self.seq = seq
        self.most = max_message
        self.aim = min(aim, max_message) if aim else max_message
        self.selector = selector if selector is not None else Selector(users=[user] if user else None)
        user_bytes = user.encode()
        self._texts = (
            user_bytes,
            b'{"channel":"%b","data":[' % kind.encode(),
            b'],"user":"%b","cursor":"' % user_bytes if user else b'],"cursor":"',
        )
        self.user_text, self.user_size = self._texts[0], <size_t>len(self._texts[0])
        self.head, self.head_size = self._texts[1], <size_t>len(self._texts[1])
        self.tail, self.tail_size = self._texts[2], <size_t>len(self._texts[2])

    cdef int _put_order(self, Box* box, Table table, const Row* row, const char* data) noexcept nogil:
        """1, or 0 when memory is out."""
        if self.format == WS:
            return encode_ws(&box.text, row, data)
        # these two end with a newline
        if not (encode_json(&box.text, row, table, data) if self.format == FULL else encode_raw(&box.text, row, data)):
            return 0
        box.text.size -= 1
        return 1

    cdef int begin(self, Draft* draft) noexcept nogil:
        """A batch begins. Always 0."""
        draft.message.topic = self.id
        draft.message.kind = DATA
        draft.message.orders = 0
        draft.message.seq = 0
        draft.total = 0
        return 0

    cdef int add(self, Draft* draft, Box* box, Table table, const Row* row, uint32_t nth, const Place* place) noexcept nogil:
        """Append an order to the message, or to the next one if it does not fit. 1, or 0 when memory is out."""
        cdef Out* out = &box.text
        cdef const Envelope* block = _block(table, row)
        cdef size_t tail = TAIL + self.tail_size + (block.block_time.size if block != NULL else 0)
        if draft.message.orders and (out.size - draft.message.begin + row.size + MORE_THAN_EVENT + tail
                                     + (block.block_time.size + block.local_time.size if block != NULL else 0) > self.aim):
            self.end(draft, box, table, place)
        draft.last = row
        if draft.message.orders == 0:
            draft.message.begin = out.size
            draft.message.seq = 0
            draft.message.kind = LEFT_OUT if out.size > box.most else DATA
        if draft.message.kind == LEFT_OUT:
            self._stands_at(draft, table, row, nth, place)
            draft.message.orders += 1
            return 1
        if draft.message.orders == 0:
            if not room_for(out, HEADER + self.head_size):
                return 0
            out.size += HEADER
            _put(out, self.head, self.head_size)
        else:
            if not room_for(out, 1):
                return 0
            _put(out, b",", 1)
        if not self._put_order(box, table, row, place.data):
            return 0
        self._stands_at(draft, table, row, nth, place)
        if draft.message.orders == 0 and out.size - draft.message.begin - HEADER + tail > self.most:
            out.size = draft.message.begin
            draft.message.end = out.size
            draft.message.orders = 1
            draft.message.kind = LEFT_OUT
            add_message(box, &draft.message)
            draft.message.orders = 0
            return 1
        draft.message.orders += 1
        draft.total += 1
        return 1

    cdef int _stands_at(self, Draft* draft, Table table, const Row* row, uint32_t nth, const Place* place) noexcept nogil:
        """The message's last order is this row. Always 0."""
        draft.message.line = place.goes_on if place.late else _line(table, row) + place.offset
        draft.message.events = 0 if place.late else nth
        return 0

    cdef int end(self, Draft* draft, Box* box, Table table, const Place* place) noexcept nogil:
        """Finish the message, if one is begun. 1, or 0 when memory is out."""
        cdef Out* out = &box.text
        cdef const Envelope* block
        cdef size_t payload
        cdef int header
        cdef char text[HEADER]
        if draft.message.orders == 0:
            return 1
        if draft.message.kind == LEFT_OUT:
            draft.message.end = draft.message.begin
            add_message(box, &draft.message)
            draft.message.orders = 0
            return 1
        block = _block(table, draft.last)
        if not room_for(out, TAIL + self.tail_size + (block.block_time.size if block != NULL else 0)):
            out.size = draft.message.begin
            return 0
        _put(out, self.tail, self.tail_size)
        _put(out, place.prefix, place.prefix_size)
        _put_padded(out, draft.message.line, LINE_DIGITS)
        _put(out, b"-", 1)
        _put_padded(out, draft.message.events, EVENT_DIGITS)
        _put(out, b'"', 1)
        if self.numbered:
            self.seq += 1
            draft.message.seq = self.seq
            _put(out, b',"seq":', 7)
            put_int(out, self.seq)
            _put(out, b',"prev":', 8)
            put_int(out, self.seq - 1)
        if block != NULL:
            _put(out, b',"height":', 10)
            put_int(out, block.block_number)
            _put(out, b',"blockTime":"', 14)
            _put(out, place.data + block.at + block.block_time.off, block.block_time.size)
            _put(out, b'"', 1)
        _put(out, b"}", 1)
        payload = out.size - draft.message.begin - HEADER
        header = frame_header(text, payload)
        draft.message.begin += HEADER - <size_t>header
        memcpy(out.data + draft.message.begin, text, <size_t>header)
        draft.message.end = out.size
        add_message(box, &draft.message)
        draft.message.orders = 0
        return 1

    cdef int encode(self, Draft* draft, Box* box, Table table, const uint32_t* nth, const Place* place, uint64_t after_line,
                    uint32_t after_events) noexcept nogil:
        """All orders that the selector passes and that stand behind a place in the file. 1, or 0 when memory is out."""
        cdef size_t k, i
        cdef uint64_t line
        cdef const Row* row
        self.begin(draft)
        for k in range(table.segments_len):
            for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                row = &(<Row*>table.rows)[i]
                if after_events:
                    line = _line(table, row) + place.offset
                    if line < after_line or (line == after_line and nth[i] <= after_events):
                        continue
                if self.selector.every or self.selector._wanted(row, place.data):
                    if not self.add(draft, box, table, row, nth[i], place):
                        return 0
        return self.end(draft, box, table, place)


cdef class Topics:
    """The topics of one pipeline. Only its thread may call; the main thread keeps the Topic objects alive meanwhile."""

    def __cinit__(self, int workers, Table table not None):
        self.workers = workers
        self.rows_cap = table.rows_cap
        self.nth = <uint32_t*>calloc(self.rows_cap, sizeof(uint32_t))
        self.next = <uint32_t*>calloc(self.rows_cap, sizeof(uint32_t))
        if self.nth == NULL or self.next == NULL:
            raise MemoryError
        words_new(&self.users, MOST_USERS)

    def __dealloc__(self):
        words_free(&self.users)
        free(self.topics)
        free(self.of_user)
        free(self.job_of_user)
        free(self.jobs)
        free(self.nth)
        free(self.next)

    cdef int _grow(self) noexcept nogil:
        """Room for one more topic. 1, or 0 when memory is out."""
        cdef uint32_t room = self.room * 2 if self.room else 64
        cdef void* grown
        if self.count < self.room and self.users.count + 1 < self.users_room:
            return 1
        if self.count >= self.room:
            grown = realloc(self.topics, room * sizeof(void*))
            if grown == NULL:
                return 0
            self.topics = <void**>grown
            grown = realloc(self.jobs, room * sizeof(Job))
            if grown == NULL:
                return 0
            self.jobs = <Job*>grown
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
        """From now on the topic's messages are made. 1, or 0 when memory is out."""
        cdef uint32_t code
        if not self._grow():
            return 0
        if (<Topic>topic).kind == USER_ORDERS:
            code = words_add(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)
            if code == 0:
                return 0
            self.of_user[code] = topic
            self.job_of_user[code] = 0
            self.user_topics += 1
        self.topics[self.count] = topic
        self.count += 1
        return 1

    cdef int remove(self, void* topic) noexcept nogil:
        """No more. Always 0."""
        cdef uint32_t i, code, dead
        for i in range(self.count):
            if self.topics[i] == topic:
                self.count -= 1
                self.topics[i] = self.topics[self.count]
                break
        else:
            return 0
        if (<Topic>topic).kind != USER_ORDERS:
            return 0
        code = words_find(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)
        self.of_user[code] = NULL
        self.user_topics -= 1
        dead = self.users.count - self.user_topics
        if dead > MOST_DEAD_USERS and dead > self.users.count // 2:
            # words cannot be taken out one by one
            words_clear(&self.users)
            for i in range(self.count):
                if (<Topic>self.topics[i]).kind == USER_ORDERS:
                    code = words_add(&self.users, (<Topic>self.topics[i]).user_text, (<Topic>self.topics[i]).user_size)
                    self.of_user[code] = self.topics[i]
                    self.job_of_user[code] = 0
        return 0

    cdef size_t _group_by_user(self, Table table, const char* data, uint32_t jobs) noexcept nogil:
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

    cdef size_t run(self, Table table, const Place* place, const uint32_t* selection, size_t selected, int64_t now_ns,
                    Box* boxes) noexcept nogil:
        """Write the messages of a batch into boxes[0:workers]. Returns how many orders those who asked for most get.

        selection: the rows that the server's own filter passes, for the old channels.
        """
        cdef uint32_t i, jobs = 0
        cdef int j, count
        cdef size_t orders = 0, of_users = 0
        cdef uint64_t oversize = 0
        if self.count == 0 or table.rows_len == 0:
            return 0
        ft_assert(table.rows_cap <= self.rows_cap)
        number_events(table, self.nth)
        for j in range(self.workers):
            boxes[j].most = LEAST_ROOM + ROOM_PER_BYTE * place.size
        for i in range(self.count):
            if (<Topic>self.topics[i]).kind != USER_ORDERS:
                ft_assert(jobs < self.room)
                self.jobs[jobs].topic = self.topics[i]
                jobs += 1
        if self.user_topics:
            jobs = <uint32_t>self._group_by_user(table, place.data, jobs)
        count = <int>jobs
        if self.workers > 1 and count > 1 and <size_t>count * table.rows_len >= PARALLEL_FROM:
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
        ft_add(&self.oversize, oversize)     # relaxed: the main thread tells of it
        return max(orders, of_users)

    cdef int _do(self, Job* job, Box* box, Table table, const Place* place, const uint32_t* selection, size_t selected,
                 int64_t now_ns) noexcept nogil:
        """One topic's messages of this batch. Always 0; memory that is out shows in the box."""
        cdef Draft draft
        cdef uint32_t row
        cdef void* topic = job.topic
        cdef int kind = (<Topic>topic).kind
        job.orders = 0
        job.oversize = 0
        if kind == ORDERS:
            (<Topic>topic).encode(&draft, box, table, self.nth, place, 0, 0)
            job.orders = draft.total
        elif kind == USER_ORDERS:
            (<Topic>topic).begin(&draft)
            row = job.first
            while (<Topic>topic).add(&draft, box, table, &(<Row*>table.rows)[row], self.nth[row], place) and row != job.last:
                row = self.next[row]
            (<Topic>topic).end(&draft, box, table, place)
            job.orders = draft.total
        elif kind == OLD_UPDATES:
            job.orders = encode_updates(table, place.data, selection, selected, now_ns, (<Topic>topic).most, (<Topic>topic).id, box,
                                        &job.oversize)
        else:
            job.orders = encode_pieces(table, place.data, selection, selected, (<Topic>topic).most, (<Topic>topic).id, box,
                                       &job.oversize)
        return 0
