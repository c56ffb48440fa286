"""The columns of a batch as Python sees them."""
cimport cython

from libc.stdint cimport uint64_t

from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport MAX_FIELDS, FieldSpec, RowHead, StreamSpec

cdef extern from *:
    """
    typedef __int128 ft_i128;
    """
    ctypedef long long ft_i128


cdef struct ColumnSums:          # in the order of the stream's fields
    ft_i128 integers[MAX_FIELDS]
    double decimals[MAX_FIELDS]

cdef void add_row(ColumnSums* sums, const StreamSpec* stream, const RowHead* row) noexcept nogil
cdef dict column_sums_to_dict(const ColumnSums* sums, const StreamSpec* stream)


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
    cdef object _number_column(self, str name)
    cdef object _value(self, const RowHead* row, const FieldSpec* field)
    cdef object _envelope_value(self, const RowHead* row, str name)
    cdef dict _to_dict(self, const RowHead* row)
