"""Encodes one order in each of the formats. Text is copied as the node wrote it; nothing is formatted again.

Encoders return 1, or 0 if out of memory.
"""
from fasttail.engine.table cimport RowTable, row_envelope
from fasttail.streams.orders cimport IS_POSITION_TPSL, IS_TRIGGER, REDUCE_ONLY, OrderRow
from fasttail.streams.types cimport Envelope, RowHead, TextSpan
from fasttail.engine.buffer cimport Buffer, put, put_bool, put_int, put_signed, buffer_reserve


cdef int encode_raw(Buffer* out, const RowHead* row, const char* data) noexcept nogil:
    """Append the event as it is in the file, and a newline."""
    if not buffer_reserve(out, <size_t>row.size + 1):
        return 0
    put(out, data + row.offset, row.size)
    put(out, b"\n", 1)
    return 1


cdef inline void _put_string_or_null(Buffer* out, const char* event, TextSpan text) noexcept nogil:
    if text.offset == 0:
        put(out, b"null", 4)
    else:
        put(out, b'"', 1)
        put(out, event + text.offset, text.size)
        put(out, b'"', 1)


cdef inline void _put_value_or_null(Buffer* out, const char* event, TextSpan value) noexcept nogil:
    if value.offset == 0:
        put(out, b"null", 4)
    else:
        put(out, event + value.offset, value.size)


cdef int encode_json(Buffer* out, const RowHead* head, RowTable table, const char* data) noexcept nogil:
    """Append one flat object with the keys of `fasttail.engine.columns.COLUMNS`, and a newline."""
    cdef const OrderRow* row = <const OrderRow*>head
    cdef const Envelope* e = row_envelope(table, head)
    cdef const char* event = data + row.head.offset
    # Every value is part of the event; the keys and their nulls need less than 512 bytes.
    if not buffer_reserve(out, <size_t>row.head.size + 640 + (e.block_time.size + e.local_time.size if e != NULL else 0)):
        return 0
    put(out, b'{"time":', 8)
    _put_string_or_null(out, event, row.time)
    put(out, b',"user":', 8)
    _put_string_or_null(out, event, row.head.user)
    put(out, b',"hash":', 8)
    _put_string_or_null(out, event, row.hash)
    put(out, b',"builder":', 11)
    _put_value_or_null(out, event, row.builder)
    put(out, b',"status":', 10)
    _put_string_or_null(out, event, row.status_text)
    put(out, b',"coin":', 8)
    _put_string_or_null(out, event, row.head.coin_text)
    put(out, b',"side":"', 9)
    out.data[out.size] = <char>row.head.side
    out.size += 1
    put(out, b'","limitPx":', 12)
    _put_string_or_null(out, event, row.limitPx_text)
    put(out, b',"sz":', 6)
    _put_string_or_null(out, event, row.sz_text)
    put(out, b',"oid":', 7)
    put_int(out, row.oid)
    put(out, b',"timestamp":', 13)
    put_signed(out, row.timestamp)
    put(out, b',"triggerCondition":', 20)
    _put_string_or_null(out, event, row.triggerCondition)
    put(out, b',"isTrigger":', 13)
    put_bool(out, row.head.flags & IS_TRIGGER)
    put(out, b',"triggerPx":', 13)
    _put_string_or_null(out, event, row.triggerPx_text)
    put(out, b',"children":', 12)
    _put_value_or_null(out, event, row.children)
    put(out, b',"isPositionTpsl":', 18)
    put_bool(out, row.head.flags & IS_POSITION_TPSL)
    put(out, b',"reduceOnly":', 14)
    put_bool(out, row.head.flags & REDUCE_ONLY)
    put(out, b',"orderType":', 13)
    _put_string_or_null(out, event, row.orderType_text)
    put(out, b',"origSz":', 10)
    _put_string_or_null(out, event, row.origSz_text)
    put(out, b',"tif":', 7)
    _put_string_or_null(out, event, row.tif_text)
    put(out, b',"cloid":', 9)
    _put_string_or_null(out, event, row.cloid)
    if e == NULL:
        put(out, b',"block_number":null,"block_time":null,"local_time":null}\n', 58)
        return 1
    put(out, b',"block_number":', 16)
    put_int(out, e.block_number)
    put(out, b',"block_time":"', 15)
    put(out, data + e.offset + e.block_time.offset, e.block_time.size)
    put(out, b'","local_time":"', 16)
    put(out, data + e.offset + e.local_time.offset, e.local_time.size)
    put(out, b'"}\n', 3)
    return 1


cdef int encode_ws(Buffer* out, const RowHead* head, const char* data) noexcept nogil:
    """Append an element of the public API's `orderUpdates`."""
    cdef const OrderRow* row = <const OrderRow*>head
    cdef const char* event = data + row.head.offset
    # Every value is part of the event; keys and numbers need less than 256 bytes.
    if not buffer_reserve(out, <size_t>row.head.size + 256):
        return 0
    put(out, b'{"order":{"coin":', 17)
    _put_string_or_null(out, event, row.head.coin_text)
    put(out, b',"side":"', 9)
    out.data[out.size] = <char>row.head.side
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
    put_signed(out, row.head.time_ns // 1000000)
    put(out, b"}", 1)
    return 1
