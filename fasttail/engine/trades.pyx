"""The stage that makes trades of fills: each match has two fills, one per side, with the same time, coin and tid.

    fills   B 7 | A 7 | B 8 | … | A 8           the numbers are tids
    trades        7               8             when the later fill has been read

Both fills of a match belong to the same block, but not necessarily to the same batch. The first one is therefore kept until the
block ends. A fill that has no other side, as those of outcomes that are minted or merged, makes no trade and is counted.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fasttail.system.atomics cimport ft_add_single_writer
from fasttail.system.checks cimport ft_assert
from fasttail.engine.table cimport RowTable, row_envelope, row_line, table_derive, table_row
from fasttail.streams.fills cimport CROSSED, FILLS, FillRow
from fasttail.streams.types cimport NO_CODE, Envelope, RowHead, StreamSpec


cdef TradeRow LAYOUT             # for the offsets of its members


cdef inline size_t _at(const void* member) noexcept:
    """Return the offset of a member of LAYOUT."""
    return <size_t>member - <size_t>&LAYOUT


cdef int _describe() noexcept:
    cdef StreamSpec* s = &TRADES
    s.name = "trades"
    s.row_bytes = sizeof(TradeRow)
    s.price = _at(&LAYOUT.px)
    s.quantity = _at(&LAYOUT.sz)
    s.event_number = _at(&LAYOUT.event_number)
    s.min_event_bytes = FILLS.min_event_bytes
    return 0


_describe()


cdef class TradeStage:
    """Makes the trades of the fills in a table. Only the thread that fills the table may use it. Raises MemoryError."""

    def __cinit__(self, RowTable fills not None):
        cdef int i
        self.table = table_derive(&TRADES, fills)
        for i in range(2):
            self.open_blocks[i].halves = <Half*>malloc(MAX_OPEN_HALVES * sizeof(Half))
            if self.open_blocks[i].halves == NULL:
                raise MemoryError

    def __dealloc__(self):
        free(self.open_blocks[0].halves)
        free(self.open_blocks[1].halves)

    cdef void run(self, RowTable fills, const char* data, bint late) noexcept nogil:
        """Replace the table's rows by the trades that the fills complete, in their order. late: the fills are late lines."""
        cdef OpenBlock* block = &self.open_blocks[late]
        cdef const RowHead* row
        cdef const Envelope* envelope
        cdef uint64_t number, line, before = ~<uint64_t>0
        cdef uint32_t event_number = 0
        cdef size_t i, k, at
        self.table.clear()
        self.table.segments[0].first = self.table.segments[0].count = 0
        self.table.segments_len = 1
        for k in range(fills.segments_len):
            for i in range(fills.segments[k].first, fills.segments[k].first + fills.segments[k].count):
                row = table_row(fills, i)
                envelope = row_envelope(fills, row)
                line = row_line(fills, row)
                event_number = event_number + 1 if line == before else 1
                before = line
                number = envelope.block_number if envelope != NULL else <uint64_t>(<const FillRow*>row).time
                if number != block.block:
                    self._end_block(block)
                    block.block = number
                at = self._find_half(block, row)
                if at < block.halves_len:
                    self._append_trade(&block.halves[at], row, event_number)
                    block.halves_len -= 1
                    block.halves[at] = block.halves[block.halves_len]
                else:
                    self._keep_half(block, row, data)
        ft_assert(self.table.rows_len <= self.table.rows_cap)
        self.table.segments[0].count = self.table.rows_len

    cdef void reset(self) noexcept nogil:
        """Forget the halves of blocks that are not complete."""
        cdef int i
        for i in range(2):
            self.open_blocks[i].block = 0
            self.open_blocks[i].halves_len = 0

    cdef size_t _find_half(self, const OpenBlock* block, const RowHead* row) noexcept nogil:
        """Return the index of the fill's other side, or `halves_len`. It is most often the last one."""
        cdef const FillRow* fill = <const FillRow*>row
        cdef size_t i = block.halves_len
        cdef const Half* half
        while i > 0:
            i -= 1
            half = &block.halves[i]
            if (half.tid == fill.tid and half.time == fill.time and half.coin == row.coin and half.side != row.side
                    and row.coin != NO_CODE):
                return i
        return block.halves_len

    cdef void _keep_half(self, OpenBlock* block, const RowHead* row, const char* data) noexcept nogil:
        """Keep a fill until its other side is read. One too many, or whose user is no address, counts as unpaired."""
        cdef Half* half
        if block.halves_len == MAX_OPEN_HALVES or row.user.size > MAX_USER_BYTES:
            ft_add_single_writer(&self.unpaired, 1)
            return
        half = &block.halves[block.halves_len]
        block.halves_len += 1
        half.tid = (<const FillRow*>row).tid
        half.time = (<const FillRow*>row).time
        half.coin = row.coin
        half.side = row.side
        half.crossed = row.flags & CROSSED
        half.user_size = <uint8_t>row.user.size
        memcpy(half.user, data + row.offset + row.user.offset, row.user.size)

    cdef void _append_trade(self, const Half* half, const RowHead* row, uint32_t event_number) noexcept nogil:
        cdef const FillRow* fill = <const FillRow*>row
        cdef TradeRow* trade = <TradeRow*>table_row(self.table, self.table.rows_len)
        self.table.rows_len += 1
        trade.head = row[0]
        trade.head.codes[0] = 0
        if not row.flags & CROSSED and half.crossed:
            trade.head.side = half.side
        trade.time = fill.time
        trade.tid = fill.tid
        trade.px = fill.px.number
        trade.sz = fill.sz.number
        trade.event_number = event_number
        trade.px_text = fill.px.text
        trade.sz_text = fill.sz.text
        trade.hash = fill.hash
        trade.buyer_is_other = half.side == c"B"
        trade.other_user_size = half.user_size
        memcpy(trade.other_user, half.user, half.user_size)
        ft_add_single_writer(&self.trades, 1)

    cdef void _end_block(self, OpenBlock* block) noexcept nogil:
        """Give up the fills that have no other side."""
        if block.halves_len:
            ft_add_single_writer(&self.unpaired, block.halves_len)
        block.halves_len = 0
