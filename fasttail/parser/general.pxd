"""The general path."""
from fasttail.parser.types cimport Chunk, Fault, Row

cdef const char* event_general(Chunk* c, const char* p, const char* end, int depth, Row* row, Fault* fault) noexcept nogil
cdef int line_general(Chunk* c, const char* line, const char* line_end) noexcept nogil
cdef int note_coin(Chunk* c, const char* start, Row* row) noexcept nogil
cdef int number_coins(Chunk* c) noexcept nogil
