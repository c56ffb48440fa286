"""The node's streams by name."""
from fasttail.streams.types cimport StreamSpec

cdef const StreamSpec* find_stream(str name) except NULL
cdef const StreamSpec* detect_stream(const char* p, size_t n) noexcept nogil
