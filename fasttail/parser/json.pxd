"""Whole-document JSON validation over a bounded cursor (RFC 8259, and orjson's limits)."""
from libc.stdint cimport uint8_t

from fasttail.parser.types cimport Fault, Slot
from fasttail.parser.words cimport Words


cdef struct Level:           # which keys of an object are wanted
    int start                # where in `next_key` the first key's guess stands
    int lo
    int hi
    int into                 # the key whose object is read in the same pass, with `inner`; -1: none
    const Level* inner

cdef const char* skip_blank(const char* p, const char* end) noexcept nogil
cdef const char* scan_string(const char* p, const char* end, bint* escaped, Fault* fault) noexcept nogil
cdef const char* scan_value(const char* p, const char* end, int depth, Slot* slot, Fault* fault) noexcept nogil
cdef const char* scan_object(const char* p, const char* end, int depth, const Words* keys, const Level* level, Slot* slots,
                             uint8_t* next_key, Fault* fault) noexcept nogil
cdef enum:
    TEXT_ROOM = 259          # for an escaped text of up to 256 bytes: unescape wants room for a character of four

cdef ssize_t unescape(const char* p, size_t n, char* out, size_t room) noexcept nogil
