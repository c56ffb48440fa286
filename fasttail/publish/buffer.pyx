"""Bytes under construction, and the messages that they are cut up into: what concerns their memory.

A buffer grows by doubling, and keeps its memory for the next batch up to a bound.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc

from fasttail.atomics cimport ft_store_relaxed
from fasttail.checks cimport FT_DEBUG_CHECKS


cdef int out_grow(Out* out, size_t more) noexcept nogil:
    """Make room for `more` bytes: 1, or 0 (and `failed`) when memory is out."""
    cdef size_t room = out.room * 2 if out.room * 2 > out.size + more else out.size + more + 4096
    cdef char* data
    if FT_DEBUG_CHECKS:
        room = out.size + more           # no more than was asked for, so that a write beyond it is seen
    data = <char*>realloc(out.data, room)
    if data == NULL:
        out.failed = True
        return 0
    out.data = data
    ft_store_relaxed(<uint64_t*>&out.room, room)  # relaxed, wherever it is written: the main thread adds them up meanwhile
    return 1


cdef void out_clear(Out* out, size_t keep) noexcept nogil:
    """Empty it; memory beyond `keep` bytes goes back."""
    if out.room > keep:
        free(out.data)
        out.data = NULL
        ft_store_relaxed(<uint64_t*>&out.room, 0)
    out.size = 0
    out.failed = False


cdef void out_free(Out* out) noexcept nogil:
    free(out.data)
    out.data = NULL
    out.size = 0
    out.room = 0


cdef void box_clear(Box* box, size_t keep) noexcept nogil:
    """Empty it; of its text and of its marks, memory beyond `keep` bytes goes back."""
    out_clear(&box.text, keep)
    out_clear(&box.marks, keep)


cdef void box_free(Box* box) noexcept nogil:
    out_free(&box.text)
    out_free(&box.marks)


cdef int add_message(Box* box, const Message* message) noexcept nogil:
    """1, or 0 when memory is out."""
    if not room_for(&box.marks, sizeof(Message)):
        return 0
    put(&box.marks, <const char*>message, sizeof(Message))
    return 1
