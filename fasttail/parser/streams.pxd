"""The node's streams, as the pool sees them."""
from fasttail.parser.types cimport Stream

cdef Stream ORDER_STATUSES
