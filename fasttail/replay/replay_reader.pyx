"""Makes the messages of some topics from one hour's file, starting at an offset, for clients that are behind.

It uses the same reader, parser and topics as the pipeline, but has its own of each and a single worker. One thread at a time
drives it, step by step. A step holds the GIL only at its start and end: its messages stay in an outbox, and `take_messages`
turns them into Python objects in the thread that sends them.
"""
from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.pool cimport BATCH_CODES, BATCH_DONE, BATCH_NO_MEMORY, WorkerPool, check_batch
from fasttail.streams.registry cimport find_stream
from fasttail.engine.table cimport table_new
from fasttail.engine.buffer cimport MAX_RETAINED_BYTES, OutboxEntry, outbox_clear, outbox_free
from fasttail.engine.router cimport Router
from fasttail.engine.replayed_blocks cimport ReplayedBlocks
from fasttail.engine.stream_topics cimport StreamTopics
from fasttail.engine.topics cimport Topic, to_topic_message, set_prefix
from fasttail.sources.reader cimport FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NO_FILE, RETAINED_WINDOWS, Reader

import os

from fasttail.sources.cursor import BlockPosition, prefix as cursor_prefix

cdef extern from "<string.h>" nogil:
    void* memchr(const void* s, int c, size_t n)
    void* memrchr(const void* s, int c, size_t n)

cdef enum:
    MIN_STEP_BYTES = 4096
    BASE_STEP_BYTES = 1 << 18       # with few topics
    COIN_TOPICS_PER_FULL_FEED = 8   # this many topics of few coins write about as much as one of everything,
    # … and so do this many of few users. For each such number of users' `orderUpdates`, the step grows by BASE_STEP_BYTES.
    USER_TOPICS_PER_FULL_FEED = 64

cdef enum StepResult:            # how a step ended, if not by a BatchCode
    STEP_END = BATCH_CODES       # of the file
    STEP_HOLE
    STEP_ERROR


cdef class ReplayReader:
    """A reader, parser and router for replays of a stream. `window` and `max_line` are as in the pipeline's reader.

    While a step runs, no other method may be called.
    """

    def __cinit__(self, str stream="orders", *, size_t window=4 << 20, size_t max_line=64 << 20,
                  bint deliver_replayed=False):
        self.stream = stream
        self.reader = Reader(window=window, max_line=max_line)
        self.reader.check_rewrites = True    # treat holes of NUL bytes as the pipeline does
        self.table = table_new(find_stream(stream), self.reader.capacity, 1)
        self.pool = WorkerPool(1, self.table)
        self.topics = StreamTopics(1, self.table)
        self.topics.set_quotas(False)
        self.blocks = ReplayedBlocks(deliver=deliver_replayed)
        self.topics_by_id = {}
        set_prefix(&self.location.block_prefix, b"" if deliver_replayed else f"{stream}:".encode())

    def __dealloc__(self):
        outbox_free(&self.outbox)

    def attach_topic(self, Topic topic not None, uint64_t line=0, uint32_t events=0) -> None:
        """Make the topic's messages as well, without the first `events` events of the line at `line` and all before them.

        The topic must not be shared with another reader. Raises MemoryError.
        """
        topic.skip_line_offset = line
        topic.skip_events = events
        if not self.topics.register_topic(<void*>topic):
            raise MemoryError
        self.topics_by_id[topic.id] = topic

    def include_all_orders(self, Topic topic not None) -> None:
        """Stop skipping orders, once the line given to `attach_topic` has been passed."""
        topic.skip_events = 0

    def detach_topic(self, Topic topic not None) -> None:
        if self.topics_by_id.pop(topic.id, None) is not None:
            self.topics.unregister_topic(<void*>topic)

    def reset(self) -> None:
        """Release the file, the topics and the messages."""
        for topic in list(self.topics_by_id.values()):
            self.detach_topic(topic)
        self.reader.close()
        self.blocks.reset()
        self.topics.reset_stage()
        self.messages_taken = 0
        outbox_clear(&self.outbox, MAX_RETAINED_BYTES)

    @property
    def step_bytes(self) -> int:
        """Bytes of a step, except for a longer line.

        Topics that select everything shorten it, because each writes as much as a step reads. All users together write that
        much only once, so many of them lengthen it, to give each user several orders per message.
        """
        cdef Router router = self.topics.router
        cdef size_t full_feeds = (router.unindexed_len + router.coin_indexed // COIN_TOPICS_PER_FULL_FEED
                                  + router.user_indexed // USER_TOPICS_PER_FULL_FEED)
        cdef size_t max_bytes = min(self.reader.window,
                                    <size_t>BASE_STEP_BYTES * (1 + router.user_topics // USER_TOPICS_PER_FULL_FEED))
        return max(<size_t>MIN_STEP_BYTES, max_bytes // max(<size_t>1, full_feeds))

    def open(self, path, layout, uint64_t offset, late_position=None, block=None) -> None:
        """Continue in another file. Raises OSError.

        late_position: the position that all messages carry as their cursor; None: that of their orders
        block: the block and the number of its events there, or at `late_position`; None: unknown
        """
        if self.blocks.deliver:
            block = None
        self.reader.open(path, offset)
        if offset or self.blocks.highest == 0:   # else the hour before has been read to its end
            self.topics.prime(self.pool, self.reader, path, self.blocks, block is not None)
            if block is not None and late_position is None:
                self.blocks.seek(block[0], block[1])
        self.location.late = late_position is not None
        self.location.resume_offset = late_position.offset if late_position is not None else 0
        self.location.resume_block, self.location.resume_events = block if block is not None else (0, 0)
        set_prefix(&self.location.file_prefix, (cursor_prefix(layout, path, self.stream) if late_position is None
                                                else late_position.prefix(layout, self.stream)).encode())

    @property
    def block(self):
        """The block and the number of its events up to which everything has been read, None if unknown."""
        if self.blocks.deliver or self.blocks.highest == 0:
            return None
        return BlockPosition(self.blocks.highest, self.blocks.highest_index)

    def identity(self) -> tuple:
        """Return (device, inode) of the open file."""
        return self.reader.identity()

    def tell(self) -> int:
        """Return the offset after the lines read so far."""
        return self.reader.offset

    def read_step(self, uint64_t limit, bint limit_is_line_end=True) -> bool:
        """Run one step in this thread. Return False at the end of the file. Raises OSError, MemoryError.

        A step reads at most `step_bytes` of lines, none of them beyond `limit`. limit_is_line_end: `limit` is the end of a
        line, or the bytes before it count as one. Otherwise the step ends with the last line that ends before it, or the first
        one after it if there is none.
        """
        self.begin_step(limit, limit_is_line_end)
        with nogil:
            self.run_step()
        return self.end_step()

    def begin_step(self, uint64_t limit, bint limit_is_line_end=True) -> None:
        """Set what `run_step` does, in any thread. The arguments are those of `read_step`."""
        self.limit = limit
        self.limit_is_line_end = limit_is_line_end
        self.max_bytes = self.step_bytes
        self.messages_taken = 0

    cdef void run_step(self) noexcept nogil:
        """Run the step. `end_step` reports its result."""
        self.step_result = self._read_step(self.limit, self.limit_is_line_end, self.max_bytes)

    def end_step(self) -> bool:
        """Return False at the end of the file. Raises OSError, MemoryError."""
        if self.step_result == STEP_HOLE:    # as in the pipeline, what precedes a hole is a line
            self.read_partial_line()
            self.reader.skip_hole()
            return True
        if self.step_result == STEP_ERROR:
            raise OSError(self.reader.error, os.strerror(self.reader.error))
        check_batch(self.step_result)
        return self.step_result != STEP_END

    def read_partial_line(self) -> None:
        """Read a last line that has no newline and will get none."""
        cdef uint64_t offset = self.reader.offset
        tail = self.reader.take_partial_line()
        cdef const char* p = tail
        self.messages_taken = 0
        check_batch(self._encode_block(p, p + len(tail), p + len(tail), offset))

    def take_messages(self, size_t max_bytes=<size_t>-1) -> list:
        """Return the next messages of the last step, about `max_bytes` of them. An empty list means there are no more."""
        cdef const OutboxEntry* entries = <const OutboxEntry*>self.outbox.entries.data
        cdef size_t count = self.outbox.entries.size // sizeof(OutboxEntry), bytes = 0
        cdef list messages = []
        while self.messages_taken < count and bytes < max_bytes:
            bytes += entries[self.messages_taken].end - entries[self.messages_taken].begin + 64
            messages.append(to_topic_message(&self.outbox, &entries[self.messages_taken], &self.location))
            self.messages_taken += 1
        return messages

    cdef int _read_step(self, uint64_t limit, bint limit_is_line_end, size_t max_bytes) noexcept nogil:
        cdef size_t size
        cdef const char* begin
        cdef const char* line_end
        cdef int code
        outbox_clear(&self.outbox, MAX_RETAINED_BYTES)
        if self.reader.offset >= limit:
            return BATCH_DONE
        code = self.reader.fill()
        if self.reader.at_hole:
            return STEP_HOLE
        if code == FILL_EOF or code == FILL_NO_FILE:
            return STEP_END
        if code == FILL_ERROR:
            return STEP_ERROR
        if code != FILL_LINES or self.reader.offset >= limit:    # skipping a hole may have passed the limit
            return BATCH_DONE
        begin = self.reader.base + self.reader.begin
        size = self.reader.lines_end - self.reader.begin
        if size > max_bytes:
            size = max_bytes + <size_t>(<const char*>memchr(begin + max_bytes, c"\n", size - max_bytes) - (begin
                                                                                                           + max_bytes)) + 1
        if self.reader.offset + size > limit:
            size = <size_t>(limit - self.reader.offset)
            if not limit_is_line_end:
                line_end = <const char*>memrchr(begin, c"\n", size)
                if line_end == NULL:
                    line_end = <const char*>memchr(begin + size, c"\n", self.reader.lines_end - self.reader.begin - size)
                size = <size_t>(line_end - begin) + 1
        code = self._encode_block(begin, begin + size, self.reader.base + self.reader.capacity, self.reader.offset)
        self.reader.consume_bytes(size)
        if size > RETAINED_WINDOWS * self.reader.window:
            self.topics.trim(RETAINED_WINDOWS * self.reader.window)
        return code

    cdef int _encode_block(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil:
        """Write the messages of the whole lines [begin, limit), which are at `offset` in the file. Return a BatchCode."""
        cdef int code
        outbox_clear(&self.outbox, MAX_RETAINED_BYTES)
        self.table.clear()
        code = self.pool.parse_batch(begin, begin, limit, readable)      # the pipeline has already reported rejected lines
        if code:
            return code
        if not self.location.late:
            self.blocks.drop_rows(self.pool)
        self.location.data = begin
        self.location.size = <size_t>(limit - begin)
        self.location.offset = offset
        self.topics.route_batch(&self.location, NULL, 0, 0, &self.outbox)
        return BATCH_NO_MEMORY if self.outbox.payload.out_of_memory or self.outbox.entries.out_of_memory else BATCH_DONE
