"""Encodes one order in each of the formats."""
from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport Row
from fasttail.engine.buffer cimport Buffer

cdef int encode_raw(Buffer* out, const Row* row, const char* data) noexcept nogil
cdef int encode_json(Buffer* out, const Row* row, RowTable table, const char* data) noexcept nogil
cdef int encode_ws(Buffer* out, const Row* row, const char* data) noexcept nogil
