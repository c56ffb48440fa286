from cython.parallel cimport prange

def total(long n):
    cdef long i, result = 0
    for i in prange(n, nogil=True, num_threads=2):
        result += i
    return result

def item(const unsigned char[:] data, Py_ssize_t at):
    return data[at]
