"""One hour's file -> the messages of one topic that stand behind a place in it; for clients that resume.

The same reader, parser, filter and encoder as in the pipeline, but one of each for itself and with one worker, driven block by
block from any one thread; each step releases the GIL.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fasttail.parser.pool cimport Pool
from fasttail.parser.streams cimport ORDER_STATUSES
from fasttail.parser.table cimport table_new
from fasttail.publish.filters cimport RowKey
from fasttail.publish.frames cimport Message, out_clear, out_free
from fasttail.publish.topics cimport Draft, Topic, make_keys, message_tuple
from fasttail.tail.blocks cimport FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NOFILE, Reader

import os

from fasttail.publish.cursor import prefix as cursor_prefix

cdef enum:
    KEEP_OUT = 1 << 20
    KEPT_WINDOWS = 8


cdef class Rereader:
    """window, max_line: as the pipeline's reader. The topic must be its own: its selector is one pool's."""

    def __cinit__(self, Topic topic not None, *, size_t window=1 << 18, size_t max_line=64 << 20):
        self.topic = topic
        self.reader = Reader(window=window, max_line=max_line)
        self.reader.wary = True              # so that a hole of NUL bytes is met as in the pipeline
        self.table = table_new(&ORDER_STATUSES, self.reader.capacity, 1)
        self.pool = Pool(1, self.table)
        self.keys = <RowKey*>calloc(self.table.rows_cap, sizeof(RowKey))
        if self.keys == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.keys)
        out_free(&self.box.text)
        out_free(&self.box.marks)

    def open(self, path, layout, uint64_t offset, uint32_t events, stands=None) -> None:
        """Go on in another file, behind so many events of the line at `offset`. Raises OSError.

        stands: the Place that the messages' cursors shall name; None: where their orders are.
        """
        self.reader.open(path, offset)
        self.after_line = offset
        self.after_events = events
        self.place.late = stands is not None
        self.place.goes_on = stands.offset if stands is not None else 0
        prefix = (cursor_prefix(layout, path) if stands is None else stands.prefix(layout)).encode()
        if <size_t>len(prefix) > sizeof(self.place.prefix):
            raise ValueError(f"a cursor cannot begin with {prefix!r}")
        self.place.prefix_size = <size_t>len(prefix)
        memcpy(self.place.prefix, <const char*>prefix, self.place.prefix_size)

    def identity(self) -> tuple:
        """(device, inode) of the open file."""
        return self.reader.identity()

    def tell(self) -> int:
        """Offset behind the lines read so far."""
        return self.reader.offset

    def read(self, uint64_t limit) -> "list | None":
        """The messages of the next block of lines, none of which reaches beyond `limit`; None at the end of the file.

        `limit` is the end of a line. An empty list: the block had none. Raises OSError.
        """
        cdef int code
        cdef size_t size
        cdef Reader reader = self.reader
        if reader.offset >= limit:
            return []
        with nogil:
            code = reader.fill()
        if reader.at_hole:                   # as the pipeline does: what stands in front of it is a line of its own
            messages = self.read_tail()
            reader.pass_hole()
            return messages
        if code == FILL_EOF or code == FILL_NOFILE:
            return None
        if code == FILL_ERROR:
            raise OSError(reader.error, os.strerror(reader.error))
        if code != FILL_LINES or reader.offset >= limit:    # a hole was passed over, and with it the limit
            return []
        size = reader.lines_end - reader.begin
        if reader.offset + size > limit:
            size = <size_t>(limit - reader.offset)
        self._convert(reader.base + reader.begin, reader.base + reader.begin + size, reader.base + reader.capacity, reader.offset)
        if size == reader.lines_end - reader.begin:
            reader.consume()
        else:
            reader.seek(reader.offset + size)    # the rest of the block is not wanted yet
        if size > KEPT_WINDOWS * reader.window:
            self.table.trim(KEPT_WINDOWS * reader.window)
        return self._messages()

    def read_tail(self) -> list:
        """The messages of a last line that has no end and will get none."""
        offset = self.reader.offset
        tail = self.reader.take_tail()
        cdef const char* p = tail
        self._convert(p, p + len(tail), p + len(tail), offset)
        return self._messages()

    cdef int _convert(self, const char* begin, const char* limit, const char* readable, uint64_t offset) except -1:
        cdef int more = 1
        cdef bint whole = False
        cdef Draft draft
        with nogil:
            out_clear(&self.box.text, KEEP_OUT)
            out_clear(&self.box.marks, KEEP_OUT)
            self.table.clear()
            self.pool.start(begin, begin, limit, readable)
            while more == 1:
                more = self.pool.run()
                self.pool.chunks[0].rejects_len = 0      # told and counted when the pipeline read them
            if more == 0:
                self.place.data = begin
                self.place.offset = offset
                make_keys(self.table, self.keys, not self.topic.selector.filter.every)
                self.topic.begin(&draft, &self.box, <size_t>-1)      # one topic, and a block at a time: no quota
                whole = self.topic.encode(&draft, &self.box, self.table, self.keys, &self.place, self.after_line, self.after_events) != 0
                self.after_events = 0 if offset > self.after_line else self.after_events
        if more < 0:
            raise SystemError("fasttail: an array's bound did not hold; please report the input")
        if not whole:
            raise MemoryError
        return 0

    cdef list _messages(self):
        cdef const Message* marks = <const Message*>self.box.marks.data
        cdef size_t i
        return [message_tuple(&self.box, &marks[i], &self.place) for i in range(self.box.marks.size // sizeof(Message))]
