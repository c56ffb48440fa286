"""The general path: any order-status line, in whatever form JSON allows -> rows, or a Reject that says why and where.

It decides what is accepted: the template path of `order_status` only takes what this one would take too, and faster.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from fasttail.atomics cimport ft_add, ft_set
from fasttail.checks cimport FT_CHECKED, ft_assert
from fasttail.parser.json cimport MOST_KEYS, TEXT_ROOM, Level, scan_object, scan_outlined, scan_value, skip_blank, unescape
from fasttail.parser.numbers cimport parse_decimal, parse_int, parse_time
from fasttail.parser.types cimport (
    ENVELOPE_LO, ESCAPED, EVENT_HI, EVENT_LO, F_BLOCK_NUMBER, F_BLOCK_TIME, F_BUILDER, F_CHILDREN, F_CLOID, F_COIN, F_EVENTS,
    F_HASH, F_IS_POSITION_TPSL, F_IS_TRIGGER, F_LIMIT_PX, F_LOCAL_TIME, F_NONE, F_OID, F_ORDER, F_ORDER_TYPE, F_ORIG_SZ,
    F_REDUCE_ONLY, F_SIDE, F_STATUS, F_SZ, F_TIF, F_TIME, F_TIMESTAMP, F_TRIGGER_CONDITION, F_TRIGGER_PX, F_USER,
    IS_POSITION_TPSL, IS_TRIGGER, KEYS_WRONG, K_ABSENT, K_ARRAY, K_ESCAPED, K_FALSE, K_INT, K_NULL, K_OBJECT, K_STRING, K_TRUE,
    NO_CODE, NO_ENVELOPE, ORDER_HI, ORDER_LO, R_DECIMAL, R_JSON, R_LENGTH, R_MISSING, R_OBJECT, R_RANGE, R_SIDE, R_TIME, R_TYPE,
    REDUCE_ONLY, START_EVENT, START_LINE, START_ORDER, Chunk, Envelope, Fault, Ref, Reject, Row, Slot)
from fasttail.parser.vocabulary cimport FIELDS, ORDER_TYPES, STATUSES, TIFS
from fasttail.parser.words cimport Words, words_add, words_find, words_forget

cdef extern from "simd.h" nogil:
    const double* FT_TENS
    const uint64_t* FT_INT_TENS
    void ft_prefetch_at(const void* p) noexcept
    unsigned ft_decimal(const char* p, unsigned* quote, uint64_t* mantissa) noexcept
    uint64_t ft_load8(const char* p) noexcept
    unsigned ft_digits8(uint64_t v) noexcept
    uint64_t ft_value8(uint64_t v) noexcept
    uint64_t ft_value_n(uint64_t v, unsigned n) noexcept

cdef enum:
    MOST_BYTES = 0xFFFFFFFF      # of an event, or of an envelope's line: a Ref counts in 32 bits
    MOST_WRONG = 6               # keys of a line; with more guessed wrong, the next lines go by their outline


cdef Level ORDER = Level(START_ORDER, ORDER_LO, ORDER_HI, -1, NULL)
cdef Level EVENT = Level(START_EVENT, EVENT_LO, EVENT_HI, F_ORDER, &ORDER)
cdef Level LINE = Level(START_LINE, ENVELOPE_LO, EVENT_HI, F_ORDER, &ORDER)      # of an envelope, or of a plain event


cdef inline void _ref(Ref* ref, const char* start, const char* p, const char* q) noexcept nogil:
    ref.off = <uint32_t>(p - start)
    ref.size = <uint32_t>(q - p)


cdef inline int _wrong(Fault* fault, const char* at, int reason, int field) noexcept nogil:
    fault.at = at
    fault.reason = <uint8_t>reason
    fault.field = <uint8_t>field
    return 0


cdef int _text(const Slot* slots, int field, bint nullable, const char* start, Ref* ref, uint8_t* flags, Fault* fault) noexcept nogil:
    """A text value -> ref. Null (or no key at all) is allowed for the nullable ones."""
    cdef const Slot* s = &slots[field]
    if s.kind == K_STRING or s.kind == K_ESCAPED:
        if s.kind == K_ESCAPED:
            flags[0] |= ESCAPED
        _ref(ref, start, s.at, s.at + s.size)
        return 1
    if nullable and (s.kind == K_NULL or s.kind == K_ABSENT):
        ref.off = 0
        ref.size = 0
        return 1
    return _wrong(fault, start if s.kind == K_ABSENT else s.at, R_MISSING if s.kind == K_ABSENT else R_TYPE, field)


cdef int _code(const Words* table, const Slot* s, uint32_t* code) noexcept nogil:
    """The code of a (perhaps escaped) text, 0 if it is not in the table."""
    cdef char decoded[TEXT_ROOM]
    cdef ssize_t n
    if s.kind == K_STRING:
        code[0] = words_find(table, s.at, s.size)
    elif s.kind == K_ESCAPED:
        n = unescape(s.at, s.size, decoded, TEXT_ROOM)
        code[0] = words_find(table, decoded, <size_t>n) if n >= 0 else 0
    else:
        code[0] = 0
    return 1


cdef int _decimal(const Chunk* c, const Slot* slots, int field, const char* start, Ref* ref, double* value, uint8_t* flags,
                  Fault* fault) noexcept nogil:
    cdef char decoded[TEXT_ROOM]
    cdef ssize_t n
    cdef unsigned quote, fraction
    cdef uint64_t mantissa
    if not _text(slots, field, False, start, ref, flags, fault):
        return 0
    if slots[field].kind == K_STRING and c.readable - slots[field].at >= 16:
        fraction = ft_decimal(slots[field].at, &quote, &mantissa)
        if fraction:
            value[0] = <double>mantissa / FT_TENS[fraction]      # as in the template path: 14 digits at the most
            return 1
    if slots[field].kind == K_ESCAPED:
        n = unescape(slots[field].at, slots[field].size, decoded, TEXT_ROOM)
        if n < 0 or not parse_decimal(decoded, <size_t>n, value):
            return _wrong(fault, slots[field].at, R_DECIMAL, field)
    elif not parse_decimal(slots[field].at, slots[field].size, value):
        return _wrong(fault, slots[field].at, R_DECIMAL, field)
    return 1


cdef int _time(Chunk* c, const Slot* slots, int field, const char* start, Ref* ref, int64_t* ns, uint8_t* flags,
               Fault* fault) noexcept nogil:
    cdef int64_t time_ns
    cdef char decoded[TEXT_ROOM]
    cdef ssize_t n
    if not _text(slots, field, False, start, ref, flags, fault):
        return 0
    if slots[field].kind == K_ESCAPED:
        n = unescape(slots[field].at, slots[field].size, decoded, TEXT_ROOM)
        if n < 0 or not parse_time(decoded, <size_t>n, ns):
            return _wrong(fault, slots[field].at, R_TIME, field)
    elif slots[field].size == 29:
        # the block's time, most often: remembered with its quote
        ft_assert(slots[field].at[29] == c'"')
        if memcmp(slots[field].at, c.time_text, 30) != 0:
            if not parse_time(slots[field].at, 29, &time_ns):
                return _wrong(fault, slots[field].at, R_TIME, field)
            memcpy(c.time_text, slots[field].at, 30)
            c.time_ns = time_ns
            c.time_size = 29
        ns[0] = c.time_ns
    elif not parse_time(slots[field].at, slots[field].size, ns):
        return _wrong(fault, slots[field].at, R_TIME, field)
    return 1


cdef int _int(const Chunk* c, const Slot* slots, int field, const char* start, bint negative_too, uint64_t* value, Fault* fault) noexcept nogil:
    cdef const Slot* s = &slots[field]
    if s.kind != K_INT:
        return _wrong(fault, start if s.kind == K_ABSENT else s.at, R_MISSING if s.kind == K_ABSENT else R_TYPE, field)
    if 8 < s.size <= 15 and c.readable - s.at >= 16 and ft_digits8(ft_load8(s.at)) == 8:
        # validated as a number: the rest are digits too
        value[0] = ft_value8(ft_load8(s.at)) * FT_INT_TENS[s.size - 8] + ft_value_n(ft_load8(s.at + 8), <unsigned>(s.size - 8))
        return 1
    if not parse_int(s.at, s.size, negative_too, value):
        return _wrong(fault, s.at, R_RANGE, field)
    return 1


cdef int _bool(const Slot* slots, int field, const char* start, uint8_t bit, uint8_t* flags, Fault* fault) noexcept nogil:
    cdef const Slot* s = &slots[field]
    if s.kind == K_TRUE:
        flags[0] |= bit
    elif s.kind != K_FALSE:
        return _wrong(fault, start if s.kind == K_ABSENT else s.at, R_MISSING if s.kind == K_ABSENT else R_TYPE, field)
    return 1


cdef int _bracket(const Slot* slots, int field, int kind, bint nullable, const char* start, Ref* ref, Fault* fault) noexcept nogil:
    """An array or object, kept as its JSON text."""
    cdef const Slot* s = &slots[field]
    if s.kind == kind:
        _ref(ref, start, s.at, s.at + s.size)
        return 1
    if nullable and (s.kind == K_NULL or s.kind == K_ABSENT):
        ref.off = 0
        ref.size = 0
        return 1
    return _wrong(fault, start if s.kind == K_ABSENT else s.at, R_MISSING if s.kind == K_ABSENT else R_TYPE, field)


cdef int _side(const Slot* slots, const char* start, uint8_t* side, Fault* fault) noexcept nogil:
    cdef const Slot* s = &slots[<int>F_SIDE]
    cdef char decoded[TEXT_ROOM]
    cdef const char* text = s.at
    cdef ssize_t n = <ssize_t>s.size
    if s.kind == K_ESCAPED:
        n = unescape(s.at, s.size, decoded, TEXT_ROOM)
        text = decoded
    elif s.kind != K_STRING:
        return _wrong(fault, start if s.kind == K_ABSENT else s.at, R_MISSING if s.kind == K_ABSENT else R_TYPE, F_SIDE)
    if n != 1 or (text[0] != c'A' and text[0] != c'B'):
        return _wrong(fault, s.at, R_SIDE, F_SIDE)
    side[0] = <uint8_t>text[0]
    return 1


cdef int _fill_row(Chunk* c, const char* start, const char* after, Slot* slots, Row* row, Fault* fault) noexcept nogil:
    """The values found in an event and in its order (slots[EVENT_LO:ORDER_HI]) -> row. 1, or 0 with the fault."""
    cdef uint8_t flags = 0
    cdef uint64_t number = 0
    cdef uint32_t code = 0
    cdef double trigger_px                       # checked; a column has its text only
    cdef const Slot* order = &slots[<int>F_ORDER]
    if after - start > <ssize_t>MOST_BYTES:
        return _wrong(fault, start, R_LENGTH, F_NONE)
    if order.kind != K_OBJECT:
        return _wrong(fault, start if order.kind == K_ABSENT else order.at, R_MISSING if order.kind == K_ABSENT else R_TYPE,
                      F_ORDER)
    if not (_time(c, slots, F_TIME, start, &row.time, &row.time_ns, &flags, fault)
            and _text(slots, F_USER, False, start, &row.user, &flags, fault)
            and _text(slots, F_HASH, True, start, &row.hash, &flags, fault)
            and _bracket(slots, F_BUILDER, K_OBJECT, True, start, &row.builder, fault)
            and _text(slots, F_STATUS, False, start, &row.status_text, &flags, fault)
            and _text(slots, F_COIN, False, start, &row.coin_text, &flags, fault)
            and _side(slots, start, &row.side, fault)
            and _decimal(c, slots, F_LIMIT_PX, start, &row.limitPx_text, &row.limitPx, &flags, fault)
            and _decimal(c, slots, F_SZ, start, &row.sz_text, &row.sz, &flags, fault)
            and _int(c, slots, F_OID, start, False, &row.oid, fault)
            and _int(c, slots, F_TIMESTAMP, start, True, &number, fault)
            and _text(slots, F_TRIGGER_CONDITION, False, start, &row.triggerCondition, &flags, fault)
            and _bool(slots, F_IS_TRIGGER, start, IS_TRIGGER, &flags, fault)
            and _decimal(c, slots, F_TRIGGER_PX, start, &row.triggerPx_text, &trigger_px, &flags, fault)
            and _bracket(slots, F_CHILDREN, K_ARRAY, False, start, &row.children, fault)
            and _bool(slots, F_IS_POSITION_TPSL, start, IS_POSITION_TPSL, &flags, fault)
            and _bool(slots, F_REDUCE_ONLY, start, REDUCE_ONLY, &flags, fault)
            and _text(slots, F_ORDER_TYPE, False, start, &row.orderType_text, &flags, fault)
            and _decimal(c, slots, F_ORIG_SZ, start, &row.origSz_text, &row.origSz, &flags, fault)
            and _text(slots, F_TIF, True, start, &row.tif_text, &flags, fault)
            and _text(slots, F_CLOID, True, start, &row.cloid, &flags, fault)):
        return 0
    row.timestamp = <int64_t>number
    _code(&STATUSES, &slots[<int>F_STATUS], &code)
    row.status = <uint8_t>code
    _code(&ORDER_TYPES, &slots[<int>F_ORDER_TYPE], &code)
    row.orderType = <uint8_t>code
    _code(&TIFS, &slots[<int>F_TIF], &code)
    row.tif = <uint8_t>code
    _code(c.coins, &slots[<int>F_COIN], &code)
    row.coin = <uint16_t>code
    row.flags = flags
    row.at = <uint64_t>(start - c.data)
    row.size = <uint32_t>(after - start)
    if code == NO_CODE:
        new_coin(c, row)
    return 1


cdef const char* event_general(Chunk* c, const char* p, const char* end, int depth, Row* row, Fault* fault) noexcept nogil:
    """Any event at p: the byte after it, or NULL with the fault."""
    cdef Slot slots[MOST_KEYS]
    cdef const char* q = scan_object(p, end, depth, &FIELDS, &EVENT, slots, c.next_key, fault)
    if q == NULL or not _fill_row(c, p, q, slots, row, fault):
        return NULL
    return q


cdef int _envelope(Chunk* c, const char* start, Slot* slots, Fault* fault) noexcept nogil:
    """The envelope's own values -> the next free Envelope (not counted yet). 1, or 0 with the fault."""
    cdef Envelope* e
    cdef uint8_t flags = 0                           # an envelope keeps none: who shows its times looks for backslashes
    if c.envelopes_len >= c.envelopes_cap:
        c.broken = True
        return _wrong(fault, start, R_JSON, F_NONE)
    e = &c.envelopes[c.envelopes_len]
    e.at = <uint64_t>(start - c.data)
    return (_time(c, slots, F_LOCAL_TIME, start, &e.local_time, &e.local_time_ns, &flags, fault)
            and _time(c, slots, F_BLOCK_TIME, start, &e.block_time, &e.block_time_ns, &flags, fault)
            and _int(c, slots, F_BLOCK_NUMBER, start, False, &e.block_number, fault))


cdef int _events_general(Chunk* c, const Slot* events, uint32_t envelope, Fault* fault) noexcept nogil:
    """All events of a validated array -> rows. 1, or 0 with the fault (the caller takes the rows back)."""
    cdef const char* p = skip_blank(events.at + 1, events.at + events.size)
    cdef const char* end = events.at + events.size - 1
    cdef Row* row
    if p >= end:
        return 1
    while True:
        if c.rows_len >= c.rows_cap:
            c.broken = True
            return _wrong(fault, p, R_JSON, F_NONE)
        row = &(<Row*>c.rows)[c.rows_len]
        if p[0] != c'{':
            return _wrong(fault, p, R_TYPE, F_EVENTS)
        p = event_general(c, p, end, 2, row, fault)
        if p == NULL:
            return 0
        row.envelope = envelope
        ft_add(<uint64_t*>&c.rows_len, 1)
        p = skip_blank(p, end)
        if p >= end:
            return 1
        p = skip_blank(p + 1, end)          # a comma: the array was validated


cdef inline bint _ends(const char* p, const char* end) noexcept nogil:
    """Whether the line ends at p."""
    return p >= end or p[0] == c'\n'


cdef int line_general(Chunk* c, const uint16_t* outline) noexcept nogil:
    """Any line at c.pos -> rows, or a Reject; c.pos moves behind it. Always 0. outline: the line's marks, or NULL: not made."""
    cdef const char* line = c.pos
    cdef const char* p = line
    cdef const char* end = c.limit
    cdef const char* q
    cdef const char* after = NULL                # the JSON, and the blanks behind it
    cdef Slot slots[MOST_KEYS]
    cdef Fault fault
    cdef size_t rows = c.rows_len, envelopes = c.envelopes_len, uncoded = c.uncoded_len
    cdef uint32_t coins = c.coins.count
    cdef Reject* reject
    cdef const Slot* events = &slots[<int>F_EVENTS]
    cdef bint good = False
    ft_add(&c.lines, 1)                          # relaxed, as rows_len: the main thread may ask how far it is
    # a hole that a truncating copier left: the line begins after it
    while p < end and p[0] == 0:
        p += 1
    c.nul_bytes += <uint64_t>(p - line)
    if end - p >= 3 and <uint8_t>p[0] == 0xEF and <uint8_t>p[1] == 0xBB and <uint8_t>p[2] == 0xBF:
        p += 3
    p = skip_blank(p, end)
    if _ends(p, end):
        c.pos = p if p == end else p + 1
        return 0
    if p[0] != c'{':
        # another value, or none: tell which
        q = scan_value(p, end, 0, &slots[0], &fault)
        if q != NULL:
            after = skip_blank(q, end)
            _wrong(&fault, p if _ends(after, end) else q, R_OBJECT if _ends(after, end) else R_JSON, F_NONE)
    else:
        q = scan_outlined(p, end, &FIELDS, &LINE, slots, outline) if outline != NULL else NULL
        if q == NULL:
            c.next_key[<int>KEYS_WRONG] = 0
            q = scan_object(p, end, 0, &FIELDS, &LINE, slots, c.next_key, &fault)
            if outline != NULL:
                c.outlines = -LINES_ALIKE
            elif c.outlines < 0:
                c.outlines += 1
            elif c.next_key[<int>KEYS_WRONG] > MOST_WRONG:
                c.outlines = LINES_ALIKE
        if q != NULL:
            after = skip_blank(q, end)
            if not _ends(after, end):
                _wrong(&fault, q, R_JSON, F_NONE)
            elif events.kind != K_ABSENT and slots[<int>F_ORDER].kind == K_ABSENT:
                if q - p > <ssize_t>MOST_BYTES:
                    _wrong(&fault, p, R_LENGTH, F_NONE)
                elif events.kind != K_ARRAY:
                    _wrong(&fault, events.at, R_TYPE, F_EVENTS)
                elif _envelope(c, p, slots, &fault):
                    c.envelopes_len += 1
                    good = _events_general(c, events, c.envelope_base + <uint32_t>envelopes, &fault)
            elif c.rows_len >= c.rows_cap:
                c.broken = True
                _wrong(&fault, p, R_JSON, F_NONE)
            elif _fill_row(c, p, q, slots, &(<Row*>c.rows)[c.rows_len], &fault):
                (<Row*>c.rows)[c.rows_len].envelope = NO_ENVELOPE
                ft_add(<uint64_t*>&c.rows_len, 1)
                good = True
    if not good:
        ft_set(<uint64_t*>&c.rows_len, rows)
        c.uncoded_len = uncoded
        c.envelopes_len = envelopes
        words_forget(c.coins, coins)
        ft_assert(c.rejects_len < c.rejects_cap)
        ft_assert(fault.at >= line)
        ft_assert(fault.at <= end)
        reject = &c.rejects[c.rejects_len]
        reject.line_at = <uint64_t>(line - c.data)
        reject.at = <uint64_t>(fault.at - c.data)
        reject.reason = fault.reason
        reject.field = fault.field
        c.rejects_len += 1
        if after == NULL:
            after = fault.at                     # what is before it was read, and is no newline
        if not _ends(after, end):
            after = <const char*>memchr(after, c'\n', <size_t>(end - after))
            if after == NULL:
                after = end
    c.pos = after if after == end else after + 1
    return 0


cdef int _number_coin(Words* coins, const char* text, Row* row) noexcept nogil:
    """The row's coin, as it is written at `text`, gets its code, a new one if need be. Always 0."""
    cdef char decoded[TEXT_ROOM]
    cdef ssize_t n = <ssize_t>row.coin_text.size
    cdef uint32_t code
    if row.flags & ESCAPED:
        n = unescape(text, <size_t>n, decoded, TEXT_ROOM)
        text = decoded
    if n >= 0:
        code = words_find(coins, text, <size_t>n)
        row.coin = <uint16_t>(code if code else words_add(coins, text, <size_t>n))
    return 0


cdef int new_coin(Chunk* c, Row* row) noexcept nogil:
    """A row's coin that the table does not have: it gets its code now, or, where other workers look at the table, after the
    region. Always 0. A line that is rejected after all has its coins forgotten."""
    if c.alone:
        return _number_coin(c.coins, c.data + row.at + row.coin_text.off, row)
    if c.uncoded_len < c.uncoded_cap:
        c.uncoded[c.uncoded_len] = <uint32_t>(row - <Row*>c.rows)
    c.uncoded_len += 1
    return 0


cdef int _check_row(const Chunk* c, const Row* row) noexcept nogil:
    """Debug builds: every text of the row lies within its event, and that within the data. Always 0."""
    cdef const Ref* refs = &row.time             # the first of them, `cloid` the last
    cdef int i
    ft_assert(row.size > 0)
    ft_assert(row.at + row.size <= <uint64_t>(c.limit - c.data))
    for i in range(<int>(&row.cloid - refs) + 1):
        ft_assert(<uint64_t>refs[i].off + refs[i].size <= row.size)
    if row.envelope != <uint32_t>NO_ENVELOPE:
        ft_assert(row.envelope >= c.envelope_base)
        ft_assert(row.envelope < c.envelope_base + c.envelopes_len)
    return 0


cdef int number_coins(Chunk* c) noexcept nogil:
    """Codes for coins that the table did not have yet, in the order of the rows. One thread at a time, after the region.
    Always 0."""
    cdef size_t i, n = c.uncoded_len
    cdef Row* row
    if FT_CHECKED:
        for i in range(c.rows_len):
            _check_row(c, &(<Row*>c.rows)[i])
    c.uncoded_len = 0
    if n <= c.uncoded_cap:
        for i in range(n):
            row = &(<Row*>c.rows)[c.uncoded[i]]
            if c.uncoded[i] < c.rows_len and row.coin == NO_CODE:
                _number_coin(c.coins, c.data + row.at + row.coin_text.off, row)
        return 0
    for i in range(c.rows_len):
        row = &(<Row*>c.rows)[i]
        # rows and texts were written and read a while ago, so they come from memory: ask for them in time
        if i + 16 < c.rows_len:
            ft_prefetch_at(&row[16])
            ft_prefetch_at(c.data + row[8].at + row[8].coin_text.off)
        if row.coin == NO_CODE:
            _number_coin(c.coins, c.data + row.at + row.coin_text.off, row)
    return 0
