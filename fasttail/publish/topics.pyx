"""Rows -> the messages of each topic: a selection and its frames, made once for all who asked for the same.

    rows ─┬─► filter of topic 1 ──► orders, 256 KiB at most a message ──► box of the worker that took the job
          ├─► filter of topic 2 ──► …
          └─► user ─► the user's topic (one look-up an order, however many users are asked for)

Jobs (a topic with its rows) are shared out among the workers; a box is one worker's, and the messages of a topic stand in one
box, in order. A topic gets a job only when a batch may have something for it: one of few coins or users stands in a list by
the hash of each, and a batch walks the lists of those that occur in it.

All messages of a batch together have a bound. Where they might pass it, the bytes of each job are counted first, and the bound is
shared out: equal shares for all clients; who needs less leaves the rest to the others; and what a client needs beyond its share
is taken from its own largest topics. A topic of several clients counts as a client of its own. So a client can only make gaps
for itself. A message:

    {"channel":"orders","data":[order,order,…],"cursor":"…","seq":8,"prev":7,"height":…,"blockTime":"…"}

`cursor` stands behind its last order: layout and hour, offset of the line in the hour's file, events of that line that are done
with, with leading zeros, so that the byte order of cursors is the order in the files.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.parallel import prange, threadid
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcpy

from fasttail.atomics cimport ft_add
from fasttail.checks cimport ft_assert
from fasttail.parser.json cimport TEXT_ROOM
from fasttail.parser.pool cimport has_team
from fasttail.parser.table cimport Table
from fasttail.parser.types cimport NO_CODE, NO_ENVELOPE, Envelope, Row
from fasttail.parser.words cimport words_add, words_clear, words_find, words_free, words_new
from fasttail.publish.buffer cimport DATA, LEFT_OUT, TOO_LONG, Box, Message, Out, add_message, put, put_int, put_padded, room_for
from fasttail.publish.encoders cimport encode_json, encode_raw, encode_ws
from fasttail.publish.filters cimport RowKey, Selector, Texts, find_text, row_key, row_text, text_hash, wants
from fasttail.publish.frames cimport frame_header
from fasttail.publish.legacy_encoder cimport encode_pieces, encode_updates

from typing import NamedTuple

cdef enum:
    HEADER = 10                  # most bytes of a frame's header
    LINE_DIGITS = 13
    EVENT_DIGITS = 7
    TAIL = 256                   # more than the bytes behind `data`, but for the topic's own and the block's time
    MORE_THAN_EVENT = 640        # an order in any format needs at most so many bytes more than its event
    PARALLEL_FROM = 2000         # rows looked at in all jobs: below, waking the workers costs more than it gives
    LONG_COPY = 16384            # bytes; to let go of the GIL costs less than to copy so many
    LEAST_ROOM = 32 << 20        # bytes that all messages of a batch may have together,
    ROOM_PER_BYTE = 64           # … and so many for each byte of the batch
    OLD_CHANNELS = 2             # their topics always find room
    USERS_LISTS = LINK_HEADS // 2    # the first list by a user's hash; those before it are by a coin's
    COIN_CODES_ALL = 65536
    MOST_USERS = 1 << 24
    MOST_DEAD_USERS = 1024

_KINDS = {"orders": ORDERS, "orderUpdates": USER_ORDERS, "orderUpdate": OLD_UPDATES, "orderBatch": OLD_BATCHES}
_FORMATS = {"full": FULL, "ws": WS, "raw": RAW}

cdef size_t NO_QUOTA = <size_t>-1

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint32_t ft_relaxed_load(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void ft_relaxed_store(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    """
    uint32_t ft_relaxed_load(const uint32_t* p) noexcept nogil
    void ft_relaxed_store(uint32_t* p, uint32_t v) noexcept nogil

cdef uint32_t _last_id = 0


class TopicMessage(NamedTuple):
    """What a topic's clients get of a batch.

    `data`: ready to send (`orderBatch`: JSON for the batcher); b"" for one order that fits into no message, or, if
    `left_out`, for orders for which the batch had no room. `seq`: 0 where messages are not numbered. `cursor`: stands behind
    its last order.
    """

    topic: int
    data: bytes
    orders: int
    seq: int
    cursor: str
    left_out: bool = False


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
    return TopicMessage(message.topic, data, message.orders, message.seq, cursor, message.kind == LEFT_OUT)


cdef inline const Envelope* _block(Table table, const Row* row) noexcept nogil:
    return &table.envelopes[row.envelope] if row.envelope != <uint32_t>NO_ENVELOPE else NULL


cdef inline uint64_t _line(Table table, const Row* row) noexcept nogil:
    """Where the row's line begins, counted from the start of the data (of a plain line: where its event begins)."""
    cdef const Envelope* block = _block(table, row)
    return block.at if block != NULL else row.at


cdef int make_keys(Table table, RowKey* keys, bint filtered) noexcept nogil:
    """keys[row] = what filters ask of it first; the number of the event alone if there are none. Always 0."""
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
            if filtered:
                keys[i] = row_key(row, n)
            else:
                keys[i].nth = n
    return 0


cdef class Topic:
    """What one distinct subscription gets. Made by the main thread; used by whoever encodes.

    kind: "orders" (what `selector` passes), "orderUpdates" (of `user`, lower case), "orderUpdate" or "orderBatch" (the old
    channels: what the server's own filter passes). format: "full", "ws" or "raw". max_message: bytes of a message's payload.
    aim: those after which the next order begins a message of its own, if that is less. numbered: its messages carry `seq` and
    `prev`; a replay's do not. seq: of the message before its first. A selector is one pool's: no two topics may share one.
    group: whose quota its messages count to when a batch has too many, a client's number; 0: a quota of its own.
    """

    def __cinit__(self, str kind, *, Selector selector=None, str user="", str format="ws", size_t max_message=262144,
                  size_t aim=0, bint numbered=True, key=None, uint64_t seq=0, uint32_t group=0):
        global _last_id
        _last_id += 1
        self.id = _last_id
        self.key = key
        self.kind = _KINDS[kind]
        self.format = _FORMATS[format]
        self.more = {FULL: MORE_THAN_EVENT, WS: 257, RAW: 2}[self.format]
        self.numbered = numbered
        self.seq = seq
        self.group = group
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
        if self.kind == ORDERS:
            self._look_up()

    @property
    def refused(self) -> bool:
        """The pipeline has no room for it: its messages are not made. Known when the command that added it is answered."""
        return self.failed != 0

    def count_to(self, uint32_t group) -> None:
        """Whose quota its messages count to from some batch on."""
        ft_relaxed_store(&self.group, group)

    cdef int _look_up(self) except -1:
        """Choose the lists that the topic will stand in: those of its users, else of its coins, if they are few."""
        cdef const Texts* texts = &self.selector.filter.users
        cdef uint32_t first = USERS_LISTS, code, k, head
        cdef uint32_t lists = LINK_HEADS - USERS_LISTS
        if not 0 < texts.count <= MOST_LINKS:
            texts = &self.selector.filter.coins
            first, lists = 0, USERS_LISTS
        if not 0 < texts.count <= MOST_LINKS:
            return 0
        for code in range(1, texts.count + 1):
            head = first + <uint32_t>(text_hash(texts.text + texts.ends[code - 1], texts.ends[code] - texts.ends[code - 1]) % lists)
            for k in range(<uint32_t>self.links_len):
                if self.links[k].head == head:
                    break
            else:
                self.links[self.links_len].head = head
                self.links[self.links_len].topic = <void*>self
                self.links_len += 1
        return 0

    cdef size_t _needs(self, Table table, const Row* row) noexcept nogil:
        """No fewer bytes than the order will have in a message."""
        cdef const Envelope* block
        if self.format != FULL:
            return <size_t>row.size + self.more
        block = _block(table, row)
        return <size_t>row.size + self.more + (block.block_time.size + block.local_time.size if block != NULL else 0)

    cdef int _put_order(self, Box* box, Table table, const Row* row, const char* data) noexcept nogil:
        """1, or 0 when memory is out."""
        if self.format == WS:
            return encode_ws(&box.text, row, data)
        # these two end with a newline
        if not (encode_json(&box.text, row, table, data) if self.format == FULL else encode_raw(&box.text, row, data)):
            return 0
        box.text.size -= 1
        return 1

    cdef int begin(self, Draft* draft, const Box* box, size_t quota) noexcept nogil:
        """A batch begins, in which the topic's messages may have so many bytes. Always 0."""
        draft.quota_end = box.text.size + quota if quota < NO_QUOTA - box.text.size else NO_QUOTA
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
        cdef size_t tail = TAIL + self.tail_size
        cdef size_t needs
        if block != NULL:
            tail += block.block_time.size
        # As _needs, which is a call for each order: a tenth of what an order in format raw costs.
        needs = row.size + self.more + tail
        if block != NULL and self.format == FULL:
            needs += block.block_time.size + block.local_time.size
        if draft.message.orders and draft.message.kind == DATA and out.size + needs > draft.limit:
            self.end(draft, box, table, place)
        draft.last = row
        if draft.message.orders == 0:
            draft.message.begin = out.size
            draft.message.seq = 0
            draft.message.kind = LEFT_OUT if out.size + HEADER + self.head_size + needs > draft.quota_end else DATA
            draft.limit = min(out.size + self.aim, draft.quota_end)
        if draft.message.kind == LEFT_OUT:
            self._stands_at(draft, table, row, nth, place)
            draft.message.orders += 1
            return 1
        if draft.message.orders == 0:
            if not room_for(out, HEADER + self.head_size):
                return 0
            out.size += HEADER
            put(out, self.head, self.head_size)
        else:
            if not room_for(out, 1):
                return 0
            put(out, b",", 1)
        if not self._put_order(box, table, row, place.data):
            return 0
        self._stands_at(draft, table, row, nth, place)
        if draft.message.orders == 0 and out.size - draft.message.begin - HEADER + tail > self.most:
            out.size = draft.message.begin
            draft.message.end = out.size
            draft.message.orders = 1
            draft.message.kind = TOO_LONG
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
        put(out, self.tail, self.tail_size)
        put(out, place.prefix, place.prefix_size)
        put_padded(out, draft.message.line, LINE_DIGITS)
        put(out, b"-", 1)
        put_padded(out, draft.message.events, EVENT_DIGITS)
        put(out, b'"', 1)
        if self.numbered:
            self.seq += 1
            draft.message.seq = self.seq
            put(out, b',"seq":', 7)
            put_int(out, self.seq)
            put(out, b',"prev":', 8)
            put_int(out, self.seq - 1)
        if block != NULL:
            put(out, b',"height":', 10)
            put_int(out, block.block_number)
            put(out, b',"blockTime":"', 14)
            put(out, place.data + block.at + block.block_time.off, block.block_time.size)
            put(out, b'"', 1)
        put(out, b"}", 1)
        payload = out.size - draft.message.begin - HEADER
        header = frame_header(text, payload)
        draft.message.begin += HEADER - <size_t>header
        memcpy(out.data + draft.message.begin, text, <size_t>header)
        draft.message.end = out.size
        add_message(box, &draft.message)
        draft.message.orders = 0
        return 1

    cdef bint _had(self, Table table, const Row* row, uint32_t nth, const Place* place) noexcept nogil:
        """Whether the order, the line's `nth`, stands in front of what is wanted."""
        cdef uint64_t line
        if self.after_events == 0:
            return False
        line = _line(table, row) + place.offset
        return line < self.after_line or (line == self.after_line and nth <= self.after_events)

    cdef int encode(self, Draft* draft, Box* box, Table table, const RowKey* keys, const Place* place) noexcept nogil:
        """All orders that the selector passes. 1, or 0 when memory is out. The draft has been begun."""
        cdef size_t k, i
        cdef const Row* row
        cdef bint every = self.selector.filter.every
        for k in range(table.segments_len):
            for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                row = &(<Row*>table.rows)[i]
                if self._had(table, row, keys[i].nth, place):
                    continue
                if every or wants(&self.selector.filter, &keys[i], row, place.data):
                    if not self.add(draft, box, table, row, keys[i].nth, place):
                        return 0
        return self.end(draft, box, table, place)


cdef int _by_group(const void* a, const void* b) noexcept nogil:
    """Jobs of one group side by side, the smallest first."""
    cdef const Job* x = <const Job*>a
    cdef const Job* y = <const Job*>b
    if x.group != y.group:
        return 1 if x.group > y.group else -1
    return (x.bytes > y.bytes) - (x.bytes < y.bytes)


cdef int _by_bytes(const void* a, const void* b) noexcept nogil:
    cdef const Group* x = <const Group*>a
    cdef const Group* y = <const Group*>b
    return (x.bytes > y.bytes) - (x.bytes < y.bytes)


cdef class Topics:
    """The topics of one pipeline. Only its thread may call; the main thread keeps the Topic objects alive meanwhile.

    most: topics that there may be; one more is refused. The
    old channels' two always find room.
    """

    def __cinit__(self, int workers, Table table not None, *, uint32_t most=MOST_TOPICS):
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
        words_new(&self.users, MOST_USERS)

    def __dealloc__(self):
        words_free(&self.users)
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
            code = words_add(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)
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

    cdef int remove(self, void* topic) noexcept nogil:
        """No more; one that was refused was never there. Always 0."""
        cdef uint32_t code, dead, n
        cdef int k
        cdef Link* link
        if not (<Topic>topic).held:
            return 0
        (<Topic>topic).held = False
        self.count -= (<Topic>topic).kind == ORDERS or (<Topic>topic).kind == USER_ORDERS
        self.filtered -= (<Topic>topic).kind == ORDERS and not (<Topic>topic).selector.filter.every
        if (<Topic>topic).kind != USER_ORDERS and (<Topic>topic).links_len == 0:
            self.always_len -= 1
            self.always[(<Topic>topic).at] = self.always[self.always_len]
            (<Topic>self.always[(<Topic>topic).at]).at = (<Topic>topic).at
            return 0
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
            return 0
        code = words_find(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)
        self.of_user[code] = NULL
        self.user_topics -= 1
        dead = self.users.count - self.user_topics
        if dead > MOST_DEAD_USERS and dead > self.users.count // 2:
            # words cannot be taken out one by one
            n = 0
            for code in range(1, self.users.count + 1):
                if self.of_user[code] != NULL:
                    n += 1
                    self.of_user[n] = self.of_user[code]
            words_clear(&self.users)
            for code in range(1, n + 1):
                topic = self.of_user[code]
                words_add(&self.users, (<Topic>topic).user_text, (<Topic>topic).user_size)    # gets this code again
                self.job_of_user[code] = 0
        return 0

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

    cdef uint32_t _find_jobs(self, Table table, const char* data) noexcept nogil:
        """A job for each topic for which the batch may have something. Returns their number."""
        cdef uint32_t jobs = 0, i, code, head
        cdef size_t k, r, n
        cdef const Row* row
        cdef const char* text
        cdef char room[TEXT_ROOM]
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

    cdef uint32_t _group_by_user(self, Table table, const char* data, uint32_t jobs) noexcept nogil:
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

    cdef int _measure(self, Job* job, Table table, const Place* place) noexcept nogil:
        """job.bytes = no fewer than its messages will have. Always 0."""
        cdef size_t k, i, bytes = 0, orders = 0, per_message
        cdef const Row* row
        cdef uint32_t r
        cdef void* topic = job.topic
        if (<Topic>topic).kind == USER_ORDERS:
            r = job.first
            while True:
                bytes += (<Topic>topic)._needs(table, &(<Row*>table.rows)[r])
                orders += 1
                if r == job.last:
                    break
                r = self.next[r]
        elif (<Topic>topic).kind == ORDERS:
            for k in range(table.segments_len):
                for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                    row = &(<Row*>table.rows)[i]
                    if wants(&(<Topic>topic).selector.filter, &self.keys[i], row, place.data):
                        bytes += (<Topic>topic)._needs(table, row)
                        orders += 1
        if orders:
            per_message = HEADER + (<Topic>topic).head_size + TAIL + (<Topic>topic).tail_size + 64
            bytes += per_message * (1 + min(orders, 2 * bytes // (<Topic>topic).aim))
        job.bytes = bytes
        return 0

    cdef int _share_out(self, Table table, const Place* place, uint32_t jobs, bint parallel) noexcept nogil:
        """Quotas for a batch whose messages may have more bytes than there is room for. Always 0."""
        cdef size_t room = LEAST_ROOM + ROOM_PER_BYTE * place.size, total = 0, left, share, left_of_group
        cdef uint32_t i, k, groups = 0
        cdef int j
        cdef Group* group
        if parallel:
            for j in prange(<int>jobs, schedule="dynamic", chunksize=16, num_threads=self.workers):
                self._measure(&self.jobs[j], table, place)
        else:
            for j in range(<int>jobs):
                self._measure(&self.jobs[j], table, place)
        for i in range(jobs):
            total += self.jobs[i].bytes
        if total <= room:
            return 0
        ft_add(&self.crowded, 1)
        for i in range(jobs):
            self.jobs[i].group = ft_relaxed_load(&(<Topic>self.jobs[i].topic).group)
            if self.jobs[i].group == 0:
                self.jobs[i].group = (<uint64_t>1 << 32) + (<Topic>self.jobs[i].topic).id
        qsort(self.jobs, jobs, sizeof(Job), _by_group)
        for i in range(jobs):
            if i == 0 or self.jobs[i].group != self.jobs[i - 1].group:
                self.groups[groups].first = i
                self.groups[groups].bytes = 0
                self.groups[groups].count = 0
                groups += 1
            self.groups[groups - 1].bytes += self.jobs[i].bytes
            self.groups[groups - 1].count += 1
        qsort(self.groups, groups, sizeof(Group), _by_bytes)
        left = room
        for i in range(groups):
            group = &self.groups[i]
            share = left // (groups - i)
            left -= min(share, group.bytes)
            if group.bytes <= share:
                continue
            left_of_group = share
            for k in range(group.count):
                share = left_of_group // (group.count - k)
                left_of_group -= min(share, self.jobs[group.first + k].bytes)
                if self.jobs[group.first + k].bytes > share:
                    self.jobs[group.first + k].quota = share
        return 0

    cdef size_t run(self, Table table, const Place* place, const uint32_t* selection, size_t selected, int64_t now_ns,
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
        make_keys(table, self.keys, self.filtered > 0)
        jobs = self._find_jobs(table, place.data)
        ft_assert(jobs <= self.room)
        count = <int>jobs
        parallel = self.workers > 1 and count > 1 and <size_t>count * table.rows_len >= PARALLEL_FROM and has_team()
        for i in range(jobs):
            self.jobs[i].quota = NO_QUOTA
        # No job has more than this: every order in the longest format, in messages of the least size.
        if self.bounded and jobs * (2 * place.size + table.rows_len * 2 * MORE_THAN_EVENT) > LEAST_ROOM + ROOM_PER_BYTE * place.size:
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
            (<Topic>topic).begin(&draft, box, job.quota)
            (<Topic>topic).encode(&draft, box, table, self.keys, place)
            job.orders = draft.total
        elif kind == USER_ORDERS:
            (<Topic>topic).begin(&draft, box, job.quota)
            row = job.first
            while True:
                if not (<Topic>topic)._had(table, &(<Row*>table.rows)[row], self.keys[row].nth, place):
                    if not (<Topic>topic).add(&draft, box, table, &(<Row*>table.rows)[row], self.keys[row].nth, place):
                        break
                if row == job.last:
                    break
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
