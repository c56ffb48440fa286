"""Converts text to numbers, see numbers.pyx."""
from libc.stdint cimport int64_t, uint64_t

cdef int parse_datetime_seconds(const char* p, int64_t* ns) noexcept nogil
cdef int parse_datetime_ns(const char* p, size_t n, int64_t* ns) noexcept nogil
cdef double decimal_to_double(const char* p, size_t n) noexcept nogil
cdef int parse_decimal(const char* p, size_t n, double* value) noexcept nogil
cdef int parse_amount(const char* p, size_t n, int64_t* units) noexcept nogil
cdef int parse_int(const char* p, size_t n, bint allow_negative, uint64_t* value) noexcept nogil
