"""Rows -> selection."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.parser.table cimport Table
from fasttail.parser.types cimport Ref, Row
from fasttail.parser.words cimport Words


@cython.final
cdef class Selector:
    cdef bint every                  # nothing is asked for: all rows pass
    cdef bint any_coin
    cdef bint any_status
    cdef bint any_user
    cdef double min_notional         # where a coin has none of its own
    cdef uint64_t statuses           # a bit per status code
    cdef uint32_t sides              # 1 = A, 2 = B
    cdef Words coins                 # owned; code -> least[code]
    cdef Words others                # owned; statuses that the parser has no code for
    cdef Words users                 # owned; lower case
    cdef double* least               # owned; per own coin code
    cdef uint32_t* known             # owned; parser's coin code (the first of them) -> 0 unknown yet, 1 unwanted, own code + 1
    cdef size_t select(self, Table table, const char* data, uint32_t* out) noexcept nogil
    cdef bint _wanted(self, const Row* row, const char* data) noexcept nogil
    cdef uint32_t _coin(self, const Row* row, const char* data) noexcept nogil

cdef uint32_t find_text(const Words* words, const Row* row, const char* data, const Ref* ref, bint lower) noexcept nogil
