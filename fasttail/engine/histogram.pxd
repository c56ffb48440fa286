"""A Prometheus histogram of durations."""
cimport cython

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    BOUND_COUNT = 17


@cython.final
cdef class Histogram:
    cdef uint64_t counts[BOUND_COUNT + 1]  # not cumulative; the last one is above every bound
    cdef uint64_t sum_ns                   # of the durations above 0
    cdef void record(self, int64_t ns) noexcept nogil
