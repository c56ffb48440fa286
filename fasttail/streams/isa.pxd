"""The build of the template path in use, see isa.pyx."""
from fasttail.streams.types cimport Chunk

ctypedef void (*parse_chunk_t)(Chunk* c) noexcept nogil

cdef parse_chunk_t active_parse_chunk  # set at import and by `use`, never during a parse
