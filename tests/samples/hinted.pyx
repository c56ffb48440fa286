# Without noexcept each call asks for the GIL to see whether it raised.
cdef void leaf(int* x) nogil:
    x[0] += 1

def run():
    cdef int x = 0
    with nogil:
        leaf(&x)
    return x
