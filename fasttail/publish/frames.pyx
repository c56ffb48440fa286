"""Selection -> bytes ready to send or to write. Text goes over as the node wrote it; nothing is formatted twice.

The bytes of a WebSocket frame from a server are the same for every client (RFC 6455: servers do not mask), so a frame is made
here once, header and all, and the clients' transports write it as it is.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove

from fasttail.atomics cimport ft_set
from fasttail.checks cimport FT_CHECKED, ft_assert
from fasttail.parser.json cimport TEXT_ROOM, unescape
from fasttail.parser.table cimport Table
from fasttail.parser.types cimport IS_POSITION_TPSL, IS_TRIGGER, NO_ENVELOPE, REDUCE_ONLY, Envelope, Ref, Row
from fasttail.parser.vocabulary cimport STATUSES
from fasttail.parser.words cimport words_find

cdef extern from *:
    int ft_ctz "__builtin_ctzll"(uint64_t) noexcept nogil

cdef const uint64_t EIGHT = 100000000            # 10**8: eight digits
cdef const uint64_t ZEROS = 0x3030303030303030   # eight times "0"

cdef enum:
    PIECE = 32768            # bytes of orders that are handed over together
    UPDATE_HEAD = 4          # the header of a frame of 126 to 65,535 bytes


# -------------------------------------------------------------------------------------------------------------------- bytes

cdef int room_for(Out* out, size_t more) noexcept nogil:
    """Room for `more` bytes: 1, or 0 (and `failed`) when memory is out."""
    cdef size_t room
    cdef char* data
    if out.room - out.size >= more:
        return 1
    room = out.room * 2 if out.room * 2 > out.size + more else out.size + more + 4096
    if FT_CHECKED:
        room = out.size + more           # no more than was asked for, so that a write beyond it is seen
    data = <char*>realloc(out.data, room)
    if data == NULL:
        out.failed = True
        return 0
    out.data = data
    ft_set(<uint64_t*>&out.room, room)           # relaxed, wherever it is written: the main thread adds them up meanwhile
    return 1


cdef int out_clear(Out* out, size_t keep) noexcept nogil:
    """Empty it; memory beyond `keep` bytes goes back. Always 0."""
    if out.room > keep:
        free(out.data)
        out.data = NULL
        ft_set(<uint64_t*>&out.room, 0)
    out.size = 0
    out.failed = False
    return 0


cdef int out_free(Out* out) noexcept nogil:
    free(out.data)
    out.data = NULL
    out.size = 0
    out.room = 0
    return 0


cdef inline void _put(Out* out, const char* p, size_t n) noexcept nogil:
    """Append; the caller has made room."""
    ft_assert(out.size + n <= out.room)
    memcpy(out.data + out.size, p, n)
    out.size += n


cdef inline uint64_t _eight_digits(uint64_t value) noexcept nogil:
    """value < 10**8 as eight bytes, 0 to 9, the first digit in the lowest byte.

    Halved three times, each time all parts at once: 2 x 4 digits, 4 x 2, 8 x 1. The products divide exactly in their range: by 100
    below 10,000 (10486 / 2**20), by 10 below 100 (103 / 2**10).
    """
    cdef uint64_t fours = (value // 10000) | ((value % 10000) << 32)
    cdef uint64_t upper = ((fours * 10486) >> 20) & <uint64_t>0x7F0000007F
    cdef uint64_t twos = upper | ((fours - 100 * upper) << 16)
    cdef uint64_t tens = ((twos * 103) >> 10) & <uint64_t>0x000F000F000F000F
    return tens | ((twos - 10 * tens) << 8)


cdef inline void _put_eight(Out* out, uint64_t value) noexcept nogil:
    """value < 10**8 with leading zeros."""
    cdef uint64_t digits = _eight_digits(value) | ZEROS
    memcpy(out.data + out.size, &digits, 8)
    out.size += 8


cdef int put_int(Out* out, uint64_t value) noexcept nogil:
    """Append a number's digits; the caller has made room for 28 bytes, which may be written. Always 0."""
    cdef uint64_t upper = value // EIGHT, digits
    cdef int none                        # leading zeros of the first eight digits
    ft_assert(out.size + 28 <= out.room)
    if upper >= EIGHT:
        digits = _eight_digits(upper // EIGHT)
    elif upper:
        digits = _eight_digits(upper)
    else:
        digits = _eight_digits(value)
    none = ft_ctz(digits | (<uint64_t>1 << 56)) >> 3
    digits = (digits | ZEROS) >> (8 * none)
    memcpy(out.data + out.size, &digits, 8)      # past the digits there is nothing yet
    out.size += <size_t>(8 - none)
    if upper >= EIGHT:
        _put_eight(out, upper % EIGHT)
    if upper:
        _put_eight(out, value % EIGHT)
    return 0


cdef inline void _put_signed(Out* out, int64_t value) noexcept nogil:
    if value < 0:
        _put(out, b"-", 1)
        put_int(out, ~<uint64_t>value + 1)
    else:
        put_int(out, <uint64_t>value)


cdef inline void _put_bool(Out* out, bint value) noexcept nogil:
    if value:
        _put(out, b"true", 4)
    else:
        _put(out, b"false", 5)


# ------------------------------------------------------------------------------------------------------- parse and tail: lines

cdef int encode_raw(Out* out, const Row* row, const char* data) noexcept nogil:
    """The event as it stood and a newline: the node's plain line. 1, or 0 when memory is out."""
    if not room_for(out, <size_t>row.size + 1):
        return 0
    _put(out, data + row.at, row.size)
    _put(out, b"\n", 1)
    return 1


cdef inline void _put_text(Out* out, const char* event, Ref text) noexcept nogil:
    """One of the event's texts with its quotes, or null."""
    if text.off == 0:
        _put(out, b"null", 4)
    else:
        _put(out, b'"', 1)
        _put(out, event + text.off, text.size)
        _put(out, b'"', 1)


cdef inline void _put_json(Out* out, const char* event, Ref value) noexcept nogil:
    if value.off == 0:
        _put(out, b"null", 4)
    else:
        _put(out, event + value.off, value.size)


cdef int encode_json(Out* out, const Row* row, Table table, const char* data) noexcept nogil:
    """One flat object and a newline; the keys are those of `fasttail.parser.columns.COLUMNS`. 1, or 0 when memory is out."""
    cdef const Envelope* e = &table.envelopes[row.envelope] if row.envelope != <uint32_t>NO_ENVELOPE else NULL
    cdef const char* event = data + row.at
    # every value stands in the event, and the keys with their nulls need less than 512 bytes
    if not room_for(out, <size_t>row.size + 640 + (e.block_time.size + e.local_time.size if e != NULL else 0)):
        return 0
    _put(out, b'{"time":', 8)
    _put_text(out, event, row.time)
    _put(out, b',"user":', 8)
    _put_text(out, event, row.user)
    _put(out, b',"hash":', 8)
    _put_text(out, event, row.hash)
    _put(out, b',"builder":', 11)
    _put_json(out, event, row.builder)
    _put(out, b',"status":', 10)
    _put_text(out, event, row.status_text)
    _put(out, b',"coin":', 8)
    _put_text(out, event, row.coin_text)
    _put(out, b',"side":"', 9)
    out.data[out.size] = <char>row.side
    out.size += 1
    _put(out, b'","limitPx":', 12)
    _put_text(out, event, row.limitPx_text)
    _put(out, b',"sz":', 6)
    _put_text(out, event, row.sz_text)
    _put(out, b',"oid":', 7)
    put_int(out, row.oid)
    _put(out, b',"timestamp":', 13)
    _put_signed(out, row.timestamp)
    _put(out, b',"triggerCondition":', 20)
    _put_text(out, event, row.triggerCondition)
    _put(out, b',"isTrigger":', 13)
    _put_bool(out, row.flags & IS_TRIGGER)
    _put(out, b',"triggerPx":', 13)
    _put_text(out, event, row.triggerPx_text)
    _put(out, b',"children":', 12)
    _put_json(out, event, row.children)
    _put(out, b',"isPositionTpsl":', 18)
    _put_bool(out, row.flags & IS_POSITION_TPSL)
    _put(out, b',"reduceOnly":', 14)
    _put_bool(out, row.flags & REDUCE_ONLY)
    _put(out, b',"orderType":', 13)
    _put_text(out, event, row.orderType_text)
    _put(out, b',"origSz":', 10)
    _put_text(out, event, row.origSz_text)
    _put(out, b',"tif":', 7)
    _put_text(out, event, row.tif_text)
    _put(out, b',"cloid":', 9)
    _put_text(out, event, row.cloid)
    if e == NULL:
        _put(out, b',"block_number":null,"block_time":null,"local_time":null}\n', 58)
        return 1
    _put(out, b',"block_number":', 16)
    put_int(out, e.block_number)
    _put(out, b',"block_time":"', 15)
    _put(out, data + e.at + e.block_time.off, e.block_time.size)
    _put(out, b'","local_time":"', 16)
    _put(out, data + e.at + e.local_time.off, e.local_time.size)
    _put(out, b'"}\n', 3)
    return 1


# ------------------------------------------------------------------------------------------------------- the public API's shape

cdef int encode_ws(Out* out, const Row* row, const char* data) noexcept nogil:
    """An element of `orderUpdates`, as the public API gives it. 1, or 0 when memory is out."""
    cdef const char* event = data + row.at
    # every value stands in the event; keys and numbers need less than 256 bytes
    if not room_for(out, <size_t>row.size + 256):
        return 0
    _put(out, b'{"order":{"coin":', 17)
    _put_text(out, event, row.coin_text)
    _put(out, b',"side":"', 9)
    out.data[out.size] = <char>row.side
    out.size += 1
    _put(out, b'","limitPx":', 12)
    _put_text(out, event, row.limitPx_text)
    _put(out, b',"sz":', 6)
    _put_text(out, event, row.sz_text)
    _put(out, b',"oid":', 7)
    put_int(out, row.oid)
    _put(out, b',"timestamp":', 13)
    _put_signed(out, row.timestamp)
    _put(out, b',"origSz":', 10)
    _put_text(out, event, row.origSz_text)
    _put(out, b',"cloid":', 9)
    _put_text(out, event, row.cloid)
    _put(out, b'},"status":', 11)
    _put_text(out, event, row.status_text)
    _put(out, b',"statusTimestamp":', 19)
    _put_signed(out, row.time_ns // 1000000)
    _put(out, b"}", 1)
    return 1


# -------------------------------------------------------------------------------------------- the old service's two channels

cdef const char* LEGACY_STATUS[64]       # by the parser's status code; NULL: not on these channels
cdef size_t LEGACY_STATUS_SIZE[64]


cdef int _legacy_status(bytes status, const char* text, size_t n) except -1:
    cdef uint32_t code = words_find(&STATUSES, status, <size_t>len(status))
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


cdef int _put_plain(Out* out, const char* event, Ref ref) noexcept nogil:
    """A number's text, escapes decoded: as a JSON number it stands without quotes."""
    cdef const char* text = event + ref.off
    cdef char decoded[TEXT_ROOM]
    cdef ssize_t n = <ssize_t>ref.size
    if memchr(text, c"\\", ref.size) != NULL:
        n = unescape(text, ref.size, decoded, TEXT_ROOM)     # the parser has decoded it into as much room
        ft_assert(n >= 0)
        text = decoded
    _put(out, text, <size_t>n)
    return 0


cdef int _put_micros(Out* out, const char* event, Ref time) noexcept nogil:
    """A time with exactly six fraction digits, cut off, as the old service wrote it."""
    cdef size_t size = time.size, i
    cdef const char* text = event + time.off
    cdef char decoded[TEXT_ROOM]
    if memchr(text, c"\\", size) != NULL:
        size = <size_t>unescape(text, size, decoded, TEXT_ROOM)
        ft_assert(size <= TEXT_ROOM)
        text = decoded
    ft_assert(size >= 19)
    _put(out, text, 19)
    _put(out, b".000000", 7)
    for i in range(20, size if size < 26 else 26):
        out.data[out.size - 26 + i] = text[i]
    return 0


cdef int _put_order(Out* out, const Row* row, const char* data) noexcept nogil:
    """The old service's Order object. The caller has made room."""
    cdef const char* event = data + row.at
    _put(out, b'{"id":"', 7)
    put_int(out, row.oid)
    _put(out, b'","symbol":"', 12)
    _put(out, event + row.coin_text.off, row.coin_text.size)
    if row.side == c'B':
        _put(out, b'","side":"Bid","price":', 23)
    else:
        _put(out, b'","side":"Ask","price":', 23)
    _put_plain(out, event, row.limitPx_text)
    _put(out, b',"size":', 8)
    _put_plain(out, event, row.origSz_text)
    _put(out, b',"owner":"', 10)
    _put(out, event + row.user.off, row.user.size)
    _put(out, b'","timestamp":"', 15)
    _put_micros(out, event, row.time)
    _put(out, b'","status":"', 12)
    _put(out, LEGACY_STATUS[row.status], LEGACY_STATUS_SIZE[row.status])
    _put(out, b'"}', 2)
    return 0


cdef int frame_header(char* p, size_t n) noexcept nogil:
    """Header of a whole, unmasked text frame with n payload bytes at p: its size, 2, 4 or 10."""
    cdef int i
    p[0] = <char>0x81
    if n < 126:
        p[1] = <char>n
        return 2
    if n < 65536:
        p[1] = 126
        p[2] = <char>(n >> 8)
        p[3] = <char>(n & 0xFF)
        return 4
    p[1] = 127
    for i in range(8):
        p[2 + i] = <char>((n >> (8 * (7 - i))) & 0xFF)
    return 10


cdef int _put_now(char* text, int64_t now_ns) noexcept nogil:
    """`now_ns` (UTC, ns since 1970) as 26 characters, `2026-05-05T17:39:14.852711`."""
    cdef int64_t seconds = now_ns // 1000000000, days, z, era, of_era, of_year, month
    cdef int64_t numbers[7]
    cdef int at[7]
    cdef int width, k, i
    days = seconds // 86400
    seconds -= days * 86400
    # civil date from days: years begin in March, eras of 400 years
    z = days + 719468
    era = z // 146097
    of_era = z - era * 146097
    numbers[0] = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * numbers[0] + numbers[0] // 4 - numbers[0] // 100)
    month = (5 * of_year + 2) // 153
    numbers[2] = of_year - (153 * month + 2) // 5 + 1
    numbers[1] = month + 3 if month < 10 else month - 9
    numbers[0] += era * 400 + (1 if numbers[1] <= 2 else 0)
    numbers[3] = seconds // 3600
    numbers[4] = seconds // 60 % 60
    numbers[5] = seconds % 60
    numbers[6] = now_ns // 1000 % 1000000
    memcpy(text, b"0000-00-00T00:00:00.000000", 26)
    at[0] = 3
    at[1] = 6
    at[2] = 9
    at[3] = 12
    at[4] = 15
    at[5] = 18
    at[6] = 25
    ft_assert(numbers[0] <= 9999)
    for k in range(7):
        width = 4 if k == 0 else (6 if k == 6 else 2)
        for i in range(width):
            text[at[k] - i] = <char>(c'0' + numbers[k] % 10)
            numbers[k] //= 10
    return 0


cdef int add_message(Box* box, const Message* message) noexcept nogil:
    """1, or 0 when memory is out."""
    if not room_for(&box.marks, sizeof(Message)):
        return 0
    _put(&box.marks, <const char*>message, sizeof(Message))
    return 1


cdef inline bint _fits(const Row* row, size_t most) noexcept nogil:
    """Whether an old channel's message of `most` bytes can hold the row's Order."""
    # symbol and owner are the only texts without a bound; the numbers' are at most TEXT_ROOM when escaped
    return (<size_t>row.size + 2 * TEXT_ROOM + 512 <= most
            or <size_t>row.coin_text.size + row.user.size + row.limitPx_text.size + row.origSz_text.size + 512 <= most)


cdef size_t encode_updates(Table table, const char* data, const uint32_t* rows, size_t n, int64_t now_ns, size_t most, uint32_t topic,
                           Box* box, uint64_t* oversize) noexcept nogil:
    """The rows for `orderUpdate`: a frame each, all in one Message.

    most: payload bytes that a frame may have; an order that would not fit is left out and counted in `oversize`.
    Returns the number of orders.
    """
    cdef char head[128]
    cdef size_t i, start, size
    cdef Out* out = &box.text
    cdef const Row* row
    cdef int header
    cdef Message message
    message.topic = topic
    message.kind = DATA
    message.begin = out.size
    message.orders = 0
    memcpy(head, b'{"type":"orderUpdate","channel":"orderUpdate","timestamp":"', 59)
    _put_now(head + 59, now_ns)
    memcpy(head + 85, b'","data":', 9)
    for i in range(n):
        row = &(<Row*>table.rows)[rows[i]]
        if LEGACY_STATUS[row.status] == NULL:
            continue
        if not _fits(row, most):
            oversize[0] += 1
            continue
        if not room_for(out, <size_t>row.size + 2 * TEXT_ROOM + 512):
            break
        start = out.size
        out.size += UPDATE_HEAD
        _put(out, head, 94)
        _put_order(out, row, data)
        _put(out, b"}", 1)
        size = out.size - start - UPDATE_HEAD
        header = frame_header(head + 100, size)
        if header != UPDATE_HEAD:
            if not room_for(out, 16):
                out.size = start
                break
            memmove(out.data + start + header, out.data + start + UPDATE_HEAD, size)
            out.size = start + header + size
        memcpy(out.data + start, head + 100, <size_t>header)
        message.orders += 1
    message.end = out.size
    if message.orders:
        add_message(box, &message)
    return message.orders


cdef size_t encode_pieces(Table table, const char* data, const uint32_t* rows, size_t n, size_t most, uint32_t topic,
                          Box* box, uint64_t* oversize) noexcept nogil:
    """The rows for `orderBatch`: Orders joined by commas, a Message for each piece that fits a message of `most` bytes.

    Returns the number of orders.
    """
    cdef size_t i, start, sent = 0
    cdef size_t piece_most = PIECE if most > 2 * PIECE else most // 2
    cdef Out* out = &box.text
    cdef const Row* row
    cdef Message message
    message.topic = topic
    message.kind = DATA
    message.begin = out.size
    message.orders = 0
    for i in range(n):
        row = &(<Row*>table.rows)[rows[i]]
        if LEGACY_STATUS[row.status] == NULL:
            continue
        if not _fits(row, most):
            oversize[0] += 1
            continue
        if not room_for(out, <size_t>row.size + 2 * TEXT_ROOM + 512):
            break
        start = out.size
        if message.orders:
            _put(out, b",", 1)
        _put_order(out, row, data)
        if message.orders and out.size - message.begin > piece_most:
            # this order begins the next piece: its comma goes
            message.end = start
            add_message(box, &message)
            sent += message.orders
            memmove(out.data + start, out.data + start + 1, out.size - start - 1)
            out.size -= 1
            message.begin = start
            message.orders = 0
        message.orders += 1
    message.end = out.size
    if message.orders:
        add_message(box, &message)
    return sent + message.orders
