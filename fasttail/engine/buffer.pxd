"""Buffers of bytes under construction, and the outboxes that cut them into messages."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fasttail.system.checks cimport ft_assert

cdef extern from *:
    int ft_ctz "__builtin_ctzll"(uint64_t) noexcept nogil

cdef enum:
    MAX_RETAINED_BYTES = 1 << 20  # bytes of messages that an outbox keeps for its next batch


cdef struct Buffer:          # bytes under construction; owned by its creator, freed with buffer_free
    char* data
    size_t size
    size_t capacity
    bint out_of_memory       # the content is incomplete

cdef enum OutboxEntryKind:
    ENTRY_DATA               # text to send
    ENTRY_OVER_QUOTA         # no text: orders beyond the topic's quota
    ENTRY_OVERSIZE           # no text: an order that fits into no message

# One message of a topic, or its loss. The entries cut the outbox's payload into messages.
cdef struct OutboxEntry:
    uint32_t topic
    uint8_t kind
    uint32_t orders
    size_t begin             # payload[begin:end]
    size_t end
    uint64_t seq
    uint64_t line_offset      # position of its last order: offset of the line in its file,
    uint32_t events_consumed  # … and how many of the line's events are delivered;
    uint64_t block_number     # likewise, its block (0: the line names none),
    uint64_t block_events     # … and how many of the block's events are delivered


cdef struct Outbox:          # one worker's messages of a batch
    Buffer payload
    Buffer entries           # array of OutboxEntry


cdef int buffer_grow(Buffer* out, size_t extra) noexcept nogil
cdef void buffer_clear(Buffer* out, size_t keep) noexcept nogil
cdef void buffer_free(Buffer* out) noexcept nogil
cdef void outbox_clear(Outbox* outbox, size_t keep) noexcept nogil
cdef void outbox_free(Outbox* outbox) noexcept nogil
cdef int outbox_append(Outbox* outbox, const OutboxEntry* entry) noexcept nogil


# The rest is inline because it runs for each value of an order.

cdef inline int buffer_reserve(Buffer* out, size_t extra) noexcept nogil:
    """Reserve `extra` bytes. Return 1, or 0 and set `out_of_memory`."""
    return 1 if out.capacity - out.size >= extra else buffer_grow(out, extra)


cdef inline void put(Buffer* out, const char* p, size_t n) noexcept nogil:
    """Append `n` bytes, which the caller has reserved."""
    ft_assert(out.size + n <= out.capacity)
    memcpy(out.data + out.size, p, n)
    out.size += n


cdef inline uint64_t eight_digits(uint64_t value) noexcept nogil:
    """Return a value below 10**8 as eight bytes, 0 to 9, the first digit in the lowest byte.

    Halves all parts at once, three times: into 2 x 4 digits, 4 x 2 and 8 x 1. The products divide exactly in their range: by
    100 below 10,000 (10486 / 2**20), by 10 below 100 (103 / 2**10).
    """
    cdef uint64_t fours = (value // 10000) | ((value % 10000) << 32)
    cdef uint64_t upper = ((fours * 10486) >> 20) & <uint64_t>0x7F0000007F
    cdef uint64_t twos = upper | ((fours - 100 * upper) << 16)
    cdef uint64_t tens = ((twos * 103) >> 10) & <uint64_t>0x000F000F000F000F
    return tens | ((twos - 10 * tens) << 8)


cdef inline void put_eight(Buffer* out, uint64_t value) noexcept nogil:
    """Append a value below 10**8 with leading zeros."""
    cdef uint64_t digits = eight_digits(value) | <uint64_t>0x3030303030303030    # "00000000"
    memcpy(out.data + out.size, &digits, 8)
    out.size += 8


cdef inline void put_int(Buffer* out, uint64_t value) noexcept nogil:
    """Append a number's digits. The caller has reserved 28 bytes, all of which may be written."""
    cdef uint64_t upper = value // 100000000, digits
    cdef int leading_zeros               # of the first eight digits
    ft_assert(out.size + 28 <= out.capacity)
    if upper >= 100000000:
        digits = eight_digits(upper // 100000000)
    elif upper:
        digits = eight_digits(upper)
    else:
        digits = eight_digits(value)
    leading_zeros = ft_ctz(digits | (<uint64_t>1 << 56)) >> 3
    digits = (digits | <uint64_t>0x3030303030303030) >> (8 * leading_zeros)
    memcpy(out.data + out.size, &digits, 8)      # may write past the digits
    out.size += <size_t>(8 - leading_zeros)
    if upper >= 100000000:
        put_eight(out, upper % 100000000)
    if upper:
        put_eight(out, value % 100000000)


cdef inline void put_signed(Buffer* out, int64_t value) noexcept nogil:
    if value < 0:
        put(out, b"-", 1)
        put_int(out, ~<uint64_t>value + 1)
    else:
        put_int(out, <uint64_t>value)


cdef inline void put_padded(Buffer* out, uint64_t value, int digits) noexcept nogil:
    """Append a number with leading zeros, for which the caller has reserved `digits` bytes."""
    cdef int i
    ft_assert(out.size + <size_t>digits <= out.capacity)
    for i in range(digits):
        out.data[out.size + <size_t>(digits - 1 - i)] = <char>(c'0' + value % 10)
        value //= 10
    out.size += <size_t>digits


cdef inline void put_bool(Buffer* out, bint value) noexcept nogil:
    if value:
        put(out, b"true", 4)
    else:
        put(out, b"false", 5)
