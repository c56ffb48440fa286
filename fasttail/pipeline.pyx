"""The pipeline thread: blocks in, frames out.

    pipeline thread (member 0 of the OpenMP team)                              main thread (uvloop)
    ┌───────────────────────────── with nogil ─────────────────────────────┐
    │ reader.fill ─► parse_batch ─► selector, topics ─► slot of the ring ──────┼─► eventfd ─► drain() ─► clients
    └──▲───────────────────────────────────────────────────────────────┬───┘
       └── follower.check (Python): new file, truncation, once a second ◄┘

The thread holds the GIL only for `follower.check`. The ring has SLOTS places and holds MOST_POSTED bytes
(and one batch): when the main thread is that far behind, the pipeline waits, does not read on, and the file keeps what is to
come. `consume` runs after the batch stands in the ring, so a
position that is asked for once the thread has `stopped` lies exactly behind what the last `drain` hands over.

Memory order: the pipeline fills slots[head] and then stores head (release); the main thread loads head (acquire) and then
reads the slot, and the same the other way round for tail. `signalled` keeps the eventfd quiet while the main thread is awake:
it is cleared before the ring is looked at, so a batch posted after the look signals again. Counters are words of 64 bits
that one thread writes and others read for information, relaxed (atomics.h); a value may be a moment old.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.time cimport nanosleep, timespec
from posix.unistd cimport close

from fasttail.atomics cimport ft_acquire, ft_add, ft_get, ft_get_pointer, ft_push, ft_release, ft_set, ft_set_pointer, ft_swap, ft_take
from fasttail.checks cimport ft_assert, ft_assert_thread
from fasttail.clock cimport monotonic_ns, utc_ns
from fasttail.histogram cimport Histogram
from fasttail.parser.lines cimport count_lines
from fasttail.parser.pool cimport Pool
from fasttail.parser.rejects cimport reason_text
from fasttail.parser.streams cimport ORDER_STATUSES
from fasttail.parser.table cimport Table, table_new
from fasttail.parser.types cimport NO_ENVELOPE, Chunk, Envelope, Row
from fasttail.pipeline_events import BatchEnd, BatchStart, FileOpened, TopicsChanged, WorkerState
from fasttail.publish.buffer cimport KEEP_OUT, Box, Message, Out, box_clear, box_free, out_clear
from fasttail.publish.filters cimport Selector
from fasttail.publish.cursor import prefix as cursor_prefix
from fasttail.publish.router cimport MOST_TOPICS, Topics
from fasttail.publish.topics cimport Place, Topic, message_tuple, set_prefix
from fasttail.slices import ask_for_slices
from fasttail.tail.blocks cimport FILL_LINES, FILL_PARTIAL, FILL_SKIPPED, KEPT_WINDOWS, Reader
from fasttail.tail.inotify cimport WAIT_DATA, WAIT_DIRS, WAIT_WAKE, Watcher

import os
import threading
from collections import deque

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/prctl.h>
    #include <unistd.h>
    static inline void ft_signal(int fd) { uint64_t one = 1; ssize_t n = write(fd, &one, 8); (void)n; }
    static inline void ft_unsignal(int fd) { uint64_t count; ssize_t n = read(fd, &count, 8); (void)n; }
    static inline void ft_wake_in_time(void) { (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0); }
    """
    void ft_wake_in_time() noexcept nogil      # this thread's short sleeps end within a microsecond, not within 50
    void ft_signal(int fd) noexcept nogil
    void ft_unsignal(int fd) noexcept nogil

cdef enum:
    KEEP_LEAST = 1 << 16      # bytes of messages that a box keeps at least when it has been taken,
    KEEP_TIMES = 4            # … else so many times what it had
    MOST_POSTED = 32 << 20    # bytes of messages in the ring before the pipeline waits
    MOST_PATHS = 64
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


cdef inline void _empty(Out* out, size_t most) noexcept nogil:
    """What one batch of a burst needed is not to stay: slot after slot would come to hold as much as the largest ever did."""
    cdef size_t keep = max(<size_t>KEEP_LEAST, KEEP_TIMES * out.size)
    out_clear(out, min(keep, most))


cdef inline uint64_t _until(uint64_t moment, uint64_t now) noexcept nogil:
    return moment - now if moment > now else 0


cdef int _sleep(uint64_t ns) noexcept nogil:
    cdef timespec t
    t.tv_sec = <long>(ns // 1000000000)
    t.tv_nsec = <long>(ns % 1000000000)
    nanosleep(&t, NULL)
    return 0


cdef class Pipeline:
    """Owns the thread, the reader, the pool and the ring.

    The main thread calls `start`, `drain` whenever `ready_fd` is readable, `add_topic` and `remove_topic` when somebody comes or
    the last one goes, and at the end
    `stop` and `drain` until `stopped`. `follower.check` runs in the pipeline's thread.
    """

    def __cinit__(self, Reader reader not None, Watcher watcher not None, follower, Selector selector not None, int workers, *,
                  int wake_fd, double min_batch_s=0.0005, log_every_s=1.0, int stall_ms=0, gate=None, uint32_t max_topics=MOST_TOPICS):
        """log_every_s: None for no START notes at all, 0 for every batch. stall_ms: debugging; the first batch hangs so long.
        gate: called once, by the thread, between its first look at the folders and its first read; may wait.
        max_topics: besides the old channels'; one more is refused (`Topic.refused`).
        """
        cdef int i
        self.ready_fd = -1
        self.workers_count = workers
        self.reader = reader
        self.paths = {}
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
        self.slots = <Slot*>calloc(SLOTS, sizeof(Slot))
        if self.selection == NULL or self.slots == NULL:
            raise MemoryError
        for i in range(SLOTS):
            self.slots[i].shares = <uint64_t*>calloc(<size_t>workers, 2 * sizeof(uint64_t))
            self.slots[i].boxes = <Box*>calloc(<size_t>workers, sizeof(Box))
            if self.slots[i].shares == NULL or self.slots[i].boxes == NULL:
                raise MemoryError
        self.topics = Topics(workers, self.table, most=max_topics)
        self.batch_times = Histogram()
        self.kept = {}
        self.leaving = deque()
        self.ready_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        # C fields only: the garbage collector may have replaced every object field by None before.
        cdef int i, k
        cdef Command* command
        if self.slots != NULL:
            for i in range(SLOTS):
                free(self.slots[i].shares)
                if self.slots[i].boxes != NULL:
                    for k in range(self.workers_count):
                        box_free(&self.slots[i].boxes[k])
                free(self.slots[i].boxes)
        free(self.slots)
        while self.commands != NULL:
            command = self.commands
            self.commands = command.before
            free(command)
        free(self.selection)
        if self.workers_count > 0 and self.ready_fd >= 0:      # 0: __cinit__ failed before its first line
            close(self.ready_fd)

    # ---------------------------------------------------------------------------------------------- the main thread's side

    def start(self) -> None:
        """Begin to follow. Also asks that the calling thread, which is to drain, be run soon after each wake-up."""
        ask_for_slices()
        ft_assert_thread(&self.main_thread)
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

    def add_topic(self, Topic topic not None) -> int:
        """Make the topic's messages from some batch on: from that after the TopicsChanged with this number, or a greater one.

        If there is no room for it, `Topic.refused` is true when that note comes; it is to be removed then like any other.
        """
        return self._command(ADD_TOPIC, topic)

    def remove_topic(self, Topic topic not None) -> int:
        """Make them no more, likewise. What was made before still comes out of `drain`."""
        return self._command(REMOVE_TOPIC, topic)

    def replace_selector(self, Selector selector not None) -> None:
        """From some batch on, the old channels get what this one passes. It must be new: it becomes this pipeline's own."""
        ft_assert_thread(&self.main_thread)
        self.replacement = selector
        ft_release(&self.replaced, 1)
        ft_signal(self.wake_fd)

    cdef object _command(self, Wish wish, topic):
        cdef Command* command = <Command*>malloc(sizeof(Command))
        if command == NULL:
            raise MemoryError
        ft_assert_thread(&self.main_thread)
        self.commands_count += 1
        command.wish = wish
        command.topic = <void*>topic
        command.number = self.commands_count
        # Added ones are kept for good; removed ones until the pipeline says that it has let go.
        if wish == ADD_TOPIC:
            self.kept[topic.id] = topic
        else:
            self.leaving.append((self.commands_count, self.kept.pop(topic.id)))
        ft_push(<void**>&self.commands, command, <void**>&command.before)
        ft_signal(self.wake_fd)
        return self.commands_count

    def position(self):
        """Where reading goes on, once the thread has `stopped`: behind what the last `drain` hands over.

        None before that: reader and follower are the thread's, and may change in the midst of the answer.
        """
        return self.follower.position(self.reader) if self.stopped else None

    def drain(self, int most=SLOTS) -> list:
        """Take up to `most` notes, oldest first: BatchStart, BatchEnd, TopicsChanged and FileOpened objects."""
        cdef Slot* slot
        cdef list notes = []
        cdef size_t keep
        cdef int k
        ft_assert_thread(&self.main_thread)
        try:
            os.eventfd_read(self.ready_fd)
        except BlockingIOError:
            pass
        ft_swap(&self.signalled, 0)
        while len(notes) < most and self.tail != ft_acquire(&self.head):
            ft_assert(ft_acquire(&self.head) - self.tail <= SLOTS)
            slot = &self.slots[self.tail % SLOTS]
            if slot.note == NOTE_START:
                notes.append(BatchStart(slot.number, slot.lines))
            elif slot.note == NOTE_TOPICS:
                while self.leaving and self.leaving[0][0] <= slot.number:
                    self.leaving.popleft()
                notes.append(TopicsChanged(slot.number, slot.hour, slot.end, slot.late))
            elif slot.note == NOTE_FILE:
                notes.append(FileOpened(slot.number, slot.end, self.paths.get(slot.file)))
            else:
                file = self.paths.get(slot.file)
                # By its base class: the named tuple's own way is a call of a Python function.
                notes.append(tuple.__new__(BatchEnd, (
                    slot.number, slot.logged, slot.lines, slot.orders, slot.selected, slot.published, slot.failed, slot.rejected,
                    (file and file[0], slot.reject_at, reason_text(slot.reject_reason, slot.reject_field))
                    if slot.rejected else None,
                    (slot.ended_ns - slot.started_ns) / 1e9,
                    [WorkerState(slot.shares[2 * k], slot.shares[2 * k + 1], True) for k in range(self.pool.workers)]
                    if slot.logged else [],
                    slot.hour, slot.end - slot.bytes, slot.end, slot.late, file, slot.event_ns, slot.local_ns, self._messages(slot))))
            keep = 0 if self.trims else KEEP_OUT
            self.trims -= self.trims > 0
            for k in range(self.pool.workers):       # what many topics made of one batch is not to stay
                _empty(&slot.boxes[k].text, keep)
                _empty(&slot.boxes[k].marks, keep)
            ft_release(&self.taken_bytes, self.taken_bytes + slot.posted)
            ft_release(&self.tail, self.tail + 1)
        if self.tail != ft_acquire(&self.head) and not ft_swap(&self.signalled, 1):
            ft_signal(self.ready_fd)                 # `most` reached: come again
        return notes

    def trim(self) -> None:
        """Memory is short: each slot of the ring gives back what it keeps for its next batch, as it is drained."""
        ft_assert_thread(&self.main_thread)
        self.trims = SLOTS

    def ring_bytes(self) -> tuple:
        """(bytes of messages that wait to be drained, bytes that the slots occupy); callable from any thread."""
        cdef uint64_t room = 0
        cdef int i, k
        for i in range(SLOTS):
            for k in range(self.pool.workers):
                # relaxed: the slot's present owner may just be growing it
                room += ft_get(<uint64_t*>&self.slots[i].boxes[k].text.room) + ft_get(<uint64_t*>&self.slots[i].boxes[k].marks.room)
        # in this order: what is taken was posted before, so the difference never falls below 0
        cdef uint64_t taken = ft_acquire(&self.taken_bytes)
        return ft_get(&self.posted_bytes) - taken, room

    cdef list _messages(self, Slot* slot):
        cdef const Message* message
        cdef list messages = []
        cdef size_t i
        cdef int k
        for k in range(self.pool.workers):
            for i in range(slot.boxes[k].marks.size // sizeof(Message)):
                message = &(<const Message*>slot.boxes[k].marks.data)[i]
                ft_assert(message.begin <= message.end)
                ft_assert(message.end <= slot.boxes[k].text.size)
                messages.append(message_tuple(&slot.boxes[k], message, &slot.place))
        return messages

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
            truncations = self.follower.truncations
            while why != WHY_STOP:
                self.follower.check(self.reader, self.watcher, why == WHY_END)
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
                changed = changed or truncations != self.follower.truncations
                if changed and self.identity is not None and not self.late:
                    truncations = self.follower.truncations
                    with nogil:
                        self._tell_file()
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
            ft_signal(self.ready_fd)

    cdef bint _in_file(self, path, identity) except -1:
        """From now on lines come from `path`, which is the file (device, inode) `identity`. Whether that is another than before."""
        if path == self.path and identity == self.identity:
            return False
        self.path = path
        self.identity = identity
        self.file += 1
        self.paths[self.file] = None if identity is None else (path, *identity)
        self.paths.pop(self.file - MOST_PATHS, None)
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
        ft_assert_thread(&self.own_thread)
        while True:
            now = monotonic_ns()
            ft_set(&self.counters.loop_ns, now)
            if ft_acquire(&self.stopping):
                return WHY_STOP
            if ft_acquire(&self.replaced):
                return WHY_CHECK
            code = self.reader.fill()
            # Relaxed: whoever sees it a moment late takes it after the next read; the exchange in `ft_take` orders what it points to.
            if ft_get_pointer(<void**>&self.commands) != NULL:       # after the read: what was wished before a line was written holds for that line
                self._take_commands()
            if code == FILL_LINES:
                began = now
                size = self.reader.lines_end - self.reader.begin
                ft_set_pointer(<void**>&self.running_begin, self.reader.base + self.reader.begin)
                ft_set_pointer(<void**>&self.running_limit, self.reader.base + self.reader.lines_end)
                self._batch(self.running_begin, self.running_limit, self.reader.base + self.reader.capacity, self.reader.offset)
                ft_set_pointer(<void**>&self.running_begin, NULL)
                self.reader.consume()
                if size > KEPT_WINDOWS * self.reader.window:
                    self.table.trim(KEPT_WINDOWS * self.reader.window)
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

    cdef int _count_replays(self) noexcept nogil:
        """Count how often the block number went back in the batch: the node wrote blocks once more. Always 0."""
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
        return 0

    cdef int _take_commands(self) noexcept nogil:
        """Do what the main thread wished since the last time, and answer. Always 0."""
        cdef Command* command = <Command*>ft_take(<void**>&self.commands)
        cdef Command* first = NULL
        cdef Command* before
        cdef Slot* slot
        cdef uint64_t number = 0
        while command != NULL:               # the newest comes first
            before = command.before
            command.before = first
            first = command
            command = before
        while first != NULL:
            if first.wish == ADD_TOPIC:
                self.topics.add(first.topic)         # one for which there is no room knows it: Topic.refused
            else:
                self.topics.remove(first.topic)
            number = first.number
            before = first.before
            free(first)
            first = before
        if number == 0:
            return 0
        slot = self._claim()
        slot.note = NOTE_TOPICS
        slot.number = number
        slot.end = self.reader.offset
        self._post()
        return 0

    cdef int _tell_file(self) noexcept nogil:
        """Say which file is read now, and from where: a checkpoint must not wait for its first line. Always 0."""
        cdef Slot* slot = self._claim()
        slot.note = NOTE_FILE
        slot.number = self.counters.batch_number
        slot.end = self.reader.offset
        self._post()
        return 0

    cdef Slot* _claim(self) noexcept nogil:
        """The next free slot, emptied; waits while the ring is full (the file is the queue)."""
        cdef Slot* slot
        cdef int k
        ft_assert_thread(&self.own_thread)
        while (self.head - ft_acquire(&self.tail) >= SLOTS
               or self.posted_bytes - ft_acquire(&self.taken_bytes) >= MOST_POSTED):
            ft_set(&self.counters.loop_ns, monotonic_ns())
            _sleep(200000)
        ft_assert(self.head - ft_acquire(&self.tail) < SLOTS)
        slot = &self.slots[self.head % SLOTS]
        for k in range(self.pool.workers):
            box_clear(&slot.boxes[k], KEEP_OUT)
        slot.file = self.file
        slot.hour = self.hour
        slot.late = self.late
        slot.posted = 0
        slot.rejected = 0
        slot.reject_reason = 0
        return slot

    cdef int _post(self) noexcept nogil:
        """Hand slots[head] over, and wake the main thread if it is not awake."""
        cdef Slot* slot = &self.slots[self.head % SLOTS]
        cdef int k
        for k in range(self.pool.workers):
            slot.posted += slot.boxes[k].text.size + slot.boxes[k].marks.size
        ft_add(&self.posted_bytes, slot.posted)
        ft_assert(self.head - ft_acquire(&self.tail) < SLOTS)
        ft_release(&self.head, self.head + 1)
        if not ft_swap(&self.signalled, 1):
            ft_signal(self.ready_fd)
        return 0

    cdef int _batch(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil:
        """Parse, filter, encode, hand over: the whole lines [begin, limit), which stand at `offset` in the file. Always 0."""
        cdef Counters* c = &self.counters
        cdef uint64_t now = monotonic_ns()
        cdef bint logged = self.log_every_ns != ~<uint64_t>0 and now - self.logged_ns >= self.log_every_ns
        cdef uint64_t failed = 0, rejected, published = 0, lines, topics_ns
        cdef int64_t event_ns = 0, local_ns = 0
        cdef size_t n
        cdef int code, k
        cdef Chunk* chunk
        cdef Slot* slot
        cdef Row* row
        cdef const Envelope* envelope
        ft_assert(begin <= limit)
        ft_assert(limit <= readable)
        ft_release(&c.batch_number, c.batch_number + 1)      # `running_lines` looks at it before and after it counts
        if logged:
            self.logged_ns = now
            slot = self._claim()
            slot.note = NOTE_START
            slot.number = c.batch_number
            slot.lines = count_lines(begin, limit)
            self._post()
        ft_set(&c.in_batch_ns, now)
        self.table.clear()
        self.pool.stall_ms = <int>self.stall_ms
        self.stall_ms = 0
        code = self.pool.parse_batch(begin, begin, limit, readable)
        self.pool.stall_ms = 0
        rejected = self.pool.rejected
        lines = self.pool.lines()
        if code:
            for k in range(self.pool.workers):
                failed += self.pool.chunks[k].broken
        n = self.selector.select(self.table, begin, self.selection)
        ft_assert(n <= self.table.rows_len)
        ft_assert(self.table.rows_len <= self.table.rows_cap)    # as long as `selection`
        slot = self._claim()
        self.place.data = begin
        self.place.size = <size_t>(limit - begin)
        self.place.offset = offset
        topics_ns = monotonic_ns()
        published = self.topics.run(self.table, &self.place, self.selection, n, utc_ns(), slot.boxes)
        ft_add(&c.topics_ns, monotonic_ns() - topics_ns)
        for k in range(self.pool.workers):
            failed += slot.boxes[k].text.failed or slot.boxes[k].marks.failed
        slot.place = self.place
        slot.end = offset + <uint64_t>(limit - begin)
        now = monotonic_ns()
        slot.note = NOTE_END
        slot.logged = logged
        slot.number = c.batch_number
        slot.lines = lines
        slot.bytes = <uint64_t>(limit - begin)
        slot.orders = self.table.rows_len
        slot.selected = n
        slot.published = published
        slot.failed = failed
        slot.rejected = rejected
        if self.pool.kept_len:
            slot.reject_at = self.pool.kept[0].line_at + offset
            slot.reject_reason = self.pool.kept[0].reason
            slot.reject_field = self.pool.kept[0].field
        slot.started_ns = c.in_batch_ns
        slot.ended_ns = now
        for k in range(self.pool.workers):
            slot.shares[2 * k] = self.pool.chunks[k].lines
            slot.shares[2 * k + 1] = self.pool.chunks[k].rows_len
            ft_add(&c.nul_bytes, self.pool.chunks[k].nul_bytes)
            chunk = &self.pool.chunks[self.pool.workers - 1 - k]
            if chunk.rows_len and failed == 0:
                row = &(<Row*>chunk.rows)[chunk.rows_len - 1]
                envelope = NULL
                if row.envelope != <uint32_t>NO_ENVELOPE:
                    ft_assert(row.envelope < self.table.envelopes_cap)
                    envelope = &self.table.envelopes[row.envelope]
                    local_ns = max(local_ns, envelope.local_time_ns)
                    if envelope.block_number > c.height:
                        ft_set(&c.height, envelope.block_number)
                event_ns = max(event_ns, row.time_ns)
                if row.time_ns > <int64_t>c.last_event_ns:
                    ft_set(&c.last_event_ns, <uint64_t>row.time_ns)
                    ft_set(&c.last_local_ns, <uint64_t>envelope.local_time_ns if envelope != NULL else 0)
                    ft_set(&c.last_event_seen_ns, <uint64_t>utc_ns())
        slot.event_ns = event_ns
        slot.local_ns = local_ns
        self.batch_times.add(<int64_t>(now - c.in_batch_ns))
        ft_add(&c.batches, 1)
        ft_add(&c.lines, lines)
        ft_add(&c.orders, self.table.rows_len)
        ft_add(&c.selected, n)
        ft_add(&c.rejected, rejected)
        ft_add(&c.bytes, <uint64_t>(limit - begin))
        ft_add(&c.failed_chunks, failed)
        if self.late:
            ft_add(&c.late_lines, lines)
        elif failed == 0:
            self._count_replays()
        ft_set(&c.last_data_ns, now)
        ft_set(&c.in_batch_ns, 0)
        self._post()
        return 0
