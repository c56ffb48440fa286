"""The stream of fills: its rows and its table of fields.

An event is a pair, `[user, fill]`. All amounts are kept as text, as float64, and exactly in units of 10**-8.
"""
from libc.stdint cimport uint16_t

from fasttail.streams.general cimport parse_chunk_general
from fasttail.streams.spec cimport ANY_VALUE, BOOL, INTEGER, NULLABLE, OBJECT, OPTIONAL, TEXT, add_field, spec_finish
from fasttail.streams.types cimport (
    AS_AMOUNT, AS_BOOL, AS_COIN, AS_JSON, AS_SIDE, AS_TEXT, AS_TIME_MS, AS_UINT, AS_WORD, NOT_STORED)
from fasttail.streams.vocabulary cimport DIRECTIONS


cdef FillRow LAYOUT             # for the offsets of its members


cdef inline size_t _at(const void* member) noexcept:
    """Return the offset of a member of LAYOUT."""
    return <size_t>member - <size_t>&LAYOUT


cdef int _amount(bytes key, Decimal* at, int kinds) except -1:
    add_field(&FILLS, key, AS_AMOUNT, kinds, _at(&at.text), _at(&at.number)).exact = <uint16_t>_at(&at.amount)
    return 0


cdef int _describe() except -1:
    cdef StreamSpec* s = &FILLS
    s.name = "fills"
    s.pair = True
    s.pair_object = _at(&LAYOUT.fill)
    add_field(s, b"user", AS_TEXT, TEXT, _at(&LAYOUT.head.user))
    add_field(s, b"coin", AS_COIN, TEXT, _at(&LAYOUT.head.coin_text), _at(&LAYOUT.head.coin))
    _amount(b"px", &LAYOUT.px, TEXT)
    _amount(b"sz", &LAYOUT.sz, TEXT)
    add_field(s, b"side", AS_SIDE, TEXT, NOT_STORED, _at(&LAYOUT.head.side))
    add_field(s, b"time", AS_TIME_MS, INTEGER, NOT_STORED, _at(&LAYOUT.time))
    _amount(b"startPosition", &LAYOUT.startPosition, TEXT)
    add_field(s, b"dir", AS_WORD, TEXT, _at(&LAYOUT.dir), _at(&LAYOUT.head.codes[<int>DIRECTION])).words = &DIRECTIONS
    _amount(b"closedPnl", &LAYOUT.closedPnl, TEXT)
    add_field(s, b"hash", AS_TEXT, TEXT, _at(&LAYOUT.hash))
    add_field(s, b"oid", AS_UINT, INTEGER, NOT_STORED, _at(&LAYOUT.oid))
    add_field(s, b"crossed", AS_BOOL, BOOL).flag = CROSSED
    _amount(b"fee", &LAYOUT.fee, TEXT)
    _amount(b"builderFee", &LAYOUT.builderFee, TEXT | OPTIONAL)
    add_field(s, b"tid", AS_UINT, INTEGER, NOT_STORED, _at(&LAYOUT.tid))
    add_field(s, b"cloid", AS_TEXT, TEXT | NULLABLE | OPTIONAL, _at(&LAYOUT.cloid))
    add_field(s, b"liquidation", AS_JSON, OBJECT | NULLABLE | OPTIONAL, _at(&LAYOUT.liquidation)).flag = LIQUIDATION
    add_field(s, b"feeToken", AS_TEXT, TEXT, _at(&LAYOUT.feeToken))
    add_field(s, b"builder", AS_TEXT, TEXT | NULLABLE | OPTIONAL, _at(&LAYOUT.builder))
    add_field(s, b"twapId", AS_UINT, INTEGER | NULLABLE | OPTIONAL, _at(&LAYOUT.twapId_text), _at(&LAYOUT.twapId))
    _amount(b"deployerFee", &LAYOUT.deployerFee, TEXT | OPTIONAL)
    add_field(s, b"priorityGas", AS_JSON, ANY_VALUE | OPTIONAL, _at(&LAYOUT.priorityGas))
    spec_finish(s, s.fields_len)
    s.parse = parse_chunk_general
    s.row_bytes = sizeof(FillRow)
    s.price = _at(&LAYOUT.px.number)
    s.quantity = _at(&LAYOUT.sz.number)
    s.word = _at(&LAYOUT.dir)
    s.words = &DIRECTIONS
    return 0


_describe()
