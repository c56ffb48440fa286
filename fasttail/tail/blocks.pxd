from libc.stdint cimport uint64_t

cimport cython


cdef enum:
    REMEMBERED = 1024     # bytes before the place of reading by which the content is known again
    # Lines a little longer than the window come again and again (a by_block line may be some MB): giving the pages back
    # after each would cost as many page faults. Up to so many windows they are kept; their rows are, too.
    KEPT_WINDOWS = 8


cpdef enum:
    FILL_LINES = 1    # base[begin:lines_end] holds at least one complete line
    FILL_PARTIAL = 2  # no complete line yet: call fill again, more may be there
    FILL_EOF = 3      # nothing more to read now (a partial line may be held)
    FILL_SKIPPED = 4  # part of an oversize line was thrown away: call fill again
    FILL_NOFILE = 5   # no file is open
    FILL_ERROR = -1   # the read failed; errno is in `error`


# One file read in blocks of whole lines. Owns the descriptor(s) and one memory area:
#
#   base      begin            lines_end        end                 capacity
#    |  consumed | complete lines  | partial line | free, never touched |
#                ^ `offset` is the file offset of base[begin]
#
# 0 <= begin <= lines_end <= end <= capacity, always. One thread uses a Reader at a time.
# Pointers into base[begin:lines_end] live until the next consume(), fill(), open(), seek(), visit(),
# leave(), take_lines() or close().
@cython.final
cdef class Reader:
    cdef char* base                        # owned: mmap of `capacity` bytes, from __cinit__ to __dealloc__
    cdef size_t window                     # most bytes asked of the file at once
    cdef size_t max_line                   # longest line kept, its newline not counted
    cdef size_t capacity                   # max_line + window, touched only as far as lines need it
    cdef size_t begin, lines_end, end      # indices into base, see above
    cdef uint64_t touched_bytes            # bytes of base that may have pages behind them
    cdef int fd                            # owned; -1: none
    cdef int parked_fd                     # owned; the file left for a visit; -1: none
    cdef public bint wary                  # look, with every read, whether the content before it is still the same
    cdef bint at_end                       # the last read found less than was asked for: there was no more then
    cdef readonly bint changed             # it is not: nothing more is read before a seek or another file
    cdef uint64_t limit                    # nothing at or behind this offset is read
    cdef readonly bint at_hole             # NUL bytes follow reach(), and data follows them: pass_hole() goes on behind
    cdef readonly uint64_t nuls_end        # offset up to which nothing but NUL bytes follows reach(); 0: none are known
    cdef uint64_t nuls_counted             # offset up to which `nul_bytes` has this file's
    cdef uint64_t parked_nuls_counted
    cdef char last[REMEMBERED]             # what stood right before base[0],
    cdef size_t last_size                  # … so many bytes of it, at the array's start
    cdef char parked_last[REMEMBERED]
    cdef size_t parked_last_size
    cdef bint sequential                   # a pipe or terminal: read() in order, no offsets to seek to
    cdef readonly int error                # errno of the last failed read of this file, 0: none
    cdef uint64_t offset                   # file offset of base[begin], less `skipped`
    cdef uint64_t skipped                  # bytes thrown away so far of the oversize line at `offset`
    cdef uint64_t parked_offset            # where the parked file goes on
    cdef uint64_t oversize                 # lines longer than max_line, each counted once
    cdef uint64_t nuls                     # NUL bytes that were met; without `wary` only where a line should begin
    cdef uint64_t got_bytes                # of all files; bytes read twice count twice

    cdef int fill(self) noexcept nogil
    cdef int _check(self) noexcept nogil
    cdef int consume(self) noexcept nogil
    cdef int consume_some(self, size_t size) noexcept nogil

    cdef int _skip_nuls(self) noexcept nogil
    cdef int _look_over_nuls(self, uint64_t at) noexcept nogil
    cdef int _move_to_front(self) noexcept nogil
    cdef int _remember(self) noexcept nogil
    cdef bint _same(self) noexcept nogil
    cdef int _recall(self) noexcept nogil
    cdef int _cut(self, size_t held) noexcept nogil
    cdef int _forget(self) noexcept nogil
