"""Encodes the messages of the old service's two channels."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fasttail.engine.table cimport RowTable
from fasttail.engine.buffer cimport Outbox

cdef size_t encode_legacy_updates(RowTable table, const char* data, const uint32_t* rows, size_t n, int64_t now_ns,
                                  size_t max_payload, uint32_t topic, Outbox* outbox, uint64_t* oversize) noexcept nogil
cdef size_t encode_legacy_fragments(RowTable table, const char* data, const uint32_t* rows, size_t n, size_t max_payload,
                                    uint32_t topic, Outbox* outbox, uint64_t* oversize) noexcept nogil
