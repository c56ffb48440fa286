"""Rows -> selection."""
cimport cython

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport NO_CODE, TextSpan, Row
from fasttail.streams.intern cimport InternTable


cdef enum:
    COIN_CACHE_SIZE = 1024       # of the pool's coins, those whose answer is remembered: 2 KiB a filter that lists coins


cdef struct FilterKey:           # what filters ask of a row first, in a quarter of a cache line instead of three lines
    double notional
    uint32_t event_number        # among the events of its line, from 1
    uint16_t coin                # the parser's code
    uint8_t status               # the parser's code
    uint8_t side                 # 1 = A, 2 = B


cdef struct StringSet:           # a set of texts that never changes; as small as it can be
    uint32_t* slots              # owned; code, 0: free
    uint32_t* ends               # owned; the text of `code` is text[ends[code - 1]:ends[code]]
    char* text                   # owned
    uint32_t mask
    uint32_t count


cdef struct Filter:
    bint match_all               # nothing is asked for: all rows pass
    bint any_coin
    bint any_status
    bint any_user
    uint8_t sides                # 1 = A, 2 = B
    double min_notional          # least of every coin
    uint64_t statuses            # a bit per status code
    StringSet coins              # owned; code -> least[code]
    StringSet unknown_statuses   # owned; statuses that the parser has no code for
    StringSet users              # owned; lower case
    double* coin_min_notional    # owned; by own coin code; NULL: `min_notional` for all
    uint16_t* coin_cache         # owned; parser's coin code (the first of them) -> 0 unknown yet, 1 unwanted, own code + 1


@cython.final
cdef class Selector:
    cdef Filter filter
    cdef size_t select(self, RowTable table, const char* data, uint32_t* out) noexcept nogil


cdef uint32_t find_interned(const InternTable* words, const Row* row, const char* data, const TextSpan* ref,
                            bint lower) noexcept nogil
cdef const char* decode_text(const Row* row, const char* data, const TextSpan* ref, bint lower, char* scratch,
                             size_t* size) noexcept nogil
cdef uint64_t text_hash(const char* p, size_t n) noexcept nogil
cdef bint matches_texts(Filter* self, const FilterKey* key, const Row* row, const char* data) noexcept nogil


cdef inline FilterKey filter_key(const Row* row, uint32_t event_number) noexcept nogil:
    cdef FilterKey key
    key.notional = row.limitPx * row.origSz
    key.event_number = event_number
    key.coin = row.coin
    key.status = row.status
    key.side = 1 if row.side == c'A' else 2
    return key


# Here and not in filters.pyx, so that the loop over a batch's keys has it inline.

cdef inline bint matches(Filter* self, const FilterKey* key, const Row* row, const char* data) noexcept nogil:
    """Whether a row passes. Most that do not are turned away by their key; the row itself is not touched then."""
    if self.match_all:
        return True
    if not (self.sides & key.side):
        return False
    if not self.any_coin and key.coin < COIN_CACHE_SIZE and self.coin_cache[key.coin] == 1:
        return False
    if self.min_notional > 0 and not (key.notional >= self.min_notional):
        return False
    if not self.any_status and key.status != NO_CODE and not (self.statuses >> key.status) & 1:
        return False
    return matches_texts(self, key, row, data)
