"""Counts the rows of a table for those who look at the flow: by word (a status) and by coin, and keeps the largest events.

    pipeline thread   add_rows … add_rows │ swap │ add_rows …          one window is filled while the other is taken
    main thread                             └─ answered ─► take

The main thread sends a command for each swap, and takes the window after the answer. The other thread does not touch that window
until the next command. While nobody looks, nothing is counted.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fasttail.system.checks cimport ft_assert
from fasttail.engine.table cimport RowTable, table_row
from fasttail.streams.types cimport NO_CODE, RowHead

from fasttail.engine.events import FlowCounts

cdef enum:
    COIN_CODES = 65536


cdef class Flow:
    """Of the rows of one table. keep: how many of the events with the largest notional are kept."""

    def __cinit__(self, int keep):
        ft_assert(0 <= keep <= MAX_LARGEST)
        self.filling = -1
        self.keep = keep

    def __dealloc__(self):
        cdef int i
        for i in range(2):
            free(self.windows[i].coins)
            free(self.windows[i].coin_numbers)

    # --------------------------------------------------------------------------------------------------- pipeline thread

    cdef void add_rows(self, RowTable table, const char* data) noexcept nogil:
        """Count the table's rows, whose offsets count from `data`. Does nothing while nobody looks."""
        cdef Window* window
        cdef const RowHead* row
        cdef double notional
        cdef size_t i, k
        if self.filling < 0:
            return
        window = &self.windows[self.filling]
        for k in range(table.segments_len):
            for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
                row = table_row(table, i)
                notional = ((<const double*>(<const char*>row + table.stream.price))[0]
                            * (<const double*>(<const char*>row + table.stream.quantity))[0])
                window.rows += 1
                window.notional += notional
                window.of_word[row.codes[0]] += 1
                self._add_coin(window, row, data + row.offset, notional)
                if window.largest_len < self.keep or notional > window.largest[0].notional:
                    self._keep_largest(window, row, data + row.offset, notional)

    cdef void _add_coin(self, Window* window, const RowHead* row, const char* event, double notional) noexcept nogil:
        cdef CoinFlow* coin
        if row.coin == NO_CODE:
            return
        if window.coin_numbers[row.coin] == 0:
            if window.coins_len == MAX_FLOW_COINS or row.coin_text.size > MAX_NAME_BYTES:
                return
            coin = &window.coins[window.coins_len]
            coin.rows = 0
            coin.notional = 0.0
            coin.name_size = <uint16_t>row.coin_text.size
            memcpy(coin.name, event + row.coin_text.offset, row.coin_text.size)
            window.codes[window.coins_len] = row.coin
            window.coins_len += 1
            window.coin_numbers[row.coin] = <uint16_t>window.coins_len
        coin = &window.coins[window.coin_numbers[row.coin] - 1]
        coin.rows += 1
        coin.notional += notional

    cdef void _keep_largest(self, Window* window, const RowHead* row, const char* event, double notional) noexcept nogil:
        """Keep the event, if it is among the largest ones, of which the smallest comes first."""
        cdef uint32_t i = 0
        if row.size > MAX_EVENT_BYTES or self.keep == 0:
            return
        if window.largest_len < self.keep:
            i = window.largest_len
            window.largest_len += 1
            while i > 0 and window.largest[i - 1].notional > notional:
                window.largest[i] = window.largest[i - 1]
                i -= 1
        else:
            while i + 1 < window.largest_len and window.largest[i + 1].notional < notional:
                window.largest[i] = window.largest[i + 1]
                i += 1
        window.largest[i].notional = notional
        window.largest[i].number = window.rows
        window.largest[i].size = row.size
        window.largest[i].side = row.side
        memcpy(window.largest[i].json, event, row.size)

    cdef void swap(self) noexcept nogil:
        """Leave the window to the main thread, and begin with the other one, which is empty."""
        self.filling = 0 if self.filling < 0 else 1 - self.filling

    cdef void stop(self) noexcept nogil:
        """Count no more, and forget what was not taken."""
        self.filling = -1
        self._clear(&self.windows[0])
        self._clear(&self.windows[1])

    # ------------------------------------------------------------------------------------------------------- main thread

    def allocate(self) -> None:
        """Allocate the windows, before the first swap. Raises MemoryError."""
        cdef int i
        for i in range(2):
            if self.windows[i].coins == NULL:
                self.windows[i].coins = <CoinFlow*>calloc(MAX_FLOW_COINS, sizeof(CoinFlow))
            if self.windows[i].coin_numbers == NULL:
                self.windows[i].coin_numbers = <uint16_t*>calloc(COIN_CODES, sizeof(uint16_t))
            if self.windows[i].coins == NULL or self.windows[i].coin_numbers == NULL:
                raise MemoryError

    def take(self):
        """Return what was counted until the last swap, and forget it. Call it once, after the swap was answered."""
        cdef Window* window = &self.windows[1 - self.filling if self.filling >= 0 else 0]
        cdef uint32_t i
        counts = FlowCounts(
            window.rows,
            window.notional,
            {i: window.of_word[i] for i in range(MAX_FLOW_WORDS) if window.of_word[i]},
            [(window.coins[i].name[:window.coins[i].name_size], window.coins[i].rows, window.coins[i].notional)
             for i in range(window.coins_len)],
            [(window.largest[i].number, chr(window.largest[i].side), window.largest[i].json[:window.largest[i].size])
             for i in range(window.largest_len)],
        )
        self._clear(window)
        return counts

    cdef void _clear(self, Window* window) noexcept nogil:
        cdef uint32_t i
        for i in range(window.coins_len):
            window.coin_numbers[window.codes[i]] = 0
        memset(window.of_word, 0, sizeof(window.of_word))
        window.rows = 0
        window.notional = 0.0
        window.coins_len = window.largest_len = 0
