"""One topic: from the rows that it wants to its messages, which are made once for all who asked for the same.

A message:

    {"channel":"orders","data":[order,order,…],"cursor":"…","seq":8,"prev":7,"height":…,"blockTime":"…"}

`cursor` stands behind its last order: layout and hour, offset of the line in the hour's file, events of that line that are done
with, with leading zeros, so that the byte order of cursors is the order in the files.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fasttail.atomics cimport ft_store_relaxed
from fasttail.parser.table cimport RowTable, row_block, row_line
from fasttail.parser.types cimport Envelope, Row
from fasttail.publish.buffer cimport (
    DATA, LEFT_OUT, TOO_LONG, Box, Message, Out, add_message, put, put_int, put_padded, room_for)
from fasttail.publish.encoders cimport encode_json, encode_raw, encode_ws
from fasttail.publish.filters cimport RowKey, Selector, Texts, text_hash, wants
from fasttail.publish.frames cimport frame_header

from typing import NamedTuple

cdef enum:
    HEADER = 10                  # most bytes of a frame's header
    LINE_DIGITS = 13
    EVENT_DIGITS = 7
    TAIL = 256                   # more than the bytes behind `data`, but for the topic's own and the block's time
    LONG_COPY = 16384            # bytes; to let go of the GIL costs less than to copy so many

_KINDS = {"orders": ORDERS, "orderUpdates": USER_ORDERS, "orderUpdate": OLD_UPDATES, "orderBatch": OLD_BATCHES}
_FORMATS = {"full": FULL, "ws": WS, "raw": RAW}

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


cdef int set_prefix(Place* place, bytes prefix) except -1:
    """How the cursors of the place's hour begin."""
    if <size_t>len(prefix) > sizeof(place.prefix):
        raise ValueError(f"a cursor cannot begin with {prefix!r}")
    place.prefix_size = <size_t>len(prefix)
    memcpy(place.prefix, <const char*>prefix, place.prefix_size)
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
        ft_store_relaxed(&self.group, group)

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
            head = first + <uint32_t>(text_hash(texts.text + texts.ends[code - 1],
                                                texts.ends[code] - texts.ends[code - 1]) % lists)
            for k in range(<uint32_t>self.links_len):
                if self.links[k].head == head:
                    break
            else:
                self.links[self.links_len].head = head
                self.links[self.links_len].topic = <void*>self
                self.links_len += 1
        return 0

    cdef size_t _needs(self, RowTable table, const Row* row) noexcept nogil:
        """No fewer bytes than the order will have in a message."""
        cdef const Envelope* block
        if self.format != FULL:
            return <size_t>row.size + self.more
        block = row_block(table, row)
        return <size_t>row.size + self.more + (block.block_time.size + block.local_time.size if block != NULL else 0)

    cdef int _put_order(self, Box* box, RowTable table, const Row* row, const char* data) noexcept nogil:
        """1, or 0 when memory is out."""
        if self.format == WS:
            return encode_ws(&box.text, row, data)
        # these two end with a newline
        if not (encode_json(&box.text, row, table, data) if self.format == FULL else encode_raw(&box.text, row, data)):
            return 0
        box.text.size -= 1
        return 1

    cdef void _begin(self, Draft* draft, const Box* box, size_t quota) noexcept nogil:
        """A batch begins, in which the topic's messages may have so many bytes."""
        draft.quota_end = box.text.size + quota if quota < NO_QUOTA - box.text.size else NO_QUOTA
        draft.message.topic = self.id
        draft.message.kind = DATA
        draft.message.orders = 0
        draft.message.seq = 0
        draft.total = 0

    cdef int _add(self, Draft* draft, Box* box, RowTable table, const Row* row, uint32_t nth,
                  const Place* place) noexcept nogil:
        """Append an order to the message, or to the next one if it does not fit. 1, or 0 when memory is out."""
        cdef Out* out = &box.text
        cdef const Envelope* block = row_block(table, row)
        cdef size_t tail = TAIL + self.tail_size
        cdef size_t needs
        if block != NULL:
            tail += block.block_time.size
        # As _needs, which is a call for each order: a tenth of what an order in format raw costs.
        needs = row.size + self.more + tail
        if block != NULL and self.format == FULL:
            needs += block.block_time.size + block.local_time.size
        if draft.message.orders and draft.message.kind == DATA and out.size + needs > draft.limit:
            self._end(draft, box, table, place)
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

    cdef void _stands_at(self, Draft* draft, RowTable table, const Row* row, uint32_t nth, const Place* place) noexcept nogil:
        """The message's last order is this row."""
        draft.message.line = place.goes_on if place.late else row_line(table, row) + place.offset
        draft.message.events = 0 if place.late else nth

    cdef int _end(self, Draft* draft, Box* box, RowTable table, const Place* place) noexcept nogil:
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
        block = row_block(table, draft.last)
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
            put(out, place.data + block.offset + block.block_time.offset, block.block_time.size)
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

    cdef bint _had(self, RowTable table, const Row* row, uint32_t nth, const Place* place) noexcept nogil:
        """Whether the order, the line's `nth`, stands in front of what is wanted."""
        cdef uint64_t line
        if self.after_events == 0:
            return False
        line = row_line(table, row) + place.offset
        return line < self.after_line or (line == self.after_line and nth <= self.after_events)

    cdef size_t encode(self, Box* box, RowTable table, const RowKey* keys, const Place* place, size_t quota) noexcept nogil:
        """The messages of the orders that the selector passes, as far as the quota allows. Returns the number of orders."""
        cdef Draft draft
        cdef size_t k, i
        cdef const Row* row
        cdef bint every = self.selector.filter.every
        self._begin(&draft, box, quota)
        for k in range(table.segments_len):
            for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                row = &(<Row*>table.rows)[i]
                if self._had(table, row, keys[i].nth, place):
                    continue
                if every or wants(&self.selector.filter, &keys[i], row, place.data):
                    if not self._add(&draft, box, table, row, keys[i].nth, place):
                        return draft.total
        self._end(&draft, box, table, place)
        return draft.total

    cdef size_t encode_linked(self, Box* box, RowTable table, const RowKey* keys, const Place* place, size_t quota,
                              const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil:
        """The same of the rows that `next` links, from `first` to `last`."""
        cdef Draft draft
        cdef uint32_t i = first
        self._begin(&draft, box, quota)
        while True:
            if not self._had(table, &(<Row*>table.rows)[i], keys[i].nth, place):
                if not self._add(&draft, box, table, &(<Row*>table.rows)[i], keys[i].nth, place):
                    break
            if i == last:
                break
            i = next[i]
        self._end(&draft, box, table, place)
        return draft.total

    cdef size_t measure(self, RowTable table, const RowKey* keys, const Place* place) noexcept nogil:
        """No fewer bytes than the messages of `encode` will have."""
        cdef size_t k, i, bytes = 0, orders = 0
        cdef const Row* row
        for k in range(table.segments_len):
            for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                row = &(<Row*>table.rows)[i]
                if wants(&self.selector.filter, &keys[i], row, place.data):
                    bytes += self._needs(table, row)
                    orders += 1
        return self._with_messages(bytes, orders)

    cdef size_t measure_linked(self, RowTable table, const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil:
        """No fewer bytes than the messages of `encode_linked` will have."""
        cdef size_t bytes = 0, orders = 0
        cdef uint32_t i = first
        while True:
            bytes += self._needs(table, &(<Row*>table.rows)[i])
            orders += 1
            if i == last:
                return self._with_messages(bytes, orders)
            i = next[i]

    cdef size_t _with_messages(self, size_t bytes, size_t orders) noexcept nogil:
        """Bytes of so many orders, and of what stands around them in messages."""
        cdef size_t per_message = HEADER + self.head_size + TAIL + self.tail_size + 64
        return bytes + per_message * (1 + min(orders, 2 * bytes // self.aim)) if orders else 0
