"""Shares the byte limit of a batch's messages among the topics."""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    MIN_BATCH_LIMIT = 32 << 20  # bytes that all messages of a batch may have together,
    BATCH_LIMIT_PER_BYTE = 64   # … plus this many per byte of the batch


cdef struct Job:
    void* topic              # borrowed from the main thread
    uint32_t first_row       # of a user's linked rows; only for USER_ORDERS
    uint32_t last_row
    uint32_t user            # code
    uint64_t group
    size_t bytes             # upper bound of its messages' bytes, if measured
    size_t quota
    size_t orders            # in the topic's messages
    uint64_t oversize


cdef struct QuotaGroup:      # jobs[first:first + count]
    size_t bytes
    uint32_t first
    uint32_t count


cdef bint assign_quotas(Job* jobs, uint32_t count, QuotaGroup* groups, size_t batch_limit) noexcept nogil
