"""The pipeline thread: blocks in, frames out.

    pipeline thread (member 0 of the OpenMP team)                              main thread (uvloop)
    ┌───────────────────────────── with nogil ─────────────────────────────┐
    │ reader.fill ─► parse_batch ─► selector, topics ─► slot of the ring ───┼─► eventfd ─► drain() ─► clients
    └──▲───────────────────────────────────────────────────────────────┬───┘
       └── follower.check (Python): new file, truncation, once a second ◄┘

The thread holds the GIL only for `follower.check`. When the ring (ring.pyx) is full, it waits and does not read on. `consume`
runs after the batch stands in the ring, so a position that is asked for once the thread has `stopped` lies exactly behind what
the last `drain` hands over. Counters are words of 64 bits that one thread writes and others read for information, relaxed
(atomics.h); a value may be a moment old.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.time cimport nanosleep, timespec

from fasttail.atomics cimport ft_acquire, ft_add, ft_get, ft_get_pointer, ft_release, ft_set, ft_set_pointer
from fasttail.checks cimport ft_assert, ft_assert_thread
from fasttail.clock cimport monotonic_ns, utc_ns
from fasttail.histogram cimport Histogram
from fasttail.parser.lines cimport count_lines
from fasttail.parser.pool cimport Pool
from fasttail.parser.streams cimport ORDER_STATUSES
from fasttail.parser.table cimport Table, row_block, table_new
from fasttail.parser.types cimport Chunk, Envelope, Row
from fasttail.publish.filters cimport Selector
from fasttail.publish.router cimport MOST_TOPICS, Topics
from fasttail.publish.topics cimport Place, Topic, set_prefix
from fasttail.ring cimport (
    ADD_TOPIC, NOTE_END, NOTE_FILE, NOTE_START, NOTE_TOPICS, REMOVE_TOPIC, SLOTS, Command, Note, Ring, Slot, ft_signal,
    ft_unsignal)
from fasttail.tail.blocks cimport FILL_LINES, FILL_PARTIAL, FILL_SKIPPED, KEPT_WINDOWS, Reader
from fasttail.tail.inotify cimport WAIT_DATA, WAIT_DIRS, WAIT_WAKE, Watcher

import threading

from fasttail.pipeline_events import WorkerState
from fasttail.publish.cursor import prefix as cursor_prefix
from fasttail.slices import ask_for_slices

cdef extern from *:
    """
    #include <sys/prctl.h>
    static inline void ft_wake_in_time(void) { (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0); }
    """
    void ft_wake_in_time() noexcept nogil      # this thread's short sleeps end within a microsecond, not within 50

cdef enum:
    GATHER_NS = 100000        # from word of new lines to the read: what is written in one go comes in one batch

cdef enum Why:                # why the loop came back to Python
    WHY_STOP
    WHY_CHECK                 # time to look at the folders
    WHY_END                   # and nothing more to read


cdef void* _leaked = NULL        # the last block that `leak` made; each begins with the address of the one before


def leak(size_t size) -> None:
    """Debugging: takes memory that nothing gives back, and touches all of it."""
    global _leaked
    cdef char* block = <char*>malloc(size + sizeof(void*))
    if block == NULL:
        raise MemoryError
    memset(block, 0xA5, size + sizeof(void*))
    (<void**>block)[0] = _leaked
    _leaked = block


cdef inline uint64_t _until(uint64_t moment, uint64_t now) noexcept nogil:
    return moment - now if moment > now else 0


cdef void _sleep(uint64_t ns) noexcept nogil:
    cdef timespec t
    t.tv_sec = <long>(ns // 1000000000)
    t.tv_nsec = <long>(ns % 1000000000)
    nanosleep(&t, NULL)


cdef class Pipeline:
    """Owns the thread, the reader, the pool and the ring.

    The main thread calls `start`, `drain` whenever `ready_fd` is readable, `add_topic` and `remove_topic` when somebody comes
    or the last one goes, and at the end `stop` and `drain` until `stopped`. `follower.check` runs in the pipeline's thread.
    """

    def __cinit__(self, Reader reader not None, Watcher watcher not None, follower, Selector selector not None, int workers, *,
                  int wake_fd, double min_batch_s=0.0005, log_every_s=1.0, int stall_ms=0, gate=None, uint32_t max_topics=MOST_TOPICS):
        """log_every_s: None for no START notes at all, 0 for every batch. stall_ms: debugging; the first batch hangs so long.
        gate: called once, by the thread, between its first look at the folders and its first read; may wait.
        max_topics: besides the old channels'; one more is refused (`Topic.refused`).
        """
        self.reader = reader
        self.watcher = watcher
        self.follower = follower
        self.selector = selector
        self.wake_fd = wake_fd
        self.min_batch_ns = <uint64_t>(min_batch_s * 1e9)
        self.log_every_ns = ~<uint64_t>0 if log_every_s is None else <uint64_t>(log_every_s * 1e9)
        self.stall_ms = <uint64_t>stall_ms
        self.gate = gate
        self.table = table_new(&ORDER_STATUSES, reader.capacity, <size_t>workers)
        self.pool = Pool(workers, self.table, max_rejects=1)
        self.selection = <uint32_t*>calloc(self.table.rows_cap, sizeof(uint32_t))
        if self.selection == NULL:
            raise MemoryError
        self.topics = Topics(workers, self.table, most=max_topics)
        self.batch_times = Histogram()
        self.ring = Ring(workers, wake_fd)

    def __dealloc__(self):
        free(self.selection)

    # ---------------------------------------------------------------------------------------------- the main thread's side

    def start(self) -> None:
        """Begin to follow. Also asks that the calling thread, which is to drain, be run soon after each wake-up."""
        ask_for_slices()
        ft_assert_thread(&self.ring.main_thread)
        self.thread = threading.Thread(target=self._run, name="fasttail-pipeline", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Ask the thread to end after the running batch. Go on draining until `stopped`."""
        ft_release(&self.stopping, 1)
        ft_signal(self.wake_fd)

    @property
    def ready_fd(self) -> int:
        """Readable when there is something to `drain`."""
        return self.ring.ready_fd

    @property
    def stopped(self) -> bool:
        """The thread has ended (or never ran); after a last `drain` everything it read is handed over."""
        return self.thread is None or not self.thread.is_alive()

    @property
    def failure(self):
        """The exception that ended the thread, or None."""
        return self.error

    def add_topic(self, Topic topic not None) -> int:
        """Make the topic's messages from some batch on: from that after the TopicsChanged with this number, or a greater one.

        If there is no room for it, `Topic.refused` is true when that note comes; it is to be removed then like any other.
        """
        return self.ring.push_command(ADD_TOPIC, topic)

    def remove_topic(self, Topic topic not None) -> int:
        """Make them no more, likewise. What was made before still comes out of `drain`."""
        return self.ring.push_command(REMOVE_TOPIC, topic)

    def replace_selector(self, Selector selector not None) -> None:
        """From some batch on, the old channels get what this one passes. It must be new: it becomes this pipeline's own."""
        ft_assert_thread(&self.ring.main_thread)
        self.replacement = selector
        ft_release(&self.replaced, 1)
        ft_signal(self.wake_fd)

    def position(self):
        """Where reading goes on, once the thread has `stopped`: behind what the last `drain` hands over.

        None before that: reader and follower are the thread's, and may change in the midst of the answer.
        """
        return self.follower.position(self.reader) if self.stopped else None

    def drain(self, int most=SLOTS) -> list:
        """Take up to `most` notes, oldest first: BatchStart, BatchEnd, TopicsChanged and FileOpened objects."""
        return self.ring.drain(most)

    def trim(self) -> None:
        """Memory is short: each slot of the ring gives back what it keeps for its next batch, as it is drained."""
        self.ring.trim()

    def ring_bytes(self) -> tuple:
        """(bytes of messages that wait to be drained, bytes that the slots occupy); callable from any thread."""
        return self.ring.held_bytes()

    def stats(self) -> dict:
        """Numbers for health, metrics and log; callable from any thread."""
        c = &self.counters               # relaxed, as all that another thread writes meanwhile: each number for itself
        return {
            "batches": ft_get(&c.batches), "lines": ft_get(&c.lines), "orders": ft_get(&c.orders),
            "selected": ft_get(&c.selected), "rejected": ft_get(&c.rejected), "bytes": ft_get(&c.bytes),
            "failed_chunks": ft_get(&c.failed_chunks), "late_lines": ft_get(&c.late_lines) + self.follower.late_lines,
            "topics_seconds": ft_get(&c.topics_ns) / 1e9, "crowded_batches": ft_get(&self.topics.crowded),
            "oversize_orders": ft_get(&self.topics.oversize), "oversize_lines": self.reader.oversize_lines,
            "nul_bytes": ft_get(&c.nul_bytes) + self.reader.nul_bytes,
            "truncations": self.follower.truncations, "read_errors": self.follower.read_errors,
            "torn_lines": self.follower.torn_lines, "height_regressions": ft_get(&c.replays), "files_opened": self.follower.files_opened,
            "resume_losses": self.follower.resume_losses,
            "inotify_overflows": self.watcher.overflows, "worker_count": self.pool.workers,
            "recut_batches": self.pool.irregular,
            "last_data_ns": ft_get(&c.last_data_ns), "loop_ns": ft_get(&c.loop_ns), "in_batch_ns": ft_get(&c.in_batch_ns),
            "batch_number": ft_get(&c.batch_number), "file": self.path, "identity": self.identity,
            "offset": ft_get(&self.reader.offset), "height": ft_get(&c.height) or None,
            "last_event_ns": ft_get(&c.last_event_ns), "last_local_ns": ft_get(&c.last_local_ns),
            "last_event_seen_ns": ft_get(&c.last_event_seen_ns), "trouble": self.follower.trouble, "written_ns": self.follower.written_ns,
            "grows": self.follower.grows,
            "state": "live" if ft_get(&c.last_data_ns) else "waiting",
        }

    def workers(self) -> list:
        """WorkerState of each worker in the batch that runs (or the last one), as far as it is known at this moment."""
        cdef int k
        cdef Chunk* chunks = self.pool.chunks        # relaxed: each worker writes its own meanwhile
        return [WorkerState(ft_get(&chunks[k].lines), ft_get(<uint64_t*>&chunks[k].rows_len), ft_get(&chunks[k].ended_ns) != 0)
                for k in range(self.pool.workers) if ft_get(&chunks[k].started_ns)]

    def running_lines(self):
        """Lines of the batch that runs, or None if it has ended meanwhile."""
        cdef uint64_t number = ft_acquire(&self.counters.batch_number)
        cdef const char* begin = <const char*>ft_get_pointer(<void**>&self.running_begin)
        cdef const char* limit = <const char*>ft_get_pointer(<void**>&self.running_limit)
        cdef size_t lines = 1                 # not in the reader's memory: a last line without its end
        if begin != NULL and begin < limit:
            lines = count_lines(begin, limit)     # of memory that stays mapped; right if the batch still runs afterwards
        return lines if ft_get(&self.counters.in_batch_ns) and ft_acquire(&self.counters.batch_number) == number else None

    # ------------------------------------------------------------------------------------------------ the pipeline's thread

    def _run(self) -> None:
        cdef Why why = WHY_END
        cdef uint64_t check_ns
        cdef bint check_at_end
        cdef uint64_t read = 0
        try:
            self.pool.warm_up()
            ft_wake_in_time()
            self.truncations = self.follower.truncations
            while why != WHY_STOP:
                self._look(why == WHY_END)
                check_at_end = self.follower.next_check_s <= 0
                check_ns = monotonic_ns() + <uint64_t>(max(self.follower.next_check_s, 0.0 if not check_at_end else 1.0) * 1e9)
                with nogil:
                    why = <Why>self._loop(check_ns, check_at_end)
                if ft_acquire(&self.replaced):
                    ft_set(&self.replaced, 0)
                    self.selector = self.replacement
                if why == WHY_END and self.reader.bytes_read == read:
                    _sleep(1000000)        # a file system that tells of bytes which it does not give
                read = self.reader.bytes_read
        except BaseException as error:
            self.error = error
            ft_signal(self.ring.ready_fd)

    cdef object _look(self, bint at_end):
        """Let the follower look at the folders, and do what it has found: a last line of a file that was left, another file."""
        self.follower.check(self.reader, self.watcher, at_end)
        if self.gate is not None:
            gate, self.gate = self.gate, None
            gate()
        while (line := self.follower.take_final_line()) is not None:
            path, offset = self.follower.final_origin
            self._in_file(path, self.identity if path == self.path else None)
            self._final_line(line, offset)
        changed = self._in_file(self.follower.path, self.reader.identity() if self.reader.is_open else None)
        self.late = self.follower.late
        self._stand()
        # Truncated, it begins anew: whoever reads along has to know before the first new line comes.
        changed = changed or self.truncations != self.follower.truncations
        if changed and self.identity is not None and not self.late:
            self.truncations = self.follower.truncations
            with nogil:
                self._tell_file()

    cdef bint _in_file(self, path, identity) except -1:
        """From now on lines come from `path`, which is the file (device, inode) `identity`. Whether that is another than before."""
        if path == self.path and identity == self.identity:
            return False
        self.path = path
        self.identity = identity
        self.ring.set_file(path, identity)
        self.hour = int(self._put_prefix(path)[1:11] or 0)
        return True

    cdef object _put_prefix(self, path):
        prefix = cursor_prefix(self.follower.layout, path).encode() if path else b""
        set_prefix(&self.place, prefix)
        return prefix

    cdef object _stand(self):
        """Late lines' messages say where reading goes on: what stands before that place has been handed out, so that whoever
        resumes from there gets nothing twice.
        """
        self.place.late = self.late
        if self.late:
            position = self.follower.position(self.reader)
            self._put_prefix(position.path)
            self.place.goes_on = position.offset
        elif self.path:
            self._put_prefix(self.path)

    cdef object _final_line(self, bytes line, uint64_t offset):
        cdef const char* p = line
        cdef size_t n = <size_t>len(line)
        with nogil:
            self._batch(p, p + n, p + n, offset)

    cdef int _loop(self, uint64_t check_ns, bint check_at_end) noexcept nogil:
        """Read and publish until Python is needed. `check_at_end`: it is needed as soon as all is read."""
        cdef int code
        cdef uint64_t now, began = 0
        cdef size_t size
        ft_assert_thread(&self.ring.own_thread)
        while True:
            now = monotonic_ns()
            ft_set(&self.counters.loop_ns, now)
            if ft_acquire(&self.stopping):
                return WHY_STOP
            if ft_acquire(&self.replaced):
                return WHY_CHECK
            code = self.reader.fill()
            # Relaxed: whoever sees it a moment late takes it after the next read; the exchange in `ft_take` orders what it points to.
            if ft_get_pointer(<void**>&self.ring.commands) != NULL:       # after the read: what was wished before a line was written holds for that line
                self._take_commands()
            if code == FILL_LINES:
                began = now
                size = self.reader.lines_end - self.reader.begin
                self._read_lines()
                now = monotonic_ns()
                if now >= check_ns:
                    return WHY_CHECK
                if size >= self.reader.window // 2:
                    continue
                if self.watcher.blind or check_at_end or not self.reader.at_end:
                    if now - began < self.min_batch_ns:
                        _sleep(self.min_batch_ns - (now - began))
                    continue
                # else there was no more when it was read, and inotify tells of what has come since
            elif code == FILL_PARTIAL or code == FILL_SKIPPED:
                if now >= check_ns:
                    return WHY_CHECK
                continue
            elif check_at_end or now >= check_ns or self.reader.changed or self.reader.at_hole:
                return WHY_END
            code = self.watcher.wait(<long>((check_ns - now) // 1000) + 1)
            if code & WAIT_DATA and not self.watcher.blind:
                # Many small writes a moment apart: let some come together, for a batch costs more than its lines.
                now = monotonic_ns()
                _sleep(max(min(<uint64_t>GATHER_NS, self.min_batch_ns), _until(began + self.min_batch_ns, now)))
            if code & WAIT_WAKE:
                ft_unsignal(self.wake_fd)            # before it is looked what for
            if code & WAIT_DIRS and not code & WAIT_DATA:
                return WHY_END
            if code & WAIT_DIRS:
                check_ns = 0                         # what was written first, then the folders

    cdef void _read_lines(self) noexcept nogil:
        """The batch that the reader has: publish it, and be done with it."""
        cdef size_t size = self.reader.lines_end - self.reader.begin
        ft_set_pointer(<void**>&self.running_begin, self.reader.base + self.reader.begin)
        ft_set_pointer(<void**>&self.running_limit, self.reader.base + self.reader.lines_end)
        self._batch(self.running_begin, self.running_limit, self.reader.base + self.reader.capacity, self.reader.offset)
        ft_set_pointer(<void**>&self.running_begin, NULL)
        self.reader.consume()
        if size > KEPT_WINDOWS * self.reader.window:
            self.table.trim(KEPT_WINDOWS * self.reader.window)

    cdef void _take_commands(self) noexcept nogil:
        """Do what the main thread wished since the last time, and answer."""
        cdef Command* command = self.ring.take_commands()
        cdef Command* after
        cdef Slot* slot
        cdef uint64_t number = 0
        while command != NULL:
            if command.wish == ADD_TOPIC:
                self.topics.add(command.topic)       # one for which there is no room knows it: Topic.refused
            else:
                self.topics.remove(command.topic)
            number = command.number
            after = command.before
            free(command)
            command = after
        if number:
            slot = self._claim(NOTE_TOPICS, number)
            slot.end = self.reader.offset
            self.ring.post()

    cdef void _tell_file(self) noexcept nogil:
        """Say which file is read now, and from where: a checkpoint must not wait for its first line."""
        cdef Slot* slot = self._claim(NOTE_FILE, self.counters.batch_number)
        slot.end = self.reader.offset
        self.ring.post()

    cdef Slot* _claim(self, Note note, uint64_t number) noexcept nogil:
        """The next free slot; waits while the ring is full (the file is the queue)."""
        cdef Slot* slot
        while self.ring.is_full():
            ft_set(&self.counters.loop_ns, monotonic_ns())
            _sleep(200000)
        slot = self.ring.claim()
        slot.note = note
        slot.number = number
        slot.hour = self.hour
        slot.late = self.late
        return slot

    # ------------------------------------------------------------------------------------------------------------ one batch

    cdef void _batch(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil:
        """Parse, filter, encode, hand over: the whole lines [begin, limit), which stand at `offset` in the file."""
        cdef Counters* c = &self.counters
        cdef uint64_t now = monotonic_ns()
        cdef bint logged = self.log_every_ns != ~<uint64_t>0 and now - self.logged_ns >= self.log_every_ns
        cdef Slot* slot
        ft_assert(begin <= limit)
        ft_assert(limit <= readable)
        ft_release(&c.batch_number, c.batch_number + 1)      # `running_lines` looks at it before and after it counts
        if logged:
            self.logged_ns = now
            slot = self._claim(NOTE_START, c.batch_number)
            slot.lines = count_lines(begin, limit)
            self.ring.post()
        ft_set(&c.in_batch_ns, now)
        self.table.clear()
        self.pool.stall_ms = <int>self.stall_ms
        self.stall_ms = 0
        self.pool.parse_batch(begin, begin, limit, readable)     # if that fails, the chunks say so
        self.pool.stall_ms = 0
        slot = self._claim(NOTE_END, c.batch_number)
        slot.logged = logged
        slot.bytes = <uint64_t>(limit - begin)
        slot.end = offset + slot.bytes
        slot.started_ns = now
        self._publish(slot, begin, offset)
        slot.ended_ns = monotonic_ns()
        self._tell_parsed(slot, offset)
        self._tell_newest(slot)
        self._count(slot)
        self.ring.post()

    cdef void _publish(self, Slot* slot, const char* begin, uint64_t offset) noexcept nogil:
        """The messages of the rows, into the slot's boxes."""
        cdef uint64_t now
        cdef int k
        cdef size_t n = self.selector.select(self.table, begin, self.selection)
        ft_assert(n <= self.table.rows_len)
        ft_assert(self.table.rows_len <= self.table.rows_cap)    # as long as `selection`
        self.place.data = begin
        self.place.size = slot.bytes
        self.place.offset = offset
        slot.place = self.place
        slot.selected = n
        now = monotonic_ns()
        slot.published = self.topics.run(self.table, &self.place, self.selection, n, utc_ns(), slot.boxes)
        ft_add(&self.counters.topics_ns, monotonic_ns() - now)
        slot.failed = 0
        for k in range(self.pool.workers):
            slot.failed += slot.boxes[k].text.failed or slot.boxes[k].marks.failed
            slot.failed += self.pool.chunks[k].broken

    cdef void _tell_parsed(self, Slot* slot, uint64_t offset) noexcept nogil:
        """What came of the lines."""
        cdef int k
        slot.lines = self.pool.lines()
        slot.orders = self.table.rows_len
        slot.rejected = self.pool.rejected
        if self.pool.kept_len:
            slot.reject_at = self.pool.kept[0].line_at + offset
            slot.reject_reason = self.pool.kept[0].reason
            slot.reject_field = self.pool.kept[0].field
        for k in range(self.pool.workers):
            slot.shares[2 * k] = self.pool.chunks[k].lines
            slot.shares[2 * k + 1] = self.pool.chunks[k].rows_len

    cdef void _tell_newest(self, Slot* slot) noexcept nogil:
        """When the newest order and its line came into being, and its height; nothing if a chunk failed."""
        cdef Counters* c = &self.counters
        cdef Chunk* chunk
        cdef const Row* row
        cdef const Envelope* envelope
        cdef int k
        slot.event_ns = slot.local_ns = 0
        if slot.failed:
            return
        for k in range(self.pool.workers - 1, -1, -1):
            chunk = &self.pool.chunks[k]
            if chunk.rows_len == 0:
                continue
            row = &(<Row*>chunk.rows)[chunk.rows_len - 1]
            envelope = row_block(self.table, row)
            if envelope != NULL:
                slot.local_ns = max(slot.local_ns, envelope.local_time_ns)
                if envelope.block_number > c.height:
                    ft_set(&c.height, envelope.block_number)
            slot.event_ns = max(slot.event_ns, row.time_ns)
            if row.time_ns > <int64_t>c.last_event_ns:
                ft_set(&c.last_event_ns, <uint64_t>row.time_ns)
                ft_set(&c.last_local_ns, <uint64_t>envelope.local_time_ns if envelope != NULL else 0)
                ft_set(&c.last_event_seen_ns, <uint64_t>utc_ns())

    cdef void _count(self, const Slot* slot) noexcept nogil:
        cdef Counters* c = &self.counters
        cdef int k
        self.batch_times.add(<int64_t>(slot.ended_ns - slot.started_ns))
        ft_add(&c.batches, 1)
        ft_add(&c.lines, slot.lines)
        ft_add(&c.orders, slot.orders)
        ft_add(&c.selected, slot.selected)
        ft_add(&c.rejected, slot.rejected)
        ft_add(&c.bytes, slot.bytes)
        ft_add(&c.failed_chunks, slot.failed)
        for k in range(self.pool.workers):
            ft_add(&c.nul_bytes, self.pool.chunks[k].nul_bytes)
        if self.late:
            ft_add(&c.late_lines, slot.lines)
        elif slot.failed == 0:
            self._count_replays()
        ft_set(&c.last_data_ns, slot.ended_ns)
        ft_set(&c.in_batch_ns, 0)

    cdef void _count_replays(self) noexcept nogil:
        """Count how often the block number went back in the batch: the node wrote blocks once more."""
        cdef Counters* c = &self.counters
        cdef Chunk* chunk
        cdef size_t i
        cdef uint64_t number
        cdef int k
        for k in range(self.pool.workers):
            chunk = &self.pool.chunks[k]
            for i in range(chunk.envelopes_len):
                number = chunk.envelopes[i].block_number
                if number < c.block:
                    ft_add(&c.replays, 1)
                c.block = number
