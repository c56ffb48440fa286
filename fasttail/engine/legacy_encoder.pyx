"""Encodes the messages of the old service's two channels."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memmove

from fasttail.system.checks cimport ft_assert
from fasttail.streams.json cimport DECODED_TEXT_BYTES, unescape
from fasttail.engine.table cimport RowTable, table_row
from fasttail.streams.orders cimport STATUS, OrderRow
from fasttail.streams.types cimport TextSpan
from fasttail.streams.vocabulary cimport STATUSES
from fasttail.streams.intern cimport intern_find
from fasttail.engine.buffer cimport ENTRY_DATA, Outbox, OutboxEntry, Buffer, outbox_append, put, put_int, buffer_reserve
from fasttail.engine.frames cimport frame_header

cdef enum:
    FRAGMENT_BYTES = 32768   # bytes of orders in one fragment
    SHORT_FRAME_HEADER = 4   # the header of a frame of 126 to 65,535 bytes

cdef const char* LEGACY_STATUS[64]       # by the parser's status code; NULL: not on these channels
cdef size_t LEGACY_STATUS_SIZE[64]


cdef int _legacy_status(bytes status, const char* text, size_t n) except -1:
    cdef uint32_t code = intern_find(&STATUSES, status, <size_t>len(status))
    if not 0 < code < 64:
        raise ValueError(f"{status!r} is no status of the first 63")
    LEGACY_STATUS[code] = text
    LEGACY_STATUS_SIZE[code] = n
    return 0


_legacy_status(b"open", b"open", 4)
_legacy_status(b"filled", b"filled", 6)
_legacy_status(b"triggered", b"triggered", 9)
_legacy_status(b"canceled", b"canceled", 8)
_legacy_status(b"cancelled", b"canceled", 8)
_legacy_status(b"vaultWithdrawalCanceled", b"canceled", 8)


cdef void _put_unquoted(Buffer* out, const char* event, TextSpan ref) noexcept nogil:
    """Append a number's text without quotes, its escapes decoded."""
    cdef const char* text = event + ref.offset
    cdef char decoded[DECODED_TEXT_BYTES]
    cdef ssize_t n = <ssize_t>ref.size
    if memchr(text, c"\\", ref.size) != NULL:
        n = unescape(text, ref.size, decoded, DECODED_TEXT_BYTES)  # the parser has decoded it into the same size
        ft_assert(n >= 0)
        text = decoded
    put(out, text, <size_t>n)


cdef void _put_legacy_time(Buffer* out, const char* event, TextSpan time) noexcept nogil:
    """Append a time truncated to exactly six fraction digits, as in the old service."""
    cdef size_t size = time.size, i
    cdef const char* text = event + time.offset
    cdef char decoded[DECODED_TEXT_BYTES]
    if memchr(text, c"\\", size) != NULL:
        size = <size_t>unescape(text, size, decoded, DECODED_TEXT_BYTES)
        ft_assert(size <= DECODED_TEXT_BYTES)
        text = decoded
    ft_assert(size >= 19)
    put(out, text, 19)
    put(out, b".000000", 7)
    for i in range(20, size if size < 26 else 26):
        out.data[out.size - 26 + i] = text[i]


cdef void _put_legacy_order(Buffer* out, const OrderRow* row, const char* data) noexcept nogil:
    """Append the old service's Order object. The caller has reserved the space."""
    cdef const char* event = data + row.head.offset
    put(out, b'{"id":"', 7)
    put_int(out, row.oid)
    put(out, b'","symbol":"', 12)
    put(out, event + row.head.coin_text.offset, row.head.coin_text.size)
    if row.head.side == c'B':
        put(out, b'","side":"Bid","price":', 23)
    else:
        put(out, b'","side":"Ask","price":', 23)
    _put_unquoted(out, event, row.limitPx_text)
    put(out, b',"size":', 8)
    _put_unquoted(out, event, row.origSz_text)
    put(out, b',"owner":"', 10)
    put(out, event + row.head.user.offset, row.head.user.size)
    put(out, b'","timestamp":"', 15)
    _put_legacy_time(out, event, row.time)
    put(out, b'","status":"', 12)
    put(out, LEGACY_STATUS[row.head.codes[<int>STATUS]], LEGACY_STATUS_SIZE[row.head.codes[<int>STATUS]])
    put(out, b'"}', 2)


cdef void _format_utc_time(char* text, int64_t now_ns) noexcept nogil:
    """Write `now_ns` (UTC, ns since 1970) as 26 characters, `2026-05-05T17:39:14.852711`."""
    cdef int64_t seconds = now_ns // 1000000000, days, z, era, day_of_era, day_of_year, month
    cdef int64_t numbers[7]
    cdef int last_digit[7]
    cdef int width, k, i
    days = seconds // 86400
    seconds -= days * 86400
    # Civil date from days, with years that begin in March and eras of 400 years.
    z = days + 719468
    era = z // 146097
    day_of_era = z - era * 146097
    numbers[0] = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * numbers[0] + numbers[0] // 4 - numbers[0] // 100)
    month = (5 * day_of_year + 2) // 153
    numbers[2] = day_of_year - (153 * month + 2) // 5 + 1
    numbers[1] = month + 3 if month < 10 else month - 9
    numbers[0] += era * 400 + (1 if numbers[1] <= 2 else 0)
    numbers[3] = seconds // 3600
    numbers[4] = seconds // 60 % 60
    numbers[5] = seconds % 60
    numbers[6] = now_ns // 1000 % 1000000
    memcpy(text, b"0000-00-00T00:00:00.000000", 26)
    last_digit[0] = 3
    last_digit[1] = 6
    last_digit[2] = 9
    last_digit[3] = 12
    last_digit[4] = 15
    last_digit[5] = 18
    last_digit[6] = 25
    ft_assert(numbers[0] <= 9999)
    for k in range(7):
        width = 4 if k == 0 else (6 if k == 6 else 2)
        for i in range(width):
            text[last_digit[k] - i] = <char>(c'0' + numbers[k] % 10)
            numbers[k] //= 10


cdef inline bint _fits_legacy_message(const OrderRow* row, size_t max_payload) noexcept nogil:
    """Whether the row's Order fits into a message of `max_payload` bytes."""
    # Symbol and owner are the only unbounded texts; escaped numbers have at most DECODED_TEXT_BYTES.
    return (<size_t>row.head.size + 2 * DECODED_TEXT_BYTES + 512 <= max_payload
            or <size_t>row.head.coin_text.size + row.head.user.size + row.limitPx_text.size + row.origSz_text.size + 512 <= max_payload)


cdef size_t encode_legacy_updates(RowTable table, const char* data, const uint32_t* rows, size_t n, int64_t now_ns,
                                  size_t max_payload, uint32_t topic, Outbox* outbox, uint64_t* oversize) noexcept nogil:
    """Append the rows for `orderUpdate`, one frame each, all in one outbox entry. Return the number of orders.

    max_payload: payload bytes of a frame; an order that does not fit is left out and counted in `oversize`.
    """
    cdef char head[128]
    cdef size_t i, start, size
    cdef Buffer* out = &outbox.payload
    cdef const OrderRow* row
    cdef int header
    cdef OutboxEntry entry
    entry.topic = topic
    entry.kind = ENTRY_DATA
    entry.begin = out.size
    entry.orders = 0
    memcpy(head, b'{"type":"orderUpdate","channel":"orderUpdate","timestamp":"', 59)
    _format_utc_time(head + 59, now_ns)
    memcpy(head + 85, b'","data":', 9)
    for i in range(n):
        row = <const OrderRow*>table_row(table, rows[i])
        if LEGACY_STATUS[row.head.codes[<int>STATUS]] == NULL:
            continue
        if not _fits_legacy_message(row, max_payload):
            oversize[0] += 1
            continue
        if not buffer_reserve(out, <size_t>row.head.size + 2 * DECODED_TEXT_BYTES + 512):
            break
        start = out.size
        out.size += SHORT_FRAME_HEADER
        put(out, head, 94)
        _put_legacy_order(out, row, data)
        put(out, b"}", 1)
        size = out.size - start - SHORT_FRAME_HEADER
        header = frame_header(head + 100, size)
        if header != SHORT_FRAME_HEADER:
            if not buffer_reserve(out, 16):
                out.size = start
                break
            memmove(out.data + start + header, out.data + start + SHORT_FRAME_HEADER, size)
            out.size = start + header + size
        memcpy(out.data + start, head + 100, <size_t>header)
        entry.orders += 1
    entry.end = out.size
    if entry.orders:
        outbox_append(outbox, &entry)
    return entry.orders


cdef size_t encode_legacy_fragments(RowTable table, const char* data, const uint32_t* rows, size_t n, size_t max_payload,
                                    uint32_t topic, Outbox* outbox, uint64_t* oversize) noexcept nogil:
    """Append the rows for `orderBatch`: Orders joined by commas, with an outbox entry for each fragment. Return the number of
    orders.

    max_payload: payload bytes of a message, which fragments must fit into; an order that does not is counted in `oversize`.
    """
    cdef size_t i, start, sent = 0
    cdef size_t max_fragment = FRAGMENT_BYTES if max_payload > 2 * FRAGMENT_BYTES else max_payload // 2
    cdef Buffer* out = &outbox.payload
    cdef const OrderRow* row
    cdef OutboxEntry entry
    entry.topic = topic
    entry.kind = ENTRY_DATA
    entry.begin = out.size
    entry.orders = 0
    for i in range(n):
        row = <const OrderRow*>table_row(table, rows[i])
        if LEGACY_STATUS[row.head.codes[<int>STATUS]] == NULL:
            continue
        if not _fits_legacy_message(row, max_payload):
            oversize[0] += 1
            continue
        if not buffer_reserve(out, <size_t>row.head.size + 2 * DECODED_TEXT_BYTES + 512):
            break
        start = out.size
        if entry.orders:
            put(out, b",", 1)
        _put_legacy_order(out, row, data)
        if entry.orders and out.size - entry.begin > max_fragment:
            # This order starts the next fragment, without its comma.
            entry.end = start
            outbox_append(outbox, &entry)
            sent += entry.orders
            memmove(out.data + start, out.data + start + 1, out.size - start - 1)
            out.size -= 1
            entry.begin = start
            entry.orders = 0
        entry.orders += 1
    entry.end = out.size
    if entry.orders:
        outbox_append(outbox, &entry)
    return sent + entry.orders
