"""Selects rows by coin, side, status, user and notional."""
cimport cython

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport NO_CODE, RowHead, StreamSpec, TextSpan
from fasttail.streams.intern cimport InternTable


cdef enum:
    COIN_CACHE_SIZE = 1024       # coin codes whose result is cached: 2 KiB for each filter that lists coins


cdef struct FilterKey:           # what filters check first, in a quarter of a cache line instead of three
    double notional
    uint32_t event_number        # number of the event in its line, from 1
    uint16_t coin                # the parser's code
    uint8_t word                 # the row's first code, of a status for orders
    uint8_t side                 # 1 = A, 2 = B


cdef struct StringSet:           # an immutable set of texts, as small as possible
    uint32_t* slots              # owned; code, 0: free
    uint32_t* ends               # owned; the text of `code` is text[ends[code - 1]:ends[code]]
    char* text                   # owned
    uint32_t mask
    uint32_t count


cdef struct Filter:
    const StreamSpec* stream     # whose words `statuses` are
    bint match_all               # no condition: all rows pass
    bint any_coin
    bint any_status
    bint any_user
    uint8_t sides                # 1 = A, 2 = B
    uint8_t flags                # that a row must have
    double min_notional          # the lowest of any coin
    uint64_t statuses            # one bit per status code
    StringSet coins              # owned; code -> coin_min_notional[code]
    StringSet unknown_statuses   # owned; statuses without a parser code
    StringSet users              # owned; lower case
    double* coin_min_notional    # owned; by code in `coins`; NULL: `min_notional` for all
    uint16_t* coin_cache         # owned; the parser's coin code -> 0: not known yet, 1: not wanted, else code in `coins` + 1


@cython.final
cdef class Selector:
    cdef Filter filter
    cdef bint accepts_stream(self, const StreamSpec* stream) noexcept nogil
    cdef size_t select(self, RowTable table, const char* data, uint32_t* out) noexcept nogil


cdef uint32_t find_interned(const InternTable* words, const RowHead* row, const char* data, const TextSpan* ref,
                            bint lower) noexcept nogil
cdef const char* decode_text(const RowHead* row, const char* data, const TextSpan* ref, bint lower, char* scratch,
                             size_t* size) noexcept nogil
cdef uint64_t text_hash(const char* p, size_t n) noexcept nogil
cdef bint matches_texts(Filter* self, const FilterKey* key, const RowHead* row, const char* data) noexcept nogil


cdef inline FilterKey filter_key(const StreamSpec* stream, const RowHead* row, uint32_t event_number) noexcept nogil:
    cdef FilterKey key
    key.notional = ((<const double*>(<const char*>row + stream.price))[0]
                    * (<const double*>(<const char*>row + stream.quantity))[0])
    key.event_number = event_number
    key.coin = row.coin
    key.word = row.codes[0]
    key.side = 1 if row.side == c'A' else 2
    return key


# Defined here, so that it is inlined into the loop over a batch's keys.

cdef inline bint matches(Filter* self, const FilterKey* key, const RowHead* row, const char* data) noexcept nogil:
    """Whether a row passes. The key alone rejects most rows, which are then not touched."""
    if self.match_all:
        return True
    if not (self.sides & key.side):
        return False
    if not self.any_coin and key.coin < COIN_CACHE_SIZE and self.coin_cache[key.coin] == 1:
        return False
    if self.min_notional > 0 and not (key.notional >= self.min_notional):
        return False
    if not self.any_status and key.word != NO_CODE and not (self.statuses >> key.word) & 1:
        return False
    return matches_texts(self, key, row, data)
