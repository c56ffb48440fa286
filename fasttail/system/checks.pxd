"""Assertions of debug builds, see checks.h. All other builds do not evaluate their arguments.

Cython computes a compound condition (`a and b`) before the macro sees it, so write one assertion per part.
"""
from libc.stdint cimport uint64_t

cdef extern from "checks.h" nogil:
    const bint FT_DEBUG_CHECKS                       # a constant: `if FT_DEBUG_CHECKS:` for checks that need a loop
    void ft_assert(bint condition) noexcept
    void ft_assert_thread(uint64_t* owner) noexcept   # only one thread may ever get here; owner: initially 0
    void ft_begin_exclusive(uint64_t* busy) noexcept  # one thread at a time between these two; busy: initially 0
    void ft_end_exclusive(uint64_t* busy) noexcept
    void ft_set_readable_end(const char* end) noexcept  # how far simd.h may read in this thread and module; NULL: unknown
