"""One line of `node_order_statuses` -> rows: the template path for the node's own form, the general path for all others.

    line ──► { "time": …            ──► _event_fast ──► row                 (plain layout)
         ──► { "local_time": …      ──► _envelope_fast ──► _events ──► rows (streaming, by_block)
         ──► anything else, and whatever the two above decline ──► _line_general ──► rows or a Reject

The template path compares the literal text between the values whole and checks every byte of every value, so what it accepts
is valid JSON of the right types; what it declines says nothing, the general path decides. Both give the same rows: the tests
hold each against a plain orjson reader, and the same line against itself in other forms.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport strtod
from libc.string cimport memchr, memcpy

from fasttail.parser.json cimport scan_object, scan_value, skip_blank, unescape
from fasttail.parser.types cimport (
    ENVELOPE_LO, ESCAPED, EVENT_HI, EVENT_LO, F_BLOCK_NUMBER, F_BLOCK_TIME, F_BUILDER, F_CHILDREN, F_CLOID, F_COIN, F_EVENTS, F_HASH,
    F_IS_POSITION_TPSL, F_IS_TRIGGER, F_LIMIT_PX, F_LOCAL_TIME, F_NONE, F_OID, F_ORDER, F_ORDER_TYPE, F_ORIG_SZ,
    F_REDUCE_ONLY, F_SIDE, F_STATUS, F_SZ, F_TIF, F_TIME, F_TIMESTAMP, F_TRIGGER_CONDITION, F_TRIGGER_PX, F_USER,
    FAST_MARGIN, IS_POSITION_TPSL, IS_TRIGGER, K_ABSENT, K_ARRAY, K_ESCAPED, K_FALSE, K_INT, K_NULL, K_OBJECT, K_STRING, K_TRUE,
    NO_CODE, NO_ENVELOPE, ORDER_HI, ORDER_LO, R_DECIMAL, R_JSON, R_MISSING, R_RANGE, R_SIDE, R_TIME, R_TYPE,
    REDUCE_ONLY, Chunk, Envelope, Fault, Ref, Reject, Row, Slot)
from fasttail.parser.words cimport Words, words_add, words_find, words_new

cdef extern from "simd.h" nogil:
    bint ft_is(const char* p, const char* literal, size_t n) noexcept
    const char* ft_skip_plain64(const char* p) noexcept
    uint64_t ft_load8(const char* p) noexcept
    unsigned ft_digits8(uint64_t v) noexcept
    uint64_t ft_value8(uint64_t v) noexcept
    uint64_t ft_value_n(uint64_t v, unsigned n) noexcept

cdef extern from *:
    """
    static const double FT_TENS[23] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14,
                                       1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    static const unsigned long long FT_INT_TENS[9] = {1ull, 10ull, 100ull, 1000ull, 10000ull, 100000ull, 1000000ull,
                                                      10000000ull, 100000000ull};
    """
    const double* FT_TENS
    const uint64_t* FT_INT_TENS

cdef enum:
    DECODE_ROOM = 256


# --------------------------------------------------------------------------------------------------- the open sets of words

cdef Words FIELDS            # code - 1 = Field

_FIELD_NAMES = (
    "local_time", "block_time", "block_number", "events",
    "time", "user", "hash", "builder", "status", "order",
    "coin", "side", "limitPx", "sz", "oid", "timestamp", "triggerCondition", "isTrigger", "triggerPx", "children",
    "isPositionTpsl", "reduceOnly", "orderType", "origSz", "tif", "cloid",
)
STATUS_NAMES = (
    "open", "filled", "canceled", "triggered", "rejected", "marginCanceled", "vaultWithdrawalCanceled",
    "openInterestCapCanceled", "selfTradeCanceled", "reduceOnlyCanceled", "siblingFilledCanceled", "delistedCanceled",
    "liquidatedCanceled", "scheduledCancel", "tickRejected", "minTradeNtlRejected", "perpMarginRejected",
    "reduceOnlyRejected", "badAloPxRejected", "iocCancelRejected", "badTriggerPxRejected",
    "marketOrderNoLiquidityRejected", "positionIncreaseAtOpenInterestCapRejected",
    "positionFlipAtOpenInterestCapRejected", "tooAggressiveAtOpenInterestCapRejected", "openInterestIncreaseRejected",
    "insufficientSpotBalanceRejected", "oracleRejected", "perpMaxPositionRejected", "outcomeSettledCanceled",
    "internalCancel", "tooManyOpenOrdersRejected", "minTradeSpotNtlRejected", "outcomeSettledRejected", "cancelled",
)
ORDER_TYPE_NAMES = (
    "Limit", "Market", "Stop Market", "Stop Limit", "Take Profit Market", "Take Profit Limit", "Vault Close", "Twap Slice",
    "Spot Dust Conversion",
)
TIF_NAMES = ("Gtc", "Ioc", "Alo", "FrontendMarket", "LiquidationMarket")


cdef int _fill(Words* table, tuple names) except -1:
    words_new(table, <uint32_t>len(names))
    for name in names:
        raw = name.encode()
        words_add(table, raw, <size_t>len(raw))
    return 0


_fill(&FIELDS, _FIELD_NAMES)
_fill(&STATUSES, STATUS_NAMES)
_fill(&ORDER_TYPES, ORDER_TYPE_NAMES)
_fill(&TIFS, TIF_NAMES)
cdef uint16_t LIMIT = <uint16_t>words_find(&ORDER_TYPES, b"Limit", 5)


# ------------------------------------------------------------------------------------------------------------ text -> number

cdef int64_t _days(int64_t y, int64_t m, int64_t d) noexcept nogil:
    """Days from 1970-01-01 to y-m-d, Gregorian: years counted from March, in eras of 400 (146,097 days each)."""
    cdef int64_t era, of_era, of_year
    if m <= 2:
        y -= 1
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (m + (-3 if m > 2 else 9)) + 2) // 5 + d - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


cdef inline int _two(const char* p) noexcept nogil:
    """Value of two digits, or -1."""
    cdef unsigned a = <unsigned>(<uint8_t>p[0]) - c'0', b = <unsigned>(<uint8_t>p[1]) - c'0'
    return <int>(a * 10 + b) if a <= 9 and b <= 9 else -1


cdef int _parse_second(const char* p, int64_t* ns) noexcept nogil:
    """`YYYY-MM-DDTHH:MM:SS`, the years 1970 to 2261 (what fits in ns since 1970). 1 if it is one, else 0."""
    cdef int century = _two(p), year = _two(p + 2), month = _two(p + 5), day = _two(p + 8)
    cdef int hour = _two(p + 11), minute = _two(p + 14), second = _two(p + 17), last = 31
    if (century < 0 or year < 0 or p[4] != c'-' or p[7] != c'-' or p[10] != c'T' or p[13] != c':' or p[16] != c':'):
        return 0
    year += century * 100
    if year < 1970 or year > 2261 or month < 1 or month > 12 or not (0 <= hour <= 23):
        return 0
    if not (0 <= minute <= 59 and 0 <= second <= 59):
        return 0
    if month == 4 or month == 6 or month == 9 or month == 11:
        last = 30
    elif month == 2:
        last = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    if day < 1 or day > last:
        return 0
    ns[0] = ((_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    ns[0] *= 1000000000
    return 1


cdef int parse_time(const char* p, size_t n, int64_t* ns) noexcept nogil:
    """Text time with 0 to 9 fraction digits -> ns since 1970. 1 if it is one, else 0."""
    cdef int64_t fraction = 0
    cdef size_t i
    cdef unsigned digit
    if n < 19 or n > 29 or n == 20 or not _parse_second(p, ns):
        return 0
    if n == 19:
        return 1
    if p[19] != c'.':
        return 0
    for i in range(20, 29):
        digit = <unsigned>(<uint8_t>p[i]) - c'0' if i < n else 0
        if digit > 9:
            return 0
        fraction = fraction * 10 + digit
    ns[0] += fraction
    return 1


cdef double _long_decimal(const char* p, size_t n, bint negative) noexcept nogil:
    """Correctly rounded, for any length: 770 significant digits and a mark for a rest decide every float64.

    The text is rebuilt without a point, so that the host's locale cannot matter to strtod.
    """
    cdef char text[832]
    cdef size_t used = 0, i = 0
    cdef long shift = 0, exponent = 0
    cdef bint point = False, minus = False, rest = False
    cdef char digits[24]
    cdef int k = 0
    cdef double value
    while i < n and p[i] != c'e' and p[i] != c'E':
        if p[i] == c'.':
            point = True
        else:
            if used < 770:
                if used or p[i] != c'0':
                    text[used] = p[i]
                    used += 1
                if point:
                    shift -= 1
            else:
                rest = rest or p[i] != c'0'
                if not point:
                    shift += 1
        i += 1
    if i < n:
        i += 1
        if p[i] == c'+' or p[i] == c'-':
            minus = p[i] == c'-'
            i += 1
        while i < n:
            if exponent < 1000000000:
                exponent = exponent * 10 + (p[i] - c'0')
            i += 1
        shift += -exponent if minus else exponent
    if used == 0:
        return -0.0 if negative else 0.0
    if rest:
        text[used] = c'1'
        used += 1
        shift -= 1
    text[used] = c'e'
    used += 1
    if shift < 0:
        text[used] = c'-'
        used += 1
        shift = -shift
    while True:
        digits[k] = <char>(c'0' + shift % 10)
        k += 1
        shift //= 10
        if shift == 0:
            break
    while k:
        k -= 1
        text[used] = digits[k]
        used += 1
    text[used] = 0
    value = strtod(text, NULL)
    return -value if negative else value


cdef int parse_decimal(const char* p, size_t n, double* value) noexcept nogil:
    """A decimal amount (the grammar of a JSON number) -> float64, correctly rounded. 1 if it is one, else 0."""
    cdef size_t i = 0, whole, fraction = 0, digits
    cdef uint64_t mantissa = 0
    cdef bint negative = n > 0 and p[0] == c'-'
    if negative:
        p += 1
        n -= 1
    while i < n and c'0' <= p[i] <= c'9':
        mantissa = mantissa * 10 + <uint64_t>(p[i] - c'0')       # wraps past 19 digits: not used then
        i += 1
    whole = i
    if whole == 0 or (whole > 1 and p[0] == c'0'):
        return 0
    if i < n and p[i] == c'.':
        i += 1
        while i < n and c'0' <= p[i] <= c'9':
            mantissa = mantissa * 10 + <uint64_t>(p[i] - c'0')
            i += 1
            fraction += 1
        if fraction == 0:
            return 0
    digits = whole + fraction
    if i == n and digits <= 19 and mantissa <= (<uint64_t>1 << 53) and fraction <= 22:
        value[0] = <double>mantissa / FT_TENS[fraction]           # both exact, so the quotient is rounded once
        if negative:
            value[0] = -value[0]
        return 1
    if i < n:
        if p[i] != c'e' and p[i] != c'E':
            return 0
        i += 1
        if i < n and (p[i] == c'+' or p[i] == c'-'):
            i += 1
        if i >= n:
            return 0
        while i < n:
            if not (c'0' <= p[i] <= c'9'):
                return 0
            i += 1
    value[0] = _long_decimal(p, n, negative)
    return 1


cdef int _parse_int(const char* p, size_t n, bint negative_too, uint64_t* value) noexcept nogil:
    """A JSON integer (validated) -> 64 bits. 0 if it does not fit."""
    cdef size_t i = 0
    cdef uint64_t v = 0, digit
    cdef bint negative = p[0] == c'-'
    if negative:
        i = 1
    while i < n:
        digit = <uint64_t>(p[i] - c'0')
        if v > 1844674407370955161u or (v == 1844674407370955161u and digit > 5):
            return 0
        v = v * 10 + digit
        i += 1
    if negative:
        if v == 0:
            value[0] = 0
            return 1
        if not negative_too or v > (<uint64_t>1 << 63):
            return 0
        value[0] = (~v) + 1
        return 1
    if negative_too and v > ((<uint64_t>1 << 63) - 1):
        return 0
    value[0] = v
    return 1


# ------------------------------------------------------------------------------------------------------------- the fast path

cdef inline bint _time_fast(Chunk* c, const char* p, int64_t* ns) noexcept nogil:
    """29 characters and a quote at p. The text up to the second is the same for thousands of lines."""
    cdef uint64_t v = ft_load8(p + 20)
    cdef unsigned last = <unsigned>(<uint8_t>p[28]) - c'0'
    if p[19] != c'.' or p[29] != c'"' or ft_digits8(v) != 8 or last > 9:
        return False
    if (ft_load8(p) != ft_load8(c.second_text) or ft_load8(p + 8) != ft_load8(c.second_text + 8)
            or ft_load8(p + 11) != ft_load8(c.second_text + 11)):
        if not _parse_second(p, &c.second_ns):               # changes nothing then: text and number still agree
            return False
        memcpy(c.second_text, p, 19)
    ns[0] = c.second_ns + <int64_t>(ft_value8(v) * 10 + last)
    return True


cdef inline const char* _decimal_fast(const char* p, double* value) noexcept nogil:
    """`digits.digits` of up to 15 digits and a quote at p: the quote's place, or NULL."""
    cdef uint64_t v = ft_load8(p), whole, part
    cdef unsigned n = ft_digits8(v), m
    cdef const char* q
    if n == 0 or n == 8 or p[n] != c'.' or (p[0] == c'0' and n > 1):
        return NULL
    whole = ft_value_n(v, n)
    q = p + n + 1
    v = ft_load8(q)
    m = ft_digits8(v)
    if m == 0 or q[m] != c'"':
        return NULL
    part = ft_value_n(v, m)
    value[0] = <double>(whole * FT_INT_TENS[m] + part) / FT_TENS[m]
    return q + m


cdef inline const char* _decimal_text(const char* p, double* value) noexcept nogil:
    cdef const char* q = _decimal_fast(p, value)
    if q != NULL:
        return q
    q = ft_skip_plain64(p)
    if q[0] != c'"' or not parse_decimal(p, <size_t>(q - p), value):
        return NULL
    return q


cdef inline const char* _int_fast(const char* p, uint64_t* value) noexcept nogil:
    """1 to 15 digits without a leading zero: the byte after them, or NULL."""
    cdef uint64_t v = ft_load8(p)
    cdef unsigned n = ft_digits8(v), m
    if n == 0 or (p[0] == c'0' and n > 1):
        return NULL
    if n < 8:
        value[0] = ft_value_n(v, n)
        return p + n
    value[0] = ft_value8(v)
    v = ft_load8(p + 8)
    m = ft_digits8(v)
    if m == 8:
        return NULL
    if m:
        value[0] = value[0] * FT_INT_TENS[m] + ft_value_n(v, m)
    return p + 8 + m


cdef inline void _ref(Ref* ref, const char* start, const char* p, const char* q) noexcept nogil:
    ref.off = <uint32_t>(p - start)
    ref.size = <uint32_t>(q - p)


cdef inline const char* _bool_fast(const char* p, uint8_t* flags, uint8_t bit) noexcept nogil:
    if ft_is(p, b"false", 5):
        return p + 5
    if ft_is(p, b"true", 4):
        flags[0] |= bit
        return p + 4
    return NULL


cdef inline const char* _nullable_fast(const char* start, const char* p, Ref* ref) noexcept nogil:
    """`null` or a plain text of up to 64 bytes: the byte after it, or NULL."""
    cdef const char* q
    if p[0] == c'"':
        q = ft_skip_plain64(p + 1)
        if q[0] != c'"':
            return NULL
        _ref(ref, start, p + 1, q)
        return q + 1
    ref.off = 0
    ref.size = 0
    return p + 4 if ft_is(p, b"null", 4) else NULL


cdef const char* _event_fast(Chunk* c, const char* p, Row* row) noexcept nogil:
    """An event in the node's own form at p: the byte after it, or NULL if it has another form.

    Needs FAST_MARGIN readable bytes: every text is looked at for 64 bytes at the most.
    """
    cdef const char* start = p
    cdef const char* q
    cdef uint64_t number
    cdef uint8_t flags = 0
    if not ft_is(p, b'{"time":"', 9) or not _time_fast(c, p + 9, &row.time_ns):
        return NULL
    row.time.off = 9
    row.time.size = 29
    p += 38
    if not ft_is(p, b'","user":"', 10):
        return NULL
    p += 10
    q = ft_skip_plain64(p)
    _ref(&row.user, start, p, q)
    p = q
    if ft_is(p, b'","hash":', 9):
        p += 9
        if ft_is(p, b'null,"builder":null,"status":"', 30):
            row.hash.off = 0
            row.hash.size = 0
            row.builder.off = 0
            row.builder.size = 0
            p += 30
        else:
            if p[0] == c'"':
                # 66 characters: the only text longer than 64 bytes in its usual form
                q = ft_skip_plain64(p + 1)
                if q == p + 65:
                    q = ft_skip_plain64(q)
                if q[0] != c'"':
                    return NULL
                _ref(&row.hash, start, p + 1, q)
                p = q + 1
            else:
                if not ft_is(p, b"null", 4):
                    return NULL
                row.hash.off = 0
                row.hash.size = 0
                p += 4
            if not ft_is(p, b',"builder":', 11):
                return NULL
            p += 11
            if ft_is(p, b"null", 4):
                row.builder.off = 0
                row.builder.size = 0
                p += 4
            elif ft_is(p, b'{"b":"', 6):
                q = ft_skip_plain64(p + 6)
                if not ft_is(q, b'","f":', 6):
                    return NULL
                q = _int_fast(q + 6, &number)
                if q == NULL or q[0] != c'}':
                    return NULL
                _ref(&row.builder, start, p, q + 1)
                p = q + 1
            else:
                return NULL
            if not ft_is(p, b',"status":"', 11):
                return NULL
            p += 11
    else:
        # lines of 2024 have neither hash nor builder
        if not ft_is(p, b'","status":"', 12):
            return NULL
        row.hash.off = 0
        row.hash.size = 0
        row.builder.off = 0
        row.builder.size = 0
        p += 12
    q = ft_skip_plain64(p)
    _ref(&row.status_text, start, p, q)
    if not ft_is(q, b'","order":{"coin":"', 19):
        return NULL
    row.status = <uint8_t>words_find(&STATUSES, p, <size_t>(q - p))
    p = q + 19
    q = ft_skip_plain64(p)
    _ref(&row.coin_text, start, p, q)
    if not ft_is(q, b'","side":"', 10):
        return NULL
    row.coin = <uint16_t>words_find(c.coins, p, <size_t>(q - p))
    c.new_coins |= row.coin == NO_CODE
    p = q + 10
    row.side = <uint8_t>p[0]
    if (p[0] != c'A' and p[0] != c'B') or not ft_is(p + 1, b'","limitPx":"', 13):
        return NULL
    p += 14
    q = _decimal_text(p, &row.limitPx)
    if q == NULL or not ft_is(q, b'","sz":"', 8):
        return NULL
    _ref(&row.limitPx_text, start, p, q)
    p = q + 8
    q = _decimal_text(p, &row.sz)
    if q == NULL or not ft_is(q, b'","oid":', 8):
        return NULL
    _ref(&row.sz_text, start, p, q)
    p = _int_fast(q + 8, &row.oid)
    if p == NULL or not ft_is(p, b',"timestamp":', 13):
        return NULL
    p = _int_fast(p + 13, &number)
    if p == NULL:
        return NULL
    row.timestamp = <int64_t>number
    if ft_is(p, b',"triggerCondition":"N/A","isTrigger":false,"triggerPx":"0.0","children":[],"isPositionTpsl":false,'
                b'"reduceOnly":false,"orderType":"Limit","origSz":"', 148):
        row.triggerPx = 0.0
        row.triggerCondition.off = <uint32_t>(p - start) + 21
        row.triggerCondition.size = 3
        row.triggerPx_text.off = <uint32_t>(p - start) + 57
        row.triggerPx_text.size = 3
        row.children.off = <uint32_t>(p - start) + 73
        row.children.size = 2
        row.orderType = <uint8_t>LIMIT
        row.orderType_text.off = <uint32_t>(p - start) + 131
        row.orderType_text.size = 5
        p += 148
    else:
        if not ft_is(p, b',"triggerCondition":"', 21):
            return NULL
        p += 21
        q = ft_skip_plain64(p)
        _ref(&row.triggerCondition, start, p, q)
        if not ft_is(q, b'","isTrigger":', 14):
            return NULL
        p = _bool_fast(q + 14, &flags, IS_TRIGGER)
        if p == NULL or not ft_is(p, b',"triggerPx":"', 14):
            return NULL
        p += 14
        q = _decimal_text(p, &row.triggerPx)
        if q == NULL or not ft_is(q, b'","children":[],"isPositionTpsl":', 33):
            return NULL
        _ref(&row.triggerPx_text, start, p, q)
        _ref(&row.children, start, q + 13, q + 15)
        p = _bool_fast(q + 33, &flags, IS_POSITION_TPSL)
        if p == NULL or not ft_is(p, b',"reduceOnly":', 14):
            return NULL
        p = _bool_fast(p + 14, &flags, REDUCE_ONLY)
        if p == NULL or not ft_is(p, b',"orderType":"', 14):
            return NULL
        p += 14
        q = ft_skip_plain64(p)
        _ref(&row.orderType_text, start, p, q)
        if not ft_is(q, b'","origSz":"', 12):
            return NULL
        row.orderType = <uint8_t>words_find(&ORDER_TYPES, p, <size_t>(q - p))
        p = q + 12
    q = _decimal_text(p, &row.origSz)
    if q == NULL or not ft_is(q, b'","tif":', 8):
        return NULL
    _ref(&row.origSz_text, start, p, q)
    p = _nullable_fast(start, q + 8, &row.tif_text)
    if p == NULL or not ft_is(p, b',"cloid":', 9):
        return NULL
    row.tif = <uint8_t>words_find(&TIFS, start + row.tif_text.off, row.tif_text.size) if row.tif_text.off else <uint8_t>NO_CODE
    p = _nullable_fast(start, p + 9, &row.cloid)
    if p == NULL or p[0] != c'}' or p[1] != c'}':
        return NULL
    p += 2
    row.flags = flags
    row.at = <uint64_t>(start - c.data)
    row.size = <uint32_t>(p - start)
    return p


# ---------------------------------------------------------------------------------------------------------- the general path

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
    cdef char decoded[DECODE_ROOM]
    cdef ssize_t n
    if s.kind == K_STRING:
        code[0] = words_find(table, s.at, s.size)
    elif s.kind == K_ESCAPED:
        n = unescape(s.at, s.size, decoded, DECODE_ROOM)
        code[0] = words_find(table, decoded, <size_t>n) if n >= 0 else 0
    else:
        code[0] = 0
    return 1


cdef int _decimal(const Slot* slots, int field, const char* start, Ref* ref, double* value, uint8_t* flags,
                  Fault* fault) noexcept nogil:
    cdef char decoded[DECODE_ROOM]
    cdef ssize_t n
    if not _text(slots, field, False, start, ref, flags, fault):
        return 0
    if slots[field].kind == K_ESCAPED:
        n = unescape(slots[field].at, slots[field].size, decoded, DECODE_ROOM)
        if n < 0 or not parse_decimal(decoded, <size_t>n, value):
            return _wrong(fault, slots[field].at, R_DECIMAL, field)
    elif not parse_decimal(slots[field].at, slots[field].size, value):
        return _wrong(fault, slots[field].at, R_DECIMAL, field)
    return 1


cdef int _time(const Slot* slots, int field, const char* start, Ref* ref, int64_t* ns, uint8_t* flags,
               Fault* fault) noexcept nogil:
    cdef char decoded[DECODE_ROOM]
    cdef ssize_t n
    if not _text(slots, field, False, start, ref, flags, fault):
        return 0
    if slots[field].kind == K_ESCAPED:
        n = unescape(slots[field].at, slots[field].size, decoded, DECODE_ROOM)
        if n < 0 or not parse_time(decoded, <size_t>n, ns):
            return _wrong(fault, slots[field].at, R_TIME, field)
    elif not parse_time(slots[field].at, slots[field].size, ns):
        return _wrong(fault, slots[field].at, R_TIME, field)
    return 1


cdef int _int(const Slot* slots, int field, const char* start, bint negative_too, uint64_t* value, Fault* fault) noexcept nogil:
    cdef const Slot* s = &slots[field]
    if s.kind != K_INT:
        return _wrong(fault, start if s.kind == K_ABSENT else s.at, R_MISSING if s.kind == K_ABSENT else R_TYPE, field)
    if not _parse_int(s.at, s.size, negative_too, value):
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
    cdef char decoded[DECODE_ROOM]
    cdef const char* text = s.at
    cdef ssize_t n = <ssize_t>s.size
    if s.kind == K_ESCAPED:
        n = unescape(s.at, s.size, decoded, DECODE_ROOM)
        text = decoded
    elif s.kind != K_STRING:
        return _wrong(fault, start if s.kind == K_ABSENT else s.at, R_MISSING if s.kind == K_ABSENT else R_TYPE, F_SIDE)
    if n != 1 or (text[0] != c'A' and text[0] != c'B'):
        return _wrong(fault, s.at, R_SIDE, F_SIDE)
    side[0] = <uint8_t>text[0]
    return 1


cdef int _fill_row(Chunk* c, const char* start, const char* after, Slot* slots, int depth, Row* row, Fault* fault) noexcept nogil:
    """The values found in an event (slots[EVENT_LO:EVENT_HI]) -> row. 1, or 0 with the fault."""
    cdef uint8_t flags = 0
    cdef uint64_t number = 0
    cdef uint32_t code = 0
    cdef const Slot* order = &slots[<int>F_ORDER]
    if order.kind != K_OBJECT:
        return _wrong(fault, start if order.kind == K_ABSENT else order.at, R_MISSING if order.kind == K_ABSENT else R_TYPE,
                      F_ORDER)
    if scan_object(order.at, order.at + order.size, depth + 1, &FIELDS, ORDER_LO, ORDER_HI, slots, fault) == NULL:
        return 0
    if not (_time(slots, F_TIME, start, &row.time, &row.time_ns, &flags, fault)
            and _text(slots, F_USER, False, start, &row.user, &flags, fault)
            and _text(slots, F_HASH, True, start, &row.hash, &flags, fault)
            and _bracket(slots, F_BUILDER, K_OBJECT, True, start, &row.builder, fault)
            and _text(slots, F_STATUS, False, start, &row.status_text, &flags, fault)
            and _text(slots, F_COIN, False, start, &row.coin_text, &flags, fault)
            and _side(slots, start, &row.side, fault)
            and _decimal(slots, F_LIMIT_PX, start, &row.limitPx_text, &row.limitPx, &flags, fault)
            and _decimal(slots, F_SZ, start, &row.sz_text, &row.sz, &flags, fault)
            and _int(slots, F_OID, start, False, &row.oid, fault)
            and _int(slots, F_TIMESTAMP, start, True, &number, fault)
            and _text(slots, F_TRIGGER_CONDITION, False, start, &row.triggerCondition, &flags, fault)
            and _bool(slots, F_IS_TRIGGER, start, IS_TRIGGER, &flags, fault)
            and _decimal(slots, F_TRIGGER_PX, start, &row.triggerPx_text, &row.triggerPx, &flags, fault)
            and _bracket(slots, F_CHILDREN, K_ARRAY, False, start, &row.children, fault)
            and _bool(slots, F_IS_POSITION_TPSL, start, IS_POSITION_TPSL, &flags, fault)
            and _bool(slots, F_REDUCE_ONLY, start, REDUCE_ONLY, &flags, fault)
            and _text(slots, F_ORDER_TYPE, False, start, &row.orderType_text, &flags, fault)
            and _decimal(slots, F_ORIG_SZ, start, &row.origSz_text, &row.origSz, &flags, fault)
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
    c.new_coins |= code == NO_CODE
    row.flags = flags
    row.at = <uint64_t>(start - c.data)
    row.size = <uint32_t>(after - start)
    return 1


cdef const char* _event_general(Chunk* c, const char* p, const char* end, int depth, Row* row, Fault* fault) noexcept nogil:
    """Any event at p: the byte after it, or NULL with the fault."""
    cdef Slot slots[32]
    cdef const char* q = scan_object(p, end, depth, &FIELDS, EVENT_LO, EVENT_HI, slots, fault)
    if q == NULL or not _fill_row(c, p, q, slots, depth, row, fault):
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
    return (_time(slots, F_LOCAL_TIME, start, &e.local_time, &e.local_time_ns, &flags, fault)
            and _time(slots, F_BLOCK_TIME, start, &e.block_time, &e.block_time_ns, &flags, fault)
            and _int(slots, F_BLOCK_NUMBER, start, False, &e.block_number, fault))


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
        row = &c.rows[c.rows_len]
        if p[0] != c'{':
            return _wrong(fault, p, R_TYPE, F_EVENTS)
        p = _event_general(c, p, end, 2, row, fault)
        if p == NULL:
            return 0
        row.envelope = envelope
        c.rows_len += 1
        p = skip_blank(p, end)
        if p >= end:
            return 1
        p = skip_blank(p + 1, end)          # a comma: the array was validated


cdef int _line_general(Chunk* c, const char* line, const char* line_end) noexcept nogil:
    """Any line [line, line_end), without its newline -> rows, or a Reject. Always 0."""
    cdef const char* p = line
    cdef const char* q
    cdef Slot slots[32]
    cdef Fault fault
    cdef size_t rows = c.rows_len, envelopes = c.envelopes_len
    cdef Reject* reject
    cdef const Slot* events = &slots[<int>F_EVENTS]
    cdef bint good = False
    # a hole that a truncating copier left: the line begins after it
    while p < line_end and p[0] == 0:
        p += 1
    c.nul_bytes += <uint64_t>(p - line)
    if line_end - p >= 3 and <uint8_t>p[0] == 0xEF and <uint8_t>p[1] == 0xBB and <uint8_t>p[2] == 0xBF:
        p += 3
    p = skip_blank(p, line_end)
    while line_end > p and ((line_end - 1)[0] == c" " or (line_end - 1)[0] == c"\t" or (line_end - 1)[0] == c"\r"):
        line_end -= 1
    if p >= line_end:
        return 0
    if p[0] != c'{':
        # another value, or none: tell which
        q = scan_value(p, line_end, 0, &slots[0], &fault)
        if q != NULL:
            fault.at = p
            fault.reason = <uint8_t>R_TYPE
            fault.field = <uint8_t>F_NONE
    else:
        q = scan_object(p, line_end, 0, &FIELDS, ENVELOPE_LO, EVENT_HI, slots, &fault)
        if q != NULL:
            if q != line_end:
                _wrong(&fault, q, R_JSON, F_NONE)
            elif events.kind != K_ABSENT and slots[<int>F_ORDER].kind == K_ABSENT:
                if events.kind != K_ARRAY:
                    _wrong(&fault, events.at, R_TYPE, F_EVENTS)
                elif _envelope(c, p, slots, &fault):
                    c.envelopes_len += 1
                    good = _events_general(c, events, c.envelope_base + <uint32_t>envelopes, &fault)
            elif c.rows_len >= c.rows_cap:
                c.broken = True
                _wrong(&fault, p, R_JSON, F_NONE)
            elif _fill_row(c, p, q, slots, 0, &c.rows[c.rows_len], &fault):
                c.rows[c.rows_len].envelope = NO_ENVELOPE
                c.rows_len += 1
                good = True
    if good:
        return 0
    c.rows_len = rows
    c.envelopes_len = envelopes
    reject = &c.rejects[c.rejects_len]
    reject.line_at = <uint64_t>(line - c.data)
    reject.at = <uint64_t>(fault.at - c.data)
    reject.reason = fault.reason
    reject.field = fault.field
    c.rejects_len += 1
    return 0


# -------------------------------------------------------------------------------------------------------------------- a share

cdef const char* _events(Chunk* c, const char* p, uint32_t envelope) noexcept nogil:
    """Events from p to the line's end. Returns the next line's start, or the next worker's first event (`handed_over`),
    or NULL: not in the usual form, or wrong; the caller takes the rows back and lets the general path decide."""
    cdef const char* q
    cdef const char* line_end = NULL
    cdef Row* row
    cdef Fault fault
    if c.limit - p >= 3 and ft_is(p, b"]}\n", 3):
        return p + 3
    while True:
        if c.rows_len >= c.rows_cap:
            c.broken = True
            return NULL
        row = &c.rows[c.rows_len]
        q = _event_fast(c, p, row) if c.readable - p >= FAST_MARGIN else NULL
        if q == NULL:
            if line_end == NULL:
                line_end = <const char*>memchr(p, c'\n', <size_t>(c.limit - p))
                if line_end == NULL:
                    line_end = c.limit
            q = _event_general(c, p, line_end, 2, row, &fault)
            if q == NULL:
                return NULL
        row.envelope = envelope
        c.rows_len += 1
        if c.limit - q < 3:
            return NULL
        if q[0] == c',':
            p = q + 1
            if p >= c.end and c.hands_over:
                if p == c.end:
                    c.handed_over = True
                    return p
                return NULL
        elif ft_is(q, b"]}\n", 3):
            return q + 3
        else:
            return NULL


cdef const char* _envelope_fast(Chunk* c, const char* p) noexcept nogil:
    """A streaming or by_block line in the node's own form. As _events."""
    cdef const char* start = p
    cdef Envelope* e
    if c.envelopes_len >= c.envelopes_cap:
        c.broken = True
        return NULL
    e = &c.envelopes[c.envelopes_len]
    if not _time_fast(c, p + 15, &e.local_time_ns) or not ft_is(p + 44, b'","block_time":"', 16):
        return NULL
    if not _time_fast(c, p + 60, &e.block_time_ns) or not ft_is(p + 89, b'","block_number":', 17):
        return NULL
    e.at = <uint64_t>(p - c.data)
    e.local_time.off = 15
    e.local_time.size = 29
    e.block_time.off = 60
    e.block_time.size = 29
    p = _int_fast(p + 106, &e.block_number)
    if p == NULL or not ft_is(p, b',"events":[', 11):
        return NULL
    c.envelopes_len += 1
    return _events(c, p + 11, c.envelope_base + <uint32_t>(c.envelopes_len - 1))


cdef int _line(Chunk* c) noexcept nogil:
    """The line at c.pos -> rows or a Reject; c.pos moves behind it. Always 0."""
    cdef const char* p = c.pos
    cdef const char* q = NULL
    cdef const char* line_end
    cdef size_t rows = c.rows_len, envelopes = c.envelopes_len
    if c.readable - p >= FAST_MARGIN:
        if ft_is(p, b'{"time":"', 9):
            if c.rows_len < c.rows_cap:
                q = _event_fast(c, p, &c.rows[rows])
                if q != NULL and q[0] == c'\n':
                    c.rows[rows].envelope = NO_ENVELOPE
                    c.rows_len += 1
                    c.pos = q + 1
                    c.lines += 1
                    return 0
            else:
                c.broken = True
        elif ft_is(p, b'{"local_time":"', 15):
            q = _envelope_fast(c, p)
            if q != NULL:
                c.pos = q
                if not c.handed_over:
                    c.lines += 1
                return 0
            c.rows_len = rows
            c.envelopes_len = envelopes
    line_end = <const char*>memchr(p, c'\n', <size_t>(c.limit - p))
    if line_end == NULL:
        line_end = c.limit
    if c.hands_over and line_end >= c.end:
        c.irregular = True                     # the next worker counts on this line
        c.pos = c.end
        return 0
    _line_general(c, p, line_end)
    c.lines += 1
    c.pos = line_end + 1 if line_end < c.limit else line_end
    return 0


cdef int parse_chunk(Chunk* c) noexcept nogil:
    """Parse a share from c.pos to c.end, or to where `rejects` is full. Always 0; what happened stands in the chunk."""
    cdef const char* q
    c.full = False
    if c.inside and not c.head_done:
        c.head_done = True
        q = _events(c, c.pos, c.envelope_base)       # envelopes[0] stands for the line's, which another worker has
        if q == NULL:
            c.irregular = True
            return 0
        c.pos = q
        if not c.handed_over:
            c.lines += 1
    while c.pos < c.end and not c.irregular and not c.broken:
        if c.rejects_len >= c.rejects_cap:
            c.full = True
            return 0
        _line(c)
    return 0


# ------------------------------------------------------------------------------------------------------- reading a row's text

cdef const char* row_text(const Row* row, const char* data, int field, size_t* size) noexcept nogil:
    """The JSON text of one value of a row, quotes left out, or NULL for null. Valid as long as the data is."""
    cdef const Ref* ref
    if field == F_TIME:
        ref = &row.time
    elif field == F_USER:
        ref = &row.user
    elif field == F_HASH:
        ref = &row.hash
    elif field == F_BUILDER:
        ref = &row.builder
    elif field == F_STATUS:
        ref = &row.status_text
    elif field == F_COIN:
        ref = &row.coin_text
    elif field == F_LIMIT_PX:
        ref = &row.limitPx_text
    elif field == F_SZ:
        ref = &row.sz_text
    elif field == F_TRIGGER_CONDITION:
        ref = &row.triggerCondition
    elif field == F_TRIGGER_PX:
        ref = &row.triggerPx_text
    elif field == F_CHILDREN:
        ref = &row.children
    elif field == F_ORDER_TYPE:
        ref = &row.orderType_text
    elif field == F_ORIG_SZ:
        ref = &row.origSz_text
    elif field == F_TIF:
        ref = &row.tif_text
    else:
        ref = &row.cloid
    size[0] = ref.size
    return data + row.at + ref.off if ref.off else NULL
