"""The words of the schema and their numbers. Filled when the module is imported, read only from then on."""
from fasttail.parser.words cimport Words

cdef Words FIELDS            # code - 1 = Field
cdef Words STATUSES
cdef Words ORDER_TYPES
cdef Words TIFS
