"""The node's streams, as the pool sees them."""
from fasttail.parser.types cimport StreamSpec

cdef StreamSpec ORDER_STATUSES
