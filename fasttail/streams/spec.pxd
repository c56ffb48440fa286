"""Builds the description of a stream."""
from fasttail.streams.intern cimport InternTable
from fasttail.streams.types cimport (
    K_ABSENT, K_ARRAY, K_ESCAPED_STRING, K_FALSE, K_FLOAT, K_INT, K_NULL, K_OBJECT, K_STRING, K_TRUE, NOT_STORED, FieldSpec,
    StreamSpec)

cdef enum:                   # sets of JsonKinds
    OPTIONAL = 1 << K_ABSENT
    NULLABLE = 1 << K_NULL
    TEXT = 1 << K_STRING | 1 << K_ESCAPED_STRING
    INTEGER = 1 << K_INT
    BOOL = 1 << K_TRUE | 1 << K_FALSE
    OBJECT = 1 << K_OBJECT
    ARRAY = 1 << K_ARRAY
    ANY_VALUE = 1 << K_NULL | 1 << K_FALSE | 1 << K_TRUE | 1 << K_INT | 1 << K_FLOAT | TEXT | OBJECT | ARRAY

cdef FieldSpec* add_field(StreamSpec* stream, bytes key, int conversion, int kinds, size_t span=*, size_t value=*) except NULL
cdef int spec_finish(StreamSpec* stream, int event_fields) except -1
cdef const FieldSpec* field_named(const StreamSpec* stream, bytes key) noexcept
