"""The fixed pool of workers, which parses each batch in a parallel region with one chunk per worker.

                    _start                   _run                                 _collect_results
    lines [begin, limit) ──split──► chunks ──prange──► each worker: its chunk ──► its rows ──► segments of the table
                                                       (no lock, no allocation,
                                                        no Python object)

Only this module and engine/router.pyx use OpenMP, from the same thread and with the same team. libgomp keeps one team per
calling thread, so a pool belongs to the thread that calls `parse_batch`; the pipeline always calls it from one thread. A forked
child has no team, so it runs chunks and jobs one by one (`openmp_usable`).
"""
from cython.parallel cimport prange
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy
from posix.unistd cimport getpid, usleep

from fasttail.system.atomics cimport ft_add_single_writer, ft_load_relaxed, ft_store_relaxed
from fasttail.system.checks cimport ft_assert, ft_begin_exclusive, ft_end_exclusive
from fasttail.system.clock cimport monotonic_ns
from fasttail.engine.lines cimport split_into_chunks
from fasttail.streams.types cimport MIN_ENVELOPE_BYTES, Chunk, Reject
from fasttail.streams.general cimport assign_coin_codes
from fasttail.streams.intern cimport intern_free, intern_init

cdef extern from *:
    """
    #include <sys/prctl.h>
    #include <stdio.h>
    static void ft_name_thread(int k) {
        char name[16];
        snprintf(name, sizeof name, "fasttail-w%d", k & 0xFFF);
        prctl(PR_SET_NAME, name, 0, 0, 0);
    }
    """
    void ft_name_thread(int k) noexcept nogil

cdef enum:
    MIN_PARALLEL_BYTES = 1 << 17  # below this, waking the team costs more than it saves
    MAX_COINS = 32767

# The process that started a team; 0: none yet. Relaxed: threads that parse at the same time all write the same pid.
cdef uint64_t _openmp_pid = 0


cdef bint openmp_usable() noexcept nogil:
    """Whether this process may start a parallel region, which a child forked after the team's start may not.

    Threads do not survive a fork, and libgomp would wait for them forever.
    """
    cdef uint64_t pid = <uint64_t>getpid()
    if ft_load_relaxed(&_openmp_pid) == 0:
        ft_store_relaxed(&_openmp_pid, pid)
    return ft_load_relaxed(&_openmp_pid) == pid


cdef int check_batch(int code) except -1:
    """Raise the exception for a BatchCode."""
    if code == BATCH_BROKEN:
        raise SystemError("fasttail: an array bound was exceeded; please report the input")
    if code == BATCH_NO_MEMORY:
        raise MemoryError
    return 0


cdef class WorkerPool:
    """`workers` workers that fill `table`. Not thread-safe: one batch at a time.

    max_rejects: maximum number of a batch's rejected lines that are kept in `kept`; `rejected` counts all.
    """

    def __cinit__(self, int workers, RowTable table not None, *, size_t max_rejects=0):
        cdef int k
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.workers = workers
        self.table = table
        self.stream = table.stream
        self.chunks = <Chunk*>calloc(<size_t>workers, sizeof(Chunk))
        self.rejects = <Reject*>calloc(<size_t>workers * MAX_REJECTS_PER_WORKER, sizeof(Reject))
        self.uncoded_rows = <uint32_t*>calloc(<size_t>workers * MAX_UNCODED_ROWS, sizeof(uint32_t))
        self.max_rejects = max_rejects
        self.kept_cap = min(max_rejects, <size_t>MAX_REJECTS_PER_WORKER)
        self.kept = <Reject*>malloc((self.kept_cap + 1) * sizeof(Reject))
        if self.chunks == NULL or self.rejects == NULL or self.uncoded_rows == NULL or self.kept == NULL:
            raise MemoryError
        intern_init(&self.coins, MAX_COINS)
        for k in range(workers):
            # The cached texts match the cached numbers from the start: second 0, nanosecond 0.
            memcpy(self.chunks[k].cached_second_text, b"1970-01-01T00:00:00", 19)
            memcpy(self.chunks[k].cached_time_text, b'1970-01-01T00:00:00.000000000"', 30)
            self.chunks[k].cached_time_size = 29
            # next_key stays zero, so key 0 is predicted until keys have been seen.

    def __dealloc__(self):
        free(self.chunks)
        free(self.rejects)
        free(self.uncoded_rows)
        free(self.kept)
        intern_free(&self.coins)

    @property
    def recut_batches(self) -> int:
        """Number of batches that were cut again. Readable from any thread."""
        return ft_load_relaxed(&self.recut_count)

    def warm_up(self) -> None:
        """Start the team now. Name its threads, including the caller, `fasttail-w0` and so on for `ps -T` and `top -H`."""
        global _openmp_pid
        cdef int k
        ft_store_relaxed(&_openmp_pid, <uint64_t>getpid())
        with nogil:
            for k in prange(self.workers, schedule="static", chunksize=1, num_threads=self.workers):
                ft_name_thread(k)

    def coin_names(self) -> list:
        """Return the coin of each code. Code 0 stands for a coin without a code."""
        cdef uint32_t i
        return [""] + [self.coins.texts[i][:self.coins.sizes[i]].decode("utf-8", "replace")
                       for i in range(1, self.coins.count + 1)]

    cdef int parse_batch(self, const char* data, const char* begin, const char* limit, const char* readable) noexcept nogil:
        """Append the rows of the whole lines [begin, limit) of `data` to the table. Return a BatchCode (see `check_batch`).

        Bytes up to `readable` (>= limit) may be read. A last line without a newline counts as whole.
        """
        cdef int more = 1, code
        self._start(data, begin, limit, readable)
        self.rejected = 0
        self.kept_len = 0
        while more == 1:
            more = self._run()
            code = self._take_rejects()
            if code:
                return code
        return BATCH_DONE if more == 0 else BATCH_BROKEN

    cdef int _take_rejects(self) noexcept nogil:
        """Count the lines that the workers rejected, and keep the first ones. Return a BatchCode."""
        cdef int k
        cdef size_t n, room
        cdef Chunk* c
        cdef Reject* grown
        for k in range(self.workers):
            c = &self.chunks[k]
            n = min(c.rejects_len, self.max_rejects - self.kept_len)
            if self.kept_len + n > self.kept_cap:
                room = max(2 * self.kept_cap, self.kept_len + n)
                grown = <Reject*>realloc(self.kept, room * sizeof(Reject))
                if grown == NULL:
                    return BATCH_NO_MEMORY
                self.kept = grown
                self.kept_cap = room
            if n > 0:                    # else `kept` may be NULL
                memcpy(&self.kept[self.kept_len], c.rejects, n * sizeof(Reject))
            self.kept_len += n
            self.rejected += c.rejects_len
            c.rejects_len = 0
        return BATCH_DONE

    cdef void drop_rejects(self) noexcept nogil:
        """Free the memory of the kept rejects. No more batches may follow."""
        free(self.kept)
        self.kept = NULL
        self.kept_len = self.kept_cap = self.max_rejects = 0

    cdef void _start(self, const char* data, const char* begin, const char* limit, const char* readable) noexcept nogil:
        """Split the lines among the workers, to be appended after the rows of earlier batches."""
        self.data = data
        self.begin = begin
        self.limit = limit
        self.readable = readable
        self.first_row = 0
        self.first_envelope = 0
        if self.table.segments_len:
            self.first_row = (self.table.segments[self.table.segments_len - 1].first
                              + self.table.segments[self.table.segments_len - 1].count)
            self.first_envelope = (<size_t>self.chunks[self.workers - 1].envelope_base
                                   + self.chunks[self.workers - 1].envelopes_len)
        self._split(True)

    cdef void _split(self, bint split_inside_lines) noexcept nogil:
        cdef int k
        cdef Chunk* c
        cdef size_t row = self.first_row, envelope = self.first_envelope, size
        self.split_inside_lines = False
        split_into_chunks(self.stream, self.data, self.begin, self.limit, self.workers, split_inside_lines, self.chunks)
        for k in range(self.workers):
            c = &self.chunks[k]
            size = <size_t>(c.end - c.pos)
            c.readable = self.readable
            c.first_line_done = False
            c.scanned_newline = NULL
            c.stream = self.stream
            c.rows = self.table.rows + row * self.stream.row_bytes
            c.rows_cap = size // self.stream.min_event_bytes + 2
            ft_store_relaxed(<uint64_t*>&c.rows_len, 0)  # relaxed, as below: the main thread reads workers' progress
            c.envelopes = &self.table.envelopes[envelope]
            c.envelope_base = <uint32_t>envelope
            c.envelopes_cap = size // <size_t>MIN_ENVELOPE_BYTES + 2
            c.envelopes_len = 1 if c.starts_inside_line else 0
            c.rejects = &self.rejects[k * MAX_REJECTS_PER_WORKER]
            c.rejects_cap = MAX_REJECTS_PER_WORKER
            c.rejects_len = 0
            c.coins = &self.coins
            c.single_worker = self.workers == 1
            c.uncoded_rows = &self.uncoded_rows[k * MAX_UNCODED_ROWS]
            c.uncoded_cap = MAX_UNCODED_ROWS
            c.uncoded_len = 0
            c.rejects_full = False
            c.needs_recut = False
            c.stopped_at_boundary = False
            c.bound_exceeded = False
            ft_store_relaxed(&c.lines, 0)
            c.nul_bytes = 0
            ft_store_relaxed(&c.started_ns, 0)
            ft_store_relaxed(&c.ended_ns, 0)
            row += c.rows_cap
            envelope += c.envelopes_cap
            self.split_inside_lines |= c.ends_inside_line
            if row > self.table.rows_cap or envelope > self.table.envelopes_cap:
                c.bound_exceeded = True

    cdef void _run_region(self) noexcept nogil:
        """Run one parallel region over the chunks that are not finished. Every chunk that was started ends."""
        cdef int k
        cdef bint parallel = self.workers > 1 and self.limit - self.begin >= MIN_PARALLEL_BYTES and openmp_usable()
        ft_begin_exclusive(&self.busy)
        if parallel:
            for k in prange(self.workers, schedule="static", chunksize=1, num_threads=self.workers):
                self._run_chunk(k)
        else:
            for k in range(self.workers):
                self._run_chunk(k)
        ft_end_exclusive(&self.busy)

    cdef void _run_chunk(self, int k) noexcept nogil:
        cdef Chunk* c = &self.chunks[k]
        ft_assert(k < self.workers)
        if c.started_ns == 0:
            ft_store_relaxed(&c.started_ns, monotonic_ns())
        if self.stall_ms and k == self.workers - 1:
            usleep(<unsigned>self.stall_ms * 1000)
        if c.pos < c.end:
            self.stream.parse(c)
            ft_assert(c.rows_len <= c.rows_cap)
            ft_assert(c.envelopes_len <= c.envelopes_cap)
            ft_assert(c.rejects_len <= c.rejects_cap)
            ft_assert(c.pos <= c.limit)
        ft_store_relaxed(&c.ended_ns, monotonic_ns())

    cdef int _run(self) noexcept nogil:
        """Parse on. Return 0 if the table has all rows, 1 if rejects must be collected before the next call, -1 for a bug."""
        cdef int k
        cdef bint rejects_full = False, needs_recut = False
        cdef Chunk* c
        self._run_region()
        for k in range(self.workers):
            c = &self.chunks[k]
            if c.bound_exceeded:
                return -1
            rejects_full |= c.rejects_full
            needs_recut |= c.needs_recut or (c.ends_inside_line and not c.stopped_at_boundary and c.begin < c.end)
        if self.split_inside_lines and (needs_recut or rejects_full):
            # A chunk did not end exactly at its cut inside a line; or rejects would have to be collected before that is known.
            ft_add_single_writer(&self.recut_count, 1)
            self._split(False)
            return self._run()
        if rejects_full:
            return 1
        self._collect_results()
        return 0

    cdef void _collect_results(self) noexcept nogil:
        """Turn chunks into segments, copy the envelopes of shared lines, and give new coins their codes in row order."""
        cdef int k
        cdef Chunk* c
        cdef Chunk* previous = NULL
        for k in range(self.workers):
            c = &self.chunks[k]
            if c.starts_inside_line and previous != NULL:
                ft_assert(previous.envelopes_len > 0)
                c.envelopes[0] = previous.envelopes[previous.envelopes_len - 1]
            if c.begin < c.end:
                previous = c
            assign_coin_codes(c)
            ft_assert(self.table.segments_len < self.table.segments_cap)
            self.table.segments[self.table.segments_len].first = \
                <size_t>(c.rows - self.table.rows) // self.stream.row_bytes
            self.table.segments[self.table.segments_len].count = c.rows_len
            self.table.segments_len += 1
            self.table.rows_len += c.rows_len
            ft_assert(self.table.rows_len <= self.table.rows_cap)

    cdef uint64_t lines(self) noexcept nogil:
        cdef int k
        cdef uint64_t n = 0
        for k in range(self.workers):
            n += self.chunks[k].lines
        return n
