"""One hour's file -> the messages of some topics that stand behind a place in it; for clients that are behind.

The same reader, parser and topics as in the pipeline, but one of each for itself and with one worker, driven step by step from any
one thread. A step holds the GIL only where it begins and ends: what it has made stands in a box, and `take` makes Python objects of
it in the thread that sends them.
"""
from libc.stdint cimport uint32_t, uint64_t

from fasttail.parser.pool cimport BATCH_CODES, BATCH_DONE, BATCH_NO_MEMORY, Pool, check_batch
from fasttail.parser.streams cimport ORDER_STATUSES
from fasttail.parser.table cimport table_new
from fasttail.publish.buffer cimport KEEP_OUT, Message, box_clear, box_free
from fasttail.publish.router cimport Topics
from fasttail.publish.topics cimport Topic, message_tuple, set_prefix
from fasttail.tail.blocks cimport FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NOFILE, KEPT_WINDOWS, Reader

import os

from fasttail.publish.cursor import prefix as cursor_prefix

cdef extern from "<string.h>" nogil:
    void* memchr(const void* s, int c, size_t n)
    void* memrchr(const void* s, int c, size_t n)

cdef enum:
    LEAST_STEP = 4096
    STEP = 1 << 18               # with few topics
    COIN_TOPICS = 8              # so many topics of few coins have about as much to write as one of everything,
    USER_TOPICS = 64             # … and so many of few users; for so many users' `orderUpdates` the step is longer by STEP

cdef enum Stepped:               # how a step ended, if not by a BatchCode
    STEP_END = BATCH_CODES       # of the file
    STEP_HOLE
    STEP_ERROR


cdef class Rereader:
    """window, max_line: as the pipeline's reader. Nothing but `take` may be called while a step runs."""

    def __cinit__(self, *, size_t window=4 << 20, size_t max_line=64 << 20):
        self.reader = Reader(window=window, max_line=max_line)
        self.reader.wary = True              # so that a hole of NUL bytes is met as in the pipeline
        self.table = table_new(&ORDER_STATUSES, self.reader.capacity, 1)
        self.pool = Pool(1, self.table)
        self.topics = Topics(1, self.table)
        self.topics.bounded = False
        self.kept = {}

    def __dealloc__(self):
        box_free(&self.box)

    def add(self, Topic topic not None, uint64_t line=0, uint32_t events=0) -> None:
        """Make the topic's messages, too: of the orders behind so many events of the line at that offset.

        The topic must be this rereader's own. Raises MemoryError.
        """
        topic.after_line = line
        topic.after_events = events
        if not self.topics.add(<void*>topic):
            raise MemoryError
        self.kept[topic.id] = topic

    def want_all(self, Topic topic not None) -> None:
        """The line that `add` named has been passed: from now on everything is wanted."""
        topic.after_events = 0

    def remove(self, Topic topic not None) -> None:
        """No more."""
        if self.kept.pop(topic.id, None) is not None:
            self.topics.remove(<void*>topic)

    def clear(self) -> None:
        """Let go of the file, the topics, and what was made."""
        for topic in list(self.kept.values()):
            self.remove(topic)
        self.reader.close()
        self.taken = 0
        box_clear(&self.box, KEEP_OUT)

    @property
    def step_bytes(self) -> int:
        """Bytes of a step, but for a line that is longer.

        The more topics there are that take everything, the fewer, for each of them writes as much. All users together write that
        much only once: with many of them a step is long, so that each user gets several orders in a message.
        """
        cdef size_t heavy = self.topics.always_len + self.topics.by_coin // COIN_TOPICS + self.topics.by_user // USER_TOPICS
        cdef size_t most = min(self.reader.window, <size_t>STEP * (1 + self.topics.user_topics // USER_TOPICS))
        return max(<size_t>LEAST_STEP, most // max(<size_t>1, heavy))

    def open(self, path, layout, uint64_t offset, stands=None) -> None:
        """Go on in another file. Raises OSError.

        stands: the Place that the messages' cursors shall name; None: where their orders are.
        """
        self.reader.open(path, offset)
        self.place.late = stands is not None
        self.place.goes_on = stands.offset if stands is not None else 0
        set_prefix(&self.place, (cursor_prefix(layout, path) if stands is None else stands.prefix(layout)).encode())

    def identity(self) -> tuple:
        """(device, inode) of the open file."""
        return self.reader.identity()

    def tell(self) -> int:
        """Offset behind the lines read so far."""
        return self.reader.offset

    def read(self, uint64_t limit, bint exact=True) -> bool:
        """One step, in this thread: the next lines, `step_bytes` of them at most, and none that reaches beyond `limit`.

        exact: `limit` is the end of a line, or the bytes in front of it are to be taken for one. Otherwise the step ends at the
        last line's end in front of it, or behind it if there is none. False at the end of the file. Raises OSError, MemoryError.
        """
        self.begin_step(limit, exact)
        with nogil:
            self.run_step()
        return self.end_step()

    def begin_step(self, uint64_t limit, bint exact=True) -> None:
        """Say what `run_step` is to do, in whatever thread: see `read`."""
        self.limit = limit
        self.exact = exact
        self.most = self.step_bytes
        self.taken = 0

    cdef int run_step(self) noexcept nogil:
        """The step. Always 0; `end_step` says how it ended."""
        self.code = self._step(self.limit, self.exact, self.most)
        return 0

    def end_step(self) -> bool:
        """False at the end of the file. Raises OSError, MemoryError."""
        if self.code == STEP_HOLE:           # as the pipeline does: what stands in front of it is a line of its own
            self.read_tail()
            self.reader.pass_hole()
            return True
        if self.code == STEP_ERROR:
            raise OSError(self.reader.error, os.strerror(self.reader.error))
        check_batch(self.code)
        return self.code != STEP_END

    def read_tail(self) -> None:
        """A last line that has no end and will get none."""
        cdef uint64_t offset = self.reader.offset
        tail = self.reader.take_tail()
        cdef const char* p = tail
        self.taken = 0
        check_batch(self._convert(p, p + len(tail), p + len(tail), offset))

    def take(self, size_t most=<size_t>-1) -> list:
        """The next messages that the last step has made, about so many bytes of them; an empty list: there are no more."""
        cdef const Message* marks = <const Message*>self.box.marks.data
        cdef size_t count = self.box.marks.size // sizeof(Message), bytes = 0
        cdef list found = []
        while self.taken < count and bytes < most:
            bytes += marks[self.taken].end - marks[self.taken].begin + 64
            found.append(message_tuple(&self.box, &marks[self.taken], &self.place))
            self.taken += 1
        return found

    cdef int _step(self, uint64_t limit, bint exact, size_t most) noexcept nogil:
        cdef size_t size
        cdef const char* begin
        cdef const char* cut
        cdef int code
        box_clear(&self.box, KEEP_OUT)
        if self.reader.offset >= limit:
            return BATCH_DONE
        code = self.reader.fill()
        if self.reader.at_hole:
            return STEP_HOLE
        if code == FILL_EOF or code == FILL_NOFILE:
            return STEP_END
        if code == FILL_ERROR:
            return STEP_ERROR
        if code != FILL_LINES or self.reader.offset >= limit:    # a hole was passed over, and with it the limit
            return BATCH_DONE
        begin = self.reader.base + self.reader.begin
        size = self.reader.lines_end - self.reader.begin
        if size > most:
            size = most + <size_t>(<const char*>memchr(begin + most, c"\n", size - most) - (begin + most)) + 1
        if self.reader.offset + size > limit:
            size = <size_t>(limit - self.reader.offset)
            if not exact:
                cut = <const char*>memrchr(begin, c"\n", size)
                if cut == NULL:
                    cut = <const char*>memchr(begin + size, c"\n", self.reader.lines_end - self.reader.begin - size)
                size = <size_t>(cut - begin) + 1
        code = self._convert(begin, begin + size, self.reader.base + self.reader.capacity, self.reader.offset)
        self.reader.consume_some(size)
        if size > KEPT_WINDOWS * self.reader.window:
            self.table.trim(KEPT_WINDOWS * self.reader.window)
        return code

    cdef int _convert(self, const char* begin, const char* limit, const char* readable, uint64_t offset) noexcept nogil:
        """The messages of the whole lines [begin, limit), which stand at `offset` in the file. A BatchCode."""
        cdef int code
        box_clear(&self.box, KEEP_OUT)
        self.table.clear()
        code = self.pool.parse_batch(begin, begin, limit, readable)      # what is rejected was told when the pipeline read it
        if code:
            return code
        self.place.data = begin
        self.place.size = <size_t>(limit - begin)
        self.place.offset = offset
        self.topics.run(self.table, &self.place, NULL, 0, 0, &self.box)
        return BATCH_NO_MEMORY if self.box.text.failed or self.box.marks.failed else BATCH_DONE
