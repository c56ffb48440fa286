"""The header of a WebSocket frame.

A server's frame has the same bytes for every client, because servers do not mask (RFC 6455). It is made once, with its header,
and every client's transport writes it as it is.
"""


cdef inline int frame_header(char* out, size_t payload_size) noexcept nogil:
    """Write the header of a whole, unmasked text frame with `payload_size` payload bytes. Return its size: 2, 4 or 10."""
    cdef int i
    out[0] = <char>0x81
    if payload_size < 126:
        out[1] = <char>payload_size
        return 2
    if payload_size < 65536:
        out[1] = 126
        out[2] = <char>(payload_size >> 8)
        out[3] = <char>(payload_size & 0xFF)
        return 4
    out[1] = 127
    for i in range(8):
        out[2 + i] = <char>((payload_size >> (8 * (7 - i))) & 0xFF)
    return 10
