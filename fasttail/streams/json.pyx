"""Validates JSON over a bounded cursor (RFC 8259, with orjson's limits) and finds the values of known keys.

The scan functions take [p, end) and return the first byte after what they read, or NULL with the reason and the position in
`error`. They copy and allocate nothing, and do not recurse into values: the stack of open brackets is a bit set.

A newline is valid nowhere, not even as whitespace. `end` may therefore be the end of all data: no scan continues past the end
of its line, and callers need not search for it first.
"""
from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fasttail.system.checks cimport ft_assert
from fasttail.streams.numbers cimport decimal_to_double
from fasttail.streams.types cimport (F_NONE, KEY_SLOTS, K_ABSENT, K_ARRAY, K_ESCAPED_STRING, K_FALSE, K_FLOAT, K_INT, K_NULL, K_OBJECT,
                                   K_STRING, K_TRUE, MAX_KEYS, MISPREDICTED_KEYS, Key, R_DEPTH, R_JSON, R_NUMBER, R_NOT_OBJECT, R_UTF8)

cdef extern from "simd.h" nogil:
    const char* ft_skip_plain(const char* p, const char* limit) noexcept
    unsigned ft_plain_prefix32(const char* p) noexcept
    void ft_load_padded16(const char* p, size_t n, uint64_t* head, uint64_t* tail) noexcept
    uint64_t ft_load8(const char* p) noexcept
    unsigned ft_count_digits8(uint64_t v) noexcept
    void ft_prefetch_ahead(const char* p) noexcept

cdef enum:
    MAX_DEPTH = 1024       # open brackets, as in orjson
    DEPTH_BYTES = 128      # one bit per open bracket
    KEY_BITS = 7           # log2 of KEY_SLOTS
    MAX_KEY_BYTES = 16     # of a key in the hash table
    MAX_LONG_KEY_BYTES = 255


cdef inline const char* _set_error(ParseError* error, const char* at, uint8_t reason) noexcept nogil:
    error.position = at
    error.reason = reason
    error.field = F_NONE
    return NULL


cdef inline int _hex4(const char* p) noexcept nogil:
    """Return the value of four hex digits, or -1."""
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


cdef const char* _scan_utf8_char(const char* p, const char* end) noexcept nogil:
    """Return the byte after a multi-byte character, or NULL for overlong forms, surrogates and code points past U+10FFFF."""
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


cdef const char* scan_string(const char* p, const char* end, bint* escaped, ParseError* error) noexcept nogil:
    """Return the closing quote (not the byte after it) of a string. p is after the opening quote."""
    cdef const char* q
    cdef uint8_t c
    cdef int unit, second
    escaped[0] = False
    while True:
        p = ft_skip_plain(p, end)
        if p >= end:
            return _set_error(error, p, R_JSON)
        c = <uint8_t>p[0]
        if c == c'"':
            return p
        if c >= 0x80:
            while p < end and <uint8_t>p[0] >= 0x80:        # multi-byte characters come in runs
                q = _scan_utf8_char(p, end)
                if q == NULL:
                    return _set_error(error, p, R_UTF8)
                p = q
        elif c == c'\\':
            escaped[0] = True
            if end - p < 2:
                return _set_error(error, p, R_JSON)
            c = <uint8_t>p[1]
            if c == c'u':
                if end - p < 6:
                    return _set_error(error, p, R_JSON)
                unit = _hex4(p + 2)
                if unit < 0 or 0xDC00 <= unit <= 0xDFFF:
                    return _set_error(error, p, R_JSON)
                p += 6
                if 0xD800 <= unit <= 0xDBFF:               # a high surrogate must be followed by a low one
                    if end - p < 6 or p[0] != c'\\' or p[1] != c'u':
                        return _set_error(error, p, R_JSON)
                    second = _hex4(p + 2)
                    if second < 0xDC00 or second > 0xDFFF:
                        return _set_error(error, p, R_JSON)
                    p += 6
            elif (c == c'"' or c == c'\\' or c == c'/' or c == c'b' or c == c'f' or c == c'n' or c == c'r'
                  or c == c't'):
                p += 2
            else:
                return _set_error(error, p, R_JSON)
        else:
            return _set_error(error, p, R_JSON)             # a control byte


cdef inline const char* _string_end(const char* p, const char* end, bint* escaped, ParseError* error) noexcept nogil:
    """Like scan_string, but without a call for a string of plain bytes only."""
    cdef const char* q = ft_skip_plain(p, end)
    if q < end and q[0] == c'"':
        escaped[0] = False
        return q
    return scan_string(p, end, escaped, error)


cdef ssize_t unescape(const char* p, size_t n, char* out, size_t capacity) noexcept nogil:
    """Decode the inside of a *validated* string to UTF-8 and return its length.

    Return -1 once fewer than 4 bytes of `capacity` are left for the next character.
    """
    cdef const char* end = p + n
    cdef size_t used = 0
    cdef uint8_t c
    cdef int unit
    while p < end:
        ft_assert(used <= capacity)
        if capacity - used < 4:
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


cdef const char* _scan_number(const char* p, const char* end, uint8_t* kind, ParseError* error) noexcept nogil:
    cdef const char* start = p
    cdef const char* amount = p            # after the sign
    cdef const char* first = NULL          # first non-zero digit
    cdef const char* point
    cdef long exponent = 0, magnitude
    cdef unsigned digits
    cdef bint negative = False
    kind[0] = K_INT
    if p < end and p[0] == c'-':
        p += 1
        amount = p
    if p >= end:
        return _set_error(error, p, R_JSON)
    if p[0] == c'0':
        p += 1
    elif c'1' <= p[0] <= c'9':
        first = p
        while end - p >= 8:
            digits = ft_count_digits8(ft_load8(p))
            p += digits
            if digits < 8:
                break
        while p < end and c'0' <= p[0] <= c'9':
            p += 1
    else:
        return _set_error(error, p, R_JSON)
    point = p
    if p < end and p[0] == c'.':
        kind[0] = K_FLOAT
        p += 1
        if p >= end or not (c'0' <= p[0] <= c'9'):
            return _set_error(error, p, R_JSON)
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
            return _set_error(error, p, R_JSON)
        while p < end and c'0' <= p[0] <= c'9':
            if exponent < 1000000000:
                exponent = exponent * 10 + (p[0] - c'0')
            p += 1
        if negative:
            exponent = -exponent
    if first != NULL:
        # Power of ten of the leading digit: 1e308 is finite and 1e309 is not; in between, rounding decides.
        magnitude = exponent + (point - first - 1 if first < point else point - first)
        if magnitude > 308 or (magnitude == 308 and decimal_to_double(amount, <size_t>(p - amount)) == INFINITY):
            return _set_error(error, start, R_NUMBER)
    return p


cdef inline const char* _scan_scalar(const char* p, const char* end, JsonValue* value, ParseError* error) noexcept nogil:
    """Scan the string, number, true, false or null at p (p < end) into `value`."""
    cdef const char* q
    cdef bint escaped
    cdef char c = p[0]
    if c == c'"':
        q = _string_end(p + 1, end, &escaped, error)
        if q == NULL:
            return NULL
        value.kind = K_ESCAPED_STRING if escaped else K_STRING
        value.text = p + 1
        value.size = q - p - 1
        return q + 1
    value.text = p
    if c == c't' and end - p >= 4 and p[1] == c'r' and p[2] == c'u' and p[3] == c'e':
        value.kind = K_TRUE
        value.size = 4
        return p + 4
    if c == c'f' and end - p >= 5 and p[1] == c'a' and p[2] == c'l' and p[3] == c's' and p[4] == c'e':
        value.kind = K_FALSE
        value.size = 5
        return p + 5
    if c == c'n' and end - p >= 4 and p[1] == c'u' and p[2] == c'l' and p[3] == c'l':
        value.kind = K_NULL
        value.size = 4
        return p + 4
    q = _scan_number(p, end, &value.kind, error)
    if q == NULL:
        return NULL
    value.size = q - p
    return q


cdef const char* scan_value(const char* p, const char* end, int depth, JsonValue* value, ParseError* error) noexcept nogil:
    """Scan the value of any kind that begins at p. depth: number of brackets open around it."""
    cdef uint8_t objects[DEPTH_BYTES]            # one bit per open bracket: 1 = object
    cdef int nesting = 0                          # brackets open inside this value
    cdef JsonValue inner
    cdef const char* start = p
    if p >= end:
        return _set_error(error, p, R_JSON)
    if p[0] != c'{' and p[0] != c'[':
        return _scan_scalar(p, end, value, error)
    value.text = start
    value.kind = K_OBJECT if p[0] == c'{' else K_ARRAY
    while True:
        # p is at the first byte of a value
        ft_prefetch_ahead(p)
        if p >= end:
            return _set_error(error, p, R_JSON)
        if p[0] == c'{' or p[0] == c'[':
            if depth + nesting >= MAX_DEPTH:
                return _set_error(error, p, R_DEPTH)
            ft_assert(nesting >> 3 < DEPTH_BYTES)
            if p[0] == c'{':
                objects[nesting >> 3] |= <uint8_t>(1 << (nesting & 7))
            else:
                objects[nesting >> 3] &= <uint8_t>(0xFF ^ (1 << (nesting & 7)))
            nesting += 1
            p = skip_whitespace(p + 1, end)
            if p >= end:
                return _set_error(error, p, R_JSON)
            if objects[(nesting - 1) >> 3] >> ((nesting - 1) & 7) & 1:
                if p[0] != c'}':
                    p = _scan_key(p, end, error)
                    if p == NULL:
                        return NULL
                    continue
            elif p[0] != c']':
                continue
        else:
            p = _scan_scalar(p, end, &inner, error)
            if p == NULL:
                return NULL
        # After a value, or before the bracket that closes an empty one: close all brackets that end here.
        while True:
            ft_assert(nesting > 0)
            p = skip_whitespace(p, end)
            if p >= end:
                return _set_error(error, p, R_JSON)
            if objects[(nesting - 1) >> 3] >> ((nesting - 1) & 7) & 1:
                if p[0] == c',':
                    p = _scan_key(skip_whitespace(p + 1, end), end, error)
                    if p == NULL:
                        return NULL
                    break
                if p[0] != c'}':
                    return _set_error(error, p, R_JSON)
            else:
                if p[0] == c',':
                    p = skip_whitespace(p + 1, end)
                    break
                if p[0] != c']':
                    return _set_error(error, p, R_JSON)
            p += 1
            nesting -= 1
            if nesting == 0:
                value.size = p - start
                return p


cdef const char* _scan_key(const char* p, const char* end, ParseError* error) noexcept nogil:
    """Return the first byte of the value after a key and its colon."""
    cdef bint escaped
    if p >= end or p[0] != c'"':
        return _set_error(error, p, R_JSON)
    p = _string_end(p + 1, end, &escaped, error)
    if p == NULL:
        return NULL
    p = skip_whitespace(p + 1, end)
    if p >= end or p[0] != c':':
        return _set_error(error, p, R_JSON)
    return skip_whitespace(p + 1, end)


cdef inline size_t _key_hash(const KeyTable* keys, uint64_t head, uint64_t tail) noexcept nogil:
    return <size_t>(((head ^ tail * <uint64_t>0x9E3779B97F4A7C15) * keys.factor) >> (64 - KEY_BITS))


cdef int key_table_init(KeyTable* keys, tuple names) except -1:
    """Fill `keys` from at most 32 different names, which the caller keeps. A key's code is its index in `names`."""
    cdef char text[MAX_KEY_BYTES]
    cdef Key* key
    cdef bint slot_used[KEY_SLOTS]
    cdef bint clash = True
    cdef size_t hash_slot
    cdef int i
    if len(names) > MAX_KEYS or len(set(names)) < len(names) or max(map(len, names)) > MAX_LONG_KEY_BYTES:
        raise ValueError(f"at most {MAX_KEYS} different keys of at most {MAX_LONG_KEY_BYTES} bytes, not {names}")
    keys.count = len(names)
    for i, raw in enumerate(names):
        key = &keys.entries[i]
        key.size = <size_t>len(raw)
        if key.size > MAX_KEY_BYTES:
            keys.long_keys[i] = raw
            keys.long_sizes[i] = key.size
            key.size = 0
            key.tail = 1             # equal to no key: neither is predicted nor found by its hash
            continue
        memcpy(text, <const char*>raw, key.size)
        ft_load_padded16(text, key.size, &key.head, &key.tail)
    keys.factor = 1
    while clash:
        # With 26 keys in 128 slots, about one factor in 14 gives each key its own slot.
        keys.factor = keys.factor * <uint64_t>6364136223846793005 + 1442695040888963406
        clash = False
        memset(slot_used, 0, sizeof(slot_used))
        for i in range(len(names)):
            if keys.long_sizes[i]:
                continue
            hash_slot = _key_hash(keys, keys.entries[i].head, keys.entries[i].tail)
            clash |= slot_used[hash_slot]
            slot_used[hash_slot] = True
            keys.slot_to_key[hash_slot] = <uint8_t>i
    return 0


cdef inline int _key_code(const KeyTable* keys, const char* p, size_t n) noexcept nogil:
    """Return the code of the key of n bytes at p, or -1. Reads 16 bytes; no branch depends on which short key it is."""
    cdef uint64_t head, tail
    cdef const Key* key
    cdef int code
    if n > MAX_KEY_BYTES:
        for code in range(keys.count):
            if keys.long_sizes[code] == n and memcmp(keys.long_keys[code], p, n) == 0:
                return code
        return -1
    ft_load_padded16(p, n, &head, &tail)
    ft_assert(_key_hash(keys, head, tail) < KEY_SLOTS)
    code = keys.slot_to_key[_key_hash(keys, head, tail)]
    ft_assert(code < MAX_KEYS)
    key = &keys.entries[code]
    # Compare the size as well, because a decoded key may end in NUL bytes.
    return code if (key.head ^ head | key.tail ^ tail | key.size ^ n) == 0 else -1


cdef inline const char* _scan_known_key(const KeyTable* keys, const char* p, const char* end, uint8_t* next_key,
                                        int previous_key, int* code, ParseError* error) noexcept nogil:
    """Return the closing quote of the key whose text begins at p. code: -1 if `keys` does not have it."""
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef int predicted = next_key[previous_key]
    cdef const Key* key = &keys.entries[predicted]
    cdef const char* q
    cdef uint64_t head, tail
    cdef bint escaped
    cdef ssize_t n
    ft_assert(previous_key < MISPREDICTED_KEYS)
    ft_assert(predicted < MAX_KEYS)
    if end - p > 32:
        ft_load_padded16(p, key.size, &head, &tail)
        if (key.head ^ head | key.tail ^ tail | <uint64_t>(p[key.size] ^ c'"')) == 0:
            code[0] = predicted            # so that the value's position does not depend on the key's bytes
            return p + key.size
        next_key[<int>MISPREDICTED_KEYS] += 1
        n = ft_plain_prefix32(p)
        if p[n] == c'"':
            code[0] = _key_code(keys, p, <size_t>n)
            return p + n
    q = _string_end(p, end, &escaped, error)
    if q == NULL:
        return NULL
    n = unescape(p, <size_t>(q - p), decoded, DECODED_TEXT_BYTES)
    code[0] = _key_code(keys, decoded, <size_t>n) if n >= 0 else -1
    return q


cdef const char* scan_object(const char* p, const char* end, int depth, const KeyTable* keys, const ObjectSchema* schema,
                             JsonValue* fields, uint8_t* next_key, ParseError* error) noexcept nogil:
    """Scan the object at p. Store the values of keys with schema.lo <= code < schema.hi in fields[code]; the last one wins.

    An object at the key schema.nested_key is read in the same pass with `schema.nested`. All of the object is validated,
    unknown keys included.

    depth: number of brackets open around the object.
    next_key: the key that last followed each key. It predicts the next object's keys, which most likely have the same order.
    """
    cdef JsonValue other
    cdef JsonValue* value
    cdef bint escaped
    cdef const char* inner
    cdef int code, previous_key = schema.first_key_hint
    memset(&fields[schema.lo], 0, <size_t>(schema.hi - schema.lo) * sizeof(JsonValue))  # K_ABSENT
    if p >= end or p[0] != c'{':
        return _set_error(error, p, R_NOT_OBJECT)
    if depth >= MAX_DEPTH:
        return _set_error(error, p, R_DEPTH)
    p = skip_whitespace(p + 1, end)
    if p < end and p[0] == c'}':
        return p + 1
    while True:
        if p >= end or p[0] != c'"':
            return _set_error(error, p, R_JSON)
        ft_prefetch_ahead(p)
        p = _scan_known_key(keys, p + 1, end, next_key, previous_key, &code, error)
        if p == NULL:
            return NULL
        p += 1
        if p >= end or p[0] != c':':
            p = skip_whitespace(p, end)
            if p >= end or p[0] != c':':
                return _set_error(error, p, R_JSON)
        p += 1
        p = skip_whitespace(p, end)
        if p >= end:
            return _set_error(error, p, R_JSON)
        value = &other
        if schema.lo <= code < schema.hi:
            ft_assert(code < MAX_KEYS)           # the length of the callers' `fields`
            value = &fields[code]
            next_key[previous_key] = <uint8_t>code
            previous_key = code
        if p[0] == c'"':
            value.text = p + 1
            p = _string_end(p + 1, end, &escaped, error)
            if p == NULL:
                return NULL
            value.kind = K_ESCAPED_STRING if escaped else K_STRING
            value.size = p - value.text
            p += 1
        elif p[0] == c'{' and code == schema.nested_key and schema.nested != NULL:
            inner = p
            p = scan_object(p, end, depth + 1, keys, schema.nested, fields, next_key, error)
            if p == NULL:
                return NULL
            value.kind = K_OBJECT
            value.text = inner
            value.size = p - inner
        else:
            p = scan_value(p, end, depth + 1, value, error)
            if p == NULL:
                return NULL
        p = skip_whitespace(p, end)
        if p >= end:
            return _set_error(error, p, R_JSON)
        if p[0] == c'}':
            return p + 1
        if p[0] != c',':
            return _set_error(error, p, R_JSON)
        p += 1
        p = skip_whitespace(p, end)


cdef const char* scan_indexed(const char* p, const char* end, const KeyTable* keys, const ObjectSchema* schema,
                              JsonValue* fields, const uint16_t* positions) noexcept nogil:
    """Like scan_object for the object at the start of a line, by the line's structural index.

    Return NULL unless all keys are known and none is repeated. The end of each value is known before it is read, and its kind
    is examined at the end, in the order of key codes. So few branches are mispredicted, whatever order the keys have. Reads
    INDEX_READABLE_BYTES bytes.
    """
    cdef const ObjectSchema* outer_schema = NULL
    cdef JsonValue* nested_value = NULL    # the object that is read in the same pass
    cdef JsonValue* value
    cdef ParseError error
    cdef const char* q
    cdef unsigned i = 0, at, colon, value_end
    cdef uint32_t seen_keys = 0
    cdef bint is_string
    cdef int code
    memset(&fields[schema.lo], 0, <size_t>(schema.hi - schema.lo) * sizeof(JsonValue))  # K_ABSENT
    while True:
        # positions[i] is the brace or comma before a key.
        ft_assert(i + 2 < MAX_STRUCTURALS)
        at = positions[i] + 1
        at += p[at] == c' '                    # one space; after any other whitespace, the check for a quote fails
        colon = positions[i + 1]
        if p[at] != c'"' or p[colon] != c':':
            return NULL
        ft_assert(colon < INDEX_READABLE_BYTES)
        ft_assert(at + 1 + MAX_KEY_BYTES <= INDEX_READABLE_BYTES)
        ft_assert(at + 2 <= colon)               # there is a whole string between them
        code = _key_code(keys, p + at + 1, colon - at - 2)
        if not (schema.lo <= code < schema.hi) or seen_keys >> code & 1:
            return NULL
        seen_keys |= <uint32_t>1 << code
        value = &fields[code]
        at = colon + 1
        at += p[at] == c' '
        i += 2
        value_end = positions[i]
        if p[value_end] == c',' or p[value_end] == c'}':
            is_string = p[at] == c'"'
            value.text = p + at + is_string
            value.size = value_end - at - 2 * <unsigned>is_string
            value.kind = K_STRING if is_string else K_FLOAT    # K_FLOAT is provisional: the loop at the end sets the kind
        elif at != value_end:
            return NULL
        elif p[value_end] == c'{' and code == schema.nested_key and schema.nested != NULL:
            value.text = p + at
            value.kind = K_OBJECT
            nested_value = value
            outer_schema = schema
            schema = schema.nested
            memset(&fields[schema.lo], 0, <size_t>(schema.hi - schema.lo) * sizeof(JsonValue))
            continue
        else:
            q = scan_value(p + at, end, 1 if outer_schema == NULL else 2, value, &error)
            if q == NULL:
                return NULL
            while p + positions[i] < q:
                i += 1
                ft_assert(i < MAX_STRUCTURALS)
            if p + positions[i] != q:
                return NULL
        if p[positions[i]] == c'}' and outer_schema != NULL:
            nested_value.size = p + positions[i] + 1 - nested_value.text
            schema = outer_schema
            outer_schema = NULL
            i += 1
            if positions[i] != positions[i - 1] + 1:
                return NULL
        if p[positions[i]] == c'}':
            break
        if p[positions[i]] != c',':
            return NULL
    for code in range(MAX_KEYS):
        if seen_keys >> code & 1 and fields[code].kind == K_FLOAT:
            q = fields[code].text + fields[code].size
            if _scan_scalar(fields[code].text, q, &fields[code], &error) != q:
                return NULL
    return p + positions[i] + 1
