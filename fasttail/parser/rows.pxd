"""Reading a row's text."""
from fasttail.parser.types cimport Row

cdef const char* row_text(const Row* row, const char* data, int field, size_t* size) noexcept nogil
