"""Words with small numbers.

`words_find` may run in many threads at once while nobody adds; `words_add` belongs to one thread and never runs beside a
`words_find` of the same table (the pool adds between two parallel regions, or as words come where one worker is alone).
"""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fasttail.checks cimport ft_assert


cdef enum:
    FIRST_ROOM = 64
    LONGEST = 255


cdef int words_new(Words* self, uint32_t most) except -1:
    """Make an empty table for at most `most` words; it grows with them. Raises MemoryError."""
    memset(self, 0, sizeof(Words))
    self.most = most
    if not _grow(self):
        raise MemoryError
    return 0


cdef int _grow(Words* self) noexcept nogil:
    """Twice the room. 1, or 0 when memory is out (nothing is changed then)."""
    cdef uint32_t room = self.room * 2 if self.room else FIRST_ROOM
    cdef Word* slots = <Word*>calloc(2 * <size_t>room, sizeof(Word))
    cdef const char** texts = <const char**>calloc(room + 1, sizeof(char*))
    cdef uint32_t* sizes = <uint32_t*>calloc(room + 1, sizeof(uint32_t))
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
    self.room = room
    self.mask = 2 * <uint64_t>room - 1
    for code in range(1, self.count + 1):
        _place(self, code)
    return 1


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
    self.room = 0
    return 0


cdef int words_clear(Words* self) noexcept nogil:
    """Forget all words; the room stays. Always 0."""
    cdef uint32_t i
    for i in range(1, self.count + 1):
        free(<void*>self.texts[i])
    memset(self.slots, 0, 2 * <size_t>self.room * sizeof(Word))
    self.count = 0
    return 0


cdef int words_forget(Words* self, uint32_t count) noexcept nogil:
    """Forget the words behind the first `count`. Always 0."""
    cdef const char* text
    cdef size_t n
    cdef uint64_t i
    while self.count > count:
        text = self.texts[self.count]
        n = self.sizes[self.count]
        i = words_hash(words_head(text, n), ft_load8(text + n - 8) if n >= 8 else 0, n) & self.mask
        while self.slots[i].code != self.count:
            ft_assert(self.slots[i].code != 0)
            i = (i + 1) & self.mask
        self.slots[i].code = 0                 # no chain goes on behind it: the newest word is the last of its own
        free(<void*>text)
        self.count -= 1
    return 0


cdef int _place(Words* self, uint32_t code) noexcept nogil:
    """Put word `code` into the first free slot of its chain. Always 0."""
    ft_assert(self.count <= self.room)     # half of the slots are free, so each search ends
    cdef const char* text = self.texts[code]
    cdef size_t n = self.sizes[code]
    cdef uint64_t head = words_head(text, n)
    cdef uint64_t tail = ft_load8(text + n - 8) if n >= 8 else 0
    cdef uint64_t i = words_hash(head, tail, n) & self.mask
    while self.slots[i].code:
        i = (i + 1) & self.mask
    self.slots[i].head = head
    self.slots[i].tail = tail
    self.slots[i].text = text
    self.slots[i].size = <uint32_t>n
    self.slots[i].code = code
    return 0


cdef uint32_t words_add(Words* self, const char* p, size_t n) noexcept nogil:
    """The word's code, new if need be; 0 when the table is full, the word too long or memory out."""
    cdef uint32_t code = words_find(self, p, n)
    cdef char* text
    if code or self.count >= self.most or n > LONGEST or (self.count >= self.room and not _grow(self)):
        return code
    text = <char*>malloc(n + 1)
    if text == NULL:
        return 0
    ft_assert(self.count < self.room)
    memcpy(text, p, n)
    text[n] = 0
    self.count += 1
    self.texts[self.count] = text
    self.sizes[self.count] = <uint32_t>n
    _place(self, self.count)
    return self.count
