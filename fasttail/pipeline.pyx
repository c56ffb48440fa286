"""The pipeline thread: blocks in, frames out.

    pipeline thread (member 0 of the OpenMP team)                              main thread (uvloop)
    ┌───────────────────────────── with nogil ─────────────────────────────┐
    │ reader.fill ─► pool.run ─► selector.select ─► encode ─► slot of ring ─┼─► eventfd ─► drain() ─► clients
    └──▲───────────────────────────────────────────────────────────────┬───┘
       └── follower.check (Python): new file, truncation, once a second ◄┘

The thread holds the GIL only for `follower.check`. The ring has SLOTS places and holds MOST_POSTED bytes
(and one batch): when the main thread is that far behind, the pipeline waits, does not read on, and the file keeps what is to
come. `consume` runs after the batch stands in the ring, so a
position that is asked for once the thread has `stopped` lies exactly behind what the last `drain` hands over.

Memory order: the pipeline fills slots[head] and then stores head (release); the main thread loads head (acquire) and then
reads the slot, and the same the other way round for tail. `signalled` keeps the eventfd quiet while the main thread is awake:
it is cleared before the ring is looked at, so a batch posted after the look signals again. Counters are words of 64 bits
that one thread writes and others read for information; a value may be a moment old.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, nanosleep, timespec

from fasttail.parser.columns import reason_text
from fasttail.parser.lines cimport count_lines
from fasttail.parser.pool cimport Pool
from fasttail.parser.streams cimport ORDER_STATUSES
from fasttail.parser.table cimport Table, table_new
from fasttail.parser.types cimport NO_ENVELOPE, Chunk, Row
from fasttail.publish.filters cimport Selector
from fasttail.publish.frames cimport Mark, Out, encode_legacy, out_clear, out_free
from fasttail.tail.blocks cimport FILL_LINES, FILL_PARTIAL, FILL_SKIPPED, Reader
from fasttail.tail.inotify cimport WAIT_DATA, WAIT_DIRS, WAIT_WAKE, Watcher

import os
import threading
from typing import NamedTuple

cdef extern from *:
    """
    #include <stdint.h>
    #include <unistd.h>
    static inline uint64_t ft_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void ft_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint64_t ft_swap(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
    static inline void ft_signal(int fd) { uint64_t one = 1; ssize_t n = write(fd, &one, 8); (void)n; }
    """
    uint64_t ft_acquire(const uint64_t* p) noexcept nogil
    void ft_release(uint64_t* p, uint64_t v) noexcept nogil
    uint64_t ft_swap(uint64_t* p, uint64_t v) noexcept nogil
    void ft_signal(int fd) noexcept nogil

cdef enum:
    KEEP_OUT = 1 << 20        # bytes of frames, and of pieces, that a slot keeps for its next batch
    MOST_POSTED = 32 << 20    # bytes of frames and pieces in the ring before the pipeline waits
    MOST_PATHS = 64
    KEPT_WINDOWS = 8          # rows of so many windows stay resident after an oversize line, as in the reader

cdef enum Why:                # why the loop came back to Python
    WHY_STOP
    WHY_CHECK                 # time to look at the folders
    WHY_END                   # and nothing more to read


class BatchStart(NamedTuple):
    """A batch that is logged has begun."""

    number: int
    lines: int


class BatchEnd(NamedTuple):
    """A batch has ended.

    `reject`: (path, offset in the file, reason) of the first rejected line, or None. `workers`: a WorkerState each, if `logged`.
    `frames`: WebSocket frames ready to send, one per order. `pieces`: (Orders joined by commas, how many) each.
    """

    number: int
    logged: bool
    lines: int
    orders: int
    selected: int
    published: int
    failed: int
    rejected: int
    reject: tuple
    seconds: float
    workers: list
    frames: bytes
    pieces: list


class WorkerState(NamedTuple):
    """What one worker that has begun has done of a batch so far."""

    lines: int
    orders: int
    completed: bool


cdef inline uint64_t _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef inline int64_t _utc_now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef int _sleep(uint64_t ns) noexcept nogil:
    cdef timespec t
    t.tv_sec = <long>(ns // 1000000000)
    t.tv_nsec = <long>(ns % 1000000000)
    nanosleep(&t, NULL)
    return 0


cdef class Pipeline:
    """Owns the thread, the reader, the pool and the ring.

    The main thread calls `start`, `drain` whenever `ready_fd` is readable, `want` when clients come and go, and at the end
    `stop` and `drain` until `stopped`. `follower.check` runs in the pipeline's thread.
    """

    def __cinit__(self, Reader reader not None, Watcher watcher not None, follower, Selector selector not None, int workers, *,
                  int wake_fd, size_t max_message=262144, double min_batch_s=0.00025, log_every_s=1.0, int stall_ms=0):
        """log_every_s: None for no START notes at all, 0 for every batch. stall_ms: debugging; the first batch hangs so long."""
        cdef int i
        self.reader = reader
        self.paths = {}
        self.watcher = watcher
        self.follower = follower
        self.selector = selector
        self.wake_fd = wake_fd
        self.max_message = max_message
        self.min_batch_ns = <uint64_t>(min_batch_s * 1e9)
        self.log_every_ns = ~<uint64_t>0 if log_every_s is None else <uint64_t>(log_every_s * 1e9)
        self.stall_ms = <uint64_t>stall_ms
        self.table = table_new(&ORDER_STATUSES, reader.capacity, <size_t>workers)
        self.pool = Pool(workers, self.table)
        self.selection = <uint32_t*>calloc(self.table.rows_cap, sizeof(uint32_t))
        self.slots = <Slot*>calloc(SLOTS, sizeof(Slot))
        if self.selection == NULL or self.slots == NULL:
            raise MemoryError
        for i in range(SLOTS):
            self.slots[i].shares = <uint64_t*>calloc(<size_t>workers, 2 * sizeof(uint64_t))
            if self.slots[i].shares == NULL:
                raise MemoryError
        self.ready_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        cdef int i
        if self.slots != NULL:
            for i in range(SLOTS):
                free(self.slots[i].shares)
                out_free(&self.slots[i].frames)
                out_free(&self.slots[i].pieces.text)
                out_free(&self.slots[i].pieces.marks)
        free(self.slots)
        free(self.selection)
        if self.ready_fd > 0:
            os.close(self.ready_fd)

    # ---------------------------------------------------------------------------------------------- the main thread's side

    def start(self) -> None:
        """Begin to follow."""
        self.thread = threading.Thread(target=self._run, name="fasttail-pipeline", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Ask the thread to end after the running batch. Go on draining until `stopped`."""
        ft_release(&self.stopping, 1)
        ft_signal(self.wake_fd)

    @property
    def stopped(self) -> bool:
        """The thread has ended (or never ran); after a last `drain` everything it read is handed over."""
        return self.thread is None or not self.thread.is_alive()

    @property
    def failure(self):
        """The exception that ended the thread, or None."""
        return self.error

    def want(self, bint frames, bint pieces) -> None:
        """Say whether anybody listens; what nobody wants is not made."""
        ft_release(&self.want_frames, frames)
        ft_release(&self.want_pieces, pieces)

    def position(self):
        """Where reading goes on, after `stop`.

        Asked before the last `drain`: if the thread has not `stopped` by then, it may lie before what is handed over, not behind.
        """
        return self.follower.position(self.reader)

    def drain(self, int most=SLOTS) -> list:
        """Take up to `most` notes, oldest first: BatchStart and BatchEnd objects."""
        cdef Slot* slot
        cdef const Mark* marks
        cdef size_t i, begin
        cdef list notes = []
        cdef int k
        cdef list pieces
        try:
            os.eventfd_read(self.ready_fd)
        except BlockingIOError:
            pass
        ft_swap(&self.signalled, 0)
        while len(notes) < most and self.tail != ft_acquire(&self.head):
            slot = &self.slots[self.tail % SLOTS]
            if slot.note == NOTE_START:
                notes.append(BatchStart(slot.number, slot.lines))
            else:
                pieces = []
                marks = <const Mark*>slot.pieces.marks.data
                begin = 0
                for i in range(slot.pieces.marks.size // sizeof(Mark)):
                    pieces.append((slot.pieces.text.data[begin:marks[i].end], marks[i].orders))
                    begin = marks[i].end
                notes.append(BatchEnd(
                    slot.number, slot.logged, slot.lines, slot.orders, slot.selected, slot.published, slot.failed, slot.rejected,
                    (self.paths.get(slot.file), slot.reject_at, reason_text(slot.reject_reason, slot.reject_field))
                    if slot.rejected else None,
                    (slot.ended_ns - slot.started_ns) / 1e9,
                    [WorkerState(slot.shares[2 * k], slot.shares[2 * k + 1], True) for k in range(self.pool.workers)]
                    if slot.logged else [],
                    slot.frames.data[:slot.frames.size] if slot.frames.size else b"", pieces))
            ft_release(&self.taken_bytes, self.taken_bytes + slot.frames.size + slot.pieces.text.size)
            ft_release(&self.tail, self.tail + 1)
        if self.tail != ft_acquire(&self.head) and not ft_swap(&self.signalled, 1):
            ft_signal(self.ready_fd)                 # `most` reached: come again
        return notes

    def stats(self) -> dict:
        """Numbers for health, metrics and log; callable from any thread."""
        c = &self.counters
        return {
            "batches": c.batches, "lines": c.lines, "orders": c.orders, "selected": c.selected, "rejected": c.rejected,
            "bytes": c.bytes, "failed_chunks": c.failed_chunks, "late_lines": c.late_lines + self.follower.late_lines,
            "oversize_orders": c.oversize_orders, "oversize_lines": self.reader.oversize_lines, "nul_bytes": c.nul_bytes,
            "truncations": self.follower.truncations, "files_opened": self.follower.files_opened,
            "inotify_overflows": self.watcher.overflows, "worker_count": self.pool.workers,
            "recut_batches": self.pool.irregular,
            "last_data_ns": c.last_data_ns, "loop_ns": c.loop_ns, "in_batch_ns": c.in_batch_ns,
            "batch_number": c.batch_number, "file": self.path, "offset": self.reader.offset,
            "height": c.height or None, "last_event_ns": c.last_event_ns,
            "state": "live" if c.last_data_ns else "waiting",
        }

    def workers(self) -> list:
        """WorkerState of each worker in the batch that runs (or the last one), as far as it is known at this moment."""
        cdef int k
        return [WorkerState(self.pool.chunks[k].lines, self.pool.chunks[k].rows_len, self.pool.chunks[k].ended_ns != 0)
                for k in range(self.pool.workers) if self.pool.chunks[k].started_ns]

    def running_lines(self):
        """Lines of the batch that runs, or None if it has ended meanwhile."""
        cdef uint64_t number = ft_acquire(&self.counters.batch_number)
        cdef const char* begin = self.running_begin
        cdef const char* limit = self.running_limit
        cdef size_t lines = 1                 # not in the reader's memory: a last line without its end
        if begin != NULL:
            lines = count_lines(begin, limit)     # of memory that stays mapped; right if the batch still runs afterwards
        return lines if self.counters.in_batch_ns and ft_acquire(&self.counters.batch_number) == number else None

    # ------------------------------------------------------------------------------------------------ the pipeline's thread

    def _run(self) -> None:
        cdef Why why = WHY_END
        cdef uint64_t check_ns
        cdef bint check_at_end
        cdef uint64_t read = 0
        try:
            self.pool.warm_up()
            while why != WHY_STOP:
                self.follower.check(self.reader, self.watcher, why == WHY_END)
                while (line := self.follower.take_final_line()) is not None:
                    path, offset = self.follower.final_origin
                    self._in_file(path)
                    self._final_line(line, offset)
                self._in_file(self.follower.path)
                self.late = self.follower.late
                check_at_end = self.follower.next_check_s <= 0
                check_ns = _now() + <uint64_t>(max(self.follower.next_check_s, 0.0 if not check_at_end else 1.0) * 1e9)
                with nogil:
                    why = <Why>self._loop(check_ns, check_at_end)
                if why == WHY_END and self.reader.bytes_read == read:
                    _sleep(1000000)        # a file system that tells of bytes which it does not give
                read = self.reader.bytes_read
        except BaseException as error:
            self.error = error
            ft_signal(self.ready_fd)

    cdef object _in_file(self, path):
        """From now on lines come from `path`."""
        if path != self.path:
            self.path = path
            self.file += 1
            self.paths[self.file] = path
            self.paths.pop(self.file - MOST_PATHS, None)

    cdef object _final_line(self, bytes line, uint64_t offset):
        cdef const char* p = line
        cdef size_t n = <size_t>len(line)
        with nogil:
            self._batch(p, p + n, p + n, offset)

    cdef int _loop(self, uint64_t check_ns, bint check_at_end) noexcept nogil:
        """Read and publish until Python is needed. `check_at_end`: it is needed as soon as all is read."""
        cdef int code
        cdef uint64_t now, began
        cdef size_t size
        while True:
            now = _now()
            self.counters.loop_ns = now
            if ft_acquire(&self.stopping):
                return WHY_STOP
            code = self.reader.fill()
            if code == FILL_LINES:
                began = now
                size = self.reader.lines_end - self.reader.begin
                self.running_begin = self.reader.base + self.reader.begin
                self.running_limit = self.reader.base + self.reader.lines_end
                self._batch(self.running_begin, self.running_limit, self.reader.base + self.reader.capacity, self.reader.offset)
                self.running_begin = NULL
                self.reader.consume()
                if size > KEPT_WINDOWS * self.reader.window:
                    self.table.trim(KEPT_WINDOWS * self.reader.window)
                now = _now()
                if now >= check_ns:
                    return WHY_CHECK
                if size < self.reader.window // 2 and now - began < self.min_batch_ns:
                    # many small writes a moment apart: let some come together, a wake-up costs more than a line
                    _sleep(self.min_batch_ns - (now - began))
                continue
            if code == FILL_PARTIAL or code == FILL_SKIPPED:
                if now >= check_ns:
                    return WHY_CHECK
                continue
            if check_at_end or now >= check_ns:
                return WHY_END
            code = self.watcher.wait(<long>((check_ns - now) // 1000) + 1)
            if code & WAIT_WAKE:
                continue
            if code & WAIT_DIRS and not code & WAIT_DATA:
                return WHY_END
            if code & WAIT_DIRS:
                check_ns = 0                         # what was written first, then the folders

    cdef Slot* _claim(self) noexcept nogil:
        """The next free slot, emptied; waits while the ring is full (the file is the queue)."""
        cdef Slot* slot
        while (self.head - ft_acquire(&self.tail) >= SLOTS
               or self.posted_bytes - ft_acquire(&self.taken_bytes) >= MOST_POSTED):
            self.counters.loop_ns = _now()
            _sleep(200000)
        slot = &self.slots[self.head % SLOTS]
        out_clear(&slot.frames, KEEP_OUT)
        out_clear(&slot.pieces.text, KEEP_OUT)
        out_clear(&slot.pieces.marks, KEEP_OUT)
        slot.rejected = 0
        slot.reject_reason = 0
        return slot

    cdef int _post(self) noexcept nogil:
        """Hand slots[head] over, and wake the main thread if it is not awake."""
        self.posted_bytes += self.slots[self.head % SLOTS].frames.size + self.slots[self.head % SLOTS].pieces.text.size
        ft_release(&self.head, self.head + 1)
        if not ft_swap(&self.signalled, 1):
            ft_signal(self.ready_fd)
        return 0

    cdef int _batch(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil:
        """Parse, filter, encode, hand over: the whole lines [begin, limit), which stand at `offset` in the file. Always 0."""
        cdef Counters* c = &self.counters
        cdef uint64_t now = _now()
        cdef bint logged = self.log_every_ns != ~<uint64_t>0 and now - self.logged_ns >= self.log_every_ns
        cdef uint64_t failed = 0, rejected = 0, reject_at = 0, published = 0, lines
        cdef unsigned char reason = 0, field = 0
        cdef size_t n
        cdef int more, k
        cdef Chunk* chunk
        cdef Slot* slot
        cdef Row* row
        cdef bint frames, pieces
        c.batch_number += 1
        if logged:
            self.logged_ns = now
            slot = self._claim()
            slot.note = NOTE_START
            slot.number = c.batch_number
            slot.lines = count_lines(begin, limit)
            self._post()
        c.in_batch_ns = now
        self.table.clear()
        self.pool.stall_ms = <int>self.stall_ms
        self.stall_ms = 0
        self.pool.start(begin, begin, limit, readable)
        more = 1
        while more == 1:
            more = self.pool.run()
            for k in range(self.pool.workers):
                chunk = &self.pool.chunks[k]
                if chunk.rejects_len and (rejected == 0 or chunk.rejects[0].line_at + offset < reject_at):
                    reject_at = chunk.rejects[0].line_at + offset
                    reason = chunk.rejects[0].reason
                    field = chunk.rejects[0].field
                rejected += chunk.rejects_len
                chunk.rejects_len = 0
        self.pool.stall_ms = 0
        lines = self.pool.lines()
        if more < 0:
            for k in range(self.pool.workers):
                failed += self.pool.chunks[k].broken
        n = self.selector.select(self.table, begin, self.selection)
        slot = self._claim()
        frames = ft_acquire(&self.want_frames) != 0
        pieces = ft_acquire(&self.want_pieces) != 0
        if frames or pieces:
            published = encode_legacy(self.table, begin, self.selection, n, _utc_now(), self.max_message,
                                      &slot.frames if frames else NULL, &slot.pieces if pieces else NULL, &c.oversize_orders)
            failed += slot.frames.failed or slot.pieces.text.failed or slot.pieces.marks.failed
        now = _now()
        slot.note = NOTE_END
        slot.logged = logged
        slot.number = c.batch_number
        slot.file = self.file
        slot.lines = lines
        slot.bytes = <uint64_t>(limit - begin)
        slot.orders = self.table.rows_len
        slot.selected = n
        slot.published = published
        slot.failed = failed
        slot.rejected = rejected
        slot.reject_at = reject_at
        slot.reject_reason = reason
        slot.reject_field = field
        slot.started_ns = c.in_batch_ns
        slot.ended_ns = now
        for k in range(self.pool.workers):
            slot.shares[2 * k] = self.pool.chunks[k].lines
            slot.shares[2 * k + 1] = self.pool.chunks[k].rows_len
            c.nul_bytes += self.pool.chunks[k].nul_bytes
            chunk = &self.pool.chunks[self.pool.workers - 1 - k]
            if chunk.rows_len and failed == 0:
                row = &(<Row*>chunk.rows)[chunk.rows_len - 1]
                if row.time_ns > c.last_event_ns:
                    c.last_event_ns = row.time_ns
                if row.envelope != <uint32_t>NO_ENVELOPE and self.table.envelopes[row.envelope].block_number > c.height:
                    c.height = self.table.envelopes[row.envelope].block_number
        c.batches += 1
        c.lines += lines
        c.orders += self.table.rows_len
        c.selected += n
        c.rejected += rejected
        c.bytes += <uint64_t>(limit - begin)
        c.failed_chunks += failed
        if self.late:
            c.late_lines += lines
        c.last_data_ns = now
        c.in_batch_ns = 0
        self._post()
        return 0
