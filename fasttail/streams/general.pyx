"""The general path: parses a line of any stream, in any form that JSON allows, into rows or into a Reject.

It decides what is accepted, by the table of the stream's fields. A template path, such as that of `order_status`, accepts a
subset of the same lines, faster.

The _read functions convert one of the `fields` that were found. Functions that return int return 1, or 0 with the `error`.
"""
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from fasttail.system.atomics cimport ft_add_single_writer, ft_store_relaxed
from fasttail.system.checks cimport FT_DEBUG_CHECKS, ft_assert
from fasttail.streams.json cimport DECODED_TEXT_BYTES, scan_object, scan_indexed, scan_value, skip_whitespace, unescape
from fasttail.streams.numbers cimport parse_amount, parse_decimal, parse_int, parse_datetime_ns
from fasttail.streams.types cimport (
    AS_AMOUNT, AS_BOOL, AS_COIN, AS_DECIMAL, AS_INT, AS_JSON, AS_SIDE, AS_TEXT, AS_TIME, AS_TIME_MS, AS_UINT, AS_WORD,
    ESCAPED, FIRST_FIELD, F_BLOCK_NUMBER, F_BLOCK_TIME, F_EVENTS, F_LOCAL_TIME, F_NONE, K_ABSENT, K_ARRAY, K_ESCAPED_STRING,
    K_INT, K_NULL, K_OBJECT, K_STRING, K_TRUE, MAX_KEYS, MISPREDICTED_KEYS, NOT_STORED, NO_CODE, NO_ENVELOPE, R_DECIMAL, R_JSON,
    R_LENGTH, R_MISSING, R_NOT_OBJECT, R_PAIR, R_RANGE, R_SIDE, R_TIME, R_TYPE, Amount, Chunk, Envelope, FieldSpec, JsonValue,
    ParseError, Reject, RowHead, StreamSpec, TextSpan)
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

cdef extern from *:
    """
    #define FT_MAX_TIME_MS INT64_C(9223372036854)
    """
    const int64_t MAX_TIME_MS "FT_MAX_TIME_MS"   # in ns, it fits in 64 bits


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


cdef int _read_decimal(const Chunk* c, const JsonValue* s, int field, double* value, ParseError* error) noexcept nogil:
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef ssize_t n
    cdef unsigned quote, fraction
    cdef uint64_t mantissa
    if s.kind == K_STRING and c.readable - s.text >= 16:
        fraction = ft_parse_decimal(s.text, &quote, &mantissa)
        if fraction:
            value[0] = <double>mantissa / FT_POWERS_OF_TEN[fraction]  # as in the template path: at most 14 digits
            return 1
    if s.kind == K_ESCAPED_STRING:
        n = unescape(s.text, s.size, decoded, DECODED_TEXT_BYTES)
        if n < 0 or not parse_decimal(decoded, <size_t>n, value):
            return _reject_value(error, s.text, R_DECIMAL, field)
    elif not parse_decimal(s.text, s.size, value):
        return _reject_value(error, s.text, R_DECIMAL, field)
    return 1


cdef int _read_amount(const Chunk* c, const JsonValue* s, int field, double* value, Amount* amount,
                      ParseError* error) noexcept nogil:
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef const char* text = s.text
    cdef ssize_t n = <ssize_t>s.size
    amount.units = 0
    amount.exact = 0
    if s.kind <= K_NULL:
        value[0] = NAN
        return 1
    if not _read_decimal(c, s, field, value, error):
        return 0
    if s.kind == K_ESCAPED_STRING:
        n = unescape(s.text, s.size, decoded, DECODED_TEXT_BYTES)
        text = decoded
    amount.exact = <uint8_t>parse_amount(text, <size_t>n, &amount.units)
    return 1


cdef int _read_time(Chunk* c, const JsonValue* s, int field, int64_t* ns, ParseError* error) noexcept nogil:
    cdef int64_t time_ns
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef ssize_t n
    if s.kind == K_ESCAPED_STRING:
        n = unescape(s.text, s.size, decoded, DECODED_TEXT_BYTES)
        if n < 0 or not parse_datetime_ns(decoded, <size_t>n, ns):
            return _reject_value(error, s.text, R_TIME, field)
    elif s.size == 29:
        # Usually the time of the block: cached with its closing quote.
        ft_assert(s.text[29] == c'"')
        if memcmp(s.text, c.cached_time_text, 30) != 0:
            if not parse_datetime_ns(s.text, 29, &time_ns):
                return _reject_value(error, s.text, R_TIME, field)
            memcpy(c.cached_time_text, s.text, 30)
            c.cached_time_ns = time_ns
            c.cached_time_size = 29
        ns[0] = c.cached_time_ns
    elif not parse_datetime_ns(s.text, s.size, ns):
        return _reject_value(error, s.text, R_TIME, field)
    return 1


cdef int _read_int(const Chunk* c, const JsonValue* s, int field, bint allow_negative, uint64_t* value,
                   ParseError* error) noexcept nogil:
    if 8 < s.size <= 15 and c.readable - s.text >= 16 and ft_count_digits8(ft_load8(s.text)) == 8:
        # The text was validated as an integer, so the rest are digits too.
        value[0] = (ft_parse_digits8(ft_load8(s.text)) * FT_INT_POWERS_OF_TEN[s.size - 8]
                    + ft_parse_digits_n(ft_load8(s.text + 8), <unsigned>(s.size - 8)))
        return 1
    if not parse_int(s.text, s.size, allow_negative, value):
        return _reject_value(error, s.text, R_RANGE, field)
    return 1


cdef int _read_side(const JsonValue* s, int field, uint8_t* side, ParseError* error) noexcept nogil:
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef const char* text = s.text
    cdef ssize_t n = <ssize_t>s.size
    if s.kind == K_ESCAPED_STRING:
        n = unescape(text, s.size, decoded, DECODED_TEXT_BYTES)
        text = decoded
    if n != 1 or (text[0] != c'A' and text[0] != c'B'):
        return _reject_value(error, s.text, R_SIDE, field)
    side[0] = <uint8_t>text[0]
    return 1


cdef inline int _reject_kind(const JsonValue* s, int field, const char* start, ParseError* error) noexcept nogil:
    """Reject a value for being absent, or of a kind that the field does not have."""
    if s.kind == K_ABSENT:
        return _reject_value(error, start, R_MISSING, field)
    return _reject_value(error, s.text, R_TYPE, field)


cdef inline int _read_field(Chunk* c, const FieldSpec* field, int code, const JsonValue* s, const char* start, RowHead* row,
                            ParseError* error) noexcept nogil:
    """Store one field in the row."""
    cdef char* at = <char*>row
    cdef TextSpan* span
    cdef uint64_t number = 0
    cdef uint32_t word
    cdef double decimal
    cdef int kind = s.kind, conversion = field.conversion
    if not (field.kinds >> kind & 1):
        return _reject_kind(s, code, start, error)
    if field.span != NOT_STORED:
        span = <TextSpan*>(at + field.span)
        if kind == K_STRING:                         # most common, so tried first
            _set_span(span, start, s.text, s.text + s.size)
            if conversion == AS_TEXT:
                return 1
        elif kind > K_NULL:
            _set_span(span, start, s.text, s.text + s.size)
            if kind == K_ESCAPED_STRING:
                row.flags |= ESCAPED
        else:
            span.offset = 0
            span.size = kind == K_NULL
    if conversion == AS_DECIMAL:
        return _read_decimal(c, s, code, <double*>(at + field.value) if field.value != NOT_STORED else &decimal, error)
    elif conversion == AS_BOOL:
        row.flags |= field.flag & -(kind == K_TRUE)  # without a branch
        return 1
    elif conversion == AS_WORD:
        if kind == K_STRING:
            at[field.value] = <char>intern_find(field.words, s.text, s.size)
            return 1
        _read_code(field.words, s, &word)
        at[field.value] = <char>word
        return 1
    elif conversion == AS_UINT or conversion == AS_INT:
        if kind == K_INT:
            return _read_int(c, s, code, conversion == AS_INT, <uint64_t*>(at + field.value), error)
        (<uint64_t*>(at + field.value))[0] = 0
        return 1
    elif conversion == AS_JSON:
        row.flags |= field.flag & -(kind > K_NULL)
        if kind == K_STRING or kind == K_ESCAPED_STRING:
            span = <TextSpan*>(at + field.span)      # with its quotes
            span.offset -= 1
            span.size += 2
        return 1
    elif conversion == AS_COIN:
        _read_code(c.coins, s, &word)
        row.coin = <uint16_t>word
        return 1
    elif conversion == AS_TIME:
        return _read_time(c, s, code, <int64_t*>(at + field.value), error)
    elif conversion == AS_SIDE:
        return _read_side(s, code, &row.side, error)
    elif conversion == AS_AMOUNT:
        return _read_amount(c, s, code, <double*>(at + field.value), <Amount*>(at + field.exact), error)
    elif conversion == AS_TIME_MS:
        if not _read_int(c, s, code, True, &number, error):
            return 0
        if not (-MAX_TIME_MS <= <int64_t>number and <int64_t>number <= MAX_TIME_MS):
            return _reject_value(error, s.text, R_RANGE, code)
        (<int64_t*>(at + field.value))[0] = <int64_t>number
        row.time_ns = <int64_t>number * 1000000
    return 1


cdef int _fill_row(Chunk* c, const char* start, const char* after, const JsonValue* fields, RowHead* row,
                   ParseError* error) noexcept nogil:
    """Fill `row` from the values of an event."""
    cdef const StreamSpec* stream = c.stream
    cdef int i, n = stream.fields_len
    if after - start > <ssize_t>MAX_EVENT_BYTES:
        return _reject_value(error, start, R_LENGTH, F_NONE)
    row.flags = 0
    for i in range(n):
        if not _read_field(c, &stream.fields[i], FIRST_FIELD + i, &fields[FIRST_FIELD + i], start, row, error):
            return 0
    row.offset = <uint64_t>(start - c.data)
    row.size = <uint32_t>(after - start)
    if row.coin == NO_CODE:
        resolve_new_coin(c, row)
    return 1


cdef const char* _pair_general(Chunk* c, const char* p, const char* end, int depth, RowHead* row,
                               ParseError* error) noexcept nogil:
    """Parse the value at p, which was validated, as a pair of a text and an object."""
    cdef JsonValue fields[MAX_KEYS]
    cdef const char* start = p
    cdef const char* inside
    if p[0] == c'[':
        p = skip_whitespace(p + 1, end)
        if p[0] == c'"':
            p = skip_whitespace(scan_value(p, end, depth + 1, &fields[<int>FIRST_FIELD], error), end)
            if p[0] == c',':
                p = skip_whitespace(p + 1, end)
                if p[0] == c'{':
                    inside = p
                    p = scan_object(p, end, depth + 1, &c.stream.keys, &c.stream.event, fields, c.next_key, error)
                    _set_span(<TextSpan*>(<char*>row + c.stream.pair_object), start, inside, p)
                    p = skip_whitespace(p, end)
                    if p[0] == c']':
                        return p + 1 if _fill_row(c, start, p + 1, fields, row, error) else NULL
    _reject_value(error, start, R_PAIR, F_NONE)
    return NULL


cdef const char* event_general(Chunk* c, const char* p, const char* end, int depth, RowHead* row,
                               ParseError* error) noexcept nogil:
    """Parse any event at p into `row` and return the byte after it, or NULL with the error."""
    cdef JsonValue fields[MAX_KEYS]
    cdef const char* q = scan_object(p, end, depth, &c.stream.keys, &c.stream.event, fields, c.next_key, error)
    if q == NULL or not _fill_row(c, p, q, fields, row, error):
        return NULL
    return q


cdef int _read_envelope_time(Chunk* c, const char* start, const JsonValue* s, int field, TextSpan* span, int64_t* ns,
                             ParseError* error) noexcept nogil:
    if s.kind != K_STRING and s.kind != K_ESCAPED_STRING:
        return _reject_kind(s, field, start, error)
    _set_span(span, start, s.text, s.text + s.size)
    return _read_time(c, s, field, ns, error)


cdef int _read_envelope(Chunk* c, const char* start, const JsonValue* fields, ParseError* error) noexcept nogil:
    """Fill the next free Envelope without counting it."""
    cdef Envelope* e
    if c.envelopes_len >= c.envelopes_cap:
        c.bound_exceeded = True
        return _reject_value(error, start, R_JSON, F_NONE)
    e = &c.envelopes[c.envelopes_len]
    e.offset = <uint64_t>(start - c.data)
    if not (_read_envelope_time(c, start, &fields[<int>F_LOCAL_TIME], F_LOCAL_TIME, &e.local_time, &e.local_time_ns, error)
            and _read_envelope_time(c, start, &fields[<int>F_BLOCK_TIME], F_BLOCK_TIME, &e.block_time, &e.block_time_ns, error)):
        return 0
    if fields[<int>F_BLOCK_NUMBER].kind != K_INT:
        return _reject_kind(&fields[<int>F_BLOCK_NUMBER], F_BLOCK_NUMBER, start, error)
    return _read_int(c, &fields[<int>F_BLOCK_NUMBER], F_BLOCK_NUMBER, False, &e.block_number, error)


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
        if c.stream.pair:
            p = _pair_general(c, p, end, 2, row, error)
        elif p[0] == c'{':
            p = event_general(c, p, end, 2, row, error)
        else:
            return _reject_value(error, p, R_TYPE, F_EVENTS)
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
    cdef const StreamSpec* stream = c.stream
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
        # The line is a pair, another JSON value, or invalid: find out which.
        q = scan_value(p, end, 0, &fields[0], &error)
        if q != NULL:
            after = skip_whitespace(q, end)
            if not _at_line_end(after, end):
                _reject_value(&error, q, R_JSON, F_NONE)
            elif not stream.pair or p[0] != c'[':
                _reject_value(&error, p, R_NOT_OBJECT, F_NONE)
            elif c.rows_len >= c.rows_cap:
                c.bound_exceeded = True
                _reject_value(&error, p, R_JSON, F_NONE)
            elif _pair_general(c, p, q, 0, _row(c, c.rows_len), &error) != NULL:
                _row(c, c.rows_len).envelope = NO_ENVELOPE
                ft_add_single_writer(<uint64_t*>&c.rows_len, 1)
                accepted = True
    else:
        q = scan_indexed(p, end, &stream.keys, &stream.line, fields, structural_index) if structural_index != NULL else NULL
        if q == NULL:
            c.next_key[<int>MISPREDICTED_KEYS] = 0
            q = scan_object(p, end, 0, &stream.keys, &stream.line, fields, c.next_key, &error)
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
            elif events.kind != K_ABSENT and (stream.pair or fields[stream.marker].kind == K_ABSENT):
                if q - p > <ssize_t>MAX_EVENT_BYTES:
                    _reject_value(&error, p, R_LENGTH, F_NONE)
                elif events.kind != K_ARRAY:
                    _reject_value(&error, events.text, R_TYPE, F_EVENTS)
                elif _read_envelope(c, p, fields, &error):
                    c.envelopes_len += 1
                    accepted = _events_general(c, events, c.envelope_base + <uint32_t>envelopes, &error)
            elif stream.pair:
                _reject_value(&error, p, R_MISSING, F_EVENTS)
            elif c.rows_len >= c.rows_cap:
                c.bound_exceeded = True
                _reject_value(&error, p, R_JSON, F_NONE)
            elif _fill_row(c, p, q, fields, _row(c, c.rows_len), &error):
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


cdef void parse_chunk_general(Chunk* c) noexcept nogil:
    """Parse a chunk of whole lines from c.pos to c.end, or until `rejects` is full. The chunk holds the results."""
    c.rejects_full = False
    while c.pos < c.end and not c.bound_exceeded:
        if c.rejects_len >= c.rejects_cap:
            c.rejects_full = True
            return
        line_general(c, NULL)


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
    """Assert that the row's texts lie within its event, and the event within the data."""
    cdef const TextSpan* span
    cdef int i
    ft_assert(row.size > 0)
    ft_assert(row.offset + row.size <= <uint64_t>(c.limit - c.data))
    for i in range(c.stream.fields_len):
        if c.stream.fields[i].span != NOT_STORED:
            span = <const TextSpan*>(<const char*>row + c.stream.fields[i].span)
            ft_assert(<uint64_t>span.offset + span.size <= row.size)
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
