"""The columns of a batch as Python sees them."""
cimport cython

from libc.stdint cimport uint64_t

from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.table cimport RowTable
from fasttail.streams.orders cimport OrderRow

cdef extern from *:
    """
    typedef unsigned __int128 ft_u128;
    typedef __int128 ft_i128;
    """
    ctypedef unsigned long long ft_u128
    ctypedef long long ft_i128


cdef struct ColumnSums:
    ft_u128 oid
    ft_i128 timestamp
    double limitPx
    double sz
    double origSz

cdef void column_sums_add(ColumnSums* sums, RowTable table) noexcept nogil
cdef dict column_sums_to_dict(const ColumnSums* sums)


cdef inline void add_row(ColumnSums* sums, const OrderRow* row) noexcept nogil:
    sums.oid += row.oid
    sums.timestamp += row.timestamp
    sums.limitPx += row.limitPx
    sums.sz += row.sz
    sums.origSz += row.origSz


@cython.final
cdef class Batch:
    cdef RowTable table
    cdef WorkerPool pool
    cdef Py_buffer data          # held as long as the batch lives, because rows are offsets into it
    cdef bint has_data
    cdef int active_sums         # threads that read the rows without the GIL; rows must not move meanwhile
    cdef int _compact_rows(self) except -1
    cdef readonly list rejected
    cdef readonly uint64_t lines
    cdef object _value(self, const OrderRow* row, str name)
