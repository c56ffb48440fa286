"""The messages of the old service's two channels."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fasttail.parser.table cimport RowTable
from fasttail.publish.buffer cimport Box

cdef size_t encode_updates(RowTable table, const char* data, const uint32_t* rows, size_t n, int64_t now_ns, size_t most,
                           uint32_t topic, Box* box, uint64_t* oversize) noexcept nogil
cdef size_t encode_pieces(RowTable table, const char* data, const uint32_t* rows, size_t n, size_t most, uint32_t topic,
                          Box* box, uint64_t* oversize) noexcept nogil
