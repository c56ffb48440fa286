"""One hour's file -> the messages of some topics that stand behind a place in it; for clients that are behind.

The same reader, parser and topics as in the pipeline, but one of each for itself and with one worker, driven step by step from
any one thread. A step holds the GIL only where it begins and ends: what it has made stands in a box, and `take_messages` makes
Python objects of it in the thread that sends them.
"""
from libc.stdint cimport uint32_t, uint64_t

from fasttail.engine.pool cimport BATCH_CODES, BATCH_DONE, BATCH_NO_MEMORY, WorkerPool, check_batch
from fasttail.streams.registry cimport ORDER_STATUSES
from fasttail.engine.table cimport table_new
from fasttail.engine.buffer cimport MAX_RETAINED_BYTES, OutboxEntry, outbox_clear, outbox_free
from fasttail.engine.router cimport Router
from fasttail.engine.topics cimport Topic, to_topic_message, set_prefix
from fasttail.sources.reader cimport FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NO_FILE, RETAINED_WINDOWS, Reader

import os

from fasttail.sources.cursor import prefix as cursor_prefix

cdef extern from "<string.h>" nogil:
    void* memchr(const void* s, int c, size_t n)
    void* memrchr(const void* s, int c, size_t n)

cdef enum:
    MIN_STEP_BYTES = 4096
    BASE_STEP_BYTES = 1 << 18       # with few topics
    COIN_TOPICS_PER_FULL_FEED = 8   # so many topics of few coins have about as much to write as one of everything,
    # … and so many of few users; for so many users' `orderUpdates` the step is longer by BASE_STEP_BYTES
    USER_TOPICS_PER_FULL_FEED = 64

cdef enum StepResult:            # how a step ended, if not by a BatchCode
    STEP_END = BATCH_CODES       # of the file
    STEP_HOLE
    STEP_ERROR


cdef class ReplayReader:
    """window, max_line: as the pipeline's reader. Nothing but `take` may be called while a step runs."""

    def __cinit__(self, *, size_t window=4 << 20, size_t max_line=64 << 20):
        self.reader = Reader(window=window, max_line=max_line)
        self.reader.check_rewrites = True    # so that a hole of NUL bytes is met as in the pipeline
        self.table = table_new(&ORDER_STATUSES, self.reader.capacity, 1)
        self.pool = WorkerPool(1, self.table)
        self.router = Router(1, self.table)
        self.router.enforce_quotas = False
        self.topics_by_id = {}

    def __dealloc__(self):
        outbox_free(&self.outbox)

    def attach_topic(self, Topic topic not None, uint64_t line=0, uint32_t events=0) -> None:
        """Make the topic's messages, too: of the orders behind so many events of the line at that offset.

        The topic must be this rereader's own. Raises MemoryError.
        """
        topic.skip_line_offset = line
        topic.skip_events = events
        if not self.router.register_topic(<void*>topic):
            raise MemoryError
        self.topics_by_id[topic.id] = topic

    def include_all_orders(self, Topic topic not None) -> None:
        """The line that `add` named has been passed: from now on everything is wanted."""
        topic.skip_events = 0

    def detach_topic(self, Topic topic not None) -> None:
        """No more."""
        if self.topics_by_id.pop(topic.id, None) is not None:
            self.router.unregister_topic(<void*>topic)

    def reset(self) -> None:
        """Let go of the file, the topics, and what was made."""
        for topic in list(self.topics_by_id.values()):
            self.detach_topic(topic)
        self.reader.close()
        self.messages_taken = 0
        outbox_clear(&self.outbox, MAX_RETAINED_BYTES)

    @property
    def step_bytes(self) -> int:
        """Bytes of a step, but for a line that is longer.

        The more topics there are that take everything, the fewer, for each of them writes as much. All users together write
        that much only once: with many of them a step is long, so that each user gets several orders in a message.
        """
        cdef size_t full_feeds = (self.router.unindexed_len + self.router.coin_indexed // COIN_TOPICS_PER_FULL_FEED
                                  + self.router.user_indexed // USER_TOPICS_PER_FULL_FEED)
        cdef size_t max_bytes = min(self.reader.window,
                                    <size_t>BASE_STEP_BYTES * (1 + self.router.user_topics // USER_TOPICS_PER_FULL_FEED))
        return max(<size_t>MIN_STEP_BYTES, max_bytes // max(<size_t>1, full_feeds))

    def open(self, path, layout, uint64_t offset, cursor_place=None) -> None:
        """Go on in another file. Raises OSError.

        stands: the CursorPosition that the messages' cursors shall name; None: where their orders are.
        """
        self.reader.open(path, offset)
        self.location.late = cursor_place is not None
        self.location.resume_offset = cursor_place.offset if cursor_place is not None else 0
        set_prefix(&self.location, (cursor_prefix(layout, path) if cursor_place is None
                                    else cursor_place.prefix(layout)).encode())

    def identity(self) -> tuple:
        """(device, inode) of the open file."""
        return self.reader.identity()

    def tell(self) -> int:
        """Offset behind the lines read so far."""
        return self.reader.offset

    def read_step(self, uint64_t limit, bint limit_is_line_end=True) -> bool:
        """One step, in this thread: the next lines, `step_bytes` of them at most, and none that reaches beyond `limit`.

        limit_is_line_end: `limit` is the end of a line, or the bytes in front of it are to be taken for one. Otherwise the step
        ends at the last line's end in front of it, or behind it if there is none. False at the end of the file. Raises OSError,
        MemoryError.
        """
        self.begin_step(limit, limit_is_line_end)
        with nogil:
            self.run_step()
        return self.end_step()

    def begin_step(self, uint64_t limit, bint limit_is_line_end=True) -> None:
        """Say what `run_step` is to do, in whatever thread: see `read`."""
        self.limit = limit
        self.limit_is_line_end = limit_is_line_end
        self.max_bytes = self.step_bytes
        self.messages_taken = 0

    cdef void run_step(self) noexcept nogil:
        """The step; `end_step` says how it ended."""
        self.step_result = self._read_step(self.limit, self.limit_is_line_end, self.max_bytes)

    def end_step(self) -> bool:
        """False at the end of the file. Raises OSError, MemoryError."""
        if self.step_result == STEP_HOLE:    # as the pipeline does: what stands in front of it is a line of its own
            self.read_partial_line()
            self.reader.skip_hole()
            return True
        if self.step_result == STEP_ERROR:
            raise OSError(self.reader.error, os.strerror(self.reader.error))
        check_batch(self.step_result)
        return self.step_result != STEP_END

    def read_partial_line(self) -> None:
        """A last line that has no end and will get none."""
        cdef uint64_t offset = self.reader.offset
        tail = self.reader.take_partial_line()
        cdef const char* p = tail
        self.messages_taken = 0
        check_batch(self._encode_block(p, p + len(tail), p + len(tail), offset))

    def take_messages(self, size_t max_bytes=<size_t>-1) -> list:
        """The next messages that the last step has made, about so many bytes of them; an empty list: there are no more."""
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
        if code != FILL_LINES or self.reader.offset >= limit:    # a hole was passed over, and with it the limit
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
            self.table.trim(RETAINED_WINDOWS * self.reader.window)
        return code

    cdef int _encode_block(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil:
        """The messages of the whole lines [begin, limit), which stand at `offset` in the file. A BatchCode."""
        cdef int code
        outbox_clear(&self.outbox, MAX_RETAINED_BYTES)
        self.table.clear()
        code = self.pool.parse_batch(begin, begin, limit, readable)      # what is rejected was told when the pipeline read it
        if code:
            return code
        self.location.data = begin
        self.location.size = <size_t>(limit - begin)
        self.location.offset = offset
        self.router.route_batch(self.table, &self.location, NULL, 0, 0, &self.outbox)
        return BATCH_NO_MEMORY if self.outbox.payload.out_of_memory or self.outbox.entries.out_of_memory else BATCH_DONE
