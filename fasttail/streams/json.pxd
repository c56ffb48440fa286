"""Validates JSON over a bounded cursor (RFC 8259, with orjson's limits), see json.pyx."""
from libc.stdint cimport uint8_t, uint16_t

from fasttail.streams.types cimport JsonValue, KeyTable, ObjectSchema, ParseError

cdef extern from "simd.h" nogil:
    const char* ft_skip_whitespace(const char* p, const char* limit) noexcept

cdef inline const char* skip_whitespace(const char* p, const char* end) noexcept nogil:
    """Return the first byte from p on that is not whitespace, or `end`."""
    if p < end and <uint8_t>p[0] > c' ':
        return p
    if end - p > 1 and p[0] == c' ' and <uint8_t>p[1] > c' ':     # one space is the most common whitespace
        return p + 1
    return ft_skip_whitespace(p, end)

cdef const char* scan_value(const char* p, const char* end, int depth, JsonValue* value, ParseError* error) noexcept nogil
cdef int key_table_init(KeyTable* keys, tuple names) except -1
cdef const char* scan_object(const char* p, const char* end, int depth, const KeyTable* keys, const ObjectSchema* schema,
                             JsonValue* fields, uint8_t* next_key, ParseError* error) noexcept nogil
cdef enum:
    INDEX_READABLE_BYTES = 1024 + 64  # FT_MAX_INDEXED_LINE in simd.h, plus a key
    MAX_STRUCTURALS = 1024 + 8

cdef const char* scan_indexed(const char* p, const char* end, const KeyTable* keys, const ObjectSchema* schema,
                              JsonValue* fields, const uint16_t* positions) noexcept nogil
cdef enum:
    DECODED_TEXT_BYTES = 259  # for an escaped text of up to 256 bytes: unescape needs space for a 4-byte character

cdef ssize_t unescape(const char* p, size_t n, char* out, size_t capacity) noexcept nogil
