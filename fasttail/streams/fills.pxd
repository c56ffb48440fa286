"""The stream of fills."""
from fasttail.streams.types cimport StreamSpec

cdef StreamSpec FILLS
