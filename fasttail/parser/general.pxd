"""The general path."""
from fasttail.parser.types cimport Chunk, Fault, Row

cdef const char* event_general(Chunk* c, const char* p, const char* end, int depth, Row* row, Fault* fault) noexcept nogil
cdef int line_general(Chunk* c, const char* line, const char* line_end) noexcept nogil
cdef int number_coins(Chunk* c, size_t first) noexcept nogil
