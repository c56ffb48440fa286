"""The general path."""
from libc.stdint cimport uint16_t

from fasttail.parser.types cimport Chunk, Fault, Row

cdef enum:
    LINES_ALIKE = 31             # so many lines are taken for such as the one before: lines of a kind come together, most often

cdef const char* event_general(Chunk* c, const char* p, const char* end, int depth, Row* row, Fault* fault) noexcept nogil
cdef int line_general(Chunk* c, const uint16_t* outline) noexcept nogil
cdef int new_coin(Chunk* c, Row* row) noexcept nogil
cdef int number_coins(Chunk* c) noexcept nogil
