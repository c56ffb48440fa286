"""A topic's messages once more, from the node's files."""
cimport cython

from libc.stdint cimport uint32_t, uint64_t

from fasttail.parser.pool cimport Pool
from fasttail.parser.table cimport Table
from fasttail.publish.filters cimport RowKey
from fasttail.publish.frames cimport Box
from fasttail.publish.topics cimport Place, Topic
from fasttail.tail.blocks cimport Reader


@cython.final
cdef class Rereader:
    cdef readonly Reader reader
    cdef Table table
    cdef Pool pool
    cdef Topic topic
    cdef Box box                     # owned
    cdef Place place
    cdef RowKey* keys                # owned; per row
    cdef uint64_t after_line
    cdef uint32_t after_events
    cdef int _convert(self, const char* begin, const char* limit, const char* readable, uint64_t offset) except -1
    cdef list _messages(self)
