"""Memory of buffers and outboxes.

A buffer grows by doubling. It keeps its memory for the next batch up to a bound.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc

from fasttail.system.atomics cimport ft_store_relaxed
from fasttail.system.checks cimport FT_DEBUG_CHECKS


cdef int buffer_grow(Buffer* out, size_t extra) noexcept nogil:
    """Grow the buffer by `extra` bytes or more. Return 1, or 0 and set `out_of_memory`."""
    cdef size_t capacity = out.capacity * 2 if out.capacity * 2 > out.size + extra else out.size + extra + 4096
    cdef char* data
    if FT_DEBUG_CHECKS:
        capacity = out.size + extra      # exactly what was requested, so that a write beyond it is detected
    data = <char*>realloc(out.data, capacity)
    if data == NULL:
        out.out_of_memory = True
        return 0
    out.data = data
    # relaxed, here and below: the main thread sums the capacities meanwhile
    ft_store_relaxed(<uint64_t*>&out.capacity, capacity)
    return 1


cdef void buffer_clear(Buffer* out, size_t keep) noexcept nogil:
    """Empty the buffer. Free its memory if that is more than `keep` bytes."""
    if out.capacity > keep:
        free(out.data)
        out.data = NULL
        ft_store_relaxed(<uint64_t*>&out.capacity, 0)
    out.size = 0
    out.out_of_memory = False


cdef void buffer_free(Buffer* out) noexcept nogil:
    free(out.data)
    out.data = NULL
    out.size = 0
    out.capacity = 0


cdef void outbox_clear(Outbox* outbox, size_t keep) noexcept nogil:
    """Empty the outbox. Free the memory of its payload and of its entries where that is more than `keep` bytes."""
    buffer_clear(&outbox.payload, keep)
    buffer_clear(&outbox.entries, keep)


cdef void outbox_free(Outbox* outbox) noexcept nogil:
    buffer_free(&outbox.payload)
    buffer_free(&outbox.entries)


cdef int outbox_append(Outbox* outbox, const OutboxEntry* entry) noexcept nogil:
    """Append an entry. Return 1, or 0 if out of memory."""
    if not buffer_reserve(&outbox.entries, sizeof(OutboxEntry)):
        return 0
    put(&outbox.entries, <const char*>entry, sizeof(OutboxEntry))
    return 1
