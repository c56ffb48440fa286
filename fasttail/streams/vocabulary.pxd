"""The words of the schema and their codes. Filled at import, read-only afterwards."""
from fasttail.streams.intern cimport InternTable

cdef InternTable STATUSES
cdef InternTable ORDER_TYPES
cdef InternTable TIFS
cdef InternTable DIRECTIONS
