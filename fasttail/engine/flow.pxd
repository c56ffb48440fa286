"""Counts the rows of a table for those who look at the flow."""
cimport cython

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fasttail.engine.table cimport RowTable
from fasttail.streams.types cimport RowHead

cdef enum:
    MAX_FLOW_COINS = 4096    # of one window
    MAX_FLOW_WORDS = 256     # codes of the stream's first list of words
    MAX_LARGEST = 8
    MAX_EVENT_BYTES = 2048
    MAX_NAME_BYTES = 46


cdef struct CoinFlow:
    double notional
    uint32_t rows
    uint16_t name_size
    char name[MAX_NAME_BYTES]   # as in the line, without quotes


cdef struct LargeEvent:
    double notional
    uint64_t number          # of its row in the window
    uint32_t size
    uint8_t side
    char json[MAX_EVENT_BYTES]


# What was counted between two calls of `swap`.
cdef struct Window:
    uint64_t rows
    double notional
    uint64_t of_word[MAX_FLOW_WORDS]
    CoinFlow* coins          # owned; room for MAX_FLOW_COINS
    uint32_t coins_len
    uint16_t* coin_numbers   # owned; by the coin's code: its index in `coins`, plus 1; 0: none
    uint16_t codes[MAX_FLOW_COINS]  # of the coins
    LargeEvent largest[MAX_LARGEST]
    uint32_t largest_len


@cython.final
cdef class Flow:
    cdef Window windows[2]   # without memory until somebody looks
    cdef int filling         # index of the window that rows are added to; -1: nobody looks
    cdef uint32_t keep       # how many of the largest events
    cdef void add_rows(self, RowTable table, const char* data) noexcept nogil
    cdef void _add_coin(self, Window* window, const RowHead* row, const char* event, double notional) noexcept nogil
    cdef void _keep_largest(self, Window* window, const RowHead* row, const char* event, double notional) noexcept nogil
    cdef void swap(self) noexcept nogil
    cdef void stop(self) noexcept nogil
    cdef void _clear(self, Window* window) noexcept nogil
