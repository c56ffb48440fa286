"""The fixed pool of workers: one parallel region per batch, chunks = workers exactly.

                    _start                _run                                     _finish
    lines [begin, limit) ──cut──► chunks ──prange──► each worker: its share ──► its rows ──► segments of the table
                                                     (no lock, no allocation,
                                                      no Python object)

OpenMP is used here and in publish/router.pyx (the topics' jobs: same thread, same team), nowhere else. libgomp keeps one team
of threads per calling thread, so a pool belongs to the thread that calls `parse_batch`; the pipeline calls it from one thread for life.
A forked child has no team: it runs the shares, and the topics' jobs, one by one (`has_team`).
"""
from cython.parallel cimport prange
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy
from posix.unistd cimport getpid, usleep

from fasttail.atomics cimport ft_add, ft_get, ft_set
from fasttail.checks cimport ft_assert, ft_enter, ft_leave
from fasttail.clock cimport monotonic_ns
from fasttail.parser.lines cimport cut
from fasttail.parser.types cimport Chunk, Reject
from fasttail.parser.words cimport words_free, words_new

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
    PARALLEL_FROM = 1 << 17      # bytes: below, waking the team costs more than it gives; the shares run one by one
    MOST_COINS = 32767

# The process that has started a team; 0: none yet. Relaxed: several threads may parse at a time, and all write the same number.
cdef uint64_t _team_pid = 0


cdef bint has_team() noexcept nogil:
    """Whether this process may start a parallel region: not in a child that was forked after the team had been started.

    Threads do not survive a fork, and libgomp would wait for them for ever.
    """
    cdef uint64_t pid = <uint64_t>getpid()
    if ft_get(&_team_pid) == 0:
        ft_set(&_team_pid, pid)
    return ft_get(&_team_pid) == pid


cdef int check_batch(int code) except -1:
    """Raise what a BatchCode stands for."""
    if code == BATCH_BROKEN:
        raise SystemError("fasttail: an array's bound did not hold; please report the input")
    if code == BATCH_NO_MEMORY:
        raise MemoryError
    return 0


cdef class Pool:
    """`workers` workers that fill `table`. Not thread-safe: one batch at a time.

    max_rejects: so many rejected lines of a batch are kept in `kept` at most; `rejected` counts all.
    """

    def __cinit__(self, int workers, Table table not None, *, size_t max_rejects=0):
        cdef int k
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.workers = workers
        self.table = table
        self.stream = table.stream
        self.chunks = <Chunk*>calloc(<size_t>workers, sizeof(Chunk))
        self.rejects = <Reject*>calloc(<size_t>workers * REJECTS, sizeof(Reject))
        self.uncoded = <uint32_t*>calloc(<size_t>workers * UNCODED, sizeof(uint32_t))
        self.max_rejects = max_rejects
        self.kept_cap = min(max_rejects, <size_t>REJECTS)
        self.kept = <Reject*>malloc((self.kept_cap + 1) * sizeof(Reject))
        if self.chunks == NULL or self.rejects == NULL or self.uncoded == NULL or self.kept == NULL:
            raise MemoryError
        words_new(&self.coins, MOST_COINS)
        for k in range(workers):
            # second 0, nanosecond 0: the remembered texts and numbers agree from the start
            memcpy(self.chunks[k].second_text, b"1970-01-01T00:00:00", 19)
            memcpy(self.chunks[k].time_text, b'1970-01-01T00:00:00.000000000"', 30)
            self.chunks[k].time_size = 29
            # next_key is zero: key 0 is guessed, until keys have been seen

    def __dealloc__(self):
        free(self.chunks)
        free(self.rejects)
        free(self.uncoded)
        free(self.kept)
        words_free(&self.coins)

    @property
    def irregular(self) -> int:
        """Batches that had to be cut again; any thread may ask."""
        return ft_get(&self.irregular_batches)

    def warm_up(self) -> None:
        """Start the team now and name its threads, the caller's included, `fasttail-w0`… (for `ps -T` and `top -H`)."""
        global _team_pid
        cdef int k
        ft_set(&_team_pid, <uint64_t>getpid())
        with nogil:
            for k in prange(self.workers, schedule="static", chunksize=1, num_threads=self.workers):
                ft_name_thread(k)

    def coin_names(self) -> list:
        """Coin of each code; code 0 stands for "not in the table"."""
        cdef uint32_t i
        return [""] + [self.coins.texts[i][:self.coins.sizes[i]].decode("utf-8", "replace")
                       for i in range(1, self.coins.count + 1)]

    cdef int parse_batch(self, const char* data, const char* begin, const char* limit, const char* readable) noexcept nogil:
        """Append the rows of the whole lines [begin, limit) of `data` to the table. A BatchCode: see `check_batch`.

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
        """Count the lines that the workers have rejected, and keep the first ones. A BatchCode."""
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
            memcpy(&self.kept[self.kept_len], c.rejects, n * sizeof(Reject))
            self.kept_len += n
            self.rejected += c.rejects_len
            c.rejects_len = 0
        return BATCH_DONE

    cdef void drop_rejects(self) noexcept nogil:
        """Give back what many rejected lines needed; no more batches follow."""
        free(self.kept)
        self.kept = NULL
        self.kept_len = self.kept_cap = self.max_rejects = 0

    cdef void _start(self, const char* data, const char* begin, const char* limit, const char* readable) noexcept nogil:
        """Share the lines out among the workers."""
        self.data = data
        self.begin = begin
        self.limit = limit
        self.readable = readable
        # the first free place behind earlier batches
        self.first_row = 0
        self.first_envelope = 0
        if self.table.segments_len:
            self.first_row = (self.table.segments[self.table.segments_len - 1].first
                              + self.table.segments[self.table.segments_len - 1].count)
            self.first_envelope = (<size_t>self.chunks[self.workers - 1].envelope_base
                                   + self.chunks[self.workers - 1].envelopes_len)
        self._share_out(True)

    cdef void _share_out(self, bint within_lines) noexcept nogil:
        cdef int k
        cdef Chunk* c
        cdef size_t row = self.first_row, envelope = self.first_envelope, size
        self.within_lines = False
        cut(self.stream, self.data, self.begin, self.limit, self.workers, within_lines, self.chunks)
        for k in range(self.workers):
            c = &self.chunks[k]
            size = <size_t>(c.end - c.pos)
            c.readable = self.readable
            c.head_done = False
            c.newline = NULL
            c.rows = self.table.rows + row * self.stream.row_size
            c.rows_cap = size // self.stream.min_event + 2
            ft_set(<uint64_t*>&c.rows_len, 0)        # relaxed, these four: the main thread may ask how far a worker is
            c.envelopes = &self.table.envelopes[envelope]
            c.envelope_base = <uint32_t>envelope
            c.envelopes_cap = size // self.stream.min_envelope + 2
            c.envelopes_len = 1 if c.inside else 0
            c.rejects = &self.rejects[k * REJECTS]
            c.rejects_cap = REJECTS
            c.rejects_len = 0
            c.coins = &self.coins
            c.alone = self.workers == 1
            c.uncoded = &self.uncoded[k * UNCODED]
            c.uncoded_cap = UNCODED
            c.uncoded_len = 0
            c.full = False
            c.irregular = False
            c.handed_over = False
            c.broken = False
            ft_set(&c.lines, 0)
            c.nul_bytes = 0
            ft_set(&c.started_ns, 0)
            ft_set(&c.ended_ns, 0)
            row += c.rows_cap
            envelope += c.envelopes_cap
            self.within_lines |= c.hands_over
            if row > self.table.rows_cap or envelope > self.table.envelopes_cap:
                c.broken = True

    cdef void _region(self) noexcept nogil:
        """One parallel region over the chunks that are not done. Every started chunk ends."""
        cdef int k
        cdef bint parallel = self.workers > 1 and self.limit - self.begin >= PARALLEL_FROM and has_team()
        ft_enter(&self.busy)
        if parallel:
            for k in prange(self.workers, schedule="static", chunksize=1, num_threads=self.workers):
                self._share(k)
        else:
            for k in range(self.workers):
                self._share(k)
        ft_leave(&self.busy)

    cdef void _share(self, int k) noexcept nogil:
        cdef Chunk* c = &self.chunks[k]
        ft_assert(k < self.workers)
        if c.started_ns == 0:
            ft_set(&c.started_ns, monotonic_ns())
        if self.stall_ms and k == self.workers - 1:
            usleep(<unsigned>self.stall_ms * 1000)
        if c.pos < c.end:
            self.stream.parse(c)
            ft_assert(c.rows_len <= c.rows_cap)
            ft_assert(c.envelopes_len <= c.envelopes_cap)
            ft_assert(c.rejects_len <= c.rejects_cap)
            ft_assert(c.pos <= c.limit)
        ft_set(&c.ended_ns, monotonic_ns())

    cdef int _run(self) noexcept nogil:
        """Parse on. 0: done, the table has the rows; 1: rejects must be taken, then run again; -1: a bug."""
        cdef int k
        cdef bint full = False, irregular = False
        cdef Chunk* c
        self._region()
        for k in range(self.workers):
            c = &self.chunks[k]
            if c.broken:
                return -1
            full |= c.full
            irregular |= c.irregular or (c.hands_over and not c.handed_over and c.begin < c.end)
        if self.within_lines and (irregular or full):
            # some share should have ended exactly at its end, inside a line, and did not; or rejects would have to be taken
            # before that is known
            ft_add(&self.irregular_batches, 1)
            self._share_out(False)
            return self._run()
        if full:
            return 1
        self._finish()
        return 0

    cdef void _finish(self) noexcept nogil:
        """Chunks -> segments; envelopes of shared lines copied; new coins numbered in the order of the rows."""
        cdef int k
        cdef Chunk* c
        cdef Chunk* before = NULL
        for k in range(self.workers):
            c = &self.chunks[k]
            if c.inside and before != NULL:
                ft_assert(before.envelopes_len > 0)
                c.envelopes[0] = before.envelopes[before.envelopes_len - 1]
            if c.begin < c.end:
                before = c
            self.stream.finish(c)
            ft_assert(self.table.segments_len < self.table.segments_cap)
            self.table.segments[self.table.segments_len].first = \
                <size_t>(<char*>c.rows - self.table.rows) // self.stream.row_size
            self.table.segments[self.table.segments_len].count = c.rows_len
            self.table.segments_len += 1
            self.table.rows_len += c.rows_len
            ft_assert(self.table.rows_len <= self.table.rows_cap)

    cdef uint64_t lines(self) noexcept nogil:
        """Lines of the batch."""
        cdef int k
        cdef uint64_t n = 0
        for k in range(self.workers):
            n += self.chunks[k].lines
        return n
