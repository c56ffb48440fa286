"""Bytes under construction, and the messages that they are cut up into."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fasttail.checks cimport ft_assert

cdef extern from *:
    int ft_ctz "__builtin_ctzll"(uint64_t) noexcept nogil

cdef enum:
    MAX_RETAINED_BYTES = 1 << 20  # bytes of messages that a box keeps for its next batch


cdef struct Out:             # bytes under construction; owned by whoever made it, freed with out_free
    char* data
    size_t size
    size_t room
    bint failed              # memory ran out: the content is not whole

cdef enum MessageKind:
    DATA                     # text to send
    LEFT_OUT                 # none: orders beyond the topic's quota
    TOO_LONG                 # none: an order that fits into no message

# One message of a topic, or its loss. The text of a box is cut up by these.
cdef struct Message:
    uint32_t topic
    uint8_t kind
    uint32_t orders
    size_t begin             # [begin, end) of the box's text
    size_t end
    uint64_t seq
    uint64_t line            # where the last of its orders stands: offset of the line in its file,
    uint32_t events          # … and how many of the line's events are done with behind it


cdef struct Box:             # messages of a batch: one worker's
    Out text
    Out marks                # array of Message


cdef int out_grow(Out* out, size_t more) noexcept nogil
cdef void out_clear(Out* out, size_t keep) noexcept nogil
cdef void out_free(Out* out) noexcept nogil
cdef void box_clear(Box* box, size_t keep) noexcept nogil
cdef void box_free(Box* box) noexcept nogil
cdef int add_message(Box* box, const Message* message) noexcept nogil


# The rest is inline: it runs for each value of an order.

cdef inline int room_for(Out* out, size_t more) noexcept nogil:
    """Room for `more` bytes: 1, or 0 (and `failed`) when memory is out."""
    return 1 if out.room - out.size >= more else out_grow(out, more)


cdef inline void put(Out* out, const char* p, size_t n) noexcept nogil:
    """Append; the caller has made room."""
    ft_assert(out.size + n <= out.room)
    memcpy(out.data + out.size, p, n)
    out.size += n


cdef inline uint64_t eight_digits(uint64_t value) noexcept nogil:
    """value < 10**8 as eight bytes, 0 to 9, the first digit in the lowest byte.

    Halved three times, each time all parts at once: 2 x 4 digits, 4 x 2, 8 x 1. The products divide exactly in their range: by
    100 below 10,000 (10486 / 2**20), by 10 below 100 (103 / 2**10).
    """
    cdef uint64_t fours = (value // 10000) | ((value % 10000) << 32)
    cdef uint64_t upper = ((fours * 10486) >> 20) & <uint64_t>0x7F0000007F
    cdef uint64_t twos = upper | ((fours - 100 * upper) << 16)
    cdef uint64_t tens = ((twos * 103) >> 10) & <uint64_t>0x000F000F000F000F
    return tens | ((twos - 10 * tens) << 8)


cdef inline void put_eight(Out* out, uint64_t value) noexcept nogil:
    """value < 10**8 with leading zeros."""
    cdef uint64_t digits = eight_digits(value) | <uint64_t>0x3030303030303030    # eight times "0"
    memcpy(out.data + out.size, &digits, 8)
    out.size += 8


cdef inline void put_int(Out* out, uint64_t value) noexcept nogil:
    """Append a number's digits; the caller has made room for 28 bytes, which may be written."""
    cdef uint64_t upper = value // 100000000, digits
    cdef int none                        # leading zeros of the first eight digits
    ft_assert(out.size + 28 <= out.room)
    if upper >= 100000000:
        digits = eight_digits(upper // 100000000)
    elif upper:
        digits = eight_digits(upper)
    else:
        digits = eight_digits(value)
    none = ft_ctz(digits | (<uint64_t>1 << 56)) >> 3
    digits = (digits | <uint64_t>0x3030303030303030) >> (8 * none)
    memcpy(out.data + out.size, &digits, 8)      # past the digits there is nothing yet
    out.size += <size_t>(8 - none)
    if upper >= 100000000:
        put_eight(out, upper % 100000000)
    if upper:
        put_eight(out, value % 100000000)


cdef inline void put_signed(Out* out, int64_t value) noexcept nogil:
    if value < 0:
        put(out, b"-", 1)
        put_int(out, ~<uint64_t>value + 1)
    else:
        put_int(out, <uint64_t>value)


cdef inline void put_padded(Out* out, uint64_t value, int digits) noexcept nogil:
    """A number with leading zeros; the caller has made room."""
    cdef int i
    ft_assert(out.size + <size_t>digits <= out.room)
    for i in range(digits):
        out.data[out.size + <size_t>(digits - 1 - i)] = <char>(c'0' + value % 10)
        value //= 10
    out.size += <size_t>digits


cdef inline void put_bool(Out* out, bint value) noexcept nogil:
    if value:
        put(out, b"true", 4)
    else:
        put(out, b"false", 5)
