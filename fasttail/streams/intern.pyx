"""Owns interned strings with small integer codes.

Many threads may call `intern_find` at once while nobody adds. Only one thread calls `intern_add`, and never while another runs
`intern_find` on the same table: the pool adds after a parallel region, or at once if there is only one worker.
"""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fasttail.system.checks cimport ft_assert


cdef enum:
    INITIAL_CAPACITY = 64
    MAX_TEXT_BYTES = 255


cdef int intern_init(InternTable* self, uint32_t max_entries) except -1:
    """Initialise an empty table for at most `max_entries` strings; it grows as needed. Raise MemoryError."""
    memset(self, 0, sizeof(InternTable))
    self.max_entries = max_entries
    if not _grow(self):
        raise MemoryError
    return 0


cdef int _grow(InternTable* self) noexcept nogil:
    """Double the capacity. Return 1, or 0 with nothing changed if memory is exhausted."""
    cdef uint32_t capacity = self.capacity * 2 if self.capacity else INITIAL_CAPACITY
    cdef InternEntry* slots = <InternEntry*>calloc(2 * <size_t>capacity, sizeof(InternEntry))
    cdef const char** texts = <const char**>calloc(capacity + 1, sizeof(char*))
    cdef uint32_t* sizes = <uint32_t*>calloc(capacity + 1, sizeof(uint32_t))
    cdef uint32_t code
    if slots == NULL or texts == NULL or sizes == NULL:
        free(slots)
        free(texts)
        free(sizes)
        return 0
    if self.count:
        memcpy(texts, self.texts, (self.count + 1) * sizeof(char*))
        memcpy(sizes, self.sizes, (self.count + 1) * sizeof(uint32_t))
    free(self.slots)
    free(self.texts)
    free(self.sizes)
    self.slots = slots
    self.texts = texts
    self.sizes = sizes
    self.capacity = capacity
    self.mask = 2 * <uint64_t>capacity - 1
    for code in range(1, self.count + 1):
        _insert_slot(self, code)
    return 1


cdef void intern_free(InternTable* self) noexcept:
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
    self.capacity = 0


cdef void intern_clear(InternTable* self) noexcept nogil:
    """Remove all strings but keep the capacity."""
    cdef uint32_t i
    for i in range(1, self.count + 1):
        free(<void*>self.texts[i])
    memset(self.slots, 0, 2 * <size_t>self.capacity * sizeof(InternEntry))
    self.count = 0


cdef void intern_truncate(InternTable* self, uint32_t count) noexcept nogil:
    """Remove all strings but the first `count`."""
    cdef const char* text
    cdef size_t n
    cdef uint64_t i
    while self.count > count:
        text = self.texts[self.count]
        n = self.sizes[self.count]
        i = intern_hash(intern_prefix(text, n), ft_load8(text + n - 8) if n >= 8 else 0, n) & self.mask
        while self.slots[i].code != self.count:
            ft_assert(self.slots[i].code != 0)
            i = (i + 1) & self.mask
        self.slots[i].code = 0                 # breaks no chain: the newest string is the last one of its chain
        free(<void*>text)
        self.count -= 1


cdef void _insert_slot(InternTable* self, uint32_t code) noexcept nogil:
    """Put string `code` into the first free slot of its chain."""
    ft_assert(self.count <= self.capacity)  # at least half of the slots are free, so every search ends
    cdef const char* text = self.texts[code]
    cdef size_t n = self.sizes[code]
    cdef uint64_t head = intern_prefix(text, n)
    cdef uint64_t tail = ft_load8(text + n - 8) if n >= 8 else 0
    cdef uint64_t i = intern_hash(head, tail, n) & self.mask
    while self.slots[i].code:
        i = (i + 1) & self.mask
    self.slots[i].head = head
    self.slots[i].tail = tail
    self.slots[i].text = text
    self.slots[i].size = <uint32_t>n
    self.slots[i].code = code


cdef uint32_t intern_add(InternTable* self, const char* p, size_t n) noexcept nogil:
    """Return the string's code, adding it if necessary.

    Return 0 if the table is full, the string is longer than MAX_TEXT_BYTES, or memory is exhausted.
    """
    cdef uint32_t code = intern_find(self, p, n)
    cdef char* text
    if code or self.count >= self.max_entries or n > MAX_TEXT_BYTES or (self.count >= self.capacity and not _grow(self)):
        return code
    text = <char*>malloc(n + 1)
    if text == NULL:
        return 0
    ft_assert(self.count < self.capacity)
    memcpy(text, p, n)
    text[n] = 0
    self.count += 1
    self.texts[self.count] = text
    self.sizes[self.count] = <uint32_t>n
    _insert_slot(self, self.count)
    return self.count
