"""Rows -> selection: which orders of a batch a reader wants."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from fasttail.checks cimport ft_assert
from fasttail.parser.json cimport DECODED_TEXT_BYTES, unescape
from fasttail.parser.vocabulary cimport STATUSES
from fasttail.parser.table cimport RowTable
from fasttail.parser.types cimport ESCAPED, NO_CODE, TextSpan, Row
from fasttail.parser.words cimport InternTable, ft_load8, intern_find, intern_hash, intern_prefix

cdef enum:
    MOST_COINS = 65000           # of one selector: the codes that it remembers have 16 bits


# ------------------------------------------------------------------------------------------------------------- sets of texts

cdef uint64_t text_hash(const char* p, size_t n) noexcept nogil:
    return intern_hash(intern_prefix(p, n), ft_load8(p + n - 8) if n >= 8 else 0, n)


cdef int _texts_new(Texts* self, list words) except -1:
    """Fill an empty set; the first word gets code 1. Raises MemoryError; what was allocated by then is freed with the rest."""
    cdef uint32_t room = 2, code = 0
    cdef uint64_t i
    cdef size_t n
    if not words:
        return 0
    while room < 2 * <uint32_t>len(words):
        room *= 2
    self.slots = <uint32_t*>calloc(room, sizeof(uint32_t))
    self.ends = <uint32_t*>calloc(<size_t>len(words) + 1, sizeof(uint32_t))
    self.text = <char*>malloc(<size_t>sum(map(len, words)) + 1)
    if self.slots == NULL or self.ends == NULL or self.text == NULL:
        raise MemoryError
    self.mask = room - 1
    for word in words:
        n = <size_t>len(word)
        code += 1
        memcpy(self.text + self.ends[code - 1], <const char*>word, n)
        self.ends[code] = self.ends[code - 1] + <uint32_t>n
        i = text_hash(self.text + self.ends[code - 1], n) & self.mask
        while self.slots[i]:
            i = (i + 1) & self.mask
        self.slots[i] = code
    self.count = code
    return 0


cdef int _texts_free(Texts* self) noexcept:
    free(self.slots)
    free(self.ends)
    free(self.text)
    return 0


cdef uint32_t _texts_find(const Texts* self, const char* p, size_t n) noexcept nogil:
    """The code of a text, or 0."""
    cdef uint64_t i
    cdef uint32_t code, at
    if self.count == 0:
        return 0
    i = text_hash(p, n) & self.mask
    while True:
        code = self.slots[i]
        if code == 0:
            return 0
        at = self.ends[code - 1]
        if self.ends[code] - at == n and memcmp(self.text + at, p, n) == 0:
            return code
        i = (i + 1) & self.mask


# ------------------------------------------------------------------------------------------------------------------- a row's

cdef const char* row_text(const Row* row, const char* data, const TextSpan* ref, bint lower, char* room,
                          size_t* size) noexcept nogil:
    """A text of a row, with its escapes decoded, and in lower case if asked for; NULL if it is too long for any filter.

    room: DECODED_TEXT_BYTES bytes, in which it may be put.
    """
    cdef const char* p = data + row.offset + ref.offset
    cdef ssize_t n = <ssize_t>ref.size
    cdef ssize_t i
    if row.flags & ESCAPED:
        n = unescape(p, <size_t>n, room, DECODED_TEXT_BYTES)
        if n < 0:
            return NULL
        p = room
    if lower:
        if n > DECODED_TEXT_BYTES:
            return NULL
        for i in range(n):
            room[i] = p[i] + 32 if c'A' <= p[i] <= c'Z' else p[i]
        p = room
    size[0] = <size_t>n
    return p


cdef uint32_t find_text(const InternTable* words, const Row* row, const char* data, const TextSpan* ref,
                        bint lower) noexcept nogil:
    """Code of a row's text in `words` (escapes decoded; lower-cased if asked), or 0."""
    cdef char room[DECODED_TEXT_BYTES]
    cdef size_t n = 0
    cdef const char* p = row_text(row, data, ref, lower, room, &n)
    return intern_find(words, p, n) if p != NULL else 0


cdef uint32_t _find(const Texts* texts, const Row* row, const char* data, const TextSpan* ref, bint lower) noexcept nogil:
    cdef char room[DECODED_TEXT_BYTES]
    cdef size_t n = 0
    cdef const char* p = row_text(row, data, ref, lower, room, &n)
    return _texts_find(texts, p, n) if p != NULL else 0


# ------------------------------------------------------------------------------------------------------------------ a filter

cdef bint wants_text(Filter* self, const RowKey* key, const Row* row, const char* data) noexcept nogil:
    """Whether a row passes whose numbers and codes do: what is left are its texts."""
    cdef uint32_t code
    cdef double least
    if not self.any_coin:
        code = self.known[key.coin] if key.coin < COIN_CODES else 0
        if code == 0:
            code = _find(&self.coins, row, data, &row.coin_text, False) + 1
            if key.coin != NO_CODE and key.coin < COIN_CODES:
                self.known[key.coin] = <uint16_t>code
        if code == 1:
            return False
        if self.least != NULL:
            least = self.least[code - 1]
            if least > 0 and not (key.notional >= least):
                return False
    if not self.any_status and key.status == NO_CODE and not _find(&self.others, row, data, &row.status_text, False):
        return False
    return self.any_user or _find(&self.users, row, data, &row.user, True) != 0


cdef class Selector:
    """Every condition that is given must hold.

    coins: wanted coin -> its least notional in USD (0: any size); None: all coins, with `min_notional`. sides: "A", "B".
    statuses: node statuses, as the node spells them. users: addresses, any case. Notional = limitPx × origSz.
    One pool's rows only: it remembers that pool's coin codes. Raises ValueError for a wrong side or for more than 65,000 coins.
    """

    def __cinit__(self, *, dict coins=None, sides=None, statuses=None, users=None, double min_notional=0.0):
        cdef uint32_t code
        cdef Filter* f = &self.filter
        cdef list others = []
        f.any_coin = coins is None
        f.any_status = statuses is None
        f.any_user = users is None
        f.min_notional = min_notional
        f.sides = 3
        if coins is not None:
            if len(coins) > MOST_COINS:
                raise ValueError(f"at most {MOST_COINS:,} coins, not {len(coins):,}")
            f.known = <uint16_t*>calloc(COIN_CODES, sizeof(uint16_t))
            if f.known == NULL:
                raise MemoryError
            _texts_new(&f.coins, [coin.encode() for coin in coins])
            if any(least > min_notional for least in coins.values()):
                f.least = <double*>calloc(<size_t>len(coins) + 1, sizeof(double))
                if f.least == NULL:
                    raise MemoryError
                for code, least in enumerate(coins.values(), 1):
                    f.least[code] = max(float(least), min_notional)
        if sides is not None:
            f.sides = 0
            for side in sides:
                if side not in ("A", "B"):
                    raise ValueError(f'side must be "A" or "B", not {side!r}')
                f.sides |= 1 if side == "A" else 2
        for status in statuses or ():
            raw = status.encode()
            code = intern_find(&STATUSES, raw, <size_t>len(raw))
            if code:
                f.statuses |= <uint64_t>1 << code
            else:
                others.append(raw)
        _texts_new(&f.others, others)
        _texts_new(&f.users, [user.lower().encode() for user in users or ()])
        f.every = f.any_coin and f.any_status and f.any_user and f.sides == 3 and min_notional <= 0

    def __dealloc__(self):
        _texts_free(&self.filter.coins)
        _texts_free(&self.filter.others)
        _texts_free(&self.filter.users)
        free(self.filter.least)
        free(self.filter.known)

    cdef size_t select(self, RowTable table, const char* data, uint32_t* out) noexcept nogil:
        """Indices of the wanted rows -> out (room for table.rows_len), in order. Returns how many."""
        cdef size_t k, i, n = 0
        cdef uint32_t index
        cdef const Row* row
        cdef RowKey key
        for k in range(table.segments_len):
            for i in range(table.segments[k].count):
                index = <uint32_t>(table.segments[k].first + i)
                row = &(<Row*>table.rows)[index]
                if not self.filter.every:
                    key = row_key(row, 0)
                    if not wants(&self.filter, &key, row, data):
                        continue
                ft_assert(n < table.rows_len)
                out[n] = index
                n += 1
        return n
