"""Words with small numbers: an open-addressing table, filled by one thread, read by many."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "simd.h" nogil:
    uint64_t ft_load8(const char* p) noexcept
    uint32_t ft_load4(const char* p) noexcept
    unsigned short ft_load2(const char* p) noexcept


cdef struct Word:
    uint64_t head
    uint64_t tail
    const char* text
    uint32_t size
    uint32_t code            # 0: free slot


cdef struct Words:
    Word* slots
    uint64_t mask
    uint32_t count           # codes 1..count are in use
    uint32_t most            # no more than this many words
    uint32_t room            # of texts and sizes; grows
    const char** texts       # texts[code]; owned copies
    uint32_t* sizes


cdef int words_new(Words* self, uint32_t most) except -1
cdef int words_free(Words* self) noexcept
cdef uint32_t words_add(Words* self, const char* p, size_t n) noexcept nogil
cdef uint32_t words_find(const Words* self, const char* p, size_t n) noexcept nogil
