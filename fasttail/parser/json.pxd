"""Whole-document JSON validation over a bounded cursor (RFC 8259, and orjson's limits)."""
from fasttail.parser.types cimport Fault, Slot
from fasttail.parser.words cimport Words

cdef const char* skip_blank(const char* p, const char* end) noexcept nogil
cdef const char* scan_string(const char* p, const char* end, bint* escaped, Fault* fault) noexcept nogil
cdef const char* scan_value(const char* p, const char* end, int depth, Slot* slot, Fault* fault) noexcept nogil
cdef const char* scan_object(const char* p, const char* end, int depth, const Words* keys, int lo, int hi,
                             Slot* slots, Fault* fault) noexcept nogil
cdef ssize_t unescape(const char* p, size_t n, char* out, size_t room) noexcept nogil
