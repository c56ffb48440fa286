"""The stream of fills: its rows and its table of fields.

An event is a pair, `[user, fill]`. All amounts are kept as text, as float64, and exactly in units of 10**-8.
"""
from libc.stdint cimport uint16_t

from fasttail.streams.general cimport parse_chunk_general
from fasttail.streams.spec cimport ANY_VALUE, BOOL, INTEGER, NULLABLE, OBJECT, OPTIONAL, TEXT, add_field, spec_finish
from fasttail.streams.types cimport (
    AS_AMOUNT, AS_BOOL, AS_COIN, AS_JSON, AS_SIDE, AS_TEXT, AS_TIME_MS, AS_UINT, AS_WORD, NOT_STORED)
from fasttail.streams.vocabulary cimport DIRECTIONS


cdef int _amount(bytes key, Decimal* at, int kinds) except -1:
    add_field(&FILLS, key, AS_AMOUNT, kinds, <size_t>&at.text, <size_t>&at.number).exact = <uint16_t><size_t>&at.amount
    return 0


cdef int _describe() except -1:
    cdef StreamSpec* s = &FILLS
    cdef FillRow* row = NULL             # for the offsets of its members
    s.name = "fills"
    s.pair = True
    s.pair_object = <size_t>&row.fill
    add_field(s, b"user", AS_TEXT, TEXT, <size_t>&row.head.user)
    add_field(s, b"coin", AS_COIN, TEXT, <size_t>&row.head.coin_text, <size_t>&row.head.coin)
    _amount(b"px", &row.px, TEXT)
    _amount(b"sz", &row.sz, TEXT)
    add_field(s, b"side", AS_SIDE, TEXT, NOT_STORED, <size_t>&row.head.side)
    add_field(s, b"time", AS_TIME_MS, INTEGER, NOT_STORED, <size_t>&row.time)
    _amount(b"startPosition", &row.startPosition, TEXT)
    add_field(s, b"dir", AS_WORD, TEXT, <size_t>&row.dir, <size_t>&row.head.codes[<int>DIRECTION]).words = &DIRECTIONS
    _amount(b"closedPnl", &row.closedPnl, TEXT)
    add_field(s, b"hash", AS_TEXT, TEXT, <size_t>&row.hash)
    add_field(s, b"oid", AS_UINT, INTEGER, NOT_STORED, <size_t>&row.oid)
    add_field(s, b"crossed", AS_BOOL, BOOL).flag = CROSSED
    _amount(b"fee", &row.fee, TEXT)
    _amount(b"builderFee", &row.builderFee, TEXT | OPTIONAL)
    add_field(s, b"tid", AS_UINT, INTEGER, NOT_STORED, <size_t>&row.tid)
    add_field(s, b"cloid", AS_TEXT, TEXT | NULLABLE | OPTIONAL, <size_t>&row.cloid)
    add_field(s, b"liquidation", AS_JSON, OBJECT | NULLABLE | OPTIONAL, <size_t>&row.liquidation).flag = LIQUIDATION
    add_field(s, b"feeToken", AS_TEXT, TEXT, <size_t>&row.feeToken)
    add_field(s, b"builder", AS_TEXT, TEXT | NULLABLE | OPTIONAL, <size_t>&row.builder)
    add_field(s, b"twapId", AS_UINT, INTEGER | NULLABLE | OPTIONAL, <size_t>&row.twapId_text, <size_t>&row.twapId)
    _amount(b"deployerFee", &row.deployerFee, TEXT | OPTIONAL)
    add_field(s, b"priorityGas", AS_JSON, ANY_VALUE | OPTIONAL, <size_t>&row.priorityGas)
    spec_finish(s, s.fields_len)
    s.parse = parse_chunk_general
    s.row_bytes = sizeof(FillRow)
    s.price = <size_t>&row.px.number
    s.quantity = <size_t>&row.sz.number
    s.word = <size_t>&row.dir
    s.words = &DIRECTIONS
    return 0


_describe()
