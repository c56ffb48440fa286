"""The general path: parses an order-status line in any form that JSON allows into rows, or into a Reject.

It decides what is accepted. The template path of `order_status` accepts a subset of the same lines, faster.

The _read functions convert one of the `fields` that were found. Functions that return int return 1, or 0 with the `error`.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from fasttail.system.atomics cimport ft_add_single_writer, ft_store_relaxed
from fasttail.system.checks cimport FT_DEBUG_CHECKS, ft_assert
from fasttail.streams.json cimport (MAX_KEYS, DECODED_TEXT_BYTES, ObjectSchema, scan_object, scan_indexed, scan_value,
    skip_whitespace, unescape)
from fasttail.streams.numbers cimport parse_decimal, parse_int, parse_datetime_ns
from fasttail.streams.types cimport (
    ENVELOPE_LO, ESCAPED, EVENT_HI, EVENT_LO, F_BLOCK_NUMBER, F_BLOCK_TIME, F_BUILDER, F_CHILDREN, F_CLOID, F_COIN, F_EVENTS,
    F_HASH, F_IS_POSITION_TPSL, F_IS_TRIGGER, F_LIMIT_PX, F_LOCAL_TIME, F_NONE, F_OID, F_ORDER, F_ORDER_TYPE, F_ORIG_SZ,
    F_REDUCE_ONLY, F_SIDE, F_STATUS, F_SZ, F_TIF, F_TIME, F_TIMESTAMP, F_TRIGGER_CONDITION, F_TRIGGER_PX, F_USER,
    MISPREDICTED_KEYS, K_ABSENT, K_ARRAY, K_ESCAPED_STRING, K_FALSE, K_INT, K_NULL, K_OBJECT,
    K_STRING, K_TRUE, NO_CODE, NO_ENVELOPE, ORDER_HI, ORDER_LO, R_DECIMAL, R_JSON, R_LENGTH, R_MISSING, R_NOT_OBJECT, R_RANGE, R_SIDE, R_TIME,
    R_TYPE, FIRST_KEY_OF_EVENT, FIRST_KEY_OF_LINE, FIRST_KEY_OF_ORDER, Chunk, Envelope, ParseError, TextSpan, Reject, RowHead,
    JsonValue)
from fasttail.streams.orders cimport IS_POSITION_TPSL, IS_TRIGGER, ORDER_TYPE, REDUCE_ONLY, STATUS, TIF, OrderRow
from fasttail.streams.vocabulary cimport FIELD_KEYS, ORDER_TYPES, STATUSES, TIFS
from fasttail.streams.intern cimport InternTable, intern_add, intern_find, intern_truncate

cdef extern from "simd.h" nogil:
    const double* FT_POWERS_OF_TEN
    const uint64_t* FT_INT_POWERS_OF_TEN
    void ft_prefetch_at(const void* p) noexcept
    unsigned ft_parse_decimal(const char* p, unsigned* quote, uint64_t* mantissa) noexcept
    uint64_t ft_load8(const char* p) noexcept
    unsigned ft_count_digits8(uint64_t v) noexcept
    uint64_t ft_parse_digits8(uint64_t v) noexcept
    uint64_t ft_parse_digits_n(uint64_t v, unsigned n) noexcept

cdef enum:
    MAX_EVENT_BYTES = 0xFFFFFFFF  # of an event, or of an envelope's line, because a TextSpan has 32 bits
    MAX_MISPREDICTED_KEYS = 6     # in one line; with more, the next lines are parsed by structural index


cdef ObjectSchema ORDER_SCHEMA = ObjectSchema(FIRST_KEY_OF_ORDER, ORDER_LO, ORDER_HI, -1, NULL)
cdef ObjectSchema EVENT_SCHEMA = ObjectSchema(FIRST_KEY_OF_EVENT, EVENT_LO, EVENT_HI, F_ORDER, &ORDER_SCHEMA)
# the outer object of a line: an envelope, or an event of the plain layout
cdef ObjectSchema LINE_SCHEMA = ObjectSchema(FIRST_KEY_OF_LINE, ENVELOPE_LO, EVENT_HI, F_ORDER, &ORDER_SCHEMA)


cdef inline RowHead* _row(const Chunk* c, size_t i) noexcept nogil:
    return <RowHead*>(c.rows + i * c.stream.row_bytes)


cdef inline void _set_span(TextSpan* span, const char* start, const char* p, const char* q) noexcept nogil:
    span.offset = <uint32_t>(p - start)
    span.size = <uint32_t>(q - p)


cdef inline int _reject_value(ParseError* error, const char* at, int reason, int field) noexcept nogil:
    error.position = at
    error.reason = <uint8_t>reason
    error.field = <uint8_t>field
    return 0


cdef int _read_text(const JsonValue* fields, int field, bint nullable, const char* start, TextSpan* span, uint8_t* flags,
                    ParseError* error) noexcept nogil:
    """Set `span` to a text value. If nullable, it may be null or absent."""
    cdef const JsonValue* s = &fields[field]
    if s.kind == K_STRING or s.kind == K_ESCAPED_STRING:
        if s.kind == K_ESCAPED_STRING:
            flags[0] |= ESCAPED
        _set_span(span, start, s.text, s.text + s.size)
        return 1
    if nullable and (s.kind == K_NULL or s.kind == K_ABSENT):
        span.offset = 0
        span.size = 0
        return 1
    return _reject_value(error, start if s.kind == K_ABSENT else s.text, R_MISSING if s.kind == K_ABSENT else R_TYPE, field)


cdef void _read_code(const InternTable* codes, const JsonValue* s, uint32_t* code) noexcept nogil:
    """Set `code` to that of a (perhaps escaped) text, 0 if it is not in the table."""
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef ssize_t n
    if s.kind == K_STRING:
        code[0] = intern_find(codes, s.text, s.size)
    elif s.kind == K_ESCAPED_STRING:
        n = unescape(s.text, s.size, decoded, DECODED_TEXT_BYTES)
        code[0] = intern_find(codes, decoded, <size_t>n) if n >= 0 else 0
    else:
        code[0] = 0


cdef int _read_decimal(const Chunk* c, const JsonValue* fields, int field, const char* start, TextSpan* span, double* value,
                       uint8_t* flags, ParseError* error) noexcept nogil:
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef ssize_t n
    cdef unsigned quote, fraction
    cdef uint64_t mantissa
    if not _read_text(fields, field, False, start, span, flags, error):
        return 0
    if fields[field].kind == K_STRING and c.readable - fields[field].text >= 16:
        fraction = ft_parse_decimal(fields[field].text, &quote, &mantissa)
        if fraction:
            value[0] = <double>mantissa / FT_POWERS_OF_TEN[fraction]  # as in the template path: at most 14 digits
            return 1
    if fields[field].kind == K_ESCAPED_STRING:
        n = unescape(fields[field].text, fields[field].size, decoded, DECODED_TEXT_BYTES)
        if n < 0 or not parse_decimal(decoded, <size_t>n, value):
            return _reject_value(error, fields[field].text, R_DECIMAL, field)
    elif not parse_decimal(fields[field].text, fields[field].size, value):
        return _reject_value(error, fields[field].text, R_DECIMAL, field)
    return 1


cdef int _read_time(Chunk* c, const JsonValue* fields, int field, const char* start, TextSpan* span, int64_t* ns,
                    uint8_t* flags, ParseError* error) noexcept nogil:
    cdef int64_t time_ns
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef ssize_t n
    if not _read_text(fields, field, False, start, span, flags, error):
        return 0
    if fields[field].kind == K_ESCAPED_STRING:
        n = unescape(fields[field].text, fields[field].size, decoded, DECODED_TEXT_BYTES)
        if n < 0 or not parse_datetime_ns(decoded, <size_t>n, ns):
            return _reject_value(error, fields[field].text, R_TIME, field)
    elif fields[field].size == 29:
        # Usually the time of the block: cached with its closing quote.
        ft_assert(fields[field].text[29] == c'"')
        if memcmp(fields[field].text, c.cached_time_text, 30) != 0:
            if not parse_datetime_ns(fields[field].text, 29, &time_ns):
                return _reject_value(error, fields[field].text, R_TIME, field)
            memcpy(c.cached_time_text, fields[field].text, 30)
            c.cached_time_ns = time_ns
            c.cached_time_size = 29
        ns[0] = c.cached_time_ns
    elif not parse_datetime_ns(fields[field].text, fields[field].size, ns):
        return _reject_value(error, fields[field].text, R_TIME, field)
    return 1


cdef int _read_int(const Chunk* c, const JsonValue* fields, int field, const char* start, bint allow_negative, uint64_t* value,
                   ParseError* error) noexcept nogil:
    cdef const JsonValue* s = &fields[field]
    if s.kind != K_INT:
        return _reject_value(error, start if s.kind == K_ABSENT else s.text, R_MISSING if s.kind == K_ABSENT else R_TYPE, field)
    if 8 < s.size <= 15 and c.readable - s.text >= 16 and ft_count_digits8(ft_load8(s.text)) == 8:
        # The text was validated as an integer, so the rest are digits too.
        value[0] = (ft_parse_digits8(ft_load8(s.text)) * FT_INT_POWERS_OF_TEN[s.size - 8]
                    + ft_parse_digits_n(ft_load8(s.text + 8), <unsigned>(s.size - 8)))
        return 1
    if not parse_int(s.text, s.size, allow_negative, value):
        return _reject_value(error, s.text, R_RANGE, field)
    return 1


cdef int _read_bool(const JsonValue* fields, int field, const char* start, uint8_t bit, uint8_t* flags,
                    ParseError* error) noexcept nogil:
    cdef const JsonValue* s = &fields[field]
    if s.kind == K_TRUE:
        flags[0] |= bit
    elif s.kind != K_FALSE:
        return _reject_value(error, start if s.kind == K_ABSENT else s.text, R_MISSING if s.kind == K_ABSENT else R_TYPE, field)
    return 1


cdef int _read_json(const JsonValue* fields, int field, int kind, bint nullable, const char* start, TextSpan* span,
                    ParseError* error) noexcept nogil:
    """Like _read_text, for the JSON text of an array or object."""
    cdef const JsonValue* s = &fields[field]
    if s.kind == kind:
        _set_span(span, start, s.text, s.text + s.size)
        return 1
    if nullable and (s.kind == K_NULL or s.kind == K_ABSENT):
        span.offset = 0
        span.size = 0
        return 1
    return _reject_value(error, start if s.kind == K_ABSENT else s.text, R_MISSING if s.kind == K_ABSENT else R_TYPE, field)


cdef int _read_side(const JsonValue* fields, const char* start, uint8_t* side, ParseError* error) noexcept nogil:
    cdef const JsonValue* s = &fields[<int>F_SIDE]
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef const char* text = s.text
    cdef ssize_t n = <ssize_t>s.size
    if s.kind == K_ESCAPED_STRING:
        n = unescape(s.text, s.size, decoded, DECODED_TEXT_BYTES)
        text = decoded
    elif s.kind != K_STRING:
        return _reject_value(error, start if s.kind == K_ABSENT else s.text, R_MISSING if s.kind == K_ABSENT else R_TYPE,
                             F_SIDE)
    if n != 1 or (text[0] != c'A' and text[0] != c'B'):
        return _reject_value(error, s.text, R_SIDE, F_SIDE)
    side[0] = <uint8_t>text[0]
    return 1


cdef int _fill_row(Chunk* c, const char* start, const char* after, JsonValue* fields, OrderRow* row,
                   ParseError* error) noexcept nogil:
    """Fill `row` from the values of an event and its order, fields[EVENT_LO:ORDER_HI]."""
    cdef uint8_t flags = 0
    cdef uint64_t number = 0
    cdef uint32_t code = 0
    cdef double trigger_px                       # only validated: the row keeps its text
    cdef const JsonValue* order = &fields[<int>F_ORDER]
    if after - start > <ssize_t>MAX_EVENT_BYTES:
        return _reject_value(error, start, R_LENGTH, F_NONE)
    if order.kind != K_OBJECT:
        return _reject_value(error, start if order.kind == K_ABSENT else order.text, R_MISSING if order.kind == K_ABSENT
                             else R_TYPE, F_ORDER)
    if not (_read_time(c, fields, F_TIME, start, &row.time, &row.head.time_ns, &flags, error)
            and _read_text(fields, F_USER, False, start, &row.head.user, &flags, error)
            and _read_text(fields, F_HASH, True, start, &row.hash, &flags, error)
            and _read_json(fields, F_BUILDER, K_OBJECT, True, start, &row.builder, error)
            and _read_text(fields, F_STATUS, False, start, &row.status_text, &flags, error)
            and _read_text(fields, F_COIN, False, start, &row.head.coin_text, &flags, error)
            and _read_side(fields, start, &row.head.side, error)
            and _read_decimal(c, fields, F_LIMIT_PX, start, &row.limitPx_text, &row.limitPx, &flags, error)
            and _read_decimal(c, fields, F_SZ, start, &row.sz_text, &row.sz, &flags, error)
            and _read_int(c, fields, F_OID, start, False, &row.oid, error)
            and _read_int(c, fields, F_TIMESTAMP, start, True, &number, error)
            and _read_text(fields, F_TRIGGER_CONDITION, False, start, &row.triggerCondition, &flags, error)
            and _read_bool(fields, F_IS_TRIGGER, start, IS_TRIGGER, &flags, error)
            and _read_decimal(c, fields, F_TRIGGER_PX, start, &row.triggerPx_text, &trigger_px, &flags, error)
            and _read_json(fields, F_CHILDREN, K_ARRAY, False, start, &row.children, error)
            and _read_bool(fields, F_IS_POSITION_TPSL, start, IS_POSITION_TPSL, &flags, error)
            and _read_bool(fields, F_REDUCE_ONLY, start, REDUCE_ONLY, &flags, error)
            and _read_text(fields, F_ORDER_TYPE, False, start, &row.orderType_text, &flags, error)
            and _read_decimal(c, fields, F_ORIG_SZ, start, &row.origSz_text, &row.origSz, &flags, error)
            and _read_text(fields, F_TIF, True, start, &row.tif_text, &flags, error)
            and _read_text(fields, F_CLOID, True, start, &row.cloid, &flags, error)):
        return 0
    row.timestamp = <int64_t>number
    _read_code(&STATUSES, &fields[<int>F_STATUS], &code)
    row.head.codes[<int>STATUS] = <uint8_t>code
    _read_code(&ORDER_TYPES, &fields[<int>F_ORDER_TYPE], &code)
    row.head.codes[<int>ORDER_TYPE] = <uint8_t>code
    _read_code(&TIFS, &fields[<int>F_TIF], &code)
    row.head.codes[<int>TIF] = <uint8_t>code
    _read_code(c.coins, &fields[<int>F_COIN], &code)
    row.head.coin = <uint16_t>code
    row.head.flags = flags
    row.head.offset = <uint64_t>(start - c.data)
    row.head.size = <uint32_t>(after - start)
    if code == NO_CODE:
        resolve_new_coin(c, &row.head)
    return 1


cdef const char* event_general(Chunk* c, const char* p, const char* end, int depth, OrderRow* row, ParseError* error) noexcept nogil:
    """Parse any event at p into `row` and return the byte after it, or NULL with the error."""
    cdef JsonValue fields[MAX_KEYS]
    cdef const char* q = scan_object(p, end, depth, &FIELD_KEYS, &EVENT_SCHEMA, fields, c.next_key, error)
    if q == NULL or not _fill_row(c, p, q, fields, row, error):
        return NULL
    return q


cdef int _read_envelope(Chunk* c, const char* start, JsonValue* fields, ParseError* error) noexcept nogil:
    """Fill the next free Envelope without counting it."""
    cdef Envelope* e
    cdef uint8_t flags = 0                           # not kept: whoever shows an envelope's times looks for backslashes
    if c.envelopes_len >= c.envelopes_cap:
        c.bound_exceeded = True
        return _reject_value(error, start, R_JSON, F_NONE)
    e = &c.envelopes[c.envelopes_len]
    e.offset = <uint64_t>(start - c.data)
    return (_read_time(c, fields, F_LOCAL_TIME, start, &e.local_time, &e.local_time_ns, &flags, error)
            and _read_time(c, fields, F_BLOCK_TIME, start, &e.block_time, &e.block_time_ns, &flags, error)
            and _read_int(c, fields, F_BLOCK_NUMBER, start, False, &e.block_number, error))


cdef int _events_general(Chunk* c, const JsonValue* events, uint32_t envelope, ParseError* error) noexcept nogil:
    """Parse all events of a validated array into rows, which the caller discards after an error."""
    cdef const char* p = skip_whitespace(events.text + 1, events.text + events.size)
    cdef const char* end = events.text + events.size - 1
    cdef RowHead* row
    if p >= end:
        return 1
    while True:
        if c.rows_len >= c.rows_cap:
            c.bound_exceeded = True
            return _reject_value(error, p, R_JSON, F_NONE)
        row = _row(c, c.rows_len)
        if p[0] != c'{':
            return _reject_value(error, p, R_TYPE, F_EVENTS)
        p = event_general(c, p, end, 2, <OrderRow*>row, error)
        if p == NULL:
            return 0
        row.envelope = envelope
        ft_add_single_writer(<uint64_t*>&c.rows_len, 1)
        p = skip_whitespace(p, end)
        if p >= end:
            return 1
        p = skip_whitespace(p + 1, end)     # skips a comma: the array was validated


cdef inline bint _at_line_end(const char* p, const char* end) noexcept nogil:
    return p >= end or p[0] == c'\n'


cdef void line_general(Chunk* c, const uint16_t* structural_index) noexcept nogil:
    """Parse any line at c.pos into rows or a Reject and advance c.pos past it.

    structural_index: positions as from ft_structural_index, or NULL if they were not computed.
    """
    cdef const char* line = c.pos
    cdef const char* p = line
    cdef const char* end = c.limit
    cdef const char* q
    cdef const char* after = NULL                # end of the JSON text and of the whitespace after it
    cdef JsonValue fields[MAX_KEYS]
    cdef ParseError error
    cdef size_t rows = c.rows_len, envelopes = c.envelopes_len, uncoded_rows = c.uncoded_len
    cdef uint32_t coins_before = c.coins.count
    cdef Reject* reject
    cdef const JsonValue* events = &fields[<int>F_EVENTS]
    cdef bint accepted = False
    ft_add_single_writer(&c.lines, 1)            # relaxed, like rows_len: the main thread may ask for the progress
    # The line begins after a hole, such as a truncating copier leaves.
    while p < end and p[0] == 0:
        p += 1
    c.nul_bytes += <uint64_t>(p - line)
    if end - p >= 3 and <uint8_t>p[0] == 0xEF and <uint8_t>p[1] == 0xBB and <uint8_t>p[2] == 0xBF:
        p += 3
    p = skip_whitespace(p, end)
    if _at_line_end(p, end):
        c.pos = p if p == end else p + 1
        return
    if p[0] != c'{':
        # The line is another JSON value or invalid: find out which.
        q = scan_value(p, end, 0, &fields[0], &error)
        if q != NULL:
            after = skip_whitespace(q, end)
            _reject_value(&error, p if _at_line_end(after, end) else q, R_NOT_OBJECT if _at_line_end(after, end) else R_JSON,
                          F_NONE)
    else:
        q = scan_indexed(p, end, &FIELD_KEYS, &LINE_SCHEMA, fields, structural_index) if structural_index != NULL else NULL
        if q == NULL:
            c.next_key[<int>MISPREDICTED_KEYS] = 0
            q = scan_object(p, end, 0, &FIELD_KEYS, &LINE_SCHEMA, fields, c.next_key, &error)
            if structural_index != NULL:
                c.indexed_lines_left = -STRATEGY_LINES
            elif c.indexed_lines_left < 0:
                c.indexed_lines_left += 1
            elif c.next_key[<int>MISPREDICTED_KEYS] > MAX_MISPREDICTED_KEYS:
                c.indexed_lines_left = STRATEGY_LINES
        if q != NULL:
            after = skip_whitespace(q, end)
            if not _at_line_end(after, end):
                _reject_value(&error, q, R_JSON, F_NONE)
            elif events.kind != K_ABSENT and fields[<int>F_ORDER].kind == K_ABSENT:
                if q - p > <ssize_t>MAX_EVENT_BYTES:
                    _reject_value(&error, p, R_LENGTH, F_NONE)
                elif events.kind != K_ARRAY:
                    _reject_value(&error, events.text, R_TYPE, F_EVENTS)
                elif _read_envelope(c, p, fields, &error):
                    c.envelopes_len += 1
                    accepted = _events_general(c, events, c.envelope_base + <uint32_t>envelopes, &error)
            elif c.rows_len >= c.rows_cap:
                c.bound_exceeded = True
                _reject_value(&error, p, R_JSON, F_NONE)
            elif _fill_row(c, p, q, fields, <OrderRow*>_row(c, c.rows_len), &error):
                _row(c, c.rows_len).envelope = NO_ENVELOPE
                ft_add_single_writer(<uint64_t*>&c.rows_len, 1)
                accepted = True
    if not accepted:
        ft_store_relaxed(<uint64_t*>&c.rows_len, rows)
        c.uncoded_len = uncoded_rows
        c.envelopes_len = envelopes
        intern_truncate(c.coins, coins_before)
        ft_assert(c.rejects_len < c.rejects_cap)
        ft_assert(error.position >= line)
        ft_assert(error.position <= end)
        reject = &c.rejects[c.rejects_len]
        reject.line_offset = <uint64_t>(line - c.data)
        reject.error_offset = <uint64_t>(error.position - c.data)
        reject.reason = error.reason
        reject.field = error.field
        c.rejects_len += 1
        if after == NULL:
            after = error.position               # the bytes before it were read and contain no newline
        if not _at_line_end(after, end):
            after = <const char*>memchr(after, c'\n', <size_t>(end - after))
            if after == NULL:
                after = end
    c.pos = after if after == end else after + 1


cdef void _assign_coin_code(InternTable* coins, const char* text, RowHead* row) noexcept nogil:
    """Set the row's coin to the code of the (perhaps escaped) name at `text`, a new code if necessary."""
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef ssize_t n = <ssize_t>row.coin_text.size
    cdef uint32_t code
    if row.flags & ESCAPED:
        n = unescape(text, <size_t>n, decoded, DECODED_TEXT_BYTES)
        text = decoded
    if n >= 0:
        code = intern_find(coins, text, <size_t>n)
        row.coin = <uint16_t>(code if code else intern_add(coins, text, <size_t>n))


cdef void resolve_new_coin(Chunk* c, RowHead* row) noexcept nogil:
    """Assign a new coin's code now, or after the region if other workers read the table.

    The coins of a line that is rejected later are removed again.
    """
    if c.single_worker:
        _assign_coin_code(c.coins, c.data + row.offset + row.coin_text.offset, row)
        return
    if c.uncoded_len < c.uncoded_cap:
        c.uncoded_rows[c.uncoded_len] = <uint32_t>(<size_t>(<char*>row - c.rows) // c.stream.row_bytes)
    c.uncoded_len += 1


cdef void _check_row(const Chunk* c, const RowHead* row) noexcept nogil:
    """Assert that the head's texts lie within the event, and the event within the data."""
    ft_assert(row.size > 0)
    ft_assert(row.offset + row.size <= <uint64_t>(c.limit - c.data))
    ft_assert(<uint64_t>row.coin_text.offset + row.coin_text.size <= row.size)
    ft_assert(<uint64_t>row.user.offset + row.user.size <= row.size)
    if row.envelope != <uint32_t>NO_ENVELOPE:
        ft_assert(row.envelope >= c.envelope_base)
        ft_assert(row.envelope < c.envelope_base + c.envelopes_len)


cdef void assign_coin_codes(Chunk* c) noexcept nogil:
    """Assign codes to new coins in row order. Called after the region, by one thread at a time."""
    cdef size_t i, n = c.uncoded_len
    cdef RowHead* row
    if FT_DEBUG_CHECKS:
        for i in range(c.rows_len):
            _check_row(c, _row(c, i))
    c.uncoded_len = 0
    if n <= c.uncoded_cap:
        for i in range(n):
            row = _row(c, c.uncoded_rows[i])
            if c.uncoded_rows[i] < c.rows_len and row.coin == NO_CODE:
                _assign_coin_code(c.coins, c.data + row.offset + row.coin_text.offset, row)
        return
    for i in range(c.rows_len):
        row = _row(c, i)
        # Rows and texts are no longer in the cache, so prefetch them.
        if i + 16 < c.rows_len:
            ft_prefetch_at(_row(c, i + 16))
            ft_prefetch_at(c.data + _row(c, i + 8).offset + _row(c, i + 8).coin_text.offset)
        if row.coin == NO_CODE:
            _assign_coin_code(c.coins, c.data + row.offset + row.coin_text.offset, row)
