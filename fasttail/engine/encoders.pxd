"""Encodes one event in each of the formats."""
from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport RowHead, StreamSpec
from fasttail.engine.buffer cimport Buffer

cdef int encode_raw(Buffer* out, const RowHead* row, const char* data) noexcept nogil
cdef int encode_json(Buffer* out, const RowHead* row, RowTable table, const char* data) noexcept nogil
