"""Assertions of debug builds, see checks.h. In every other build they are nothing, and their arguments are not evaluated.

A condition of several parts (`a and b`) is computed before the macro sees it: write one assertion for each part.
"""
from libc.stdint cimport uint64_t

cdef extern from "checks.h" nogil:
    const bint FT_DEBUG_CHECKS                       # a constant: `if FT_DEBUG_CHECKS:` for checks that need a loop
    void ft_assert(bint condition) noexcept
    void ft_assert_thread(uint64_t* owner) noexcept   # only one thread may come here; owner: 0 at first
    void ft_begin_exclusive(uint64_t* busy) noexcept  # no two threads between these two; busy: 0 at first
    void ft_end_exclusive(uint64_t* busy) noexcept
    void ft_set_readable_end(const char* end) noexcept  # how far simd.h may read in this thread, in this module; NULL: anywhere
