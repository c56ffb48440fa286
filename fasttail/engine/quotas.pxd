"""Quotas: how the topics share the room that there is for a batch's messages."""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    MIN_BATCH_LIMIT = 32 << 20  # bytes that all messages of a batch may have together,
    BATCH_LIMIT_PER_BYTE = 64   # … and so many for each byte of the batch


cdef struct Job:
    void* topic              # borrowed: the main thread keeps it
    uint32_t first_row       # of a user's rows, linked by `next`; not used by the other kinds
    uint32_t last_row
    uint32_t user            # code
    uint64_t group
    size_t bytes             # no more than its messages will have; known if they were measured
    size_t quota
    size_t orders            # that the topic's messages hold
    uint64_t oversize


cdef struct QuotaGroup:      # jobs[first:first + count]
    size_t bytes
    uint32_t first
    uint32_t count


cdef bint assign_quotas(Job* jobs, uint32_t count, QuotaGroup* groups, size_t batch_limit) noexcept nogil
