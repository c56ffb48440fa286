"""Cuts: a stretch of whole lines -> one share per worker."""
from fasttail.parser.types cimport Chunk, Stream

cdef int cut(const Stream* stream, const char* data, const char* begin, const char* limit, int workers, bint within_lines,
             Chunk* chunks) noexcept nogil
cdef size_t count_lines(const char* begin, const char* limit) noexcept nogil
