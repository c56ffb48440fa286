"""Rejected lines as Python sees them, with their reasons."""
from libc.stdint cimport uint8_t

from typing import NamedTuple

from fasttail.engine.pool cimport WorkerPool
from fasttail.streams.types cimport (
    FIRST_FIELD, F_NONE, R_DECIMAL, R_DEPTH, R_JSON, R_LENGTH, R_MISSING, R_NUMBER, R_NOT_OBJECT, R_PAIR, R_RANGE, R_SIDE,
    R_TIME, R_TYPE, R_UTF8, FieldSpec, Reject, StreamSpec)

cdef extern from *:
    """
    /* type(a, b, c) for a subclass of tuple that adds no member: a third of the time of the call in Python. */
    static PyObject *ft_new_tuple3(PyTypeObject *type, PyObject *a, PyObject *b, PyObject *c) {
        PyObject *made = type->tp_alloc(type, 3);
        if (made == NULL) return NULL;
    #if PY_VERSION_HEX >= 0x030E0000
        ((PyTupleObject *)made)->ob_hash = -1;             /* not known yet */
    #endif
        Py_INCREF(a);
        Py_INCREF(b);
        Py_INCREF(c);
        PyTuple_SET_ITEM(made, 0, a);
        PyTuple_SET_ITEM(made, 1, b);
        PyTuple_SET_ITEM(made, 2, c);
        return made;
    }
    """
    ctypedef struct PyTypeObject
    object ft_new_tuple3(PyTypeObject* type, object a, object b, object c)

_REASONS = {
    R_JSON: "not valid JSON", R_UTF8: "not UTF-8", R_DEPTH: "nested deeper than 1024", R_NUMBER: "a number beyond float64",
    R_NOT_OBJECT: "not an object", R_MISSING: "missing", R_TYPE: "of another type", R_DECIMAL: "not a decimal number",
    R_TIME: "not a time", R_SIDE: 'neither "A" nor "B"', R_RANGE: "out of range", R_LENGTH: "longer than 4 GiB",
    R_PAIR: "not a pair of a text and an object",
}
_ENVELOPE_KEYS = ("local_time", "block_time", "block_number", "events")


class Rejected(NamedTuple):
    """A line that is no event of its stream. `offset` is its first byte, `at` the byte where the error was detected."""

    offset: int
    at: int
    reason: str


cdef dict _reason_cache = {}     # results of reason_text: few distinct ones for perhaps millions of lines


cdef str reason_text(const StreamSpec* stream, uint8_t reason, uint8_t field):
    """Return a RejectReason and the code of a field in words, such as "limitPx: not a decimal number"."""
    cdef const FieldSpec* named
    key = (<size_t>stream, reason, field)
    text = _reason_cache.get(key)
    if text is None:
        text = _REASONS[reason]
        if field < FIRST_FIELD:
            text = f"{_ENVELOPE_KEYS[field]}: {text}"
        elif field != F_NONE:
            named = &stream.fields[field - FIRST_FIELD]
            text = f"{named.key[:named.key_size].decode()}: {text}"
        _reason_cache[key] = text
    return text


cdef list rejected_lines(WorkerPool pool):
    """Return a Rejected for each line that the pool has kept."""
    cdef list rejected = []
    cdef size_t i
    cdef const Reject* r
    for i in range(pool.kept_len):
        r = &pool.kept[i]
        rejected.append(ft_new_tuple3(<PyTypeObject*>Rejected, r.line_offset, r.error_offset, reason_text(pool.stream, r.reason, r.field)))
        if i % 4096 == 4095:
            with nogil:
                pass             # let other threads have the GIL: there may be millions of lines
    return rejected
