"""Selects rows by coin, side, status, user and notional."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from fasttail.system.checks cimport ft_assert
from fasttail.streams.json cimport DECODED_TEXT_BYTES, unescape
from fasttail.streams.fills cimport LIQUIDATION
from fasttail.streams.orders cimport ORDERS
from fasttail.engine.table cimport RowTable, table_row
from fasttail.streams.types cimport ESCAPED, NO_CODE, RowHead, StreamSpec, TextSpan
from fasttail.streams.intern cimport InternTable, ft_load8, intern_find, intern_hash, intern_prefix

cdef enum:
    MAX_COINS = 65000            # of one selector: cached codes have 16 bits


# --------------------------------------------------------------------------------------------------------------- string sets

cdef uint64_t text_hash(const char* p, size_t n) noexcept nogil:
    return intern_hash(intern_prefix(p, n), ft_load8(p + n - 8) if n >= 8 else 0, n)


cdef int _string_set_fill(StringSet* self, list words) except -1:
    """Fill an empty set; the first word gets code 1. Raises MemoryError; _string_set_free then frees what was allocated."""
    cdef uint32_t slot_count = 2, code = 0
    cdef uint64_t i
    cdef size_t n
    if not words:
        return 0
    while slot_count < 2 * <uint32_t>len(words):
        slot_count *= 2
    self.slots = <uint32_t*>calloc(slot_count, sizeof(uint32_t))
    self.ends = <uint32_t*>calloc(<size_t>len(words) + 1, sizeof(uint32_t))
    self.text = <char*>malloc(<size_t>sum(map(len, words)) + 1)
    if self.slots == NULL or self.ends == NULL or self.text == NULL:
        raise MemoryError
    self.mask = slot_count - 1
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


cdef void _string_set_free(StringSet* self) noexcept:
    free(self.slots)
    free(self.ends)
    free(self.text)


cdef uint32_t _string_set_find(const StringSet* self, const char* p, size_t n) noexcept nogil:
    """Return the code of a text, or 0."""
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


# ------------------------------------------------------------------------------------------------------------- texts of rows

cdef const char* decode_text(const RowHead* row, const char* data, const TextSpan* ref, bint lower, char* scratch,
                             size_t* size) noexcept nogil:
    """Return a text of a row with its escapes decoded, and in lower case if asked. NULL: it is too long for any filter.

    scratch: DECODED_TEXT_BYTES bytes, to which the result may be written.
    """
    cdef const char* p = data + row.offset + ref.offset
    cdef ssize_t n = <ssize_t>ref.size
    cdef ssize_t i
    if row.flags & ESCAPED:
        n = unescape(p, <size_t>n, scratch, DECODED_TEXT_BYTES)
        if n < 0:
            return NULL
        p = scratch
    if lower:
        if n > DECODED_TEXT_BYTES:
            return NULL
        for i in range(n):
            scratch[i] = p[i] + 32 if c'A' <= p[i] <= c'Z' else p[i]
        p = scratch
    size[0] = <size_t>n
    return p


cdef uint32_t find_interned(const InternTable* words, const RowHead* row, const char* data, const TextSpan* ref,
                            bint lower) noexcept nogil:
    """Return the code of a row's text in `words`, or 0. The text is decoded, and in lower case if asked."""
    cdef char scratch[DECODED_TEXT_BYTES]
    cdef size_t n = 0
    cdef const char* p = decode_text(row, data, ref, lower, scratch, &n)
    return intern_find(words, p, n) if p != NULL else 0


cdef uint32_t _find_in_set(const StringSet* texts, const RowHead* row, const char* data, const TextSpan* ref,
                           bint lower) noexcept nogil:
    cdef char scratch[DECODED_TEXT_BYTES]
    cdef size_t n = 0
    cdef const char* p = decode_text(row, data, ref, lower, scratch, &n)
    return _string_set_find(texts, p, n) if p != NULL else 0


# ------------------------------------------------------------------------------------------------------------------- filters

cdef bint matches_texts(Filter* self, const FilterKey* key, const RowHead* row, const char* data) noexcept nogil:
    """Whether a row passes whose numbers and codes already do; only its texts are left to check."""
    cdef uint32_t code
    cdef double minimum
    if self.flags & ~row.flags:
        return False
    if not self.any_coin:
        code = self.coin_cache[key.coin] if key.coin < COIN_CACHE_SIZE else 0
        if code == 0:
            code = _find_in_set(&self.coins, row, data, &row.coin_text, False) + 1
            if key.coin != NO_CODE and key.coin < COIN_CACHE_SIZE:
                self.coin_cache[key.coin] = <uint16_t>code
        if code == 1:
            return False
        if self.coin_min_notional != NULL:
            minimum = self.coin_min_notional[code - 1]
            if minimum > 0 and not (key.notional >= minimum):
                return False
    if not self.any_status and key.word == NO_CODE and not _find_in_set(
            &self.unknown_statuses, row, data, <const TextSpan*>(<const char*>row + self.stream.word), False):
        return False
    return self.any_user or _find_in_set(&self.users, row, data, &row.user, True) != 0


cdef class Selector:
    """Selects the rows for which all given conditions hold. Notional is limitPx × origSz, of fills px × sz.

    coins: coin -> its minimum notional in USD (0: any size); None: all coins, with `min_notional`
    sides: "A", "B"
    statuses: of orders, as the node spells them
    users: addresses in any case
    liquidations: only fills that are part of a liquidation

    Use it for the rows of one pool only, because it caches that pool's coin codes. Raises ValueError for an unknown side or
    more than 65,000 coins.
    """

    def __cinit__(self, *, dict coins=None, sides=None, statuses=None, users=None, double min_notional=0.0,
                  bint liquidations=False):
        cdef uint32_t code
        cdef Filter* f = &self.filter
        cdef list unknown_statuses = []
        f.stream = &ORDERS
        f.any_coin = coins is None
        f.any_status = statuses is None
        f.any_user = users is None
        f.min_notional = min_notional
        f.sides = 3
        f.flags = <uint8_t>LIQUIDATION if liquidations else 0
        if coins is not None:
            if len(coins) > MAX_COINS:
                raise ValueError(f"at most {MAX_COINS:,} coins, not {len(coins):,}")
            f.coin_cache = <uint16_t*>calloc(COIN_CACHE_SIZE, sizeof(uint16_t))
            if f.coin_cache == NULL:
                raise MemoryError
            _string_set_fill(&f.coins, [coin.encode() for coin in coins])
            if any(minimum > min_notional for minimum in coins.values()):
                f.coin_min_notional = <double*>calloc(<size_t>len(coins) + 1, sizeof(double))
                if f.coin_min_notional == NULL:
                    raise MemoryError
                for code, minimum in enumerate(coins.values(), 1):
                    f.coin_min_notional[code] = max(float(minimum), min_notional)
        if sides is not None:
            f.sides = 0
            for side in sides:
                if side not in ("A", "B"):
                    raise ValueError(f'side must be "A" or "B", not {side!r}')
                f.sides |= 1 if side == "A" else 2
        for status in statuses or ():
            raw = status.encode()
            code = intern_find(f.stream.words, raw, <size_t>len(raw))
            if code:
                f.statuses |= <uint64_t>1 << code
            else:
                unknown_statuses.append(raw)
        _string_set_fill(&f.unknown_statuses, unknown_statuses)
        _string_set_fill(&f.users, [user.lower().encode() for user in users or ()])
        f.match_all = f.any_coin and f.any_status and f.any_user and f.sides == 3 and min_notional <= 0 and f.flags == 0

    def __dealloc__(self):
        _string_set_free(&self.filter.coins)
        _string_set_free(&self.filter.unknown_statuses)
        _string_set_free(&self.filter.users)
        free(self.filter.coin_min_notional)
        free(self.filter.coin_cache)

    cdef bint accepts_stream(self, const StreamSpec* stream) noexcept nogil:
        """Whether the conditions are ones that rows of this stream can be checked for."""
        return self.filter.any_status or stream == self.filter.stream

    cdef size_t select(self, RowTable table, const char* data, uint32_t* out) noexcept nogil:
        """Write the indices of the selected rows to `out` (capacity: table.rows_len), in order. Return their number."""
        cdef size_t k, i, n = 0
        cdef uint32_t index
        cdef const RowHead* row
        cdef FilterKey key
        for k in range(table.segments_len):
            for i in range(table.segments[k].count):
                index = <uint32_t>(table.segments[k].first + i)
                row = table_row(table, index)
                if not self.filter.match_all:
                    key = filter_key(table.stream, row, 0)
                    if not matches(&self.filter, &key, row, data):
                        continue
                ft_assert(n < table.rows_len)
                out[n] = index
                n += 1
        return n
