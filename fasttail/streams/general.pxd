"""The general path, see general.pyx."""
from libc.stdint cimport uint16_t

from fasttail.streams.types cimport Chunk, ParseError, RowHead

cdef enum:
    STRATEGY_LINES = 31          # lines for which a choice of scan holds, because lines of one form mostly come together

cdef const char* event_general(Chunk* c, const char* p, const char* end, int depth, RowHead* row,
                               ParseError* error) noexcept nogil
cdef void line_general(Chunk* c, const uint16_t* structural_index) noexcept nogil
cdef void parse_chunk_general(Chunk* c) noexcept nogil
cdef void resolve_new_coin(Chunk* c, RowHead* row) noexcept nogil
cdef void assign_coin_codes(Chunk* c) noexcept nogil
