"""The words of the schema and their codes. Filled at import, read-only afterwards."""
from fasttail.streams.json cimport KeyTable
from fasttail.streams.intern cimport InternTable

cdef KeyTable FIELD_KEYS     # code = Field
cdef InternTable STATUSES
cdef InternTable ORDER_TYPES
cdef InternTable TIFS
