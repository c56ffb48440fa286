"""Rows -> selection: which orders of a batch a reader wants."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fasttail.checks cimport ft_assert
from fasttail.parser.json cimport TEXT_ROOM, unescape
from fasttail.parser.vocabulary cimport STATUSES
from fasttail.parser.table cimport Table
from fasttail.parser.types cimport ESCAPED, NO_CODE, Ref, Row
from fasttail.parser.words cimport Words, words_add, words_find, words_free, words_new

cdef enum:
    COIN_CODES = 1024            # of the pool's coins, those whose answer is remembered: 4 KiB a selector


cdef uint32_t find_text(const Words* words, const Row* row, const char* data, const Ref* ref, bint lower) noexcept nogil:
    """Code of a row's text in `words` (escapes decoded; lower-cased if asked), or 0."""
    cdef char text[TEXT_ROOM]
    cdef const char* p = data + row.at + ref.off
    cdef ssize_t n = <ssize_t>ref.size
    cdef ssize_t i
    if row.flags & ESCAPED:
        n = unescape(p, <size_t>n, text, TEXT_ROOM)
        if n < 0:
            return 0
        p = text
    if lower:
        if n > TEXT_ROOM:
            return 0
        for i in range(n):
            text[i] = p[i] + 32 if c'A' <= p[i] <= c'Z' else p[i]
        p = text
    return words_find(words, p, <size_t>n)


cdef class Selector:
    """Every condition that is given must hold.

    coins: wanted coin -> its least notional in USD (0: any size); None: all coins, with `min_notional`. sides: "A", "B".
    statuses: node statuses, as the node spells them. users: addresses, any case. Notional = limitPx × origSz.
    One pool's rows only: it remembers that pool's coin codes.
    """

    def __cinit__(self, *, dict coins=None, sides=None, statuses=None, users=None, double min_notional=0.0):
        cdef uint32_t code
        self.any_coin = coins is None
        self.any_status = statuses is None
        self.any_user = users is None
        self.min_notional = min_notional
        self.sides = 3
        words_new(&self.coins, <uint32_t>len(coins or ()) + 1)
        words_new(&self.others, <uint32_t>len(statuses or ()) + 1)
        words_new(&self.users, <uint32_t>len(users or ()) + 1)
        self.least = <double*>calloc(len(coins or ()) + 2, sizeof(double))
        if not self.any_coin:
            self.known = <uint32_t*>calloc(COIN_CODES, sizeof(uint32_t))
        if self.least == NULL or (self.known == NULL and not self.any_coin):
            raise MemoryError
        for coin, least in (coins or {}).items():
            raw = coin.encode()
            code = words_add(&self.coins, raw, <size_t>len(raw))
            self.least[code] = max(float(least), min_notional)
        if sides is not None:
            self.sides = 0
            for side in sides:
                if side not in ("A", "B"):
                    raise ValueError(f'side must be "A" or "B", not {side!r}')
                self.sides |= 1 if side == "A" else 2
        for status in statuses or ():
            raw = status.encode()
            code = words_find(&STATUSES, raw, <size_t>len(raw))
            if code:
                self.statuses |= <uint64_t>1 << code
            else:
                words_add(&self.others, raw, <size_t>len(raw))
        for user in users or ():
            raw = user.lower().encode()
            words_add(&self.users, raw, <size_t>len(raw))
        self.every = self.any_coin and self.any_status and self.any_user and self.sides == 3 and min_notional <= 0

    def __dealloc__(self):
        words_free(&self.coins)
        words_free(&self.others)
        words_free(&self.users)
        free(self.least)
        free(self.known)

    cdef uint32_t _coin(self, const Row* row, const char* data) noexcept nogil:
        """Own code + 1 of the row's coin, 1 if it is not wanted. Remembered per coin code of the pool."""
        cdef uint32_t code
        if row.coin < COIN_CODES and self.known[row.coin]:
            return self.known[row.coin]
        code = find_text(&self.coins, row, data, &row.coin_text, False) + 1
        if row.coin != NO_CODE and row.coin < COIN_CODES:
            self.known[row.coin] = code
        return code

    cdef bint _wanted(self, const Row* row, const char* data) noexcept nogil:
        cdef double least = self.min_notional
        cdef uint32_t code
        if not (self.sides & (1 if row.side == c'A' else 2)):
            return False
        if not self.any_coin:
            code = self._coin(row, data)
            if code == 1:
                return False
            ft_assert(code - 1 <= self.coins.count)
            least = self.least[code - 1]
        if least > 0 and not (row.limitPx * row.origSz >= least):
            return False
        if not self.any_status:
            if row.status != NO_CODE:
                if not (self.statuses >> row.status) & 1:
                    return False
            elif not find_text(&self.others, row, data, &row.status_text, False):
                return False
        return self.any_user or find_text(&self.users, row, data, &row.user, True) != 0

    cdef size_t select(self, Table table, const char* data, uint32_t* out) noexcept nogil:
        """Indices of the wanted rows -> out (room for table.rows_len), in order. Returns how many."""
        cdef size_t k, i, n = 0
        cdef uint32_t index
        for k in range(table.segments_len):
            for i in range(table.segments[k].count):
                index = <uint32_t>(table.segments[k].first + i)
                if self.every or self._wanted(&(<Row*>table.rows)[index], data):
                    ft_assert(n < table.rows_len)
                    out[n] = index
                    n += 1
        return n
