from libc.stdint cimport uint64_t

cimport cython


cdef enum:
    TAIL_FINGERPRINT_BYTES = 1024  # bytes before the read position that identify the content
    # Windows of memory, and of rows, that stay resident. Lines somewhat longer than a window are frequent (a by_block line
    # may have several MB), and returning their pages after each would cost a page fault for every page.
    RETAINED_WINDOWS = 8


cpdef enum:
    FILL_LINES = 1    # base[begin:lines_end] holds at least one complete line
    FILL_PARTIAL = 2  # no complete line yet, but there may be more: call fill again
    FILL_EOF = 3      # nothing more to read now (a partial line may be held)
    FILL_SKIPPED = 4  # part of an oversize line was discarded: call fill again
    FILL_NO_FILE = 5  # no file is open
    FILL_ERROR = -1   # the read failed; errno is in `error`


# One file read in blocks of whole lines. Owns its descriptors and one memory area:
#
#   base      begin            lines_end        end                 capacity
#    |  consumed | complete lines  | partial line | free, never touched |
#                ^ `offset` is the file offset of base[begin]
#
# Invariant: 0 <= begin <= lines_end <= end <= capacity. One thread uses a Reader at a time.
# Pointers into base[begin:lines_end] are valid until the next consume(), fill(), open(), seek(), begin_visit(),
# end_visit(), take_lines() or close().
@cython.final
cdef class Reader:
    cdef char* base                        # owned: mmap of `capacity` bytes, from __cinit__ to __dealloc__
    cdef size_t window                     # most bytes per read
    cdef size_t max_line                   # longest line kept, without its newline
    cdef readonly size_t capacity          # max_line + window, touched only as far as lines need it
    cdef size_t begin, lines_end, end      # indices into base, see above
    cdef uint64_t touched_bytes            # bytes of base that may have pages
    cdef int fd                            # owned; -1: none
    cdef int parked_fd                     # owned; the file left for a visit; -1: none
    cdef public bint check_rewrites        # at every read, verify that the content before it is unchanged
    cdef readonly bint last_read_short     # the last read returned less than requested, so there was no more then
    cdef readonly bint rewritten           # the content has changed: no reads until a seek or another file
    cdef uint64_t limit                    # reads stop at this offset
    cdef readonly bint at_hole             # NUL bytes follow read_offset() and data follows them: skip_hole() continues there
    cdef readonly uint64_t nul_run_end     # end of the known NUL bytes that follow read_offset(); 0: none are known
    cdef uint64_t nuls_counted_to          # offset up to which `nul_bytes` includes this file
    cdef uint64_t parked_nuls_counted_to
    cdef char preceding[TAIL_FINGERPRINT_BYTES]  # the file's bytes right before base[0]
    cdef size_t preceding_size                   # how many of them are known, at the array's start
    cdef char parked_preceding[TAIL_FINGERPRINT_BYTES]
    cdef size_t parked_preceding_size
    cdef bint sequential                   # a pipe or terminal: read() in order, no seeking
    cdef readonly int error                # errno of the last failed read of this file, 0: none
    cdef uint64_t offset                   # file offset of base[begin], less `skipped`
    cdef uint64_t skipped                  # bytes discarded so far of the oversize line at `offset`
    cdef uint64_t parked_offset            # where to continue in the parked file
    cdef uint64_t oversize_count           # lines longer than max_line, each counted once
    cdef uint64_t nul_count                # NUL bytes found; without `check_rewrites`, only those at a line start
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
