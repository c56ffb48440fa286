"""The node's streams as the pool sees them."""
from fasttail.streams.types cimport StreamSpec

cdef StreamSpec ORDER_STATUSES
