"""Splits a range of whole lines into chunks, one per worker."""
from libc.stdint cimport uint64_t

from fasttail.streams.types cimport Chunk, StreamSpec

cdef void split_into_chunks(const StreamSpec* stream, const char* data, const char* begin, const char* limit, int workers,
                            bint split_inside_lines, Chunk* chunks) noexcept nogil
cdef size_t count_lines(const char* begin, const char* limit) noexcept nogil
cdef uint64_t block_of_line(const char* line, const char* end) noexcept nogil
