"""Encodes one event in each of the formats. Text is copied as the node wrote it; nothing is formatted again.

What a format consists of is written down in the stream's description. Encoders return 1, or 0 if out of memory.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from fasttail.system.checks cimport ft_assert
from fasttail.engine.table cimport RowTable, row_envelope
from fasttail.streams.types cimport (
    LITERAL_BYTES, PUT_INT, PUT_JSON, PUT_NOTHING, PUT_SIDE, PUT_STRING, PUT_TEXT, PUT_UINT, Envelope, Piece, Pieces,
    RowHead, TextSpan)
from fasttail.engine.buffer cimport Buffer, put, put_bool, put_int, put_signed, buffer_reserve


cdef int encode_raw(Buffer* out, const RowHead* row, const char* data) noexcept nogil:
    """Append the event as it is in the file, and a newline."""
    if not buffer_reserve(out, <size_t>row.size + 1):
        return 0
    put(out, data + row.offset, row.size)
    put(out, b"\n", 1)
    return 1


cdef inline char* _copy(char* to, const char* event, size_t event_size, size_t offset, size_t n) noexcept nogil:
    """Copy n bytes of the event and return the end of the copy. May write LITERAL_BYTES."""
    if n <= LITERAL_BYTES and offset + LITERAL_BYTES <= event_size:
        memcpy(to, event + offset, LITERAL_BYTES)    # of constant size: no call
    else:
        memcpy(to, event + offset, n)
    return to + n


cdef inline char* _copy_null(char* to) noexcept nogil:
    memcpy(to, b"null", 4)
    return to + 4


cdef inline void _put_pieces(Buffer* out, const Pieces* pieces, const RowHead* row, const char* event) noexcept nogil:
    """Append the pieces, for which the caller has reserved the event's size, their overhead and LITERAL_BYTES."""
    cdef const Piece* piece = &pieces.pieces[0]
    cdef const Piece* end = piece + pieces.count
    cdef const char* at
    cdef const TextSpan* span
    cdef size_t size = row.size
    cdef char* to = out.data + out.size              # kept here: the compiler takes `out` to change with each byte written
    while piece < end:
        at = <const char*>row + piece.at
        span = <const TextSpan*>at
        ft_assert(to + LITERAL_BYTES <= out.data + out.capacity)
        memcpy(to, piece.literal, LITERAL_BYTES)
        to += piece.literal_size
        if piece.value_kind == PUT_TEXT:
            to = _copy(to, event, size, span.offset, span.size)
        elif piece.value_kind == PUT_STRING:
            if span.offset:
                to = _copy(to, event, size, span.offset - 1, span.size + 2)  # with its quotes
            elif piece.optional and span.size == 0:
                to -= piece.literal_size
            else:
                to = _copy_null(to)
        elif piece.value_kind == PUT_JSON:
            if span.offset:
                to = _copy(to, event, size, span.offset, span.size)
            elif piece.optional and span.size == 0:
                to -= piece.literal_size
            else:
                to = _copy_null(to)
        elif piece.value_kind == PUT_SIDE:
            to[0] = <char>row.side
            to += 1
        elif piece.value_kind != PUT_NOTHING:
            out.size = <size_t>(to - out.data)
            if piece.value_kind == PUT_UINT:
                put_int(out, (<const uint64_t*>at)[0])
            elif piece.value_kind == PUT_INT:
                put_signed(out, (<const int64_t*>at)[0])
            else:
                put_bool(out, row.flags & piece.flag)
            to = out.data + out.size
        piece += 1
    out.size = <size_t>(to - out.data)


cdef int encode_json(Buffer* out, const RowHead* row, RowTable table, const char* data) noexcept nogil:
    """Append one flat object with the fields of the stream and of the envelope, and a newline."""
    cdef const Envelope* e = row_envelope(table, row)
    cdef const Pieces* pieces = &table.stream.flat
    # Every value is part of the event; what follows the pieces needs less than 128 bytes.
    if not buffer_reserve(out, <size_t>row.size + pieces.overhead + 128
                          + (e.block_time.size + e.local_time.size if e != NULL else 0)):
        return 0
    _put_pieces(out, pieces, row, data + row.offset)
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
