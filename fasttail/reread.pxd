"""The messages of topics once more, from the node's files."""
cimport cython

from libc.stdint cimport uint64_t

from fasttail.parser.pool cimport Pool
from fasttail.parser.table cimport Table
from fasttail.publish.buffer cimport Box
from fasttail.publish.router cimport Topics
from fasttail.publish.topics cimport Place
from fasttail.tail.blocks cimport Reader


@cython.final
cdef class Rereader:
    cdef readonly Reader reader
    cdef Table table
    cdef Pool pool
    cdef Topics topics
    cdef dict kept                   # the topics: `topics` only borrows them
    cdef Box box                     # owned; what the last step has made, …
    cdef size_t taken                # … and how many messages of it have been taken
    cdef Place place
    cdef uint64_t limit              # of the present step
    cdef bint exact
    cdef size_t most
    cdef int code                    # how the last step ended
    cdef int run_step(self) noexcept nogil
    cdef int _step(self, uint64_t limit, bint exact, size_t most) noexcept nogil
    cdef int _convert(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil
