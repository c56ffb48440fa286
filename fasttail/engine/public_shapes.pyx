"""Encodes an event as an element of the public API's messages.

Text is copied as the node wrote it; nothing is formatted again. Encoders return 1, or 0 if out of memory.
"""
from fasttail.engine.buffer cimport Buffer, buffer_reserve, put, put_int, put_signed
from fasttail.engine.trades cimport TradeRow
from fasttail.streams.fills cimport FillRow
from fasttail.streams.orders cimport OrderRow
from fasttail.streams.types cimport RowHead, TextSpan


cdef inline void _put_string_or_null(Buffer* out, const char* event, TextSpan text) noexcept nogil:
    if text.offset == 0:
        put(out, b"null", 4)
    else:
        put(out, b'"', 1)
        put(out, event + text.offset, text.size)
        put(out, b'"', 1)


cdef int encode_order_update(Buffer* out, const RowHead* head, const char* data) noexcept nogil:
    """Append an element of the public API's `orderUpdates`."""
    cdef const OrderRow* row = <const OrderRow*>head
    cdef const char* event = data + head.offset
    # Every value is part of the event; keys and numbers need less than 256 bytes.
    if not buffer_reserve(out, <size_t>head.size + 256):
        return 0
    put(out, b'{"order":{"coin":', 17)
    _put_string_or_null(out, event, head.coin_text)
    put(out, b',"side":"', 9)
    out.data[out.size] = <char>head.side
    out.size += 1
    put(out, b'","limitPx":', 12)
    _put_string_or_null(out, event, row.limitPx_text)
    put(out, b',"sz":', 6)
    _put_string_or_null(out, event, row.sz_text)
    put(out, b',"oid":', 7)
    put_int(out, row.oid)
    put(out, b',"timestamp":', 13)
    put_signed(out, row.timestamp)
    put(out, b',"origSz":', 10)
    _put_string_or_null(out, event, row.origSz_text)
    put(out, b',"cloid":', 9)
    _put_string_or_null(out, event, row.cloid)
    put(out, b'},"status":', 11)
    _put_string_or_null(out, event, row.status_text)
    put(out, b',"statusTimestamp":', 19)
    put_signed(out, head.time_ns // 1000000)
    put(out, b"}", 1)
    return 1


cdef int encode_fill(Buffer* out, const RowHead* head, const char* data) noexcept nogil:
    """Append an element of the public API's `userFills`, which is the object of the node's event."""
    cdef const FillRow* row = <const FillRow*>head
    if not buffer_reserve(out, row.fill.size):
        return 0
    put(out, data + head.offset + row.fill.offset, row.fill.size)
    return 1


cdef int encode_trade(Buffer* out, const RowHead* head, const char* data) noexcept nogil:
    """Append an element of the public API's `trades`."""
    cdef const TradeRow* row = <const TradeRow*>head
    cdef const char* event = data + head.offset
    # Every text but one user is part of the event; keys and numbers need less than 256 bytes.
    if not buffer_reserve(out, <size_t>head.size + sizeof(row.other_user) + 256):
        return 0
    put(out, b'{"coin":', 8)
    _put_string_or_null(out, event, head.coin_text)
    put(out, b',"side":"', 9)
    out.data[out.size] = <char>head.side
    out.size += 1
    put(out, b'","px":', 7)
    _put_string_or_null(out, event, row.px_text)
    put(out, b',"sz":', 6)
    _put_string_or_null(out, event, row.sz_text)
    put(out, b',"time":', 8)
    put_signed(out, row.time)
    put(out, b',"hash":', 8)
    _put_string_or_null(out, event, row.hash)
    put(out, b',"tid":', 7)
    put_int(out, row.tid)
    put(out, b',"users":["', 11)
    if row.buyer_is_other:
        put(out, row.other_user, row.other_user_size)
        put(out, b'","', 3)
        put(out, event + head.user.offset, head.user.size)
    else:
        put(out, event + head.user.offset, head.user.size)
        put(out, b'","', 3)
        put(out, row.other_user, row.other_user_size)
    put(out, b'"]}', 3)
    return 1
