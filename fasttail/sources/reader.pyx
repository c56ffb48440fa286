"""Reads a file as blocks of whole lines and keeps the partial line for the next read.

Memory for the longest allowed line is reserved once, and pages that only a long line needed are returned to the system. Files
are read with pread, not mmap, because a truncated file must give a short read, not SIGBUS.

A file that was truncated and has grown past the read position since looks like one that has only grown. With
`check_rewrites`, every read therefore compares the bytes before that position with those read earlier (about 1 us).

NUL bytes are a hole whose data has not been written yet, or never will be. With `check_rewrites`, the reader stops before
them until data replaces them. If data follows the hole, it sets `at_hole` and waits for `skip_hole`; the caller remembers
where the hole is. Without `check_rewrites`, it skips NUL bytes at the start of a line and leaves others to the parser.
"""
import errno
import os
import stat

cimport cython
from libc.errno cimport EINTR, ENXIO, errno as c_errno
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy, memmove
from posix.mman cimport (
    MADV_DONTNEED, MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE,
    PROT_READ, PROT_WRITE, madvise, mmap, munmap
)
from posix.types cimport off_t
from posix.unistd cimport close, read

from fasttail.system.atomics cimport ft_add_single_writer, ft_load_relaxed, ft_store_relaxed
from fasttail.system.checks cimport ft_assert

cdef extern from *:
    """
    /* Never inlined: `python -m bench run instructions` counts the instructions inside this function by its name. */
    static int ft_reader_fill(void *reader) __attribute__((noinline));
    """

cdef extern from "<string.h>" nogil:
    void* memrchr(const void* area, int byte, size_t size)

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void* area, size_t size, off_t offset)
    off_t lseek(int fd, off_t offset, int whence)
    const int SEEK_DATA, SEEK_END

cdef enum:
    PAGE = 65536  # a multiple of every page size in use
    NUL_SCAN_BYTES = 64 << 20  # most bytes of a hole scanned per call of `fill`

cdef uint64_t NO_OFFSET_LIMIT = ~<uint64_t>0

NO_LIMIT = NO_OFFSET_LIMIT  # for a visit that ends with the file


cdef int _fill "ft_reader_fill"(void* reader) noexcept nogil:
    return (<Reader>reader).fill()


@cython.final
cdef class Reader:
    """Reads a growing file as blocks of whole lines.

    window: most bytes per read (at least 1; reduced to max_line).
    max_line: longest line that is kept, in bytes without its newline. A longer one is skipped and counted in
        `oversize_lines`.

    At most 8 windows of memory stay in use; while a longer line is held, its length plus one window.
    """

    def __cinit__(self, size_t window=1 << 19, size_t max_line=64 << 20):
        self.fd = -1
        self.parked_fd = -1
        if window < 1 or max_line < 1:
            raise ValueError("window and max_line must be at least 1 byte")
        # At most max_line, so that only the first line of a block can be too long: `_find_lines` checks only that one, and
        # what is skipped does not depend on the window.
        self.window = min(window, max_line)
        self.max_line = max_line
        self.capacity = self.max_line + self.window
        area = mmap(
            NULL, self.capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
        )
        if area == MAP_FAILED:
            raise MemoryError(f"cannot reserve {self.capacity} bytes for lines")
        self.base = <char*>area
        self.limit = NO_OFFSET_LIMIT

    def __dealloc__(self):
        if self.base == NULL:  # __cinit__ failed, maybe before its first line: fd may be 0 and not ours
            return
        if self.fd >= 0:
            close(self.fd)
        if self.parked_fd >= 0:
            close(self.parked_fd)
        munmap(self.base, self.capacity)

    # ---- mechanism: runs without the GIL, returns codes ----

    cdef int fill(self) noexcept nogil:
        """Read once and return one of FILL_*. While there are unconsumed lines, offer them again instead of reading."""
        cdef size_t partial_size, read_size
        cdef ssize_t got
        cdef uint64_t at
        cdef char first
        cdef char* nul
        self._check_invariants()
        if self.fd < 0:
            return FILL_NO_FILE
        if self.lines_end > self.begin:
            return FILL_LINES
        if self.rewritten or self.at_hole:
            return FILL_EOF
        if self.begin < self.end and self.base[self.begin] == 0:
            self._skip_nuls()
        self._compact_buffer()
        partial_size = self.end
        read_size = self.window - partial_size if partial_size < self.window else self.window
        ft_assert(partial_size + read_size <= self.capacity)
        at = self.offset + self.skipped + partial_size
        if self.sequential:
            got = read(self.fd, self.base + partial_size, read_size)
        else:
            if at >= self.limit:
                return FILL_EOF
            read_size = min(read_size, self.limit - at)
            # One byte shows whether the hole is still there: a preallocated file is checked after every write.
            if self.nul_run_end > at and pread(self.fd, &first, 1, <off_t>at) == 1 and first == 0:
                return self._scan_nuls(at)
            got = pread(self.fd, self.base + partial_size, read_size, <off_t>at)
        if got < 0:
            if c_errno == EINTR:
                return FILL_PARTIAL  # not retried here, so that Python's signal handlers can run
            self.error = c_errno
            return FILL_ERROR
        self.last_read_short = <size_t>got < read_size
        if got == 0:
            return FILL_EOF
        if self.check_rewrites and not self.sequential:
            nul = <char*>memchr(self.base + partial_size, 0, <size_t>got)
            if nul != NULL:
                self.last_read_short = False
                got = nul - (self.base + partial_size)
                if got == 0:
                    return self._scan_nuls(at)
        # Compared after the read: what is unchanged now was also unchanged when the bytes after it were read.
        if self.check_rewrites and not self._preceding_matches():
            self.rewritten = True
            return FILL_EOF
        ft_assert(<size_t>got <= read_size)
        ft_add_single_writer(&self.total_read_bytes, <uint64_t>got)
        self.end = partial_size + <size_t>got
        if self.touched_bytes < self.end:
            ft_store_relaxed(&self.touched_bytes, self.end)
        return self._find_lines(partial_size)

    cdef void _check_invariants(self) noexcept nogil:
        """Assert what holds between any two calls."""
        ft_assert(self.begin <= self.lines_end)
        ft_assert(self.lines_end <= self.end)
        ft_assert(self.end <= self.capacity)
        ft_assert(self.preceding_size <= TAIL_FINGERPRINT_BYTES)

    cdef void consume(self) noexcept nogil:
        """Advance past the lines in base[begin:lines_end]."""
        self.consume_bytes(self.lines_end - self.begin)

    cdef void consume_bytes(self, size_t size) noexcept nogil:
        """Advance past `size` bytes of these lines, which must end at the end of a line."""
        self._check_invariants()
        ft_assert(size <= self.lines_end - self.begin)
        ft_add_single_writer(&self.offset, size)             # relaxed, like the counters: the main thread reports them
        self.begin += size

    cdef void _skip_nuls(self) noexcept nogil:
        """Skip the NUL bytes at the start of the partial line."""
        cdef size_t at = self.begin
        # If each byte equals the one before it, all are NUL. memcmp compares many bytes at once.
        if memcmp(self.base + at, self.base + at + 1, self.end - at - 1) == 0:
            at = self.end
        while at < self.end and self.base[at] == 0:
            at += 1
        ft_add_single_writer(&self.nul_count, at - self.begin)
        ft_add_single_writer(&self.offset, at - self.begin)
        self.begin = self.lines_end = at

    cdef int _scan_nuls(self, uint64_t at) noexcept nogil:
        """Find the end of the NUL bytes that begin at `at`, which is read_offset().

        Return FILL_EOF at their end (`at_hole` if data follows), or FILL_PARTIAL if they continue or have been replaced.
        """
        cdef char* area = self.base + self.end     # scratch after the held bytes, at least one window
        cdef size_t read_size = min(self.window, <size_t>PAGE)
        cdef uint64_t begin = max(at, self.nul_run_end)
        cdef uint64_t to = begin
        cdef off_t data
        cdef size_t i
        cdef ssize_t got = 0
        cdef bint found = False
        ft_assert(self.end + read_size <= self.capacity)
        if self.touched_bytes < self.end + read_size:
            ft_store_relaxed(&self.touched_bytes, self.end + read_size)
        while to < self.limit and to - begin < NUL_SCAN_BYTES:
            # Avoids reading most of a sparse or preallocated file, on file systems that support it.
            data = lseek(self.fd, <off_t>to, SEEK_DATA)
            if data < 0 and c_errno == ENXIO:
                to = max(to, <uint64_t>lseek(self.fd, 0, SEEK_END))
                got = 0
                break
            if data > <off_t>to:
                to = <uint64_t>data
                begin = to
                if to >= self.limit:
                    break
            got = pread(self.fd, area, min(read_size, self.limit - to), <off_t>to)
            if got <= 0:
                break
            i = 0
            if area[0] != 0 or memcmp(area, area + 1, <size_t>got - 1) != 0:
                while area[i] == 0:
                    i += 1
                found = True
                to += i
                break
            to += <uint64_t>got
        to = min(to, self.limit)
        # The writer may have filled the hole in the meantime.
        if found and (pread(self.fd, area, 1, <off_t>at) != 1 or area[0] != 0):
            self.nul_run_end = 0
            return FILL_PARTIAL
        if to > self.nuls_counted_to:
            ft_add_single_writer(&self.nul_count, to - max(at, self.nuls_counted_to))
            self.nuls_counted_to = to
        self.nul_run_end = to
        self.at_hole = found
        return FILL_PARTIAL if got > 0 and not found and to < self.limit else FILL_EOF

    cdef void _save_preceding(self) noexcept nogil:
        """Append base[0:begin], which is about to be overwritten, to `preceding`."""
        cdef size_t added = min(self.begin, <size_t>TAIL_FINGERPRINT_BYTES)
        cdef size_t kept = min(self.preceding_size, <size_t>TAIL_FINGERPRINT_BYTES - added)
        memmove(self.preceding, self.preceding + self.preceding_size - kept, kept)
        memcpy(self.preceding + kept, self.base + self.begin - added, added)
        self.preceding_size = kept + added
        ft_assert(self.preceding_size <= TAIL_FINGERPRINT_BYTES)

    cdef bint _preceding_matches(self) noexcept nogil:
        """Return whether the file still has the bytes that were read before base[end].

        base[0] must be the start of the partial line. Return True as well if the file now ends before that position, since
        the bytes after it were there when they were read.
        """
        cdef char current[TAIL_FINGERPRINT_BYTES]
        cdef size_t size = self.preceding_size
        if size > 0 and pread(self.fd, current, size, <off_t>(self.offset - size)) == <ssize_t>size:
            if memcmp(current, self.preceding, size) != 0:
                return False
        size = min(self.end, <size_t>TAIL_FINGERPRINT_BYTES)
        if size > 0 and pread(self.fd, current, size, <off_t>self.offset) == <ssize_t>size:
            return memcmp(current, self.base, size) == 0
        return True

    cdef void _load_preceding(self) noexcept nogil:
        """Load `preceding` from the file, when reading begins at `offset`."""
        cdef size_t size = min(self.offset, <uint64_t>TAIL_FINGERPRINT_BYTES)
        cdef char* nul
        self.preceding_size = 0
        if self.check_rewrites and size > 0 and pread(self.fd, self.preceding, size,
                                                      <off_t>(self.offset - size)) == <ssize_t>size:
            nul = <char*>memrchr(self.preceding, 0, size)
            if nul != NULL:  # filling a hole does not make it another file
                size = <size_t>(self.preceding + size - nul) - 1
                memmove(self.preceding, nul + 1, size)
            self.preceding_size = size

    cdef void _compact_buffer(self) noexcept nogil:
        """Move the partial line to base[0] and return the pages that only a long line needed."""
        cdef size_t partial_size = self.end - self.begin
        cdef size_t kept = (self.window * RETAINED_WINDOWS + PAGE - 1) // PAGE * PAGE
        if self.begin > 0:
            self._save_preceding()
            if partial_size > 0:
                memmove(self.base, self.base + self.begin, partial_size)
            self.begin = self.lines_end = 0
            self.end = partial_size
        if self.touched_bytes > kept and partial_size <= kept:
            madvise(self.base + kept, self.touched_bytes - kept, MADV_DONTNEED)  # a failure costs only memory
            ft_store_relaxed(&self.touched_bytes, kept)

    cdef int _find_lines(self, size_t partial_size) noexcept nogil:
        """Find the line ends in base[partial_size:end], which was just read, and return one of FILL_*.

        base[0:partial_size] contains no newline. Each byte is searched at most twice, however long its line is.
        """
        cdef char* newline
        cdef size_t length
        if self.skipped > 0 or self.end > self.max_line:
            newline = <char*>memchr(self.base + partial_size, c"\n", self.end - partial_size)
            length = <size_t>(newline - self.base) if newline != NULL else self.end
            if self.skipped > 0 or length > self.max_line:
                if self.skipped == 0:
                    ft_add_single_writer(&self.oversize_count, 1)
                if newline == NULL:
                    self.skipped += self.end
                    self.end = 0
                    return FILL_SKIPPED
                ft_add_single_writer(&self.offset, self.skipped + length + 1)
                self.skipped = 0
                self.preceding_size = 0  # no longer adjacent: the long line lies between
                self.begin = self.lines_end = partial_size = length + 1
                newline = <char*>memrchr(self.base + partial_size, c"\n", self.end - partial_size)
                if newline != NULL:
                    self.lines_end = <size_t>(newline - self.base) + 1
                return FILL_SKIPPED
        newline = <char*>memrchr(self.base + partial_size, c"\n", self.end - partial_size)
        if newline == NULL:
            return FILL_PARTIAL
        self.lines_end = <size_t>(newline - self.base) + 1
        return FILL_LINES

    cdef void _reset_buffer(self) noexcept nogil:
        """Discard the held bytes and the state of the read, but not the offset."""
        self.begin = self.lines_end = self.end = 0
        self.skipped = 0
        self.error = 0
        self.rewritten = False
        self.at_hole = False
        self.nul_run_end = 0

    # ---- Python API for rare events ----

    def open(self, path, uint64_t offset=0):
        """Close the current file and read `path` from `offset` on.

        path may be a descriptor, which is duplicated. Pipes, sockets and terminals are read in order; for them, a non-zero
        offset raises ValueError. If OSError is raised, nothing has changed.
        """
        fd, sequential = _open_input(path, offset)
        self.close()
        self.fd = fd
        self.sequential = sequential
        self.offset = offset
        self._load_preceding()

    def close(self):
        """Close the file, and one left for a visit, and discard the held bytes."""
        fds = (self.fd, self.parked_fd)
        self.fd = self.parked_fd = -1
        self.offset = self.parked_offset = 0
        self.preceding_size = self.parked_preceding_size = 0
        self.nuls_counted_to = 0
        self.limit = NO_OFFSET_LIMIT
        self._reset_buffer()
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def seek(self, uint64_t offset):
        """Discard the held bytes and continue at `offset` of the same file.

        Raise ValueError if no file is open or it is a pipe.
        """
        self._require_open()
        if self.sequential:
            raise ValueError("a pipe cannot be read from an offset")
        self._compact_buffer()
        self._reset_buffer()
        if offset != self.offset:
            self.nuls_counted_to = min(self.nuls_counted_to, offset)
            self.offset = offset
            self._load_preceding()

    def begin_visit(self, path, uint64_t offset, uint64_t limit=NO_OFFSET_LIMIT, uint64_t nuls_counted_to=0):
        """Read another file for a while, at most up to `limit`.

        The current file stays open, and end_visit() continues where tell() is now.
        nuls_counted_to: offset up to which `nul_bytes` already includes the visited file.

        Raise ValueError if no file is open, the current one is a pipe, or a visit is in progress. If OSError is raised,
        nothing has changed.
        """
        self._require_open()
        if self.sequential or self.parked_fd >= 0:
            raise ValueError("visits cannot be nested, nor start from a pipe")
        fd, sequential = _open_input(path, offset)
        self._compact_buffer()
        self.parked_fd = self.fd
        self.parked_offset = self.offset
        self.parked_preceding_size = self.preceding_size
        memcpy(self.parked_preceding, self.preceding, self.preceding_size)
        self.parked_nuls_counted_to = self.nuls_counted_to
        self._reset_buffer()
        self.limit = limit
        self.nuls_counted_to = nuls_counted_to
        self.fd = fd
        self.sequential = sequential
        self.offset = offset
        self._load_preceding()

    def end_visit(self):
        """End a visit and return to the file before it. Raise ValueError if there is no visit."""
        if self.parked_fd < 0:
            raise ValueError("no visit to leave")
        visited = self.fd
        self._reset_buffer()
        self.limit = NO_OFFSET_LIMIT
        self.nuls_counted_to = self.parked_nuls_counted_to
        self.fd = self.parked_fd
        self.parked_fd = -1
        self.sequential = False
        self.offset = self.parked_offset
        self.preceding_size = self.parked_preceding_size
        memcpy(self.preceding, self.parked_preceding, self.preceding_size)
        os.close(visited)

    def fill_once(self):
        """Call fill() without the GIL and return one of FILL_*."""
        cdef int code
        with nogil:
            code = _fill(<void*>self)
        return code

    def take_lines(self):
        """Consume the complete lines and return a copy of them, newlines included (b"" if there are none)."""
        lines = self.base[self.begin:self.lines_end]
        self.consume()
        return lines

    def take_partial_line(self):
        """Consume the partial line without waiting for its rest and return its bytes.

        Return b"" if there is none or it was oversize. Raise ValueError if complete lines precede it.
        """
        if self.lines_end > self.begin:
            raise ValueError("take the complete lines first")
        tail = self.base[self.begin:self.end]
        if self.skipped > 0:
            self.preceding_size = 0
        self.offset += self.skipped + (self.end - self.begin)
        self.skipped = 0
        self.begin = self.lines_end = self.end
        return tail

    def tell(self):
        """Return the file offset of the first unconsumed byte. It is a line start, where reading can resume."""
        return self.offset

    def preceding_bytes(self):
        """Return the last bytes before tell(), at most TAIL_FINGERPRINT_BYTES, and fewer or none if they are unknown."""
        consumed = self.base[self.begin - min(self.begin, <size_t>TAIL_FINGERPRINT_BYTES):self.begin]
        return (self.preceding[:self.preceding_size] + consumed)[-<Py_ssize_t>TAIL_FINGERPRINT_BYTES:]

    def verify_unchanged(self):
        """Return whether the file still has what was read before tell().

        With `check_rewrites`, every read that returns bytes verifies this; call it in between. Once the result is False,
        nothing is read until a seek or another file. Without `check_rewrites`, nothing is compared.
        """
        if self.fd >= 0 and self.check_rewrites and not self.sequential and self.lines_end == self.begin:
            self._compact_buffer()
            self.rewritten = self.rewritten or not self._preceding_matches()
        return not self.rewritten

    def pread_at(self, uint64_t offset, size_t size):
        """Return at most `size` bytes of the open file from `offset` on.

        Raise ValueError if no file is open, and OSError if the read fails.
        """
        self._require_open()
        return os.pread(self.fd, size, offset)

    def skip_hole(self):
        """Continue after the hole and discard the partial line before it, which begins at tell().

        Raise ValueError unless the reader is `at_hole`.
        """
        if not self.at_hole:
            raise ValueError("not at a hole with data behind it")
        self.offset = self.nul_run_end
        self._reset_buffer()
        self.preceding_size = 0  # NUL bytes, which may be replaced

    def rescan_nuls(self):
        """Make the next fill scan the NUL bytes after read_offset() again, because there may be data among them now."""
        if not self.at_hole:
            self.nul_run_end = 0

    def read_offset(self):
        """Return the file offset up to which bytes were read."""
        return self.offset + self.skipped + (self.end - self.begin)

    def scanned_to(self):
        """Return read_offset(), or the end of the known NUL bytes that follow it."""
        return max(self.read_offset(), self.nul_run_end)

    @property
    def resident_bytes(self):
        """Bytes of its memory that may be resident. This and the next three may be read from any thread."""
        return ft_load_relaxed(&self.touched_bytes)

    @property
    def bytes_read(self):
        """Bytes read of all files; bytes read twice count twice."""
        return ft_load_relaxed(&self.total_read_bytes)

    @property
    def oversize_lines(self):
        """Lines longer than max_line, each counted once."""
        return ft_load_relaxed(&self.oversize_count)

    @property
    def nul_bytes(self):
        """NUL bytes found; without `check_rewrites`, only those at a line start."""
        return ft_load_relaxed(&self.nul_count)

    @property
    def partial_bytes(self):
        """Bytes of the partial line, including those skipped of an oversize one."""
        return self.skipped + (self.end - self.lines_end)

    @property
    def is_open(self):
        return self.fd >= 0

    def stat(self):
        """Return the os.stat_result of the open file. Raise ValueError if none is open."""
        self._require_open()
        return os.fstat(self.fd)

    def identity(self):
        """Return (device, inode) of the open file. Raise ValueError if none is open."""
        result = self.stat()
        return result.st_dev, result.st_ino

    def size(self):
        """Return the current size of the open file in bytes. Raise ValueError if none is open."""
        return self.stat().st_size

    def _require_open(self):
        if self.fd < 0:
            raise ValueError("no file is open")


def _open_input(path, uint64_t offset):
    """Return (descriptor, whether it can only be read in order).

    Raise OSError as open(2) and dup(2) do, and for a folder.
    """
    is_fd = isinstance(path, int)
    fd = os.dup(path) if is_fd else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path if is_fd else os.fspath(path))
        sequential = not stat.S_ISREG(mode)
        if sequential and offset:
            raise ValueError("a pipe cannot be read from an offset")
    except BaseException:
        os.close(fd)
        raise
    return fd, sequential
