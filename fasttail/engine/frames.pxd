"""The header of a WebSocket frame.

The bytes of a frame from a server are the same for every client (RFC 6455: servers do not mask), so a frame is made once, with
its header, and the clients' transports write it as it is.
"""


cdef inline int frame_header(char* out, size_t payload_size) noexcept nogil:
    """Header of a whole, unmasked text frame with `payload_size` payload bytes at `out`: its size, 2, 4 or 10."""
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
