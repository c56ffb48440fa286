"""The general path."""
from libc.stdint cimport uint16_t

from fasttail.streams.types cimport Chunk, ParseError, Row

cdef enum:
    STRATEGY_LINES = 31          # so many lines are taken for such as the one before: lines of a kind come together, most often

cdef const char* event_general(Chunk* c, const char* p, const char* end, int depth, Row* row, ParseError* error) noexcept nogil
cdef void line_general(Chunk* c, const uint16_t* structural_index) noexcept nogil
cdef void resolve_new_coin(Chunk* c, Row* row) noexcept nogil
cdef void assign_coin_codes(Chunk* c) noexcept nogil
