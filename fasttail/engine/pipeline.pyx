"""The pipeline thread, which turns blocks of lines into frames.

    pipeline thread (member 0 of the OpenMP team)                              main thread (uvloop)
    ┌───────────────────────────── with nogil ─────────────────────────────┐
    │ reader.fill ─► parse_batch ─► selector, topics ─► slot of the ring ───┼─► eventfd ─► drain() ─► clients
    └──▲───────────────────────────────────────────────────────────────┬───┘
       └── follower.check (Python): new file, truncation, once a second ◄┘

The thread holds the GIL only for `follower.check`. When the ring (ring.pyx) is full, the thread waits and stops reading. It
calls `consume` only after the batch is in the ring. Once the thread has `stopped`, its position is therefore exactly the end of
what the last `drain` returns. Counters are 64-bit words with one writer; other threads read them with relaxed atomics
(atomics.h), so a value may be a moment old.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.time cimport nanosleep, timespec

from fasttail.system.atomics cimport (ft_load_acquire, ft_add_single_writer, ft_load_relaxed, ft_load_pointer_relaxed,
    ft_store_release, ft_store_relaxed, ft_store_pointer_relaxed)
from fasttail.system.checks cimport ft_assert, ft_assert_thread
from fasttail.system.clock cimport monotonic_ns, utc_ns
from fasttail.engine.histogram cimport Histogram
from fasttail.engine.lines cimport count_lines
from fasttail.engine.pool cimport WorkerPool
from fasttail.streams.orders cimport ORDERS
from fasttail.engine.table cimport RowTable, row_envelope, table_new
from fasttail.streams.types cimport Chunk, Envelope, RowHead
from fasttail.engine.filters cimport Selector
from fasttail.engine.router cimport MAX_TOPICS, Router
from fasttail.engine.topics cimport BatchLocation, Topic, set_prefix
from fasttail.engine.ring cimport (
    ADD_TOPIC, EVENT_BATCH_END, EVENT_FILE_OPENED, EVENT_BATCH_START, EVENT_TOPICS_CHANGED, REMOVE_TOPIC, RING_SLOTS, Command,
    EventKind, Ring, RingSlot, ft_eventfd_signal, ft_eventfd_clear)
from fasttail.sources.reader cimport FILL_LINES, FILL_PARTIAL, FILL_SKIPPED, RETAINED_WINDOWS, Reader
from fasttail.sources.watcher cimport WAIT_DATA, WAIT_DIRS, WAIT_WAKE, Watcher

import threading

from fasttail.engine.events import WorkerState
from fasttail.sources.cursor import prefix as cursor_prefix
from fasttail.system.scheduling import set_time_slice

cdef extern from *:
    """
    #include <sys/prctl.h>
    static inline void ft_set_timer_slack(void) { (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0); }
    """
    void ft_set_timer_slack() noexcept nogil   # short sleeps of this thread end within 1 µs, not within 50

cdef enum:
    COALESCE_NS = 100000      # from the first inotify event to the read, so that writes made together share a batch

cdef enum LoopExit:           # why the loop returned to Python
    EXIT_STOP
    EXIT_CHECK                # the folders are due for a check
    EXIT_AT_END               # … and there is nothing more to read


cdef void* _leaked = NULL        # the last block that `leak` allocated; each starts with the address of the previous one


def leak(size_t size) -> None:
    """Leak `size` bytes and touch all of them. For debugging."""
    global _leaked
    cdef char* block = <char*>malloc(size + sizeof(void*))
    if block == NULL:
        raise MemoryError
    memset(block, 0xA5, size + sizeof(void*))
    (<void**>block)[0] = _leaked
    _leaked = block


cdef inline uint64_t _ns_until(uint64_t moment, uint64_t now) noexcept nogil:
    return moment - now if moment > now else 0


cdef void _sleep(uint64_t ns) noexcept nogil:
    cdef timespec t
    t.tv_sec = <long>(ns // 1000000000)
    t.tv_nsec = <long>(ns % 1000000000)
    nanosleep(&t, NULL)


cdef class Pipeline:
    """Owns the pipeline thread, its reader, its worker pool and its ring.

    The main thread calls `start`, then `drain` whenever `ready_fd` is readable, and `add_topic` and `remove_topic` as
    subscriptions come and go. To end, it calls `stop`, and then `drain` until `stopped`. `follower.check` runs in the pipeline
    thread.
    """

    def __cinit__(self, Reader reader not None, Watcher watcher not None, follower, Selector selector not None, int workers, *,
                  int wake_fd, double min_batch_s=0.0005, log_every_s=1.0, int stall_ms=0, start_barrier=None,
                  uint32_t max_topics=MAX_TOPICS):
        """Allocate the table, the pool, the router and the ring. Raises MemoryError.

        wake_fd: an eventfd that ends the watcher's wait; borrowed
        log_every_s: minimum time between logged batches; 0: log all, None: post no BatchStart events
        stall_ms: how long the first batch hangs, for debugging
        start_barrier: called once by the thread, between its first check of the folders and its first read; may block
        max_topics: limit of topics besides those of the old channels; further ones are refused (`Topic.refused`)
        """
        self.reader = reader
        self.watcher = watcher
        self.follower = follower
        self.selector = selector
        self.wake_fd = wake_fd
        self.min_batch_ns = <uint64_t>(min_batch_s * 1e9)
        self.log_every_ns = ~<uint64_t>0 if log_every_s is None else <uint64_t>(log_every_s * 1e9)
        self.stall_ms = <uint64_t>stall_ms
        self.start_barrier = start_barrier
        self.table = table_new(&ORDERS, reader.capacity, <size_t>workers)
        self.pool = WorkerPool(workers, self.table, max_rejects=1)
        self.selection = <uint32_t*>calloc(self.table.rows_cap, sizeof(uint32_t))
        if self.selection == NULL:
            raise MemoryError
        self.router = Router(workers, self.table, max_topics=max_topics)
        self.batch_times = Histogram()
        self.ring = Ring(workers, wake_fd)

    def __dealloc__(self):
        free(self.selection)

    # --------------------------------------------------------------------------------------------------------- main thread

    def start(self) -> None:
        """Start the thread. Also request a short time slice for the caller, which must be the thread that drains."""
        set_time_slice()
        ft_assert_thread(&self.ring.main_thread)
        self.thread = threading.Thread(target=self._run, name="fasttail-pipeline", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Ask the thread to end after the running batch. Keep draining until `stopped`."""
        ft_store_release(&self.stopping, 1)
        ft_eventfd_signal(self.wake_fd)

    @property
    def ready_fd(self) -> int:
        """A descriptor that is readable when there are events to `drain`."""
        return self.ring.ready_fd

    @property
    def stopped(self) -> bool:
        """Whether the thread has ended or never ran. One more `drain` then returns the rest."""
        return self.thread is None or not self.thread.is_alive()

    @property
    def failure(self):
        """The exception that ended the thread, or None."""
        return self.error

    def add_topic(self, Topic topic not None) -> int:
        """Start producing the topic's messages. Return the number of the command.

        The first batch with messages follows the TopicsChanged event with this number or a greater one. If the pipeline cannot
        take the topic, `Topic.refused` is true by then, and the topic must be removed like any other.
        """
        return self.ring.push_command(ADD_TOPIC, topic)

    def remove_topic(self, Topic topic not None) -> int:
        """Stop producing the topic's messages, likewise. `drain` still returns those made before."""
        return self.ring.push_command(REMOVE_TOPIC, topic)

    def replace_selector(self, Selector selector not None) -> None:
        """Replace the old channels' selector, from a later batch on. The selector must be new; the pipeline takes ownership."""
        ft_assert_thread(&self.ring.main_thread)
        self.next_selector = selector
        ft_store_release(&self.selector_pending, 1)
        ft_eventfd_signal(self.wake_fd)

    def position(self):
        """Return the position after the last `drain`, or None until the thread has `stopped`.

        Until then, the thread may change the reader and the follower at any moment.
        """
        return self.follower.position(self.reader) if self.stopped else None

    def drain(self, int max_events=RING_SLOTS) -> list:
        """Return up to `max_events` events, oldest first: BatchStart, BatchEnd, TopicsChanged and FileOpened objects."""
        return self.ring.drain(max_events)

    def trim(self) -> None:
        """Make each slot free the memory it keeps for its next batch, as it is drained."""
        self.ring.trim()

    def ring_bytes(self) -> tuple:
        """Return (bytes of messages waiting to be drained, bytes allocated by the slots). Callable from any thread."""
        return self.ring.held_bytes()

    def stats(self) -> dict:
        """Return the numbers for health, metrics and the log. Callable from any thread."""
        c = &self.counters               # relaxed: written meanwhile, and each for itself
        return {
            "batches": ft_load_relaxed(&c.batches), "lines": ft_load_relaxed(&c.lines), "orders": ft_load_relaxed(&c.orders),
            "selected": ft_load_relaxed(&c.selected), "rejected": ft_load_relaxed(&c.rejected),
            "bytes": ft_load_relaxed(&c.bytes),
            "failed_chunks": ft_load_relaxed(&c.failed_chunks), "late_lines": ft_load_relaxed(&c.late_lines)
            + self.follower.late_lines,
            "topics_seconds": ft_load_relaxed(&c.topics_ns) / 1e9,
            "crowded_batches": ft_load_relaxed(&self.router.quota_batches),
            "oversize_orders": ft_load_relaxed(&self.router.oversize), "oversize_lines": self.reader.oversize_lines,
            "nul_bytes": ft_load_relaxed(&c.nul_bytes) + self.reader.nul_bytes,
            "truncations": self.follower.truncations, "read_errors": self.follower.read_errors,
            "torn_lines": self.follower.torn_lines, "height_regressions": ft_load_relaxed(&c.height_regressions),
            "files_opened": self.follower.files_opened, "resume_losses": self.follower.resume_losses,
            "inotify_overflows": self.watcher.overflows, "worker_count": self.pool.workers,
            "recut_batches": self.pool.recut_batches,
            "last_data_ns": ft_load_relaxed(&c.last_data_ns), "loop_ns": ft_load_relaxed(&c.loop_ns),
            "in_batch_ns": ft_load_relaxed(&c.in_batch_ns),
            "batch_number": ft_load_relaxed(&c.batch_number), "file": self.path, "identity": self.identity,
            "offset": ft_load_relaxed(&self.reader.offset), "height": ft_load_relaxed(&c.height) or None,
            "last_event_ns": ft_load_relaxed(&c.last_event_ns), "last_local_ns": ft_load_relaxed(&c.last_local_ns),
            "last_event_seen_ns": ft_load_relaxed(&c.last_event_seen_ns), "trouble": self.follower.trouble,
            "written_ns": self.follower.written_ns, "grows": self.follower.growing_layout,
            "state": "live" if ft_load_relaxed(&c.last_data_ns) else "waiting",
        }

    def workers(self) -> list:
        """Return the WorkerState of each worker that has started in the running or last batch."""
        cdef int k
        cdef Chunk* chunks = self.pool.chunks        # relaxed: each worker writes its own chunk meanwhile
        return [WorkerState(ft_load_relaxed(&chunks[k].lines), ft_load_relaxed(<uint64_t*>&chunks[k].rows_len),
                            ft_load_relaxed(&chunks[k].ended_ns) != 0)
                for k in range(self.pool.workers) if ft_load_relaxed(&chunks[k].started_ns)]

    def running_lines(self):
        """Return the number of lines in the running batch, or None if it has ended meanwhile."""
        cdef uint64_t number = ft_load_acquire(&self.counters.batch_number)
        cdef const char* begin = <const char*>ft_load_pointer_relaxed(<void**>&self.running_begin)
        cdef const char* limit = <const char*>ft_load_pointer_relaxed(<void**>&self.running_limit)
        cdef size_t lines = 1                 # a final line outside the reader's memory, until shown otherwise
        if begin != NULL and begin < limit:
            lines = count_lines(begin, limit)     # the memory stays mapped; the check below validates the count
        if ft_load_relaxed(&self.counters.in_batch_ns) and ft_load_acquire(&self.counters.batch_number) == number:
            return lines
        return None

    # ------------------------------------------------------------------------------------------------------ pipeline thread

    def _run(self) -> None:
        cdef LoopExit loop_exit = EXIT_AT_END
        cdef uint64_t check_ns
        cdef bint check_at_end
        cdef uint64_t read = 0
        try:
            self.pool.warm_up()
            ft_set_timer_slack()
            self.truncations = self.follower.truncations
            while loop_exit != EXIT_STOP:
                self._check_follower(loop_exit == EXIT_AT_END)
                check_at_end = self.follower.next_check_s <= 0
                check_ns = monotonic_ns() + <uint64_t>(max(self.follower.next_check_s, 0.0 if not check_at_end else 1.0) * 1e9)
                with nogil:
                    loop_exit = <LoopExit>self._loop(check_ns, check_at_end)
                if ft_load_acquire(&self.selector_pending):
                    ft_store_relaxed(&self.selector_pending, 0)
                    self.selector = self.next_selector
                if loop_exit == EXIT_AT_END and self.reader.bytes_read == read:
                    _sleep(1000000)        # do not spin on a file system that reports bytes it does not return
                read = self.reader.bytes_read
        except BaseException as error:
            self.error = error
            ft_eventfd_signal(self.ring.ready_fd)

    cdef object _check_follower(self, bint at_end):
        """Let the follower check the folders, and apply what it found: final lines, or another file."""
        self.follower.check(self.reader, self.watcher, at_end)
        if self.start_barrier is not None:
            start_barrier, self.start_barrier = self.start_barrier, None
            start_barrier()
        while (line := self.follower.take_final_line()) is not None:
            path, offset = self.follower.final_origin
            self._set_file(path, self.identity if path == self.path else None)
            self._run_final_line(line, offset)
        changed = self._set_file(self.follower.path, self.reader.identity() if self.reader.is_open else None)
        self.late = self.follower.late
        self._set_resume_point()
        # A truncated file is read from its start again. Consumers must learn of it before its first new line.
        changed = changed or self.truncations != self.follower.truncations
        if changed and self.identity is not None and not self.late:
            self.truncations = self.follower.truncations
            with nogil:
                self._post_file_opened()

    cdef bint _set_file(self, path, identity) except -1:
        """Set the file of the next lines and its identity (device, inode). Return whether it is another one."""
        if path == self.path and identity == self.identity:
            return False
        self.path = path
        self.identity = identity
        self.ring.set_file(path, identity)
        self.hour = int(self._set_cursor_prefix(path)[1:11] or 0)
        return True

    cdef object _set_cursor_prefix(self, path):
        prefix = cursor_prefix(self.follower.layout, path).encode() if path else b""
        set_prefix(&self.location, prefix)
        return prefix

    cdef object _set_resume_point(self):
        """Make the messages of late lines carry the resume point as their cursor.

        Everything before it was delivered, so a client that resumes there gets nothing twice.
        """
        self.location.late = self.late
        if self.late:
            position = self.follower.position(self.reader)
            self._set_cursor_prefix(position.path)
            self.location.resume_offset = position.offset
        elif self.path:
            self._set_cursor_prefix(self.path)

    cdef object _run_final_line(self, bytes line, uint64_t offset):
        cdef const char* p = line
        cdef size_t n = <size_t>len(line)
        with nogil:
            self._run_batch(p, p + n, p + n, offset)

    cdef int _loop(self, uint64_t check_ns, bint check_at_end) noexcept nogil:
        """Read and publish until Python is needed. With `check_at_end`, that is when everything has been read."""
        cdef int code
        cdef uint64_t now, batch_began = 0
        cdef size_t size
        ft_assert_thread(&self.ring.pipeline_thread)
        while True:
            now = monotonic_ns()
            ft_store_relaxed(&self.counters.loop_ns, now)
            if ft_load_acquire(&self.stopping):
                return EXIT_STOP
            if ft_load_acquire(&self.selector_pending):
                return EXIT_CHECK
            code = self.reader.fill()
            # Taken after the read, so that a command given before a line was written applies to that line. The load may be
            # relaxed: a late one is taken after the next read, and the exchange in `ft_stack_take_all` orders what it points
            # to.
            if ft_load_pointer_relaxed(<void**>&self.ring.commands) != NULL:
                self._run_commands()
            if code == FILL_LINES:
                batch_began = now
                size = self.reader.lines_end - self.reader.begin
                self._read_lines()
                now = monotonic_ns()
                if now >= check_ns:
                    return EXIT_CHECK
                if size >= self.reader.window // 2:
                    continue
                if self.watcher.polls_file or check_at_end or not self.reader.last_read_short:
                    if now - batch_began < self.min_batch_ns:
                        _sleep(self.min_batch_ns - (now - batch_began))
                    continue
                # Otherwise the read reached the end, and inotify reports what has been written since.
            elif code == FILL_PARTIAL or code == FILL_SKIPPED:
                if now >= check_ns:
                    return EXIT_CHECK
                continue
            elif check_at_end or now >= check_ns or self.reader.rewritten or self.reader.at_hole:
                return EXIT_AT_END
            code = self.watcher.wait(<long>((check_ns - now) // 1000) + 1)
            if code & WAIT_DATA and not self.watcher.polls_file:
                # Let small writes coalesce, because a batch costs more than its lines.
                now = monotonic_ns()
                _sleep(max(min(<uint64_t>COALESCE_NS, self.min_batch_ns), _ns_until(batch_began + self.min_batch_ns, now)))
            if code & WAIT_WAKE:
                ft_eventfd_clear(self.wake_fd)       # cleared before its causes are checked
            if code & WAIT_DIRS and not code & WAIT_DATA:
                return EXIT_AT_END
            if code & WAIT_DIRS:
                check_ns = 0                         # read the new data first, then check the folders

    cdef void _read_lines(self) noexcept nogil:
        """Publish the reader's batch and consume it."""
        cdef size_t size = self.reader.lines_end - self.reader.begin
        ft_store_pointer_relaxed(<void**>&self.running_begin, self.reader.base + self.reader.begin)
        ft_store_pointer_relaxed(<void**>&self.running_limit, self.reader.base + self.reader.lines_end)
        self._run_batch(self.running_begin, self.running_limit, self.reader.base + self.reader.capacity, self.reader.offset)
        ft_store_pointer_relaxed(<void**>&self.running_begin, NULL)
        self.reader.consume()
        if size > RETAINED_WINDOWS * self.reader.window:
            self.table.trim(RETAINED_WINDOWS * self.reader.window)

    cdef void _run_commands(self) noexcept nogil:
        """Run the commands that the main thread has pushed, and answer with one event."""
        cdef Command* command = self.ring.take_commands()
        cdef Command* after
        cdef RingSlot* slot
        cdef uint64_t number = 0
        while command != NULL:
            if command.kind == ADD_TOPIC:
                self.router.register_topic(command.topic)  # a topic without space is marked as refused
            else:
                self.router.unregister_topic(command.topic)
            number = command.number
            after = command.older
            free(command)
            command = after
        if number:
            slot = self._claim_slot(EVENT_TOPICS_CHANGED, number)
            slot.end = self.reader.offset
            self.ring.post()

    cdef void _post_file_opened(self) noexcept nogil:
        """Post which file is read, and from where, so that a checkpoint need not wait for its first line."""
        cdef RingSlot* slot = self._claim_slot(EVENT_FILE_OPENED, self.counters.batch_number)
        slot.end = self.reader.offset
        self.ring.post()

    cdef RingSlot* _claim_slot(self, EventKind kind, uint64_t number) noexcept nogil:
        """Return the next free slot. Wait while the ring is full; the file holds what is not read yet."""
        cdef RingSlot* slot
        while self.ring.is_full():
            ft_store_relaxed(&self.counters.loop_ns, monotonic_ns())
            _sleep(200000)
        slot = self.ring.claim()
        slot.kind = kind
        slot.number = number
        slot.hour = self.hour
        slot.late = self.late
        return slot

    # ------------------------------------------------------------------------------------------------------------ one batch

    cdef void _run_batch(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil:
        """Parse, filter, encode and post the whole lines [begin, limit), which are at `offset` in the file."""
        cdef Counters* c = &self.counters
        cdef uint64_t now = monotonic_ns()
        cdef bint logged = self.log_every_ns != ~<uint64_t>0 and now - self.logged_ns >= self.log_every_ns
        cdef RingSlot* slot
        ft_assert(begin <= limit)
        ft_assert(limit <= readable)
        ft_store_release(&c.batch_number, c.batch_number + 1)  # `running_lines` compares it before and after counting
        if logged:
            self.logged_ns = now
            slot = self._claim_slot(EVENT_BATCH_START, c.batch_number)
            slot.lines = count_lines(begin, limit)
            self.ring.post()
        ft_store_relaxed(&c.in_batch_ns, now)
        self.table.clear()
        self.pool.stall_ms = <int>self.stall_ms
        self.stall_ms = 0
        self.pool.parse_batch(begin, begin, limit, readable)     # failed bounds are flagged in the chunks
        self.pool.stall_ms = 0
        slot = self._claim_slot(EVENT_BATCH_END, c.batch_number)
        slot.logged = logged
        slot.bytes = <uint64_t>(limit - begin)
        slot.end = offset + slot.bytes
        slot.started_ns = now
        self._publish(slot, begin, offset)
        slot.ended_ns = monotonic_ns()
        self._record_batch_counts(slot, offset)
        self._record_newest_times(slot)
        self._count(slot)
        self.ring.post()

    cdef void _publish(self, RingSlot* slot, const char* begin, uint64_t offset) noexcept nogil:
        """Encode the messages of the rows into the slot's outboxes."""
        cdef uint64_t now
        cdef int k
        cdef size_t n = self.selector.select(self.table, begin, self.selection)
        ft_assert(n <= self.table.rows_len)
        ft_assert(self.table.rows_len <= self.table.rows_cap)    # `selection` has rows_cap entries
        self.location.data = begin
        self.location.size = slot.bytes
        self.location.offset = offset
        slot.location = self.location
        slot.selected = n
        now = monotonic_ns()
        slot.published = self.router.route_batch(self.table, &self.location, self.selection, n, utc_ns(), slot.outboxes)
        ft_add_single_writer(&self.counters.topics_ns, monotonic_ns() - now)
        slot.failed = 0
        for k in range(self.pool.workers):
            slot.failed += slot.outboxes[k].payload.out_of_memory or slot.outboxes[k].entries.out_of_memory
            slot.failed += self.pool.chunks[k].bound_exceeded

    cdef void _record_batch_counts(self, RingSlot* slot, uint64_t offset) noexcept nogil:
        """Record the counts of the parsed lines in the slot."""
        cdef int k
        slot.lines = self.pool.lines()
        slot.orders = self.table.rows_len
        slot.rejected = self.pool.rejected
        slot.stream = self.table.stream
        if self.pool.kept_len:
            slot.reject_offset = self.pool.kept[0].line_offset + offset
            slot.reject_reason = self.pool.kept[0].reason
            slot.reject_field = self.pool.kept[0].field
        for k in range(self.pool.workers):
            slot.worker_counts[2 * k] = self.pool.chunks[k].lines
            slot.worker_counts[2 * k + 1] = self.pool.chunks[k].rows_len

    cdef void _record_newest_times(self, RingSlot* slot) noexcept nogil:
        """Record the newest order's time, its line's time and the height, unless a chunk failed."""
        cdef Counters* c = &self.counters
        cdef Chunk* chunk
        cdef const RowHead* row
        cdef const Envelope* envelope
        cdef int k
        slot.event_ns = slot.local_ns = 0
        if slot.failed:
            return
        for k in range(self.pool.workers - 1, -1, -1):
            chunk = &self.pool.chunks[k]
            if chunk.rows_len == 0:
                continue
            row = <const RowHead*>(chunk.rows + (chunk.rows_len - 1) * self.table.row_bytes)
            envelope = row_envelope(self.table, row)
            if envelope != NULL:
                slot.local_ns = max(slot.local_ns, envelope.local_time_ns)
                if envelope.block_number > c.height:
                    ft_store_relaxed(&c.height, envelope.block_number)
            slot.event_ns = max(slot.event_ns, row.time_ns)
            if row.time_ns > <int64_t>c.last_event_ns:
                ft_store_relaxed(&c.last_event_ns, <uint64_t>row.time_ns)
                ft_store_relaxed(&c.last_local_ns, <uint64_t>envelope.local_time_ns if envelope != NULL else 0)
                ft_store_relaxed(&c.last_event_seen_ns, <uint64_t>utc_ns())

    cdef void _count(self, const RingSlot* slot) noexcept nogil:
        cdef Counters* c = &self.counters
        cdef int k
        self.batch_times.record(<int64_t>(slot.ended_ns - slot.started_ns))
        ft_add_single_writer(&c.batches, 1)
        ft_add_single_writer(&c.lines, slot.lines)
        ft_add_single_writer(&c.orders, slot.orders)
        ft_add_single_writer(&c.selected, slot.selected)
        ft_add_single_writer(&c.rejected, slot.rejected)
        ft_add_single_writer(&c.bytes, slot.bytes)
        ft_add_single_writer(&c.failed_chunks, slot.failed)
        for k in range(self.pool.workers):
            ft_add_single_writer(&c.nul_bytes, self.pool.chunks[k].nul_bytes)
        if self.late:
            ft_add_single_writer(&c.late_lines, slot.lines)
        elif slot.failed == 0:
            self._count_height_regressions()
        ft_store_relaxed(&c.last_data_ns, slot.ended_ns)
        ft_store_relaxed(&c.in_batch_ns, 0)

    cdef void _count_height_regressions(self) noexcept nogil:
        """Count how often the block number decreases in the batch, because the node wrote blocks again."""
        cdef Counters* c = &self.counters
        cdef Chunk* chunk
        cdef size_t i
        cdef uint64_t number
        cdef int k
        for k in range(self.pool.workers):
            chunk = &self.pool.chunks[k]
            for i in range(chunk.envelopes_len):
                number = chunk.envelopes[i].block_number
                if number < c.last_block:
                    ft_add_single_writer(&c.height_regressions, 1)
                c.last_block = number
