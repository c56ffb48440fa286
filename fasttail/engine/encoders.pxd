"""Encodes one order in each of the formats."""
from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport RowHead
from fasttail.engine.buffer cimport Buffer

cdef int encode_raw(Buffer* out, const RowHead* row, const char* data) noexcept nogil
cdef int encode_json(Buffer* out, const RowHead* head, RowTable table, const char* data) noexcept nogil
cdef int encode_ws(Buffer* out, const RowHead* head, const char* data) noexcept nogil
