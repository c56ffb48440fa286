"""The words of the schema and their numbers. Filled when the module is imported, read only from then on."""
from fasttail.parser.json cimport Keys
from fasttail.parser.words cimport Words

cdef Keys FIELDS             # code = Field
cdef Words STATUSES
cdef Words ORDER_TYPES
cdef Words TIFS
