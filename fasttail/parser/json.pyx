"""Whole-document JSON validation over a bounded cursor (RFC 8259, and orjson's limits).

Every function takes [p, end) and returns the first byte after what it read, or NULL with the reason and the place in
`fault`. Nothing is copied, nothing allocated, nothing recursive: the stack of open brackets is a bit set.

A newline is valid nowhere, not even as a blank. So `end` may be the end of all data: nothing goes past its line's end, and
nobody has to look for that first.
"""
from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fasttail.checks cimport ft_assert
from fasttail.parser.numbers cimport long_decimal
from fasttail.parser.types cimport (F_NONE, K_ABSENT, K_ARRAY, K_ESCAPED, K_FALSE, K_FLOAT, K_INT, K_NULL, K_OBJECT,
                                   K_STRING, K_TRUE, KEYS_WRONG, R_DEPTH, R_JSON, R_NUMBER, R_OBJECT, R_UTF8)

cdef extern from "simd.h" nogil:
    const char* ft_skip_plain(const char* p, const char* limit) noexcept
    unsigned ft_plain32(const char* p) noexcept
    void ft_first16(const char* p, size_t n, uint64_t* head, uint64_t* tail) noexcept
    uint64_t ft_load8(const char* p) noexcept
    unsigned ft_digits8(uint64_t v) noexcept
    void ft_prefetch_line(const char* p) noexcept

cdef enum:
    MAX_DEPTH = 1024       # open brackets, as in orjson
    DEPTH_BYTES = 128      # a bit for each
    KEY_BITS = 7           # of KEY_SLOTS
    LONGEST_KEY = 16
    KEY_ROOM = 32          # for a key with escapes: more than LONGEST_KEY, for unescape wants room for a character of four


cdef inline const char* _fail(Fault* fault, const char* at, uint8_t reason) noexcept nogil:
    fault.at = at
    fault.reason = reason
    fault.field = F_NONE
    return NULL


cdef inline int _hex4(const char* p) noexcept nogil:
    """Value of four hex digits, or -1."""
    cdef int value = 0, i
    cdef uint8_t c
    for i in range(4):
        c = <uint8_t>p[i]
        if c'0' <= c <= c'9':
            value = value * 16 + (c - c'0')
        elif c'a' <= c <= c'f':
            value = value * 16 + (c - c'a' + 10)
        elif c'A' <= c <= c'F':
            value = value * 16 + (c - c'A' + 10)
        else:
            return -1
    return value


cdef const char* _utf8(const char* p, const char* end) noexcept nogil:
    """After one multi-byte character, or NULL. No overlong forms, no surrogates, nothing past U+10FFFF."""
    cdef uint8_t c = <uint8_t>p[0], low = 0x80, high = 0xBF
    cdef int more, i
    if 0xC2 <= c <= 0xDF:
        more = 1
    elif 0xE0 <= c <= 0xEF:
        more = 2
        if c == 0xE0:
            low = 0xA0
        elif c == 0xED:
            high = 0x9F
    elif 0xF0 <= c <= 0xF4:
        more = 3
        if c == 0xF0:
            low = 0x90
        elif c == 0xF4:
            high = 0x8F
    else:
        return NULL
    if end - p <= more:
        return NULL
    if not (low <= <uint8_t>p[1] <= high):
        return NULL
    for i in range(2, more + 1):
        if (<uint8_t>p[i] & 0xC0) != 0x80:
            return NULL
    return p + more + 1


cdef const char* scan_string(const char* p, const char* end, bint* escaped, Fault* fault) noexcept nogil:
    """`p` stands after the opening quote; returns the closing quote (not the byte after it)."""
    cdef const char* q
    cdef uint8_t c
    cdef int unit, second
    escaped[0] = False
    while True:
        p = ft_skip_plain(p, end)
        if p >= end:
            return _fail(fault, p, R_JSON)
        c = <uint8_t>p[0]
        if c == c'"':
            return p
        if c >= 0x80:
            while p < end and <uint8_t>p[0] >= 0x80:        # they come in runs
                q = _utf8(p, end)
                if q == NULL:
                    return _fail(fault, p, R_UTF8)
                p = q
        elif c == c'\\':
            escaped[0] = True
            if end - p < 2:
                return _fail(fault, p, R_JSON)
            c = <uint8_t>p[1]
            if c == c'u':
                if end - p < 6:
                    return _fail(fault, p, R_JSON)
                unit = _hex4(p + 2)
                if unit < 0 or 0xDC00 <= unit <= 0xDFFF:
                    return _fail(fault, p, R_JSON)
                p += 6
                if 0xD800 <= unit <= 0xDBFF:               # a high surrogate wants its low one at once
                    if end - p < 6 or p[0] != c'\\' or p[1] != c'u':
                        return _fail(fault, p, R_JSON)
                    second = _hex4(p + 2)
                    if second < 0xDC00 or second > 0xDFFF:
                        return _fail(fault, p, R_JSON)
                    p += 6
            elif (c == c'"' or c == c'\\' or c == c'/' or c == c'b' or c == c'f' or c == c'n' or c == c'r'
                  or c == c't'):
                p += 2
            else:
                return _fail(fault, p, R_JSON)
        else:
            return _fail(fault, p, R_JSON)                  # a control byte


cdef inline const char* _string_end(const char* p, const char* end, bint* escaped, Fault* fault) noexcept nogil:
    """As scan_string; the usual string, all plain, without a call."""
    cdef const char* q = ft_skip_plain(p, end)
    if q < end and q[0] == c'"':
        escaped[0] = False
        return q
    return scan_string(p, end, escaped, fault)


cdef ssize_t unescape(const char* p, size_t n, char* out, size_t room) noexcept nogil:
    """Decode the inside of a *validated* string to UTF-8. Returns its length, or -1 if it needs more than `room`."""
    cdef const char* end = p + n
    cdef size_t used = 0
    cdef uint8_t c
    cdef int unit
    while p < end:
        ft_assert(used <= room)
        if room - used < 4:
            return -1
        c = <uint8_t>p[0]
        if c != c'\\':
            out[used] = <char>c
            used += 1
            p += 1
            continue
        c = <uint8_t>p[1]
        p += 2
        if c == c'u':
            unit = _hex4(p)
            p += 4
            if 0xD800 <= unit <= 0xDBFF:
                unit = 0x10000 + ((unit - 0xD800) << 10) + (_hex4(p + 2) - 0xDC00)
                p += 6
            if unit < 0x80:
                out[used] = <char>unit
                used += 1
            elif unit < 0x800:
                out[used] = <char>(0xC0 | (unit >> 6))
                out[used + 1] = <char>(0x80 | (unit & 0x3F))
                used += 2
            elif unit < 0x10000:
                out[used] = <char>(0xE0 | (unit >> 12))
                out[used + 1] = <char>(0x80 | ((unit >> 6) & 0x3F))
                out[used + 2] = <char>(0x80 | (unit & 0x3F))
                used += 3
            else:
                out[used] = <char>(0xF0 | (unit >> 18))
                out[used + 1] = <char>(0x80 | ((unit >> 12) & 0x3F))
                out[used + 2] = <char>(0x80 | ((unit >> 6) & 0x3F))
                out[used + 3] = <char>(0x80 | (unit & 0x3F))
                used += 4
            continue
        if c == c'b':
            c = 8
        elif c == c'f':
            c = 12
        elif c == c'n':
            c = 10
        elif c == c'r':
            c = 13
        elif c == c't':
            c = 9
        out[used] = <char>c
        used += 1
    return <ssize_t>used


cdef const char* _scan_number(const char* p, const char* end, uint8_t* kind, Fault* fault) noexcept nogil:
    cdef const char* start = p
    cdef const char* amount = p            # behind the sign
    cdef const char* first = NULL          # first digit that is not zero
    cdef const char* point
    cdef long exponent = 0, magnitude
    cdef unsigned digits
    cdef bint negative = False
    kind[0] = K_INT
    if p < end and p[0] == c'-':
        p += 1
        amount = p
    if p >= end:
        return _fail(fault, p, R_JSON)
    if p[0] == c'0':
        p += 1
    elif c'1' <= p[0] <= c'9':
        first = p
        while end - p >= 8:
            digits = ft_digits8(ft_load8(p))
            p += digits
            if digits < 8:
                break
        while p < end and c'0' <= p[0] <= c'9':
            p += 1
    else:
        return _fail(fault, p, R_JSON)
    point = p
    if p < end and p[0] == c'.':
        kind[0] = K_FLOAT
        p += 1
        if p >= end or not (c'0' <= p[0] <= c'9'):
            return _fail(fault, p, R_JSON)
        while p < end and c'0' <= p[0] <= c'9':
            if first == NULL and p[0] != c'0':
                first = p
            p += 1
    if p < end and (p[0] == c'e' or p[0] == c'E'):
        kind[0] = K_FLOAT
        p += 1
        if p < end and (p[0] == c'+' or p[0] == c'-'):
            negative = p[0] == c'-'
            p += 1
        if p >= end or not (c'0' <= p[0] <= c'9'):
            return _fail(fault, p, R_JSON)
        while p < end and c'0' <= p[0] <= c'9':
            if exponent < 1000000000:
                exponent = exponent * 10 + (p[0] - c'0')
            p += 1
        if negative:
            exponent = -exponent
    if first != NULL:
        # power of ten of the leading digit: 1e308 is finite, 1e309 is not, between them rounding decides
        magnitude = exponent + (point - first - 1 if first < point else point - first)
        if magnitude > 308 or (magnitude == 308 and long_decimal(amount, <size_t>(p - amount)) == INFINITY):
            return _fail(fault, start, R_NUMBER)
    return p


cdef inline const char* _scan_scalar(const char* p, const char* end, Slot* slot, Fault* fault) noexcept nogil:
    """A string, number, true, false or null at `p` (p < end). Sets the slot."""
    cdef const char* q
    cdef bint escaped
    cdef char c = p[0]
    if c == c'"':
        q = _string_end(p + 1, end, &escaped, fault)
        if q == NULL:
            return NULL
        slot.kind = K_ESCAPED if escaped else K_STRING
        slot.at = p + 1
        slot.size = q - p - 1
        return q + 1
    slot.at = p
    if c == c't' and end - p >= 4 and p[1] == c'r' and p[2] == c'u' and p[3] == c'e':
        slot.kind = K_TRUE
        slot.size = 4
        return p + 4
    if c == c'f' and end - p >= 5 and p[1] == c'a' and p[2] == c'l' and p[3] == c's' and p[4] == c'e':
        slot.kind = K_FALSE
        slot.size = 5
        return p + 5
    if c == c'n' and end - p >= 4 and p[1] == c'u' and p[2] == c'l' and p[3] == c'l':
        slot.kind = K_NULL
        slot.size = 4
        return p + 4
    q = _scan_number(p, end, &slot.kind, fault)
    if q == NULL:
        return NULL
    slot.size = q - p
    return q


cdef const char* scan_value(const char* p, const char* end, int depth, Slot* slot, Fault* fault) noexcept nogil:
    """One value, of any kind, that begins at `p` (blanks skipped before). `depth` brackets are open around it."""
    cdef uint8_t objects[DEPTH_BYTES]            # bit per open bracket: 1 = object
    cdef int level = 0                            # brackets open inside this value
    cdef Slot inner
    cdef const char* start = p
    if p >= end:
        return _fail(fault, p, R_JSON)
    if p[0] != c'{' and p[0] != c'[':
        return _scan_scalar(p, end, slot, fault)
    slot.at = start
    slot.kind = K_OBJECT if p[0] == c'{' else K_ARRAY
    while True:
        # p stands at the first byte of a value
        ft_prefetch_line(p)
        if p >= end:
            return _fail(fault, p, R_JSON)
        if p[0] == c'{' or p[0] == c'[':
            if depth + level >= MAX_DEPTH:
                return _fail(fault, p, R_DEPTH)
            ft_assert(level >> 3 < DEPTH_BYTES)
            if p[0] == c'{':
                objects[level >> 3] |= <uint8_t>(1 << (level & 7))
            else:
                objects[level >> 3] &= <uint8_t>(0xFF ^ (1 << (level & 7)))
            level += 1
            p = skip_blank(p + 1, end)
            if p >= end:
                return _fail(fault, p, R_JSON)
            if objects[(level - 1) >> 3] >> ((level - 1) & 7) & 1:
                if p[0] != c'}':
                    p = _scan_key(p, end, fault)
                    if p == NULL:
                        return NULL
                    continue
            elif p[0] != c']':
                continue
        else:
            p = _scan_scalar(p, end, &inner, fault)
            if p == NULL:
                return NULL
        # after a value (or before the bracket that closes an empty one): close what closes here
        while True:
            ft_assert(level > 0)
            p = skip_blank(p, end)
            if p >= end:
                return _fail(fault, p, R_JSON)
            if objects[(level - 1) >> 3] >> ((level - 1) & 7) & 1:
                if p[0] == c',':
                    p = _scan_key(skip_blank(p + 1, end), end, fault)
                    if p == NULL:
                        return NULL
                    break
                if p[0] != c'}':
                    return _fail(fault, p, R_JSON)
            else:
                if p[0] == c',':
                    p = skip_blank(p + 1, end)
                    break
                if p[0] != c']':
                    return _fail(fault, p, R_JSON)
            p += 1
            level -= 1
            if level == 0:
                slot.size = p - start
                return p


cdef const char* _scan_key(const char* p, const char* end, Fault* fault) noexcept nogil:
    """A key and its colon; returns the first byte of the value."""
    cdef bint escaped
    if p >= end or p[0] != c'"':
        return _fail(fault, p, R_JSON)
    p = _string_end(p + 1, end, &escaped, fault)
    if p == NULL:
        return NULL
    p = skip_blank(p + 1, end)
    if p >= end or p[0] != c':':
        return _fail(fault, p, R_JSON)
    return skip_blank(p + 1, end)


cdef inline size_t _key_slot(const Keys* keys, uint64_t head, uint64_t tail) noexcept nogil:
    return <size_t>(((head ^ tail * <uint64_t>0x9E3779B97F4A7C15) * keys.factor) >> (64 - KEY_BITS))


cdef int keys_new(Keys* keys, tuple names) except -1:
    """Make the table of these names, of up to 16 ASCII characters; a key's code is its place among them."""
    cdef char text[LONGEST_KEY]
    cdef Key* key
    cdef bint taken[KEY_SLOTS]
    cdef bint clash = True
    cdef size_t slot
    cdef int i
    if len(names) > MOST_KEYS or any(len(name.encode()) > LONGEST_KEY for name in names):
        raise ValueError(f"at most {MOST_KEYS} keys of at most {LONGEST_KEY} bytes")
    for i, name in enumerate(names):
        raw = name.encode()
        key = &keys.names[i]
        key.size = <size_t>len(raw)
        memcpy(text, <const char*>raw, key.size)
        ft_first16(text, key.size, &key.head, &key.tail)
    keys.factor = 1
    while clash:
        # with 26 keys in 128 slots about every 14th factor gives each a slot of its own
        keys.factor = keys.factor * <uint64_t>6364136223846793005 + 1442695040888963406
        clash = False
        memset(taken, 0, sizeof(taken))
        for i in range(len(names)):
            slot = _key_slot(keys, keys.names[i].head, keys.names[i].tail)
            clash |= taken[slot]
            taken[slot] = True
            keys.slots[slot] = <uint8_t>i
    return 0


cdef inline int _key_code(const Keys* keys, const char* p, size_t n) noexcept nogil:
    """The code of the key of n bytes at p, or -1. No loop, and no branch on what it is. Reads 16 bytes."""
    cdef uint64_t head, tail
    cdef const Key* key
    cdef int code
    if n > LONGEST_KEY:
        return -1
    ft_first16(p, n, &head, &tail)
    ft_assert(_key_slot(keys, head, tail) < KEY_SLOTS)
    code = keys.slots[_key_slot(keys, head, tail)]
    ft_assert(code < MOST_KEYS)
    key = &keys.names[code]
    # the size too: a decoded key may end in a NUL
    return code if (key.head ^ head | key.tail ^ tail | key.size ^ n) == 0 else -1


cdef inline const char* _key(const Keys* keys, const char* p, const char* end, uint8_t* next_key, int last, int* code,
                             Fault* fault) noexcept nogil:
    """The key whose text begins at p: its closing quote, or NULL. code: -1 if `keys` has no such key."""
    cdef char decoded[KEY_ROOM]
    cdef int guess = next_key[last]
    cdef const Key* key = &keys.names[guess]
    cdef const char* q
    cdef uint64_t head, tail
    cdef bint escaped
    cdef ssize_t n
    ft_assert(last < KEYS_WRONG)
    ft_assert(guess < MOST_KEYS)
    if end - p > 32:
        ft_first16(p, key.size, &head, &tail)
        if (key.head ^ head | key.tail ^ tail | <uint64_t>(p[key.size] ^ c'"')) == 0:
            code[0] = guess                # so the value's place does not wait for the key's bytes
            return p + key.size
        next_key[<int>KEYS_WRONG] += 1
        n = ft_plain32(p)
        if p[n] == c'"':
            code[0] = _key_code(keys, p, <size_t>n)
            return p + n
    q = _string_end(p, end, &escaped, fault)
    if q == NULL:
        return NULL
    n = unescape(p, <size_t>(q - p), decoded, KEY_ROOM)
    code[0] = _key_code(keys, decoded, <size_t>n) if n >= 0 else -1
    return q


cdef const char* scan_object(const char* p, const char* end, int depth, const Keys* keys, const Level* level, Slot* slots,
                             uint8_t* next_key, Fault* fault) noexcept nogil:
    """The object at `p`; values of the known keys level.lo <= code < level.hi go to slots[code], the last one counts.

    An object found at the key level.into is read in the same pass with `level.inner`. `depth` brackets are open around it. The
    whole object is validated, also what nobody asked for. next_key remembers which key came after which, for the next
    object's keys most likely come in the same order.
    """
    cdef Slot other
    cdef Slot* value
    cdef bint escaped
    cdef const char* inner
    cdef int code, last = level.start
    memset(&slots[level.lo], 0, <size_t>(level.hi - level.lo) * sizeof(Slot))          # K_ABSENT
    if p >= end or p[0] != c'{':
        return _fail(fault, p, R_OBJECT)
    if depth >= MAX_DEPTH:
        return _fail(fault, p, R_DEPTH)
    p = skip_blank(p + 1, end)
    if p < end and p[0] == c'}':
        return p + 1
    while True:
        if p >= end or p[0] != c'"':
            return _fail(fault, p, R_JSON)
        ft_prefetch_line(p)
        p = _key(keys, p + 1, end, next_key, last, &code, fault)
        if p == NULL:
            return NULL
        p += 1
        if p >= end or p[0] != c':':
            p = skip_blank(p, end)
            if p >= end or p[0] != c':':
                return _fail(fault, p, R_JSON)
        p += 1
        p = skip_blank(p, end)
        if p >= end:
            return _fail(fault, p, R_JSON)
        value = &other
        if level.lo <= code < level.hi:
            ft_assert(code < MOST_KEYS)          # as long as the callers' slots
            value = &slots[code]
            next_key[last] = <uint8_t>code
            last = code
        if p[0] == c'"':
            value.at = p + 1
            p = _string_end(p + 1, end, &escaped, fault)
            if p == NULL:
                return NULL
            value.kind = K_ESCAPED if escaped else K_STRING
            value.size = p - value.at
            p += 1
        elif p[0] == c'{' and code == level.into and level.inner != NULL:
            inner = p
            p = scan_object(p, end, depth + 1, keys, level.inner, slots, next_key, fault)
            if p == NULL:
                return NULL
            value.kind = K_OBJECT
            value.at = inner
            value.size = p - inner
        else:
            p = scan_value(p, end, depth + 1, value, fault)
            if p == NULL:
                return NULL
        p = skip_blank(p, end)
        if p >= end:
            return _fail(fault, p, R_JSON)
        if p[0] == c'}':
            return p + 1
        if p[0] != c',':
            return _fail(fault, p, R_JSON)
        p += 1
        p = skip_blank(p, end)


cdef const char* scan_outlined(const char* p, const char* end, const Keys* keys, const Level* level, Slot* slots,
                               const uint16_t* marks) noexcept nogil:
    """As scan_object at a line's start, by the line's outline, if all keys are known and each comes once; NULL for any other.

    Where each value ends is known before it is read, and what it is matters only at the end, in the order of the keys' codes.
    So the processor guesses few branches wrong, in whatever order the keys come. Reads OUTLINE_ROOM bytes.
    """
    cdef const Level* outer = NULL
    cdef Slot* whole = NULL                # of the object that is read in the same pass
    cdef Slot* value
    cdef Fault fault
    cdef const char* q
    cdef unsigned i = 0, at, colon, to
    cdef uint32_t seen = 0
    cdef bint text
    cdef int code
    memset(&slots[level.lo], 0, <size_t>(level.hi - level.lo) * sizeof(Slot))          # K_ABSENT
    while True:
        # marks[i]: the brace or comma before a key
        ft_assert(i + 2 < OUTLINE_MARKS)
        at = marks[i] + 1
        at += p[at] == c' '                    # one blank; with more, or with another, it is no quote
        colon = marks[i + 1]
        if p[at] != c'"' or p[colon] != c':':
            return NULL
        ft_assert(colon < OUTLINE_ROOM)
        ft_assert(at + 1 + LONGEST_KEY <= OUTLINE_ROOM)
        ft_assert(at + 2 <= colon)               # a whole string stands between them
        code = _key_code(keys, p + at + 1, colon - at - 2)
        if not (level.lo <= code < level.hi) or seen >> code & 1:
            return NULL
        seen |= <uint32_t>1 << code
        value = &slots[code]
        at = colon + 1
        at += p[at] == c' '
        i += 2
        to = marks[i]
        if p[to] == c',' or p[to] == c'}':
            text = p[at] == c'"'
            value.at = p + at + text
            value.size = to - at - 2 * <unsigned>text
            value.kind = K_STRING if text else K_FLOAT         # or another one, told below
        elif at != to:
            return NULL
        elif p[to] == c'{' and code == level.into and level.inner != NULL:
            value.at = p + at
            value.kind = K_OBJECT
            whole = value
            outer = level
            level = level.inner
            memset(&slots[level.lo], 0, <size_t>(level.hi - level.lo) * sizeof(Slot))
            continue
        else:
            q = scan_value(p + at, end, 1 if outer == NULL else 2, value, &fault)
            if q == NULL:
                return NULL
            while p + marks[i] < q:
                i += 1
                ft_assert(i < OUTLINE_MARKS)
            if p + marks[i] != q:
                return NULL
        if p[marks[i]] == c'}' and outer != NULL:
            whole.size = p + marks[i] + 1 - whole.at
            level = outer
            outer = NULL
            i += 1
            if marks[i] != marks[i - 1] + 1:
                return NULL
        if p[marks[i]] == c'}':
            break
        if p[marks[i]] != c',':
            return NULL
    for code in range(MOST_KEYS):
        if seen >> code & 1 and slots[code].kind == K_FLOAT:
            q = slots[code].at + slots[code].size
            if _scan_scalar(slots[code].at, q, &slots[code], &fault) != q:
                return NULL
    return p + marks[i] + 1
