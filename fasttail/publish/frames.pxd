"""The header of a WebSocket frame.

The bytes of a frame from a server are the same for every client (RFC 6455: servers do not mask), so a frame is made once, with
its header, and the clients' transports write it as it is.
"""


cdef inline int frame_header(char* p, size_t n) noexcept nogil:
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
