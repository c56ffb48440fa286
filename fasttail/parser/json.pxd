"""Whole-document JSON validation over a bounded cursor (RFC 8259, and orjson's limits)."""
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fasttail.parser.types cimport Fault, Slot

cdef enum:
    KEY_SLOTS = 128
    MOST_KEYS = 32


cdef struct Key:             # a key of up to 16 bytes: the bytes, zeros behind them
    uint64_t head
    uint64_t tail
    size_t size


cdef struct Keys:            # a perfect hash table: each key has a slot of its own
    Key names[MOST_KEYS]
    uint64_t factor
    uint8_t slots[KEY_SLOTS]             # which of the names it is if it is one at all


cdef struct Level:           # which keys of an object are wanted
    int start                # where in `next_key` the first key's guess stands
    int lo
    int hi
    int into                 # the key whose object is read in the same pass, with `inner`; -1: none
    const Level* inner


cdef extern from "simd.h" nogil:
    const char* ft_skip_blank(const char* p, const char* limit) noexcept

cdef inline const char* skip_blank(const char* p, const char* end) noexcept nogil:
    """The first byte from p on that is no blank, or `end`."""
    if p < end and <uint8_t>p[0] > c' ':
        return p
    if end - p > 1 and p[0] == c' ' and <uint8_t>p[1] > c' ':     # as most writers of blanks have it
        return p + 1
    return ft_skip_blank(p, end)

cdef const char* scan_value(const char* p, const char* end, int depth, Slot* slot, Fault* fault) noexcept nogil
cdef int keys_new(Keys* keys, tuple names) except -1
cdef const char* scan_object(const char* p, const char* end, int depth, const Keys* keys, const Level* level, Slot* slots,
                             uint8_t* next_key, Fault* fault) noexcept nogil
cdef enum:
    OUTLINE_ROOM = 1024 + 64     # FT_OUTLINE in simd.h, and a key behind it
    OUTLINE_MARKS = 1024 + 8

cdef const char* scan_outlined(const char* p, const char* end, const Keys* keys, const Level* level, Slot* slots,
                               const uint16_t* marks) noexcept nogil
cdef enum:
    TEXT_ROOM = 259          # for an escaped text of up to 256 bytes: unescape wants room for a character of four

cdef ssize_t unescape(const char* p, size_t n, char* out, size_t room) noexcept nogil
