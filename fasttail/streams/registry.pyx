"""The node's streams by name, and how to tell which one a file holds."""
from libc.string cimport memchr, memcmp

from fasttail.streams.fills cimport FILLS
from fasttail.streams.orders cimport ORDERS

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <string.h>
    extern void *memmem(const void *, size_t, const void *, size_t);
    """
    void* memmem(const void* hay, size_t n, const void* needle, size_t m) noexcept nogil

cdef enum:
    SEARCHED_BYTES = 4096        # of each line, for its first event

# The streams that can be parsed.
STREAMS = ("orders", "fills")


cdef const StreamSpec* find_stream(str name) except NULL:
    """Return the stream of this name. Raises ValueError for another one."""
    if name == "orders":
        return &ORDERS
    if name == "fills":
        return &FILLS
    raise ValueError(f"stream {name!r} cannot be parsed: expected one of {', '.join(STREAMS)}")


cdef bint _is_fill(const char* p, const char* end) noexcept nogil:
    """Whether a fill in the node's own form, `["0x…",{"coin":…`, begins at p."""
    cdef const char* quote
    if end - p < 4 or memcmp(p, b'["0x', 4) != 0:
        return False
    quote = <const char*>memchr(p + 4, c'"', <size_t>(end - p - 4))
    return quote != NULL and end - quote > 10 and memcmp(quote, b'",{"coin":', 10) == 0


cdef const StreamSpec* detect_stream(const char* p, size_t n) noexcept nogil:
    """Return the stream of the first event in the node's own form; order statuses if the lines have none."""
    cdef const char* limit = p + n
    cdef const char* end
    cdef const char* event
    while p < limit:
        end = <const char*>memchr(p, c"\n", <size_t>(limit - p))
        if end == NULL:
            end = limit
        while p < end and p[0] == 0:
            p += 1
        if _is_fill(p, end):
            return &FILLS
        if p < end and p[0] == c"{":
            event = <const char*>memmem(p, <size_t>min(end - p, <ssize_t>SEARCHED_BYTES), b'"events":[', 10)
            if event == NULL:
                return &ORDERS
            if _is_fill(event + 10, end):
                return &FILLS
            if event + 10 < end and event[10] == c"{":
                return &ORDERS
        p = end + 1
    return &ORDERS
