"""The template path: parses order-status lines in the node's own form into rows, one chunk at a time.

    line ──► {"time": …             ──► _event_fast ──► row                        (plain layout)
         ──► {"local_time": …       ──► _envelope_fast ──► _parse_events ──► rows  (streaming, by_block)
         ──► anything else, and what these two decline ──► general.line_general ──► rows or a Reject

It compares the literal text between values and checks every byte of every value, so what it accepts is valid JSON of the right
types. What it declines may still be valid: the general path decides. Both produce the same rows; the tests compare each with a
plain orjson reader, and the same line with itself in other forms.

Usual lengths of texts (an address, a cloid, a current oid) are predicted. After a correct prediction, the position of the next
value does not depend on the bytes of this one, so the processor works on many values at once.

Functions return the byte after what they parsed, or NULL if it has another form.

This file is compiled once for each instruction set (setup.py); `isa` selects one at run time.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from fasttail.system.atomics cimport ft_add_single_writer, ft_store_relaxed
from fasttail.system.checks cimport ft_assert, ft_set_readable_end
from fasttail.streams.general cimport STRATEGY_LINES, event_general, line_general, resolve_new_coin
from fasttail.streams.json cimport MAX_STRUCTURALS, INDEX_READABLE_BYTES, scan_value
from fasttail.streams.numbers cimport parse_decimal, parse_datetime_seconds, parse_datetime_ns
from fasttail.streams.types cimport (
    FAST_MARGIN, NO_CODE, NO_ENVELOPE, Chunk, Envelope, ParseError, TextSpan, JsonValue)
from fasttail.streams.orders cimport IS_POSITION_TPSL, IS_TRIGGER, ORDER_TYPE, REDUCE_ONLY, STATUS, TIF, OrderRow
from fasttail.streams.vocabulary cimport ORDER_TYPES, STATUSES, TIFS
from fasttail.streams.intern cimport intern_find, intern_truncate

cdef extern from "simd.h" nogil:
    const double* FT_POWERS_OF_TEN
    const uint64_t* FT_INT_POWERS_OF_TEN
    void ft_init_tables() noexcept
    void ft_prefetch_event(const char* p) noexcept
    bint ft_bytes_equal(const char* p, const char* literal, size_t n) noexcept
    const char* ft_skip_plain_max64(const char* p) noexcept
    bint ft_plain_then_quote(const char* p, size_t n) noexcept
    unsigned ft_structural_index(const char* p, uint16_t* positions) noexcept
    unsigned ft_parse_decimal(const char* p, unsigned* quote, uint64_t* mantissa) noexcept
    bint ft_parse_int_exact(const char* p, unsigned n, uint64_t* value) noexcept
    uint64_t ft_load8(const char* p) noexcept
    unsigned ft_count_digits8(uint64_t v) noexcept
    uint64_t ft_parse_digits8(uint64_t v) noexcept
    uint64_t ft_parse_digits_n(uint64_t v, unsigned n) noexcept

ft_init_tables()
cdef uint8_t TIF_ALO = <uint8_t>intern_find(&TIFS, b"Alo", 3)
cdef uint8_t ORDER_TYPE_LIMIT = <uint8_t>intern_find(&ORDER_TYPES, b"Limit", 5)


cdef inline unsigned _time_fast(Chunk* c, const char* p, int64_t* ns) noexcept nogil:
    """Parse a time and return its length, or 0 unless a quote follows it. Reads 30 bytes.

    Nine fraction digits are usual. The text up to the second is cached, because thousands of lines share it.
    """
    cdef uint64_t v = ft_load8(p + 20)
    cdef unsigned last = <unsigned>(<uint8_t>p[28]) - c'0', n
    if p[19] == c'.' and p[29] == c'"' and ft_count_digits8(v) == 8 and last <= 9:
        if not ft_bytes_equal(p, c.cached_second_text, 19):
            if not parse_datetime_seconds(p, &c.cached_second_ns):  # which leaves the value as it was, in step with its text
                return 0
            memcpy(c.cached_second_text, p, 19)
        ns[0] = c.cached_second_ns + <int64_t>(ft_parse_digits8(v) * 10 + last)
        return 29
    n = 26 if p[26] == c'"' else 23 if p[23] == c'"' else 19
    return n if p[n] == c'"' and parse_datetime_ns(p, n, ns) else 0


cdef inline unsigned _block_time_fast(Chunk* c, const char* p, int64_t* ns) noexcept nogil:
    """Like _time_fast, for a block's time, which is usually the same as in the event before.

    The 30 cached bytes include the quote after a shorter time, which the same text follows in every line.
    """
    cdef unsigned n
    cdef int64_t time_ns
    if ft_bytes_equal(p, c.cached_time_text, 30):
        ns[0] = c.cached_time_ns
        return c.cached_time_size
    n = _time_fast(c, p, &time_ns)
    if n == 0:
        return 0
    memcpy(c.cached_time_text, p, 30)
    c.cached_time_size = n
    c.cached_time_ns = time_ns
    ns[0] = time_ns
    return n


cdef inline const char* _decimal_fast(const char* p, double* value) noexcept nogil:
    """Parse `digits.digits"` of at most 14 digits and return the quote."""
    cdef unsigned quote
    cdef uint64_t mantissa
    cdef unsigned fraction = ft_parse_decimal(p, &quote, &mantissa)
    if fraction == 0:
        return NULL
    value[0] = <double>mantissa / FT_POWERS_OF_TEN[fraction]  # both exact, so the quotient is rounded once
    return p + quote


cdef inline const char* _decimal_text(const char* p, double* value) noexcept nogil:
    cdef const char* q = _decimal_fast(p, value)
    if q != NULL:
        return q
    q = ft_skip_plain_max64(p)
    if q[0] != c'"' or not parse_decimal(p, <size_t>(q - p), value):
        return NULL
    return q


cdef inline const char* _int_fast(const char* p, uint64_t* value) noexcept nogil:
    """Parse 1 to 15 digits without a leading zero."""
    cdef uint64_t v = ft_load8(p)
    cdef unsigned n = ft_count_digits8(v), m
    if n == 0 or (p[0] == c'0' and n > 1):
        return NULL
    if n < 8:
        value[0] = ft_parse_digits_n(v, n)
        return p + n
    value[0] = ft_parse_digits8(v)
    v = ft_load8(p + 8)
    m = ft_count_digits8(v)
    if m == 8:
        return NULL
    if m:
        value[0] = value[0] * FT_INT_POWERS_OF_TEN[m] + ft_parse_digits_n(v, m)
    return p + 8 + m


cdef inline const char* _int_predicted(const char* p, unsigned n, uint64_t* value) noexcept nogil:
    """Like _int_fast, when n (9 to 15) digits are most likely."""
    if ft_parse_int_exact(p, n, value):
        return p + n
    return _int_fast(p, value)


cdef inline void _set_span(TextSpan* span, const char* start, const char* p, const char* q) noexcept nogil:
    span.offset = <uint32_t>(p - start)
    span.size = <uint32_t>(q - p)


cdef inline const char* _bool_fast(const char* p, uint8_t* flags, uint8_t bit) noexcept nogil:
    if ft_bytes_equal(p, b"false", 5):
        return p + 5
    if ft_bytes_equal(p, b"true", 4):
        flags[0] |= bit
        return p + 4
    return NULL


cdef inline const char* _nullable_text_fast(const char* start, const char* p, TextSpan* span) noexcept nogil:
    """Parse `null` or a plain string of at most 64 bytes."""
    cdef const char* q
    if p[0] == c'"':
        q = ft_skip_plain_max64(p + 1)
        if q[0] != c'"':
            return NULL
        _set_span(span, start, p + 1, q)
        return q + 1
    span.offset = 0
    span.size = 0
    return p + 4 if ft_bytes_equal(p, b"null", 4) else NULL


cdef const char* _scan_children(Chunk* c, const char* p, int depth) noexcept nogil:
    """Validate the array at p, of any length. FAST_MARGIN bytes are readable from the returned byte on."""
    cdef JsonValue value
    cdef ParseError error
    if c.scanned_newline < p:
        # Searched first, so that no array is parsed twice because its line ends too close to the end of the data.
        c.scanned_newline = <const char*>memchr(p, c'\n', <size_t>(c.limit - p))
        if c.scanned_newline == NULL:
            c.scanned_newline = c.limit
    if c.readable - c.scanned_newline < FAST_MARGIN:
        return NULL
    p = scan_value(p, c.limit, depth, &value, &error)
    if p != NULL:
        ft_assert(p <= c.scanned_newline)
        ft_set_readable_end(p + FAST_MARGIN)
    return p


cdef const char* _event_fast(Chunk* c, const char* p, int depth, OrderRow* row) noexcept nogil:
    """Parse an event in the node's own form into `row`. depth: number of brackets open around it.

    Needs FAST_MARGIN readable bytes, which suffice because each text is scanned for a bounded number of bytes.
    """
    cdef const char* start = p
    cdef const char* q
    cdef uint64_t number
    cdef unsigned n
    cdef double trigger_px                       # only validated: the row keeps its text
    cdef uint8_t flags = 0
    ft_assert(c.readable - p >= FAST_MARGIN)
    ft_set_readable_end(p + FAST_MARGIN)
    ft_prefetch_event(p)
    if not ft_bytes_equal(p, b'{"time":"', 9):
        return NULL
    n = _block_time_fast(c, p + 9, &row.head.time_ns)
    if n == 0:
        return NULL
    row.time.offset = 9
    row.time.size = n
    p += 9 + n
    if not ft_bytes_equal(p, b'","user":"', 10):
        return NULL
    p += 10
    q = p + 42 if ft_plain_then_quote(p, 42) else ft_skip_plain_max64(p)
    _set_span(&row.head.user, start, p, q)
    p = q
    if ft_bytes_equal(p, b'","hash":', 9):
        p += 9
        if ft_bytes_equal(p, b'null,"builder":null,"status":"', 30):
            row.hash.offset = 0
            row.hash.size = 0
            row.builder.offset = 0
            row.builder.size = 0
            p += 30
        else:
            if p[0] == c'"':
                # 66 characters: the only text that is usually longer than 64 bytes
                q = ft_skip_plain_max64(p + 1)
                if q == p + 65:
                    q = ft_skip_plain_max64(q)
                if q[0] != c'"':
                    return NULL
                _set_span(&row.hash, start, p + 1, q)
                p = q + 1
            else:
                if not ft_bytes_equal(p, b"null", 4):
                    return NULL
                row.hash.offset = 0
                row.hash.size = 0
                p += 4
            if not ft_bytes_equal(p, b',"builder":', 11):
                return NULL
            p += 11
            if ft_bytes_equal(p, b"null", 4):
                row.builder.offset = 0
                row.builder.size = 0
                p += 4
            elif ft_bytes_equal(p, b'{"b":"', 6):
                q = ft_skip_plain_max64(p + 6)
                if not ft_bytes_equal(q, b'","f":', 6):
                    return NULL
                q = _int_fast(q + 6, &number)
                if q == NULL or q[0] != c'}':
                    return NULL
                _set_span(&row.builder, start, p, q + 1)
                p = q + 1
            else:
                return NULL
            if not ft_bytes_equal(p, b',"status":"', 11):
                return NULL
            p += 11
    else:
        # Lines of 2024 have neither hash nor builder.
        if not ft_bytes_equal(p, b'","status":"', 12):
            return NULL
        row.hash.offset = 0
        row.hash.size = 0
        row.builder.offset = 0
        row.builder.size = 0
        p += 12
    q = ft_skip_plain_max64(p)
    _set_span(&row.status_text, start, p, q)
    if not ft_bytes_equal(q, b'","order":{"coin":"', 19):
        return NULL
    row.head.codes[<int>STATUS] = <uint8_t>intern_find(&STATUSES, p, <size_t>(q - p))
    p = q + 19
    q = ft_skip_plain_max64(p)
    _set_span(&row.head.coin_text, start, p, q)
    if not ft_bytes_equal(q, b'","side":"', 10):
        return NULL
    row.head.coin = <uint16_t>intern_find(c.coins, p, <size_t>(q - p))
    p = q + 10
    row.head.side = <uint8_t>p[0]
    if (p[0] != c'A' and p[0] != c'B') or not ft_bytes_equal(p + 1, b'","limitPx":"', 13):
        return NULL
    p += 14
    q = _decimal_text(p, &row.limitPx)
    if q == NULL or not ft_bytes_equal(q, b'","sz":"', 8):
        return NULL
    _set_span(&row.limitPx_text, start, p, q)
    p = q + 8
    q = _decimal_text(p, &row.sz)
    if q == NULL or not ft_bytes_equal(q, b'","oid":', 8):
        return NULL
    _set_span(&row.sz_text, start, p, q)
    p = _int_predicted(q + 8, 12, &row.oid)
    if p == NULL or not ft_bytes_equal(p, b',"timestamp":', 13):
        return NULL
    p = _int_predicted(p + 13, 13, &number)
    if p == NULL:
        return NULL
    row.timestamp = <int64_t>number
    if ft_bytes_equal(p, b',"triggerCondition":"N/A","isTrigger":false,"triggerPx":"0.0","children":[],"isPositionTpsl":false,'
                b'"reduceOnly":false,"orderType":"Limit","origSz":"', 148):
        row.triggerCondition.offset = <uint32_t>(p - start) + 21
        row.triggerCondition.size = 3
        row.triggerPx_text.offset = <uint32_t>(p - start) + 57
        row.triggerPx_text.size = 3
        row.children.offset = <uint32_t>(p - start) + 73
        row.children.size = 2
        row.head.codes[<int>ORDER_TYPE] = <uint8_t>ORDER_TYPE_LIMIT
        row.orderType_text.offset = <uint32_t>(p - start) + 131
        row.orderType_text.size = 5
        p += 148
    else:
        if not ft_bytes_equal(p, b',"triggerCondition":"', 21):
            return NULL
        p += 21
        q = ft_skip_plain_max64(p)
        _set_span(&row.triggerCondition, start, p, q)
        if not ft_bytes_equal(q, b'","isTrigger":', 14):
            return NULL
        p = _bool_fast(q + 14, &flags, IS_TRIGGER)
        if p == NULL or not ft_bytes_equal(p, b',"triggerPx":"', 14):
            return NULL
        p += 14
        q = _decimal_text(p, &trigger_px)
        if q == NULL or not ft_bytes_equal(q, b'","children":[', 14):
            return NULL
        _set_span(&row.triggerPx_text, start, p, q)
        p = q + 13
        q = p + 2 if p[1] == c']' else _scan_children(c, p, depth + 2)
        if q == NULL or not ft_bytes_equal(q, b',"isPositionTpsl":', 18):
            return NULL
        _set_span(&row.children, start, p, q)
        p = _bool_fast(q + 18, &flags, IS_POSITION_TPSL)
        if p == NULL or not ft_bytes_equal(p, b',"reduceOnly":', 14):
            return NULL
        p = _bool_fast(p + 14, &flags, REDUCE_ONLY)
        if p == NULL or not ft_bytes_equal(p, b',"orderType":"', 14):
            return NULL
        p += 14
        q = ft_skip_plain_max64(p)
        _set_span(&row.orderType_text, start, p, q)
        if not ft_bytes_equal(q, b'","origSz":"', 12):
            return NULL
        row.head.codes[<int>ORDER_TYPE] = <uint8_t>intern_find(&ORDER_TYPES, p, <size_t>(q - p))
        p = q + 12
    q = _decimal_text(p, &row.origSz)
    if q == NULL or not ft_bytes_equal(q, b'","tif":', 8):
        return NULL
    _set_span(&row.origSz_text, start, p, q)
    p = q + 8
    if ft_bytes_equal(p, b'"Alo","cloid":', 14):
        _set_span(&row.tif_text, start, p + 1, p + 4)
        row.head.codes[<int>TIF] = <uint8_t>TIF_ALO
        p += 14
    else:
        p = _nullable_text_fast(start, p, &row.tif_text)
        if p == NULL or not ft_bytes_equal(p, b',"cloid":', 9):
            return NULL
        row.head.codes[<int>TIF] = <uint8_t>intern_find(&TIFS, start + row.tif_text.offset, row.tif_text.size) if row.tif_text.offset \
            else <uint8_t>NO_CODE
        p += 9
    if p[0] == c'"' and ft_plain_then_quote(p + 1, 34):
        _set_span(&row.cloid, start, p + 1, p + 35)
        p += 36
    else:
        p = _nullable_text_fast(start, p, &row.cloid)
    if p == NULL or p[0] != c'}' or p[1] != c'}':
        return NULL
    p += 2
    row.head.flags = flags
    row.head.offset = <uint64_t>(start - c.data)
    row.head.size = <uint32_t>(p - start)
    if row.head.coin == NO_CODE:
        resolve_new_coin(c, &row.head)
    return p


cdef const char* _parse_events(Chunk* c, const char* p, uint32_t envelope) noexcept nogil:
    """Parse the events from p to the end of the line into rows.

    Return the start of the next line, or the next worker's first event (`stopped_at_boundary`). After NULL, the caller
    discards the rows and lets the general path decide.
    """
    cdef const char* q
    cdef OrderRow* row
    cdef ParseError error
    if c.limit - p >= 3 and ft_bytes_equal(p, b"]}\n", 3):
        return p + 3
    while True:
        if c.rows_len >= c.rows_cap:
            c.bound_exceeded = True
            return NULL
        row = &(<OrderRow*>c.rows)[c.rows_len]
        q = _event_fast(c, p, 2, row) if c.readable - p >= FAST_MARGIN else NULL
        ft_set_readable_end(c.readable)
        if q == NULL:
            q = event_general(c, p, c.limit, 2, &row.head, &error)
            if q == NULL:
                return NULL
        row.head.envelope = envelope
        ft_add_single_writer(<uint64_t*>&c.rows_len, 1)  # relaxed, like `lines`: the main thread may ask for the progress
        if c.limit - q < 3:
            return NULL
        if q[0] == c',':
            p = q + 1
            if p >= c.end and c.ends_inside_line:
                if p == c.end:
                    c.stopped_at_boundary = True
                    return p
                return NULL
        elif ft_bytes_equal(q, b"]}\n", 3):
            return q + 3
        else:
            return NULL


cdef const char* _envelope_fast(Chunk* c, const char* p) noexcept nogil:
    """Parse a streaming or by_block line in the node's own form. Returns like _parse_events."""
    cdef const char* start = p
    cdef Envelope* e
    cdef unsigned n
    if c.envelopes_len >= c.envelopes_cap:
        c.bound_exceeded = True
        return NULL
    ft_assert(c.readable - p >= FAST_MARGIN)
    ft_set_readable_end(p + FAST_MARGIN)
    e = &c.envelopes[c.envelopes_len]
    n = _time_fast(c, p + 15, &e.local_time_ns)
    if n == 0 or not ft_bytes_equal(p + 15 + n, b'","block_time":"', 16):
        return NULL
    e.offset = <uint64_t>(p - c.data)
    e.local_time.offset = 15
    e.local_time.size = n
    p += 31 + n
    n = _block_time_fast(c, p, &e.block_time_ns)
    if n == 0 or not ft_bytes_equal(p + n, b'","block_number":', 17):
        return NULL
    e.block_time.offset = <uint32_t>(p - start)
    e.block_time.size = n
    p = _int_fast(p + n + 17, &e.block_number)
    if p == NULL or not ft_bytes_equal(p, b',"events":[', 11):
        return NULL
    c.envelopes_len += 1
    ft_set_readable_end(c.readable)
    return _parse_events(c, p + 11, c.envelope_base + <uint32_t>(c.envelopes_len - 1))


cdef void _parse_line_general(Chunk* c) noexcept nogil:
    """Parse the line at c.pos by the general path, with a structural index while that is likely to pay."""
    cdef uint16_t positions[MAX_STRUCTURALS]
    cdef bint indexed = False
    if c.indexed_lines_left > 0 and c.readable - c.pos >= INDEX_READABLE_BYTES:
        c.indexed_lines_left -= 1
        ft_set_readable_end(c.pos + INDEX_READABLE_BYTES)
        indexed = ft_structural_index(c.pos, positions) != 0
        if not indexed:
            c.indexed_lines_left = -STRATEGY_LINES
    line_general(c, positions if indexed else NULL)


cdef void _parse_line(Chunk* c) noexcept nogil:
    """Parse the line at c.pos into rows or a Reject and advance c.pos past it."""
    cdef const char* p = c.pos
    cdef const char* q
    cdef size_t rows = c.rows_len, envelopes = c.envelopes_len, uncoded_rows = c.uncoded_len
    cdef uint32_t coins_before = c.coins.count
    ft_set_readable_end(c.readable)
    if c.readable - p >= FAST_MARGIN:
        if ft_bytes_equal(p, b'{"time":"', 9):
            if c.rows_len < c.rows_cap:
                q = _event_fast(c, p, 0, &(<OrderRow*>c.rows)[rows])
                if q != NULL and q[0] == c'\n':
                    (<OrderRow*>c.rows)[rows].head.envelope = NO_ENVELOPE
                    ft_add_single_writer(<uint64_t*>&c.rows_len, 1)
                    c.pos = q + 1
                    ft_add_single_writer(&c.lines, 1)
                    return
            else:
                c.bound_exceeded = True
        elif ft_bytes_equal(p, b'{"local_time":"', 15):
            q = _envelope_fast(c, p)
            if q != NULL:
                c.pos = q
                if not c.stopped_at_boundary:
                    ft_add_single_writer(&c.lines, 1)
                return
            ft_store_relaxed(<uint64_t*>&c.rows_len, rows)
            c.envelopes_len = envelopes
    intern_truncate(c.coins, coins_before)
    c.uncoded_len = uncoded_rows
    if c.ends_inside_line and memchr(p, c'\n', <size_t>(c.end - p)) == NULL:
        c.needs_recut = True                   # the next worker relies on this line
        c.pos = c.end
        return
    _parse_line_general(c)


cdef api void parse_chunk(Chunk* c) noexcept nogil:
    """Parse a chunk from c.pos to c.end, or until `rejects` is full. The chunk holds the results."""
    cdef const char* q
    c.rejects_full = False
    ft_set_readable_end(c.readable)
    if c.starts_inside_line and not c.first_line_done:
        c.first_line_done = True
        q = _parse_events(c, c.pos, c.envelope_base)  # envelopes[0] stands in for the line's envelope, which another worker has
        if q == NULL:
            c.needs_recut = True
            return
        c.pos = q
        if not c.stopped_at_boundary:
            ft_add_single_writer(&c.lines, 1)
    while c.pos < c.end and not c.needs_recut and not c.bound_exceeded:
        if c.rejects_len >= c.rejects_cap:
            c.rejects_full = True
            return
        _parse_line(c)
