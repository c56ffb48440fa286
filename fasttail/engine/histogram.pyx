"""A Prometheus histogram of durations.

One thread adds; any thread may read, relaxed. Each count is a 64-bit word that only grows, and the total is the sum of the
counts as read, so a snapshot never contradicts itself and never decreases. Only `sum` may be one observation ahead.
"""
from libc.stdint cimport int64_t, uint64_t

from fasttail.system.atomics cimport ft_add_single_writer, ft_load_relaxed

cdef extern from *:
    """
    #include <stdint.h>
    static const int64_t FT_BOUND_NS[] = {
        100000, 250000, 500000,
        1000000, 2500000, 5000000, 10000000, 25000000, 50000000, 100000000, 250000000, 500000000,
        1000000000, 2500000000, 5000000000, 10000000000, 30000000000,
    };
    """
    const int64_t BOUND_NS "FT_BOUND_NS"[BOUND_COUNT]


cdef class Histogram:
    """Durations in buckets from 0.1 ms to 30 s. A duration below 0, from two clocks that differ, counts as 0."""

    cdef void record(self, int64_t ns) noexcept nogil:
        cdef int i = 0
        while i < BOUND_COUNT and ns > BOUND_NS[i]:
            i += 1
        ft_add_single_writer(&self.counts[i], 1)
        if ns > 0:
            ft_add_single_writer(&self.sum_ns, <uint64_t>ns)

    def observe(self, int64_t ns) -> None:
        self.record(ns)

    def snapshot(self) -> tuple:
        """Return ([(bound in seconds, observations up to it), …, (infinity, all)], sum in seconds)."""
        cdef list buckets = []
        cdef uint64_t count = 0
        cdef int i
        for i in range(BOUND_COUNT + 1):
            count += ft_load_relaxed(&self.counts[i])
            buckets.append((BOUND_NS[i] / 1e9 if i < BOUND_COUNT else float("inf"), count))
        return buckets, ft_load_relaxed(&self.sum_ns) / 1e9
