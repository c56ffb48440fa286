from libc.stdint cimport uint64_t

cimport cython


cdef enum:
    TAIL_FINGERPRINT_BYTES = 1024  # bytes before the place of reading by which the content is known again
    # Lines a little longer than the window come again and again (a by_block line may be some MB): giving the pages back
    # after each would cost as many page faults. Up to so many windows they are kept; their rows are, too.
    RETAINED_WINDOWS = 8


cpdef enum:
    FILL_LINES = 1    # base[begin:lines_end] holds at least one complete line
    FILL_PARTIAL = 2  # no complete line yet: call fill again, more may be there
    FILL_EOF = 3      # nothing more to read now (a partial line may be held)
    FILL_SKIPPED = 4  # part of an oversize line was thrown away: call fill again
    FILL_NO_FILE = 5  # no file is open
    FILL_ERROR = -1   # the read failed; errno is in `error`


# One file read in blocks of whole lines. Owns the descriptor(s) and one memory area:
#
#   base      begin            lines_end        end                 capacity
#    |  consumed | complete lines  | partial line | free, never touched |
#                ^ `offset` is the file offset of base[begin]
#
# 0 <= begin <= lines_end <= end <= capacity, always. One thread uses a Reader at a time.
# Pointers into base[begin:lines_end] live until the next consume(), fill(), open(), seek(), begin_visit(),
# end_visit(), take_lines() or close().
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
    cdef public bint check_rewrites        # look, with every read, whether the content before it is still the same
    cdef bint last_read_short              # the last read found less than was asked for: there was no more then
    cdef readonly bint rewritten           # it is not: nothing more is read before a seek or another file
    cdef uint64_t limit                    # nothing at or behind this offset is read
    cdef readonly bint at_hole             # NUL bytes follow read_offset(), and data follows them: skip_hole() goes on behind
    cdef readonly uint64_t nul_run_end     # offset up to which nothing but NUL bytes follows read_offset(); 0: none are known
    cdef uint64_t nuls_counted_to          # offset up to which `nul_bytes` has this file's
    cdef uint64_t parked_nuls_counted_to
    cdef char preceding[TAIL_FINGERPRINT_BYTES]  # what stood right before base[0],
    cdef size_t preceding_size                   # … so many bytes of it, at the array's start
    cdef char parked_preceding[TAIL_FINGERPRINT_BYTES]
    cdef size_t parked_preceding_size
    cdef bint sequential                   # a pipe or terminal: read() in order, no offsets to seek to
    cdef readonly int error                # errno of the last failed read of this file, 0: none
    cdef uint64_t offset                   # file offset of base[begin], less `skipped`
    cdef uint64_t skipped                  # bytes thrown away so far of the oversize line at `offset`
    cdef uint64_t parked_offset            # where the parked file goes on
    cdef uint64_t oversize_count           # lines longer than max_line, each counted once
    cdef uint64_t nul_count                # NUL bytes that were met; without `check_rewrites` only where a line should begin
    cdef uint64_t total_read_bytes         # of all files; bytes read twice count twice

    cdef int fill(self) noexcept nogil
    cdef void _check_invariants(self) noexcept nogil
    cdef void consume(self) noexcept nogil
    cdef void consume_bytes(self, size_t size) noexcept nogil

    cdef void _skip_nuls(self) noexcept nogil
    cdef int _scan_nuls(self, uint64_t at) noexcept nogil
    cdef void _compact_buffer(self) noexcept nogil
    cdef void _save_preceding(self) noexcept nogil
    cdef bint _preceding_matches(self) noexcept nogil
    cdef void _load_preceding(self) noexcept nogil
    cdef int _find_lines(self, size_t partial_size) noexcept nogil
    cdef void _reset_buffer(self) noexcept nogil
