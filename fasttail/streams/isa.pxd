"""Which build of the template path runs: chosen here and nowhere else."""
from fasttail.streams.types cimport Chunk

ctypedef void (*parse_chunk_t)(Chunk* c) noexcept nogil

cdef parse_chunk_t active_parse_chunk  # set at import and by `use`; never while a parse runs
