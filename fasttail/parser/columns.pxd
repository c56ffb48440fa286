"""Rows as columns, for Python."""
cimport cython

from libc.stdint cimport uint64_t

from fasttail.parser.pool cimport Pool
from fasttail.parser.table cimport Table
from fasttail.parser.types cimport Row

cdef extern from *:
    """
    typedef unsigned __int128 ft_u128;
    typedef __int128 ft_i128;
    """
    ctypedef unsigned long long ft_u128
    ctypedef long long ft_i128


cdef struct Sums:
    ft_u128 oid
    ft_i128 timestamp
    double limitPx
    double sz
    double origSz

cdef void add_sums(Sums* sums, Table table) noexcept nogil
cdef dict sums_dict(const Sums* sums)


cdef inline void add_row(Sums* sums, const Row* row) noexcept nogil:
    sums.oid += row.oid
    sums.timestamp += row.timestamp
    sums.limitPx += row.limitPx
    sums.sz += row.sz
    sums.origSz += row.origSz


@cython.final
cdef class Batch:
    cdef Table table
    cdef Pool pool
    cdef Py_buffer data          # held as long as the batch lives: the rows point into it
    cdef bint has_data
    cdef int summing             # threads that go through the rows without the GIL: these stay where they are
    cdef int _compact(self) except -1
    cdef readonly list rejected
    cdef readonly uint64_t lines
    cdef object _value(self, const Row* row, str name)
