"""Cuts: a stretch of whole lines -> exactly one share per worker, balanced by bytes. Nothing is copied.

    |line|line|li¦ne|line|line|line|          a cut (¦) moves on to the next line's start …
    |{… "events":[{…},{…},{.¦.},{…},{…}]}|    … or, where that is far off, to the next event inside one huge by_block line

Inside a line the cut looks for the stream's mark, such as `},{"time":"`: bare quotes cannot occur inside a JSON string, so
this is an object's start. It
need not be an *event's* start (a key that nobody knows could hold such a list); the worker before it finds out, because it
either ends an event exactly there or not, and the pool then cuts again without such places.
"""
from libc.string cimport memchr

from fasttail.checks cimport ft_assert
from fasttail.parser.types cimport Chunk, Stream

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
    NEAR = 4096          # a line end within this distance is taken without looking for an event's start
    FAR = 1 << 20        # an event's start is looked for within this distance


cdef int cut(const Stream* stream, const char* data, const char* begin, const char* limit, int workers, bint within_lines,
             Chunk* chunks) noexcept nogil:
    """Set begin, pos, end, inside, hands_over of chunks[0:workers] for the lines [begin, limit). Always 0.

    `limit` is the end of a line (or of the data). Shares may be empty; together they cover every byte once.
    """
    cdef int k
    cdef const char* p = begin
    cdef const char* newline
    cdef const char* event
    cdef const char* near
    cdef size_t size = <size_t>(limit - begin)
    cdef bint inside = False, next_inside
    for k in range(workers):
        chunks[k].data = data
        chunks[k].limit = limit
        chunks[k].begin = p
        chunks[k].pos = p
        chunks[k].inside = inside
        next_inside = False
        if k == workers - 1:
            p = limit
        else:
            # the share ends near begin + size * (k+1) / workers, and never before it begins
            event = begin + <size_t>(<double>size * (k + 1) / workers)
            if event > p:
                near = event - 1
                newline = <const char*>memchr(near, c'\n', <size_t>(limit - near if limit - near < NEAR else NEAR))
                if newline == NULL and within_lines and limit - event > NEAR:
                    # the mark is looked for as far as the line can be seen; it comes soon, a huge line's end does not
                    near = <const char*>memmem(event, <size_t>(limit - event if limit - event < FAR else FAR),
                                               stream.event_mark, stream.mark_size)
                    if near != NULL and memchr(event, c'\n', <size_t>(near - event)) == NULL:
                        p = near + stream.mark_skip
                        next_inside = True
                if not next_inside:
                    if newline == NULL:
                        newline = <const char*>memchr(event, c'\n', <size_t>(limit - event))
                    p = newline + 1 if newline != NULL else limit
            else:
                next_inside = inside             # an empty share hands on what it was given
        ft_assert(chunks[k].begin <= p)
        ft_assert(p <= limit)
        chunks[k].end = p
        chunks[k].hands_over = next_inside
        inside = next_inside
    return 0


cdef size_t count_lines(const char* begin, const char* limit) noexcept nogil:
    """Newlines in [begin, limit), and one more if the last line has none."""
    cdef size_t n = 0
    cdef const char* p = begin
    while p < limit:
        n += 1
        p = <const char*>memchr(p, c'\n', <size_t>(limit - p))
        if p == NULL:
            break
        p += 1
    return n
