from cython.parallel cimport prange
from libc.stdlib cimport free, malloc

def total(long n, bint racing):
    cdef long i
    cdef long* sums = <long*>malloc(4 * sizeof(long))
    for i in range(4):
        sums[i] = 0                      # before the region, by this thread: OpenMP orders it
    for i in prange(4, nogil=True, schedule="static", chunksize=1, num_threads=4):
        sums[0 if racing else i] += n
    result = sums[0] + sums[1] + sums[2] + sums[3]
    free(sums)
    return result
