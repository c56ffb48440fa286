"""Interned strings with small integer codes: an open-addressing hash table that one thread fills and many read."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef extern from "simd.h" nogil:
    uint64_t ft_load8(const char* p) noexcept
    uint32_t ft_load4(const char* p) noexcept
    unsigned short ft_load2(const char* p) noexcept


cdef struct InternEntry:
    uint64_t head
    uint64_t tail
    const char* text
    uint32_t size
    uint32_t code            # 0: free slot


cdef struct InternTable:
    InternEntry* slots
    uint64_t mask
    uint32_t count           # codes 1..count are in use
    uint32_t max_entries     # limit of `count`
    uint32_t capacity        # of texts and sizes; grows
    const char** texts       # texts[code]; owned copies
    uint32_t* sizes


cdef int intern_init(InternTable* self, uint32_t max_entries) except -1
cdef void intern_free(InternTable* self) noexcept
cdef void intern_clear(InternTable* self) noexcept nogil
cdef void intern_truncate(InternTable* self, uint32_t count) noexcept nogil
cdef uint32_t intern_add(InternTable* self, const char* p, size_t n) noexcept nogil


# In the .pxd and not in intern.pyx, so that every kernel inlines it: each line needs several look-ups.

cdef inline uint64_t intern_hash(uint64_t head, uint64_t tail, size_t n) noexcept nogil:
    cdef uint64_t h = (head ^ (tail * <uint64_t>0x9E3779B97F4A7C15) ^ n) * <uint64_t>0xD6E8FEB86659FD93
    return h ^ (h >> 32)


cdef inline uint64_t intern_prefix(const char* p, size_t n) noexcept nogil:
    """Return the first eight bytes of the string as a number, all of a shorter one, without reading past its end."""
    if n >= 8:
        return ft_load8(p)
    if n >= 4:
        return <uint64_t>ft_load4(p) | (<uint64_t>ft_load4(p + n - 4) << 32)
    if n >= 2:
        return <uint64_t>ft_load2(p) | (<uint64_t>ft_load2(p + n - 2) << 16)
    return <uint64_t><uint8_t>p[0] if n else 0


cdef inline uint32_t intern_find(const InternTable* self, const char* p, size_t n) noexcept nogil:
    """Return the string's code, or 0 if it is not in the table."""
    cdef uint64_t head = intern_prefix(p, n)
    cdef uint64_t tail = ft_load8(p + n - 8) if n >= 8 else 0
    cdef uint64_t i = intern_hash(head, tail, n) & self.mask
    cdef const InternEntry* entry
    while True:
        entry = &self.slots[i]
        if entry.code == 0:
            return 0
        if entry.head == head and entry.tail == tail and entry.size == n and (n <= 16 or memcmp(entry.text, p, n) == 0):
            return entry.code
        i = (i + 1) & self.mask
