"""Words with small numbers.

`words_find` may run in many threads at once while nobody adds; `words_add` belongs to one thread and never runs beside a
`words_find` of the same table (the pool adds between two parallel regions only).
"""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy


cdef int words_new(Words* self, uint32_t most) except -1:
    """Make an empty table for at most `most` words. Raises MemoryError."""
    cdef uint64_t n = 16
    while n < 2 * <uint64_t>most:
        n *= 2
    self.mask = n - 1
    self.count = 0
    self.most = most
    self.slots = <Word*>calloc(n, sizeof(Word))
    self.texts = <const char**>calloc(most + 1, sizeof(char*))
    self.sizes = <uint32_t*>calloc(most + 1, sizeof(uint32_t))
    if self.slots == NULL or self.texts == NULL or self.sizes == NULL:
        words_free(self)
        raise MemoryError
    return 0


cdef int words_free(Words* self) noexcept:
    cdef uint32_t i
    if self.texts != NULL:
        for i in range(1, self.count + 1):
            free(<void*>self.texts[i])
    free(self.slots)
    free(self.texts)
    free(self.sizes)
    self.slots = NULL
    self.texts = NULL
    self.sizes = NULL
    self.count = 0
    return 0


cdef inline uint64_t _hash(uint64_t head, uint64_t tail, size_t n) noexcept nogil:
    cdef uint64_t h = (head ^ (tail * <uint64_t>0x9E3779B97F4A7C15) ^ n) * <uint64_t>0xD6E8FEB86659FD93
    return h ^ (h >> 32)


cdef inline uint64_t _head(const char* p, size_t n) noexcept nogil:
    """Up to eight bytes of the word as a number, without reading past it."""
    if n >= 8:
        return ft_load8(p)
    if n >= 4:
        return <uint64_t>ft_load4(p) | (<uint64_t>ft_load4(p + n - 4) << 32)
    if n >= 2:
        return <uint64_t>ft_load2(p) | (<uint64_t>ft_load2(p + n - 2) << 16)
    return <uint64_t><uint8_t>p[0] if n else 0


cdef uint32_t words_find(const Words* self, const char* p, size_t n) noexcept nogil:
    """The word's code, or 0."""
    cdef uint64_t head = _head(p, n)
    cdef uint64_t tail = ft_load8(p + n - 8) if n >= 8 else 0
    cdef uint64_t i = _hash(head, tail, n) & self.mask
    cdef const Word* w
    while True:
        w = &self.slots[i]
        if w.code == 0:
            return 0
        if w.head == head and w.tail == tail and w.size == n and (n <= 16 or memcmp(w.text, p, n) == 0):
            return w.code
        i = (i + 1) & self.mask


cdef uint32_t words_add(Words* self, const char* p, size_t n) noexcept nogil:
    """The word's code, new if need be; 0 when the table is full or memory is out."""
    cdef uint32_t code = words_find(self, p, n)
    cdef uint64_t head, tail, i
    cdef char* text
    if code or self.count >= self.most or n > 255:
        return code
    text = <char*>malloc(n + 1)
    if text == NULL:
        return 0
    memcpy(text, p, n)
    text[n] = 0
    head = _head(p, n)
    tail = ft_load8(p + n - 8) if n >= 8 else 0
    i = _hash(head, tail, n) & self.mask
    while self.slots[i].code:
        i = (i + 1) & self.mask
    self.count += 1
    code = self.count
    self.texts[code] = text
    self.sizes[code] = <uint32_t>n
    self.slots[i].head = head
    self.slots[i].tail = tail
    self.slots[i].text = text
    self.slots[i].size = <uint32_t>n
    self.slots[i].code = code
    return code
