import os
cdef class Bad:
    cdef int fd
    cdef const char* text
    cdef Other other, another
    cdef readonly dict kept
    cdef int run(self) noexcept
    def __dealloc__(self):
        # self.kept in a comment is no fault
        if self.other.count and self.fd >= 0:
            os.close(self.fd)
        free(self.text)
        self.anything = 1

cdef class Other:
    cdef int count

@cython.no_gc_clear
cdef class Kept:
    cdef Other other
    def __dealloc__(self):
        free_all(self.other.count)
