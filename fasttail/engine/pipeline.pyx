"""The pipeline thread, which turns blocks of lines into frames.

    pipeline thread (member 0 of the OpenMP team)                              main thread (uvloop)
    ┌───────────────────────────── with nogil ─────────────────────────────┐
    │ source.fill ─► parse_batch ─► selector, topics ─► slot of the ring ───┼─► eventfd ─► drain() ─► clients
    └──▲───────────────────────────────────────────────────────────────┬───┘
       └── source.check (Python): new file, truncation, once a second ◄┘

One thread, one team, one ring and one watcher serve all streams. A batch holds lines of one stream. While the streams are at
their ends, the one with the fewest bytes goes first, and none twice while another waits. Of those that are behind, the one
whose next block is lowest goes first, up to MAX_BLOCKS_AHEAD blocks past the next of the others.

The thread holds the GIL only for `source.check`. When the ring (ring.pyx) is full, the thread waits and stops reading. It
calls `consume` only after the batch is in the ring. Once the thread has `stopped`, its position is therefore exactly the end of
what the last `drain` returns.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.time cimport nanosleep, timespec

from fasttail.system.atomics cimport (ft_load_acquire, ft_add_single_writer, ft_load_relaxed, ft_load_pointer_relaxed,
    ft_store_release, ft_store_relaxed, ft_store_pointer_relaxed)
from fasttail.system.checks cimport ft_assert, ft_assert_thread
from fasttail.system.clock cimport monotonic_ns, utc_ns
from fasttail.engine.lines cimport count_lines
from fasttail.engine.filters cimport Selector
from fasttail.engine.pool cimport BATCH_DONE
from fasttail.engine.source cimport StreamSource
from fasttail.engine.topics cimport Topic
from fasttail.engine.ring cimport (
    ADD_TOPIC, EVENT_BATCH_END, EVENT_BATCH_START, EVENT_FILE_OPENED, EVENT_STREAM_OPENED, EVENT_TOPICS_CHANGED, FOLLOW,
    REMOVE_TOPIC, RING_SLOTS, STOP_FLOW, SWAP_FLOW, UNFOLLOW, Command, EventKind, Ring, RingSlot, ft_eventfd_signal, ft_eventfd_clear)
from fasttail.sources.reader cimport RETAINED_WINDOWS
from fasttail.sources.watcher cimport WAIT_WAKE, Watcher

import threading

from fasttail.system.scheduling import set_time_slice

cdef extern from *:
    """
    #include <sys/prctl.h>
    static inline void ft_set_timer_slack(void) { (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0); }
    """
    void ft_set_timer_slack() noexcept nogil   # short sleeps of this thread end within 1 µs, not within 50

cdef enum:
    COALESCE_NS = 100000      # from the first inotify event to the read, so that writes made together share a batch
    MAX_QUIET_NS = 50000000   # between two events of a stream whose batches make no messages
    MAX_BLOCKS_AHEAD = 32     # how far a batch goes past the next block of another stream that is behind, too

cdef enum LoopExit:           # why the loop returned to Python
    EXIT_STOP
    EXIT_CHECK                # a source or a command needs Python


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
    """Owns the pipeline thread, its sources, and its ring.

    The main thread calls `start`, then `drain` whenever `ready_fd` is readable, and `add_topic` and `remove_topic` as
    subscriptions come and go. To end, it calls `stop`, and then `drain` until `stopped`. Followers run in the pipeline thread.

    The first source is always followed, the others between `follow` and `unfollow`.
    """

    def __cinit__(self, sources, Watcher watcher not None, Selector selector not None, int workers, *,
                  int wake_fd, double min_batch_s=0.0005, log_every_s=1.0, int stall_ms=0, start_barrier=None):
        """Allocate the ring. Raises MemoryError.

        sources: the StreamSources, each of another stream
        selector: of the old channels
        wake_fd: an eventfd that ends the watcher's wait; borrowed
        log_every_s: minimum time between logged batches of order statuses; 0: log all, None: post no BatchStart events
        stall_ms: how long the first batch hangs, for debugging
        start_barrier: called once by the thread, between its first check of the folders and its first read; may block
        """
        cdef StreamSource source
        self.sources = list(sources)
        if not 0 < len(self.sources) <= MAX_SOURCES:
            raise ValueError(f"expected 1 to {MAX_SOURCES} sources, not {len(self.sources)}")
        self.watcher = watcher
        self.selector = selector
        self.workers_count = workers
        self.wake_fd = wake_fd
        self.min_batch_ns = <uint64_t>(min_batch_s * 1e9)
        self.log_every_ns = ~<uint64_t>0 if log_every_s is None else <uint64_t>(log_every_s * 1e9)
        self.stall_ms = <uint64_t>stall_ms
        self.start_barrier = start_barrier
        self.ring = Ring(workers, wake_fd, self.sources)
        self.legacy_source = -1
        for source in self.sources:
            source.index = self.sources_len
            self.sources_by_index[self.sources_len] = <void*>source
            if source.stream == "orders":
                self.legacy_source = source.index
                self.selection = <uint32_t*>calloc(source.table.rows_cap, sizeof(uint32_t))
                if self.selection == NULL:
                    raise MemoryError
            self.sources_len += 1

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
        return self.ring.push_command(ADD_TOPIC, self._source_of(topic.stream), topic)

    def remove_topic(self, Topic topic not None) -> int:
        """Stop producing the topic's messages, likewise. `drain` still returns those made before."""
        return self.ring.push_command(REMOVE_TOPIC, self._source_of(topic.stream), topic)

    def follow(self, str stream not None) -> int:
        """Begin to follow a stream at the end of its files, likewise. A StreamOpened event tells where reading begins."""
        return self.ring.push_command(FOLLOW, self._source_of(stream), None)

    def unfollow(self, str stream not None) -> int:
        """Stop following a stream, which must not have topics any more."""
        return self.ring.push_command(UNFOLLOW, self._source_of(stream), None)

    def swap_flow(self, str stream not None) -> int:
        """Let the stream's `flow` be taken once this command is answered, likewise. Counting begins with the first one.

        Raises MemoryError.
        """
        cdef StreamSource source = self.sources[self._source_of(stream)]
        source.flow.allocate()
        return self.ring.push_command(SWAP_FLOW, source.index, None)

    def stop_flow(self, str stream not None) -> int:
        """Count the stream's rows no more, likewise."""
        return self.ring.push_command(STOP_FLOW, self._source_of(stream), None)

    cdef int _source_of(self, str stream) except -1:
        """Return the index of the stream's source. Raises ValueError if there is none."""
        cdef StreamSource source
        for source in self.sources:
            if source.stream == stream:
                return source.index
        raise ValueError(f"stream {stream!r} is not followed")

    def replace_selector(self, Selector selector not None) -> None:
        """Replace the old channels' selector, from a later batch on. The selector must be new; the pipeline takes ownership."""
        ft_assert_thread(&self.ring.main_thread)
        self.next_selector = selector
        ft_store_release(&self.selector_pending, 1)
        ft_eventfd_signal(self.wake_fd)

    def position(self):
        """Return the first source's position after the last `drain`, or None until the thread has `stopped`.

        Until then, the thread may change the reader and the follower at any moment.
        """
        cdef StreamSource source = self.sources[0]
        return source.follower.position(source.reader) if self.stopped and source.follower is not None else None

    def drain(self, int max_events=RING_SLOTS) -> list:
        """Return up to `max_events` events, oldest first: objects of the classes in `fasttail.engine.events`."""
        return self.ring.drain(max_events)

    def trim(self) -> None:
        """Make each slot free the memory it keeps for its next batch, as it is drained."""
        self.ring.trim()

    def ring_bytes(self) -> tuple:
        """Return (bytes of messages waiting to be drained, bytes allocated by the slots). Callable from any thread."""
        return self.ring.held_bytes()

    def stats(self) -> dict:
        """Return the first source's numbers and the pipeline's own. Callable from any thread."""
        return {**self.sources[0].stats(), "loop_ns": ft_load_relaxed(&self.loop_ns),
                "inotify_overflows": self.watcher.overflows}

    @property
    def batch_times(self):
        """The histogram of the durations of the first source's batches."""
        return self.sources[0].batch_times

    def workers(self) -> list:
        """Return the WorkerState of each worker that has started in the first source's running or last batch."""
        return self.sources[0].workers()

    def running_lines(self):
        """Return the number of lines in the first source's running batch, or None if it has ended meanwhile."""
        return self.sources[0].running_lines()

    # ------------------------------------------------------------------------------------------------------ pipeline thread

    def _run(self) -> None:
        cdef StreamSource source = self.sources[0]
        cdef LoopExit loop_exit = EXIT_CHECK
        cdef bint idle
        try:
            source.pool.warm_up()
            ft_set_timer_slack()
            source.open(self.watcher)
            while loop_exit != EXIT_STOP:
                idle = False
                for source in self.sources:
                    if source.unanswered:
                        self._apply_follow(source)
                    if source.needs_check:
                        idle |= self._check_source(source)
                if idle:
                    _sleep(1000000)        # do not spin on a file system that reports bytes it does not return
                with nogil:
                    loop_exit = <LoopExit>self._loop()
                if ft_load_acquire(&self.selector_pending):
                    ft_store_relaxed(&self.selector_pending, 0)
                    self.selector = self.next_selector
        except BaseException as error:
            self.error = error
            ft_eventfd_signal(self.ring.ready_fd)

    cdef object _apply_follow(self, StreamSource source):
        """Begin or stop to follow a source, as the last command asked for, and answer its commands."""
        cdef uint64_t number = source.unanswered
        if source.follow_wanted and not source.followed:
            source.open(self.watcher)
            self._check_source(source)
            with nogil:
                self._post_position(source, EVENT_STREAM_OPENED, source.counters.batch_number, source.reader.offset)
        elif not source.follow_wanted and source.followed:
            source.close()
            source.file_number = self.ring.set_file(source.index, None, None)
        source.unanswered = 0
        with nogil:
            self._post_position(source, EVENT_TOPICS_CHANGED, number, source.reader.offset)

    cdef bint _check_source(self, StreamSource source) except -1:
        """Let the follower check the folders, and apply what it found: final lines, or another file.

        Return whether nothing was read since the last check.
        """
        cdef bint idle = source.at_end and source.reader.total_read_bytes == source.bytes_before_check
        source.check()
        source.prime()
        if self.start_barrier is not None:
            start_barrier, self.start_barrier = self.start_barrier, None
            start_barrier()
        while (line := source.follower.take_final_line()) is not None:
            path, offset = source.follower.final_origin
            self._set_file(source, path, source.identity if path == source.path else None)
            self._run_final_line(source, line, offset)
        changed = self._set_file(source, source.follower.path, source.reader.identity() if source.reader.is_open else None)
        source.set_resume_point()
        # A truncated file is read from its start again. Consumers must learn of it before its first new line.
        changed = changed or source.truncations != source.follower.truncations
        if changed and source.identity is not None and not source.late:
            source.truncations = source.follower.truncations
            with nogil:
                self._post_position(source, EVENT_FILE_OPENED, source.counters.batch_number, source.reader.offset)
        return idle

    cdef bint _set_file(self, StreamSource source, path, identity) except -1:
        """Set the file of the next lines. Return whether it is another one."""
        if source.unposted_end and (path != source.path or identity != source.identity or source.follower.late):
            with nogil:
                self._post_position(source, EVENT_TOPICS_CHANGED, 0, source.unposted_end)
        if not source.set_file(path, identity):
            return False
        source.file_number = self.ring.set_file(source.index, path, identity)
        return True

    cdef object _run_final_line(self, StreamSource source, bytes line, uint64_t offset):
        cdef const char* p = line
        cdef size_t n = <size_t>len(line)
        with nogil:
            self._run_batch(source, p, p + n, p + n, offset)

    cdef int _loop(self) noexcept nogil:
        """Read and publish until Python is needed."""
        cdef uint64_t now, batch_began = 0
        cdef size_t size
        cdef void* source
        ft_assert_thread(&self.ring.pipeline_thread)
        while True:
            now = monotonic_ns()
            ft_store_relaxed(&self.loop_ns, now)
            if ft_load_acquire(&self.stopping):
                return EXIT_STOP
            if ft_load_acquire(&self.selector_pending):
                return EXIT_CHECK
            self._fill_sources(now)
            # Taken after the read, so that a command given before a line was written applies to that line. The load may be
            # relaxed: a late one is taken after the next read, and the exchange in `ft_stack_take_all` orders what it points
            # to.
            if ft_load_pointer_relaxed(<void**>&self.ring.commands) != NULL and self._run_commands():
                return EXIT_CHECK
            source = self._next_source()
            if source != NULL:
                batch_began = now
                size = self._run_source(source)
                now = monotonic_ns()
                if now >= (<StreamSource>source).check_ns and (<StreamSource>source).pending_bytes() == 0:
                    (<StreamSource>source).needs_check = True
                    (<StreamSource>source).at_end = False
                if self._must_check():
                    return EXIT_CHECK
                if size >= (<StreamSource>source).reader.window // 2 or self._next_source() != NULL:
                    self._read_all()     # the watcher was not asked, and the others may have data, too
                    continue
                if (<StreamSource>source).may_have_data:
                    if now - batch_began < self.min_batch_ns:
                        _sleep(self.min_batch_ns - (now - batch_began))
                    continue
                # Otherwise the read reached the end, and inotify reports what has been written since.
            if self._must_check():
                return EXIT_CHECK
            if self._must_read():
                continue
            self._wait(now, batch_began)

    cdef void _read_all(self) noexcept nogil:
        """Let the next round read every source, whatever the watcher has seen."""
        cdef int i
        for i in range(self.sources_len):
            (<StreamSource>self.sources_by_index[i]).may_have_data = True

    cdef void _fill_sources(self, uint64_t now) noexcept nogil:
        """Read once from each source that may have data."""
        cdef int i
        cdef void* source
        for i in range(self.sources_len):
            source = self.sources_by_index[i]
            if not (<StreamSource>source).followed or (<StreamSource>source).needs_check:
                continue
            if ((<StreamSource>source).may_have_data or (<StreamSource>source).check_at_end
                    or now >= (<StreamSource>source).check_ns):
                (<StreamSource>source).fill(now)

    cdef bint _must_check(self) noexcept nogil:
        """Whether a follower must be asked before more is read."""
        cdef int i
        for i in range(self.sources_len):
            if (<StreamSource>self.sources_by_index[i]).needs_check:
                return True
        return False

    cdef bint _must_read(self) noexcept nogil:
        """Whether a source may have data, so that the pipeline does not wait."""
        cdef int i
        for i in range(self.sources_len):
            if (<StreamSource>self.sources_by_index[i]).followed and (<StreamSource>self.sources_by_index[i]).may_have_data:
                return True
        return False

    cdef void* _next_source(self) noexcept nogil:
        """Return the source whose lines are published next, or NULL if none has lines."""
        cdef int i
        cdef void* source
        cdef void* best = NULL
        cdef bint all_behind = self._all_behind()
        for i in range(self.sources_len):
            source = self.sources_by_index[i]
            if (<StreamSource>source).pending_bytes() and (best == NULL or self._precedes(source, best, all_behind)):
                best = source
        return best

    cdef bint _all_behind(self) noexcept nogil:
        """Whether several sources have lines, and each of these half a block or more."""
        cdef int i, count = 0
        cdef size_t pending
        for i in range(self.sources_len):
            pending = (<StreamSource>self.sources_by_index[i]).pending_bytes()
            if pending and pending < (<StreamSource>self.sources_by_index[i]).reader.window // 2:
                return False
            count += pending > 0
        return count > 1

    cdef bint _precedes(self, void* source, void* other, bint behind) noexcept nogil:
        """Whether the lines of `source` are published before those of `other`."""
        cdef uint64_t block, other_block
        if behind:
            block, other_block = (<StreamSource>source).next_block(), (<StreamSource>other).next_block()
            if block and other_block and block != other_block:
                return block < other_block
        if source == self.last_source or other == self.last_source:
            return other == self.last_source
        return (<StreamSource>source).pending_bytes() < (<StreamSource>other).pending_bytes()

    cdef size_t _run_source(self, void* source) noexcept nogil:
        """Publish the source's lines and consume them. Return their bytes."""
        cdef size_t size = (<StreamSource>source).pending_bytes(), whole = size
        cdef uint64_t block, lowest = 0
        cdef int i
        for i in range(self.sources_len if self._all_behind() else 0):
            if self.sources_by_index[i] != source and (<StreamSource>self.sources_by_index[i]).pending_bytes():
                block = (<StreamSource>self.sources_by_index[i]).next_block()
                if block and (lowest == 0 or block < lowest):
                    lowest = block
        if lowest:
            size = (<StreamSource>source).bytes_up_to_block(lowest + MAX_BLOCKS_AHEAD)
        self.last_source = source
        self._read_lines(<StreamSource>source, size)
        if size == whole:
            (<StreamSource>source).may_have_data = (
                size >= (<StreamSource>source).reader.window // 2 or (<StreamSource>source).watch.state.polls_file
                or (<StreamSource>source).check_at_end or not (<StreamSource>source).reader.last_read_short)
        return size

    cdef void _wait(self, uint64_t now, uint64_t batch_began) noexcept nogil:
        """Wait until a source may have data, its folders must be checked, or the main thread wants something."""
        cdef uint64_t check_ns = ~<uint64_t>0
        cdef bint has_data = False
        cdef int i, code
        cdef void* source
        for i in range(self.sources_len):
            if (<StreamSource>self.sources_by_index[i]).followed:
                check_ns = min(check_ns, (<StreamSource>self.sources_by_index[i]).check_ns)
        code = self.watcher.wait(<long>(_ns_until(check_ns, now) // 1000) + 1)
        for i in range(self.sources_len):
            source = self.sources_by_index[i]
            if (<StreamSource>source).followed:
                (<StreamSource>source).note_events()
                has_data |= (<StreamSource>source).may_have_data and not (<StreamSource>source).watch.state.polls_file
        if has_data:
            # Let small writes coalesce, because a batch costs more than its lines.
            now = monotonic_ns()
            _sleep(max(min(<uint64_t>COALESCE_NS, self.min_batch_ns), _ns_until(batch_began + self.min_batch_ns, now)))
        if code & WAIT_WAKE:
            ft_eventfd_clear(self.wake_fd)       # cleared before its causes are checked

    cdef void _read_lines(self, StreamSource source, size_t size) noexcept nogil:
        """Publish the first `size` bytes of the reader's lines, and consume them."""
        cdef const char* begin = source.reader.base + source.reader.begin
        ft_store_pointer_relaxed(<void**>&source.running_begin, <void*>begin)
        ft_store_pointer_relaxed(<void**>&source.running_limit, <void*>(begin + size))
        self._run_batch(source, begin, begin + size, source.reader.base + source.reader.capacity, source.reader.offset)
        ft_store_pointer_relaxed(<void**>&source.running_begin, NULL)
        source.reader.consume_bytes(size)
        if size > RETAINED_WINDOWS * source.reader.window:
            source.topics.trim(RETAINED_WINDOWS * source.reader.window)

    cdef bint _run_commands(self) noexcept nogil:
        """Run the commands that the main thread has pushed, and answer with one event for each stream.

        Return whether Python is needed, to begin or stop to follow a stream. The answer follows then.
        """
        cdef Command* command = self.ring.take_commands()
        cdef Command* after
        cdef void* source
        cdef uint64_t number
        cdef int i
        cdef bint needs_python = False
        while command != NULL:
            source = self.sources_by_index[command.source]
            if command.kind == ADD_TOPIC:
                (<StreamSource>source).topics.register_topic(command.topic)  # one without space is marked as refused
            elif command.kind == REMOVE_TOPIC:
                (<StreamSource>source).topics.unregister_topic(command.topic)
            elif command.kind == SWAP_FLOW:
                (<StreamSource>source).flow.swap()
            elif command.kind == STOP_FLOW:
                (<StreamSource>source).flow.stop()
            else:
                (<StreamSource>source).follow_wanted = command.kind == FOLLOW
            (<StreamSource>source).unanswered = command.number
            after = command.older
            free(command)
            command = after
        for i in range(self.sources_len):
            source = self.sources_by_index[i]
            if not (<StreamSource>source).unanswered:
                continue
            if i > 0 and (<StreamSource>source).follow_wanted != (<StreamSource>source).followed:
                needs_python = True
                continue
            number = (<StreamSource>source).unanswered
            (<StreamSource>source).unanswered = 0
            self._post_position(<StreamSource>source, EVENT_TOPICS_CHANGED, number, (<StreamSource>source).reader.offset)
        return needs_python

    cdef void _post_position(self, StreamSource source, EventKind kind, uint64_t number, uint64_t end) noexcept nogil:
        """Post an event that is no batch, with the position up to which the file has been published.

        EVENT_TOPICS_CHANGED tells that the stream's commands up to `number` apply from the next batch on, the others which file
        is read, so that a checkpoint need not wait for its first line.
        """
        cdef RingSlot* slot = self._claim_slot(source, kind, number)
        slot.end = end
        ft_assert(not source.late or source.unposted_end == 0)   # batches of late lines are always posted
        source.unposted_end = 0
        self.ring.post()

    cdef RingSlot* _claim_slot(self, StreamSource source, EventKind kind, uint64_t number) noexcept nogil:
        """Return the next free slot. Wait while the ring is full; the file holds what is not read yet."""
        cdef RingSlot* slot
        while self.ring.is_full():
            ft_store_relaxed(&self.loop_ns, monotonic_ns())
            _sleep(200000)
        slot = self.ring.claim()
        slot.kind = kind
        slot.source = source.index
        slot.stream = source.table.stream
        slot.file_number = source.file_number
        slot.number = number
        slot.hour = source.hour
        slot.late = source.late
        slot.height = source.height()
        slot.events = source.blocks.highest_index
        slot.last_height = source.blocks.block
        slot.last_events = source.blocks.index
        return slot

    # ------------------------------------------------------------------------------------------------------------ one batch

    cdef void _run_batch(self, StreamSource source, const char* begin, const char* limit, const char* readable,
                         uint64_t offset) noexcept nogil:
        """Parse, filter, encode and post the whole lines [begin, limit), which are at `offset` in the file."""
        cdef uint64_t now = monotonic_ns()
        cdef bint logged = (self.log_every_ns != ~<uint64_t>0 and source.index == self.legacy_source
                            and now - self.logged_ns >= self.log_every_ns)
        cdef RingSlot* slot
        cdef int code
        ft_assert(begin <= limit)
        ft_assert(limit <= readable)
        if logged:
            self.logged_ns = now
            slot = self._claim_slot(source, EVENT_BATCH_START, source.counters.batch_number + 1)
            slot.lines = count_lines(begin, limit)
            self.ring.post()
        source.begin_batch(now)
        source.table.clear()
        source.pool.stall_ms = <int>self.stall_ms
        self.stall_ms = 0
        code = source.pool.parse_batch(begin, begin, limit, readable)     # failed bounds are flagged in the chunks
        source.pool.stall_ms = 0
        if code == BATCH_DONE and not source.late:
            source.blocks.drop_rows(source.pool)
        slot = self._claim_slot(source, EVENT_BATCH_END, source.counters.batch_number)
        slot.logged = logged
        slot.bytes = <uint64_t>(limit - begin)
        slot.end = offset + slot.bytes
        slot.started_ns = now
        self._publish(source, slot, begin, offset)
        slot.ended_ns = monotonic_ns()
        source.record_batch(slot, offset)
        if self._is_worth_posting(source, slot):
            source.posted_ns = slot.ended_ns
            source.unposted_end = 0
            self.ring.post()
        else:
            source.unposted_end = slot.end

    cdef bint _is_worth_posting(self, StreamSource source, const RingSlot* slot) noexcept nogil:
        """Whether the main thread must learn of the batch now.

        Each event wakes it. A batch that made no messages only advances the position, which can wait: what it held is of no
        interest to any topic, and a topic that is added is answered with the position at that moment. The end of a file is
        always posted, by `_set_file`.
        """
        return (source.index == self.legacy_source or self.ring.has_messages(slot) or slot.rejected or slot.failed
                or slot.late or slot.ended_ns - source.posted_ns >= MAX_QUIET_NS)

    cdef void _publish(self, StreamSource source, RingSlot* slot, const char* begin, uint64_t offset) noexcept nogil:
        """Encode the messages of the rows into the slot's outboxes."""
        cdef uint64_t now
        cdef int k
        cdef size_t n = source.table.rows_len
        if source.index == self.legacy_source:
            n = self.selector.select(source.table, begin, self.selection)
            ft_assert(source.table.rows_len <= source.table.rows_cap)    # `selection` has rows_cap entries
        ft_assert(n <= source.table.rows_len)
        source.location.data = begin
        source.location.size = slot.bytes
        source.location.offset = offset
        slot.location = source.location
        slot.selected = n
        now = monotonic_ns()
        slot.published = source.topics.route_batch(&source.location, self.selection, n, utc_ns(), slot.outboxes)
        ft_add_single_writer(&source.counters.topics_ns, monotonic_ns() - now)
        source.count_flow(begin)
        slot.failed = 0
        for k in range(self.workers_count):
            slot.failed += slot.outboxes[k].payload.out_of_memory or slot.outboxes[k].entries.out_of_memory
            slot.failed += source.pool.chunks[k].bound_exceeded
