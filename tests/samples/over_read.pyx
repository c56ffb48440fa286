from cython.parallel cimport prange
from libc.stdlib cimport calloc, free

def past(long n):
    cdef long i, result = 0
    cdef long* numbers = <long*>calloc(n, sizeof(long))
    if numbers == NULL:
        raise MemoryError
    for i in prange(n + 1, nogil=True, num_threads=2):
        result += numbers[i]
    free(numbers)
    return result
