"""The stream of fills and its rows."""
from libc.stdint cimport int64_t, uint64_t

from fasttail.streams.types cimport Amount, RowHead, StreamSpec, TextSpan


cdef enum:
    CROSSED = 1                  # flags of a row: it is the taker's side,
    LIQUIDATION = 2              # … and part of a liquidation
    DIRECTION = 0                # index of RowHead.codes: code in DIRECTIONS


cdef struct Decimal:
    double number
    Amount amount
    TextSpan text


cdef struct FillRow:
    RowHead head
    TextSpan fill                # the object of the pair
    int64_t time                 # ms since 1970
    uint64_t oid
    uint64_t tid
    uint64_t twapId              # 0: null
    Decimal px
    Decimal sz
    Decimal startPosition
    Decimal closedPnl
    Decimal fee
    Decimal builderFee
    Decimal deployerFee
    TextSpan dir
    TextSpan hash
    TextSpan cloid
    TextSpan liquidation
    TextSpan feeToken
    TextSpan builder
    TextSpan twapId_text
    TextSpan priorityGas


cdef StreamSpec FILLS
