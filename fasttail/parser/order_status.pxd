"""One line of `node_order_statuses` -> rows."""
from libc.stdint cimport int64_t

from fasttail.parser.types cimport Chunk, Row
from fasttail.parser.words cimport Words

cdef Words STATUSES
cdef Words ORDER_TYPES
cdef Words TIFS
cdef Words SIDES

cdef int parse_chunk(Chunk* c) noexcept nogil
cdef int parse_decimal(const char* p, size_t n, double* value) noexcept nogil
cdef int parse_time(const char* p, size_t n, int64_t* ns) noexcept nogil
cdef const char* row_text(const Row* row, const char* data, int field, size_t* size) noexcept nogil
