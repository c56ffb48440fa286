"""Selection -> bytes ready to send or to write."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fasttail.parser.table cimport Table
from fasttail.parser.types cimport Row


cdef struct Out:             # bytes under construction; owned by whoever made it, freed with out_free
    char* data
    size_t size
    size_t room
    bint failed              # memory ran out: the content is not whole

cdef int out_clear(Out* out, size_t keep) noexcept nogil
cdef int out_free(Out* out) noexcept nogil

cdef int encode_raw(Out* out, const Row* row, const char* data) noexcept nogil
cdef int encode_json(Out* out, const Row* row, Table table, const char* data) noexcept nogil


cdef struct Mark:
    uint32_t end             # where the piece ends in the text
    uint32_t orders          # how many it holds


cdef struct Pieces:          # comma-joined Orders, cut so that a piece fits a message
    Out text
    Out marks                # array of Mark

cdef size_t encode_legacy(Table table, const char* data, const uint32_t* rows, size_t n, int64_t now_ns, size_t most,
                          Out* frames, Pieces* pieces, uint64_t* oversize) noexcept nogil
