"""Splits a range of whole lines into chunks, one per worker and balanced by bytes, without copying.

    |line|line|li¦ne|line|line|line|          a cut (¦) moves to the start of the next line …
    |{… "events":[{…},{…},{.¦.},{…},{…}]}|    … or, if that is far off, to the next event inside a huge by_block line

Inside a line the cut moves to the stream's separator, such as `},{"time":"`. A JSON string cannot contain a bare quote, so this
is the start of an object. It need not be the start of an *event*, because an unknown key could hold such a list. The worker
before the cut finds out, because it either ends an event exactly there or not; if not, the pool cuts again at newlines only.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memchr

from fasttail.system.checks cimport ft_assert
from fasttail.streams.types cimport Chunk, StreamSpec

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
    NEWLINE_SEARCH_BYTES = 4096       # a line end within this distance is used before any separator
    SEPARATOR_SEARCH_BYTES = 1 << 20  # how far a separator is searched for
    ENVELOPE_BYTES = 256              # in which the block number of a line is searched for


cdef void split_into_chunks(const StreamSpec* stream, const char* data, const char* begin, const char* limit, int workers,
                            bint split_inside_lines, Chunk* chunks) noexcept nogil:
    """Set begin, pos, end, starts_inside_line, ends_inside_line of chunks[0:workers] for the lines [begin, limit).

    `limit` is the end of a line or of the data. Chunks may be empty; together they cover every byte once.
    """
    cdef int k
    cdef const char* p = begin
    cdef const char* newline
    cdef const char* target
    cdef const char* cursor
    cdef size_t size = <size_t>(limit - begin)
    cdef bint starts_inside_line = False, next_starts_inside
    for k in range(workers):
        chunks[k].data = data
        chunks[k].limit = limit
        chunks[k].begin = p
        chunks[k].pos = p
        chunks[k].starts_inside_line = starts_inside_line
        next_starts_inside = False
        if k == workers - 1:
            p = limit
        else:
            # The chunk ends near begin + size * (k + 1) / workers, and never before it begins.
            target = begin + <size_t>(<double>size * (k + 1) / workers)
            if target > p:
                cursor = target - 1
                newline = <const char*>memchr(cursor, c'\n',
                                              <size_t>(limit - cursor if limit - cursor < NEWLINE_SEARCH_BYTES
                                                       else NEWLINE_SEARCH_BYTES))
                if newline == NULL and split_inside_lines and stream.event_separator != NULL and limit - target > NEWLINE_SEARCH_BYTES:
                    # Search for the separator first: it comes soon, while the end of a huge line does not.
                    cursor = <const char*>memmem(target, <size_t>(limit - target if limit - target < SEPARATOR_SEARCH_BYTES
                                                                  else SEPARATOR_SEARCH_BYTES),
                                                 stream.event_separator, stream.separator_size)
                    if cursor != NULL and memchr(target, c'\n', <size_t>(cursor - target)) == NULL:
                        p = cursor + stream.event_start_skip
                        next_starts_inside = True
                if not next_starts_inside:
                    if newline == NULL:
                        newline = <const char*>memchr(target, c'\n', <size_t>(limit - target))
                    p = newline + 1 if newline != NULL else limit
            else:
                next_starts_inside = starts_inside_line  # an empty chunk passes its state on
        ft_assert(chunks[k].begin <= p)
        ft_assert(p <= limit)
        chunks[k].end = p
        chunks[k].ends_inside_line = next_starts_inside
        starts_inside_line = next_starts_inside


cdef size_t count_lines(const char* begin, const char* limit) noexcept nogil:
    """Return the number of newlines in [begin, limit), plus one if the last line has none."""
    cdef size_t n = 0
    cdef const char* p = begin
    while p < limit:
        n += 1
        p = <const char*>memchr(p, c'\n', <size_t>(limit - p))
        if p == NULL:
            break
        p += 1
    return n


cdef uint64_t block_of_line(const char* line, const char* end) noexcept nogil:
    """Return the block number that a line in the node's own form begins with, or 0."""
    cdef uint64_t number = 0
    cdef const char* p = <const char*>memmem(line, <size_t>min(end - line, <ssize_t>ENVELOPE_BYTES), b'"block_number":', 15)
    if p == NULL:
        return 0
    p += 15
    while p < end and c'0' <= p[0] <= c'9':
        number = 10 * number + <uint64_t>(p[0] - c'0')
        p += 1
    return number


def block_of(bytes line not None) -> int:
    """Return the block number that a line in the node's own form begins with, or 0. Its first 320 bytes are enough."""
    cdef const char* p = line
    return block_of_line(p, p + len(line))
