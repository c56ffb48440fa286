"""The words of the schema and their numbers. Filled when the module is imported, read only from then on."""
from fasttail.streams.json cimport KeyTable
from fasttail.streams.intern cimport InternTable

cdef KeyTable FIELD_KEYS     # code = Field
cdef InternTable STATUSES
cdef InternTable ORDER_TYPES
cdef InternTable TIFS
