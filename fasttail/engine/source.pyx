"""One stream that the pipeline follows: its files, its rows, its topics and its counters.

    files ─► Follower, Reader ─► WorkerPool ─► RowTable ─► Router

All of it belongs to the pipeline thread. Counters are 64-bit words with one writer; other threads read them with relaxed
atomics (atomics.h), so a value may be a moment old.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr

from fasttail.system.atomics cimport (
    ft_add_single_writer, ft_load_acquire, ft_load_pointer_relaxed, ft_load_relaxed, ft_store_relaxed, ft_store_release)
from fasttail.system.checks cimport ft_assert
from fasttail.system.clock cimport monotonic_ns, utc_ns
from fasttail.engine.flow cimport Flow
from fasttail.engine.histogram cimport Histogram
from fasttail.engine.lines cimport block_of_line, count_lines
from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.replayed_blocks cimport ReplayedBlocks
from fasttail.engine.ring cimport RingSlot
from fasttail.engine.router cimport MAX_TOPICS
from fasttail.engine.stream_topics cimport StreamTopics
from fasttail.engine.table cimport row_envelope, table_new
from fasttail.engine.topics cimport MAX_BLOCK, set_prefix
from fasttail.sources.reader cimport FILL_LINES, FILL_PARTIAL, FILL_SKIPPED, Reader
from fasttail.sources.watcher cimport WAIT_DATA, WAIT_DIRS, Watcher
from fasttail.streams.registry cimport find_stream
from fasttail.streams.types cimport Chunk, Envelope, RowHead

from fasttail.engine.events import WorkerState
from fasttail.sources.cursor import prefix as cursor_prefix

cdef enum:                   # how many of the largest events `flow` keeps: each is shown five times a second, 50 in all
    LARGEST_ROWS = 6
    LARGEST_STAGE_ROWS = 4

# The keys of `stats` that are attributes of the follower, and their values before there is one.
_FOLLOWER_STATS = (
    ("truncations", "truncations", 0), ("read_errors", "read_errors", 0), ("torn_lines", "torn_lines", 0),
    ("files_opened", "files_opened", 0), ("resume_losses", "resume_losses", 0), ("trouble", "trouble", ""),
    ("written_ns", "written_ns", 0), ("grows", "growing_layout", ""),
)


cdef class StreamSource:
    """A stream that a pipeline follows while it is wanted.

    stream: "orders" or "fills"
    make_follower: returns a new Follower, each time that the pipeline begins to follow the stream
    max_topics: limit of topics besides those of the old channels; further ones are refused (`Topic.refused`)
    deliver_replayed: deliver the events of blocks that the node writes again

    Raises ValueError for an unknown stream, and MemoryError.
    """

    def __cinit__(self, str stream, Reader reader not None, make_follower, int workers, *, uint32_t max_topics=MAX_TOPICS,
                  bint deliver_replayed=False):
        self.stream = stream
        self.reader = reader
        self.make_follower = make_follower
        self.table = table_new(find_stream(stream), reader.capacity, <size_t>workers)
        self.pool = WorkerPool(workers, self.table, max_rejects=1)
        self.topics = StreamTopics(workers, self.table, max_topics=max_topics)
        self.flow = Flow(LARGEST_ROWS if self.topics.stage is None else LARGEST_STAGE_ROWS)
        self.blocks = ReplayedBlocks(deliver=deliver_replayed)
        self.batch_times = Histogram()
        set_prefix(&self.location.block_prefix, b"" if deliver_replayed else f"{stream}:".encode())

    # ------------------------------------------------------------------------------------------------------------ any thread

    def stats(self) -> dict:
        """Return the numbers for health, metrics and the log. Callable from any thread."""
        c = &self.counters               # relaxed: written meanwhile, and each for itself
        follower = self.follower
        return {
            "batches": ft_load_relaxed(&c.batches), "lines": ft_load_relaxed(&c.lines), "orders": ft_load_relaxed(&c.orders),
            "selected": ft_load_relaxed(&c.selected), "rejected": ft_load_relaxed(&c.rejected),
            "bytes": ft_load_relaxed(&c.bytes),
            "failed_chunks": ft_load_relaxed(&c.failed_chunks), "late_lines": ft_load_relaxed(&c.late_lines)
            + (follower.late_lines if follower is not None else 0),
            "topics_seconds": ft_load_relaxed(&c.topics_ns) / 1e9,
            "crowded_batches": self.topics.quota_batches(),
            "oversize_orders": self.topics.oversize(), "oversize_lines": self.reader.oversize_lines,
            "nul_bytes": ft_load_relaxed(&c.nul_bytes) + self.reader.nul_bytes,
            "height_regressions": ft_load_relaxed(&self.blocks.regressions),
            "replayed_events": ft_load_relaxed(&self.blocks.dropped),
            "worker_count": self.pool.workers, "recut_batches": self.pool.recut_batches,
            "last_data_ns": ft_load_relaxed(&c.last_data_ns), "in_batch_ns": ft_load_relaxed(&c.in_batch_ns),
            "batch_number": ft_load_relaxed(&c.batch_number), "file": self.path, "identity": self.identity,
            "offset": ft_load_relaxed(&self.reader.offset), "height": ft_load_relaxed(&c.height) or None,
            "last_event_ns": ft_load_relaxed(&c.last_event_ns), "last_local_ns": ft_load_relaxed(&c.last_local_ns),
            "last_event_seen_ns": ft_load_relaxed(&c.last_event_seen_ns),
            "state": "idle" if self.index and not self.followed else "live" if ft_load_relaxed(&c.last_data_ns) else "waiting",
            **({} if self.topics.stage is None else {
                "trades": ft_load_relaxed(&self.topics.stage.trades),
                "unpaired_fills": ft_load_relaxed(&self.topics.stage.unpaired),
            }),
            **{key: getattr(follower, name, default) for key, name, default in _FOLLOWER_STATS},
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

    # ------------------------------------------------------------------------------------------------------- files and folders

    cdef object open(self, Watcher watcher):
        """Begin to follow the stream. The first `check` finds its files."""
        self.follower = self.make_follower()
        self.watch = watcher.watch()
        self.truncations = self.follower.truncations
        self.followed = True
        self.primed = False
        self.needs_check = self.at_end = True

    cdef object close(self):
        """Stop following the stream, and forget its file."""
        self.reader.close()
        self.watch.close()
        self.watch = None
        self.path = self.identity = None
        self.hour = 0
        self.late = False
        self.followed = self.needs_check = self.may_have_data = False

    cdef object check(self):
        """Let the follower check the folders, and plan the next check."""
        cdef double seconds
        self.follower.check(self.reader, self.watch, self.at_end)
        self.needs_check = False
        self.may_have_data = True
        self.bytes_before_check = self.reader.total_read_bytes
        seconds = self.follower.next_check_s
        self.check_at_end = seconds <= 0
        self.check_ns = monotonic_ns() + <uint64_t>((1.0 if self.check_at_end else seconds) * 1e9)

    cdef int prime(self) except -1:
        """Let the lines before the reader's position be known to `blocks` and the stage, once."""
        if not self.primed and self.reader.is_open:
            self.primed = True
            try:
                self.topics.prime(self.pool, self.reader, self.follower.path, self.blocks)
            except OSError:
                pass                     # the follower finds out, too
        return 0

    cdef bint set_file(self, path, identity) except -1:
        """Set the file of the next lines and its identity (device, inode). Return whether it is another one."""
        if path == self.path and identity == self.identity:
            return False
        self.path = path
        self.identity = identity
        self.hour = int(self._set_file_prefix(path)[-11:-1] or 0)
        return True

    cdef object _set_file_prefix(self, path):
        prefix = cursor_prefix(self.follower.layout, path, self.stream).encode() if path else b""
        set_prefix(&self.location.file_prefix, prefix)
        return prefix

    cdef object set_resume_point(self):
        """Make the messages of late lines carry the resume point as their cursor.

        Everything before it was delivered, so a client that resumes there gets nothing twice.
        """
        self.late = self.follower.late
        self.location.late = self.late
        if self.late:
            position = self.follower.position(self.reader)
            self._set_file_prefix(position.path)
            self.location.resume_offset = position.offset
            self.location.resume_block = self.height()
            self.location.resume_events = self.blocks.highest_index
        elif self.path:
            self._set_file_prefix(self.path)

    # ---------------------------------------------------------------------------------------------------------------- reading

    cdef uint64_t height(self) noexcept nogil:
        """Return the highest block so far, 0 if cursors cannot name it."""
        if self.blocks.deliver or self.blocks.highest > <uint64_t>MAX_BLOCK:
            return 0
        return self.blocks.highest

    cdef size_t pending_bytes(self) noexcept nogil:
        """Return the bytes of whole lines that were read and not published yet."""
        return self.reader.lines_end - self.reader.begin

    cdef uint64_t next_block(self) noexcept nogil:
        """Return the block of the next line, 0 if it does not name one."""
        return block_of_line(self.reader.base + self.reader.begin, self.reader.base + self.reader.lines_end)

    cdef size_t bytes_up_to_block(self, uint64_t block) noexcept nogil:
        """Return the bytes of the pending lines before the first one of a later block; at least those of one line."""
        cdef const char* begin = self.reader.base + self.reader.begin
        cdef const char* end = self.reader.base + self.reader.lines_end
        cdef const char* p = begin
        while p < end and (p == begin or block_of_line(p, end) <= block):
            p = <const char*>memchr(p, c"\n", <size_t>(end - p)) + 1
        return <size_t>(p - begin)

    cdef void fill(self, uint64_t now) noexcept nogil:
        """Read once, and decide whether the follower must be asked."""
        cdef int code = self.reader.fill()
        if code == FILL_LINES:
            return
        if code == FILL_PARTIAL or code == FILL_SKIPPED:
            self.may_have_data = True
            self.at_end = False
            self.needs_check = now >= self.check_ns
            return
        self.may_have_data = False
        self.at_end = True
        self.needs_check = self.check_at_end or now >= self.check_ns or self.reader.rewritten or self.reader.at_hole

    cdef void note_events(self) noexcept nogil:
        """Take note of what the watcher has seen."""
        cdef int flags = self.watch.state.flags
        self.watch.state.flags = 0
        if flags & WAIT_DATA:
            self.may_have_data = True
        if flags & WAIT_DIRS:
            self.check_ns = 0            # read the new data first, then check the folders

    # -------------------------------------------------------------------------------------------------------------- one batch

    cdef void begin_batch(self, uint64_t now) noexcept nogil:
        ft_store_release(&self.counters.batch_number, self.counters.batch_number + 1)  # see `running_lines`
        ft_store_relaxed(&self.counters.in_batch_ns, now)

    cdef void count_flow(self, const char* data) noexcept nogil:
        """Count the batch's rows, or those that the stage made of them, for those who look at the flow."""
        if self.topics.stage is not None:
            self.flow.add_rows(self.topics.stage.table, data)
        else:
            self.flow.add_rows(self.table, data)

    cdef void record_batch(self, RingSlot* slot, uint64_t offset) noexcept nogil:
        """Record the counts of the parsed lines in the slot, and add them to the counters."""
        cdef int k
        slot.lines = self.pool.lines()
        slot.orders = self.table.rows_len
        slot.rejected = self.pool.rejected
        if self.pool.kept_len:
            slot.reject_offset = self.pool.kept[0].line_offset + offset
            slot.reject_reason = self.pool.kept[0].reason
            slot.reject_field = self.pool.kept[0].field
        for k in range(self.pool.workers):
            slot.worker_counts[2 * k] = self.pool.chunks[k].lines
            slot.worker_counts[2 * k + 1] = self.pool.chunks[k].rows_len
        self._record_newest_times(slot)
        self._count(slot)

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
        ft_store_relaxed(&c.last_data_ns, slot.ended_ns)
        ft_store_relaxed(&c.in_batch_ns, 0)
