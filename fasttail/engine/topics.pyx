"""A topic, which encodes the rows it selects into messages, once for all equal subscriptions.

A message:

    {"channel":"orders","data":[order,order,…],"cursor":"…","seq":8,"prev":7,"height":…,"blockTime":"…"}

`cursor` is the position after the message's last order: its block, and how many of the block's events were delivered. In the
plain layout, whose lines name no block, it is a position in the files (`fasttail.sources.cursor`).
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fasttail.system.atomics cimport ft_store_relaxed
from fasttail.engine.table cimport RowTable, row_envelope, row_line, table_row
from fasttail.streams.types cimport Envelope, RowHead
from fasttail.engine.buffer cimport (
    ENTRY_DATA, ENTRY_OVER_QUOTA, ENTRY_OVERSIZE, Outbox, OutboxEntry, Buffer, outbox_append, put, put_int, put_padded,
    buffer_reserve)
from fasttail.engine.encoders cimport encode_json, encode_raw
from fasttail.engine.public_shapes cimport encode_fill, encode_order_update, encode_trade
from fasttail.engine.filters cimport FilterKey, Selector, StringSet, text_hash, matches
from fasttail.engine.frames cimport frame_header

from typing import NamedTuple

from fasttail.engine.channels import CHANNELS

cdef enum:
    MAX_FRAME_HEADER = 10        # largest frame header, in bytes
    LINE_DIGITS = 13
    BLOCK_DIGITS = 12
    EVENT_DIGITS = 7
    MAX_TAIL = 256               # bound of the bytes after `data`, without the topic's own tail and the block time
    NOGIL_COPY_BYTES = 16384     # bytes above which a copy takes longer than to release the GIL

_LEGACY_KINDS = {"orderUpdate": LEGACY_UPDATES, "orderBatch": LEGACY_BATCHES}
_FORMATS = {"full": FULL, "ws": WS, "trade": TRADE, "fill": FILL, "raw": RAW}

cdef uint32_t _last_id = 0


class TopicMessage(NamedTuple):
    """One message of a topic, or a loss that its clients must learn of.

    `data` is ready to send (`orderBatch`: JSON for the batcher). It is empty for a single order that fits into no message and,
    if `over_quota`, for orders beyond the topic's quota. `seq` is 0 where messages are not numbered. `cursor` is the position
    after the last order, and `position` the same position as a cursor that names a file.
    """

    topic: int
    data: bytes
    orders: int
    seq: int
    cursor: str
    position: str
    over_quota: bool = False


cdef to_topic_message(const Outbox* outbox, const OutboxEntry* entry, const BatchLocation* location):
    """Copy a message out of its outbox."""
    position = (location.file_prefix.text[:location.file_prefix.size].decode()
                + f"{entry.line_offset:013d}-{entry.events_consumed:07d}")
    cursor = position if entry.block_number == 0 else (
        location.block_prefix.text[:location.block_prefix.size].decode()
        + f"{entry.block_number:012d}-{entry.block_events:07d}")
    cdef size_t size = entry.end - entry.begin
    cdef bytes data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef char* to = PyBytes_AS_STRING(data)
    if size > NOGIL_COPY_BYTES:
        with nogil:              # a replay's thread must not keep the GIL from the event loop
            memcpy(to, outbox.payload.data + entry.begin, size)
    else:
        memcpy(to, outbox.payload.data + entry.begin, size)
    return TopicMessage(entry.topic, data, entry.orders, entry.seq, cursor, position, entry.kind == ENTRY_OVER_QUOTA)


cdef int set_prefix(CursorPrefix* prefix, bytes text) except -1:
    """Set a prefix of a location's cursors. Raises ValueError if it is too long."""
    if <size_t>len(text) > sizeof(prefix.text):
        raise ValueError(f"a cursor cannot begin with {text!r}")
    prefix.size = <size_t>len(text)
    memcpy(prefix.text, <const char*>text, prefix.size)
    return 0


cdef class Topic:
    """What one distinct subscription gets. The main thread creates it; the thread that encodes uses it.

    channel: a key of `fasttail.engine.channels.CHANNELS`; of the old ones, it gets what the server's own filter passes
    selector: not shared with other topics or pools, because it caches the pool's coin codes
    user: lower case; without a selector, it gets the rows of this user
    format: "full", "ws" or "raw", if the channel leaves the choice
    max_message: maximum payload of a message, in bytes
    target_size: payload size, if smaller, at which the next order starts another message
    with_seq: messages carry `seq` and `prev`; those of a replay do not
    seq: number of the message before the first
    quota_group: number of the client whose quota the messages count toward; 0: a quota of its own
    """

    def __cinit__(self, str channel, *, Selector selector=None, str user="", str format="ws", size_t max_message=262144,
                  size_t target_size=0, bint with_seq=True, key=None, uint64_t seq=0, uint32_t quota_group=0):
        global _last_id
        _last_id += 1
        self.id = _last_id
        self.key = key
        spec = CHANNELS[channel]
        self.stream = spec.stream
        self.of_stage = spec.stage != ""
        self.kind = _LEGACY_KINDS.get(channel, PER_USER if spec.per_user else FILTERED)
        self.format = _FORMATS[spec.format or format]
        self.format_overhead = {FULL: MAX_ORDER_OVERHEAD, WS: 257, TRADE: MAX_ORDER_OVERHEAD, FILL: 2, RAW: 2}[self.format]
        self.with_seq = with_seq
        self.seq = seq
        self.quota_group = quota_group
        self.max_message = max_message
        self.target_size = min(target_size, max_message) if target_size else max_message
        self.selector = selector if selector is not None else Selector(users=[user] if user else None)
        user_bytes = user.encode()
        self._texts = (
            user_bytes,
            spec.head.replace("%s", user).encode(),
            spec.tail.replace("%s", user).encode() + b',"cursor":"',
        )
        self.user_text, self.user_size = self._texts[0], <size_t>len(self._texts[0])
        self.message_head, self.message_head_size = self._texts[1], <size_t>len(self._texts[1])
        self.message_tail, self.message_tail_size = self._texts[2], <size_t>len(self._texts[2])
        if self.kind == FILTERED:
            self._choose_buckets()

    @property
    def refused(self) -> bool:
        """Whether the pipeline refused it for lack of space. Known once the command that added it is answered."""
        return self.register_failed != 0

    def set_quota_group(self, uint32_t quota_group) -> None:
        """Set whose quota its messages count toward, from a later batch on."""
        ft_store_relaxed(&self.quota_group, quota_group)

    cdef int _choose_buckets(self) except -1:
        """Choose the buckets that the topic is indexed in: those of its users, else those of its coins, if they are few."""
        cdef const StringSet* texts = &self.selector.filter.users
        cdef uint32_t first = FIRST_USER_BUCKET, code, k, bucket
        cdef uint64_t hash
        cdef uint32_t lists = BUCKETS - FIRST_USER_BUCKET
        if not 0 < texts.count <= MAX_BUCKET_NODES:
            texts = &self.selector.filter.coins
            first, lists = 0, FIRST_USER_BUCKET
        if not 0 < texts.count <= MAX_BUCKET_NODES:
            return 0
        for code in range(1, texts.count + 1):
            hash = text_hash(texts.text + texts.ends[code - 1], texts.ends[code] - texts.ends[code - 1])
            bucket = first + <uint32_t>(hash % lists)
            hash = hash if first else 0
            for k in range(<uint32_t>self.nodes_len):
                if self.nodes[k].bucket == bucket and self.nodes[k].hash == hash:
                    break
            else:
                self.nodes[self.nodes_len].bucket = bucket
                self.nodes[self.nodes_len].hash = hash
                self.nodes[self.nodes_len].topic = <void*>self
                self.nodes_len += 1
        return 0

    cdef size_t _size_bound(self, RowTable table, const RowHead* row) noexcept nogil:
        """Return an upper bound for the order's bytes in a message."""
        cdef const Envelope* block
        if self.format != FULL:
            return <size_t>row.size + self.format_overhead
        block = row_envelope(table, row)
        return <size_t>row.size + self.format_overhead + (block.block_time.size + block.local_time.size if block != NULL else 0)

    cdef int _encode_order(self, Outbox* outbox, RowTable table, const RowHead* row, const char* data) noexcept nogil:
        """Append the order without a newline. Return 1, or 0 if out of memory."""
        if self.format == WS:
            return encode_order_update(&outbox.payload, row, data)
        if self.format == TRADE:
            return encode_trade(&outbox.payload, row, data)
        if self.format == FILL:
            return encode_fill(&outbox.payload, row, data)
        # These two formats end with a newline.
        if not (encode_json(&outbox.payload, row, table, data) if self.format == FULL
                else encode_raw(&outbox.payload, row, data)):
            return 0
        outbox.payload.size -= 1
        return 1

    cdef void _begin_batch(self, MessageBuilder* builder, const Outbox* outbox, size_t quota) noexcept nogil:
        """Begin a batch in which the topic's messages may have at most `quota` bytes."""
        builder.quota_end = outbox.payload.size + quota if quota < NO_QUOTA - outbox.payload.size else NO_QUOTA
        builder.entry.topic = self.id
        builder.entry.kind = ENTRY_DATA
        builder.entry.orders = 0
        builder.entry.seq = 0
        builder.total_orders = 0

    cdef int _append_order(self, MessageBuilder* builder, Outbox* outbox, RowTable table, const RowHead* row,
                           uint32_t event_number, const BatchLocation* location) noexcept nogil:
        """Append an order to the message, or to a new one if it does not fit. Return 1, or 0 if out of memory."""
        cdef Buffer* out = &outbox.payload
        cdef const Envelope* block = row_envelope(table, row)
        cdef size_t tail_bound = MAX_TAIL + self.message_tail_size
        cdef size_t needs
        cdef bint fits
        if block != NULL:
            tail_bound += block.block_time.size
        # _size_bound by hand: a call per order would cost a tenth of encoding it as raw.
        needs = row.size + self.format_overhead + tail_bound
        if block != NULL and self.format == FULL:
            needs += block.block_time.size + block.local_time.size
        if builder.entry.orders and builder.entry.kind == ENTRY_DATA and out.size + needs > builder.max_end:
            self._finish_message(builder, outbox, table, location)
        builder.last_row = row
        builder.last_event = event_number
        if builder.entry.orders == 0:
            builder.entry.begin = out.size
            builder.entry.seq = 0
            fits = out.size + MAX_FRAME_HEADER + self.message_head_size + needs <= builder.quota_end
            builder.entry.kind = ENTRY_DATA if fits else ENTRY_OVER_QUOTA
            builder.max_end = min(out.size + self.target_size, builder.quota_end)
        if builder.entry.kind == ENTRY_OVER_QUOTA:
            builder.entry.orders += 1
            return 1
        if builder.entry.orders == 0:
            if not buffer_reserve(out, MAX_FRAME_HEADER + self.message_head_size):
                return 0
            out.size += MAX_FRAME_HEADER
            put(out, self.message_head, self.message_head_size)
        else:
            if not buffer_reserve(out, 1):
                return 0
            put(out, b",", 1)
        if not self._encode_order(outbox, table, row, location.data):
            return 0
        if builder.entry.orders == 0 and out.size - builder.entry.begin - MAX_FRAME_HEADER + tail_bound > self.max_message:
            out.size = builder.entry.begin
            builder.entry.end = out.size
            builder.entry.orders = 1
            builder.entry.kind = ENTRY_OVERSIZE
            self._set_position(builder, table, location)
            outbox_append(outbox, &builder.entry)
            builder.entry.orders = 0
            return 1
        builder.entry.orders += 1
        builder.total_orders += 1
        return 1

    cdef void _set_position(self, MessageBuilder* builder, RowTable table, const BatchLocation* location) noexcept nogil:
        """Set the entry's position, which is after its last order."""
        cdef const Envelope* block = row_envelope(table, builder.last_row) if location.block_prefix.size else NULL
        if location.late:
            builder.entry.line_offset = location.resume_offset
            builder.entry.events_consumed = 0
            builder.entry.block_number = location.resume_block
            builder.entry.block_events = location.resume_events
            return
        builder.entry.line_offset = row_line(table, builder.last_row) + location.offset
        builder.entry.events_consumed = builder.last_event
        builder.entry.block_number = block.block_number if block != NULL and block.block_number <= MAX_BLOCK else 0
        builder.entry.block_events = block.events_before + builder.last_event if block != NULL else 0

    cdef int _finish_message(self, MessageBuilder* builder, Outbox* outbox, RowTable table,
                             const BatchLocation* location) noexcept nogil:
        """Finish the message, if one has begun. Return 1, or 0 if out of memory."""
        cdef Buffer* out = &outbox.payload
        cdef const Envelope* block
        cdef size_t payload
        cdef int header
        cdef char text[MAX_FRAME_HEADER]
        if builder.entry.orders == 0:
            return 1
        self._set_position(builder, table, location)
        if builder.entry.kind == ENTRY_OVER_QUOTA:
            builder.entry.end = builder.entry.begin
            outbox_append(outbox, &builder.entry)
            builder.entry.orders = 0
            return 1
        block = row_envelope(table, builder.last_row)
        if not buffer_reserve(out, MAX_TAIL + self.message_tail_size + (block.block_time.size if block != NULL else 0)):
            out.size = builder.entry.begin
            return 0
        put(out, self.message_tail, self.message_tail_size)
        if builder.entry.block_number:
            put(out, location.block_prefix.text, location.block_prefix.size)
            put_padded(out, builder.entry.block_number, BLOCK_DIGITS)
            put(out, b"-", 1)
            put_padded(out, builder.entry.block_events, EVENT_DIGITS)
        else:
            put(out, location.file_prefix.text, location.file_prefix.size)
            put_padded(out, builder.entry.line_offset, LINE_DIGITS)
            put(out, b"-", 1)
            put_padded(out, builder.entry.events_consumed, EVENT_DIGITS)
        put(out, b'"', 1)
        if self.with_seq:
            self.seq += 1
            builder.entry.seq = self.seq
            put(out, b',"seq":', 7)
            put_int(out, self.seq)
            put(out, b',"prev":', 8)
            put_int(out, self.seq - 1)
        if block != NULL:
            put(out, b',"height":', 10)
            put_int(out, block.block_number)
            put(out, b',"blockTime":"', 14)
            put(out, location.data + block.offset + block.block_time.offset, block.block_time.size)
            put(out, b'"', 1)
        put(out, b"}", 1)
        payload = out.size - builder.entry.begin - MAX_FRAME_HEADER
        header = frame_header(text, payload)
        builder.entry.begin += MAX_FRAME_HEADER - <size_t>header
        memcpy(out.data + builder.entry.begin, text, <size_t>header)
        builder.entry.end = out.size
        outbox_append(outbox, &builder.entry)
        builder.entry.orders = 0
        return 1

    cdef bint _is_skipped(self, RowTable table, const RowHead* row, uint32_t event_number,
                          const BatchLocation* location) noexcept nogil:
        """Whether the order, the line's `event_number`-th, is one that the replay skips."""
        cdef uint64_t line
        if self.skip_events == 0:
            return False
        line = row_line(table, row) + location.offset
        return line < self.skip_line_offset or (line == self.skip_line_offset and event_number <= self.skip_events)

    cdef size_t encode_selected(self, Outbox* outbox, RowTable table, const FilterKey* keys, const BatchLocation* location,
                                size_t quota) noexcept nogil:
        """Write the messages of the selected orders, within the quota. Return the number of orders."""
        cdef MessageBuilder builder
        cdef size_t k, i
        cdef const RowHead* row
        cdef bint match_all = self.selector.filter.match_all
        self._begin_batch(&builder, outbox, quota)
        for k in range(table.segments_len):
            for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                row = table_row(table, i)
                if self._is_skipped(table, row, keys[i].event_number, location):
                    continue
                if match_all or matches(&self.selector.filter, &keys[i], row, location.data):
                    if not self._append_order(&builder, outbox, table, row, keys[i].event_number, location):
                        return builder.total_orders
        self._finish_message(&builder, outbox, table, location)
        return builder.total_orders

    cdef size_t encode_linked(self, Outbox* outbox, RowTable table, const FilterKey* keys, const BatchLocation* location,
                              size_t quota, const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil:
        """Do the same for the rows linked by `next`, from `first` to `last`."""
        cdef MessageBuilder builder
        cdef uint32_t i = first
        self._begin_batch(&builder, outbox, quota)
        while True:
            if not self._is_skipped(table, table_row(table, i), keys[i].event_number, location):
                if not self._append_order(&builder, outbox, table, table_row(table, i), keys[i].event_number, location):
                    break
            if i == last:
                break
            i = next[i]
        self._finish_message(&builder, outbox, table, location)
        return builder.total_orders

    cdef size_t measure(self, RowTable table, const FilterKey* keys, const BatchLocation* location) noexcept nogil:
        """Return an upper bound for the bytes that `encode_selected` writes."""
        cdef size_t k, i, bytes = 0, orders = 0
        cdef const RowHead* row
        for k in range(table.segments_len):
            for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                row = table_row(table, i)
                if matches(&self.selector.filter, &keys[i], row, location.data):
                    bytes += self._size_bound(table, row)
                    orders += 1
        return self._with_messages(bytes, orders)

    cdef size_t measure_linked(self, RowTable table, const uint32_t* next, uint32_t first, uint32_t last) noexcept nogil:
        """Return an upper bound for the bytes that `encode_linked` writes."""
        cdef size_t bytes = 0, orders = 0
        cdef uint32_t i = first
        while True:
            bytes += self._size_bound(table, table_row(table, i))
            orders += 1
            if i == last:
                return self._with_messages(bytes, orders)
            i = next[i]

    cdef size_t _with_messages(self, size_t bytes, size_t orders) noexcept nogil:
        """Return the bytes of the orders plus those of the messages around them."""
        cdef size_t per_message = MAX_FRAME_HEADER + self.message_head_size + MAX_TAIL + self.message_tail_size + 64
        return bytes + per_message * (1 + min(orders, 2 * bytes // self.target_size)) if orders else 0
