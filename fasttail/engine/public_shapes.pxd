"""Encodes an event as an element of the public API's messages."""
from fasttail.engine.buffer cimport Buffer
from fasttail.streams.types cimport RowHead

cdef int encode_order_update(Buffer* out, const RowHead* head, const char* data) noexcept nogil
cdef int encode_fill(Buffer* out, const RowHead* head, const char* data) noexcept nogil
cdef int encode_trade(Buffer* out, const RowHead* head, const char* data) noexcept nogil
