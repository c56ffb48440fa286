"""Rejected lines as Python sees them."""
from libc.stdint cimport uint8_t

from fasttail.engine.pool cimport WorkerPool
from fasttail.streams.types cimport StreamSpec

cdef str reason_text(const StreamSpec* stream, uint8_t reason, uint8_t field)
cdef list rejected_lines(WorkerPool pool)
