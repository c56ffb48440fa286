"""The stage that makes trades of fills."""
cimport cython

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport RowHead, StreamSpec, TextSpan

cdef enum:
    MAX_USER_BYTES = 64
    MAX_OPEN_HALVES = 4096   # of one block


cdef struct Half:            # a fill whose other side has not been seen yet
    uint64_t tid
    int64_t time             # ms since 1970
    uint32_t coin            # code in the batch's coin names
    uint8_t side
    uint8_t crossed
    uint8_t user_size
    char user[MAX_USER_BYTES]


cdef struct OpenBlock:       # the halves of a block that is not complete yet
    uint64_t block           # its number; plain lines: the time of its fills
    Half* halves             # owned; room for MAX_OPEN_HALVES
    size_t halves_len


# One trade. The texts are those of its later fill, at `head.offset`.
cdef struct TradeRow:
    RowHead head
    int64_t time             # ms since 1970
    uint64_t tid
    double px
    double sz
    uint32_t event_number    # of the later fill in its line, from 1
    TextSpan px_text
    TextSpan sz_text
    TextSpan hash
    bint buyer_is_other
    uint8_t other_user_size
    char other_user[MAX_USER_BYTES]  # the user of the earlier fill


@cython.final
cdef class TradeStage:
    cdef RowTable table              # of TradeRows
    cdef OpenBlock open_blocks[2]    # of the lines read in order, and of late lines
    cdef uint64_t trades             # made so far
    cdef uint64_t unpaired           # fills whose block ended without their other side
    cdef void run(self, RowTable fills, const char* data, bint late) noexcept nogil
    cdef size_t _find_half(self, const OpenBlock* block, const RowHead* row) noexcept nogil
    cdef void _keep_half(self, OpenBlock* block, const RowHead* row, const char* data) noexcept nogil
    cdef void _append_trade(self, const Half* half, const RowHead* row, uint32_t event_number) noexcept nogil
    cdef void reset(self) noexcept nogil
    cdef void _end_block(self, OpenBlock* block) noexcept nogil


cdef StreamSpec TRADES
