"""Rejected lines as Python sees them."""
from libc.stdint cimport uint8_t

from fasttail.engine.pool cimport WorkerPool

cpdef str reason_text(uint8_t reason, uint8_t field)
cdef list rejected_lines(WorkerPool pool)
