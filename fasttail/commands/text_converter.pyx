"""Converts blocks of lines to text, for `fasttail parse` and `fasttail tail`.

The pool, table, selector and encoders are the pipeline's, driven from Python block by block. Each step releases the GIL.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fasttail.engine.columns cimport add_row, column_sums_to_dict
from fasttail.engine.pool cimport WorkerPool, check_batch
from fasttail.engine.rejects cimport reason_text
from fasttail.streams.orders cimport ORDERS
from fasttail.streams.registry cimport detect_stream, find_stream
from fasttail.engine.table cimport RowTable, table_new, table_row
from fasttail.streams.types cimport RowHead, StreamSpec
from fasttail.engine.buffer cimport buffer_clear, buffer_free
from fasttail.engine.encoders cimport encode_json, encode_raw
from fasttail.sources.reader cimport RETAINED_WINDOWS, Reader

cdef enum:
    FORMAT_NONE
    FORMAT_RAW
    FORMAT_JSON
    MAX_REJECTS = 64
    KEEP_TEXT = 4 << 20      # bytes of the text buffer kept for the next block

_FORMATS = {"none": FORMAT_NONE, "raw": FORMAT_RAW, "json": FORMAT_JSON}


class UnsuitableFilter(ValueError):
    """The stream does not have what a filter selects by."""


cdef class Converter:
    """Converts blocks of whole lines to text, and counts over all blocks.

    capacity:     bytes of the largest block.
    format:       "json" (one flat object per line), "raw" (the node's plain line) or "none".
    compute_sums: whether to sum the columns of the selected events, which `orders` counts.
    stream:       "orders" or "fills"; None: that of the first event of the first block.

    Raises ValueError for an unknown stream, and UnsuitableFilter for a selection by status in another stream than "orders".
    """

    def __cinit__(self, *, size_t capacity, int workers, Selector selector not None, str format="none",
                  bint compute_sums=False, str stream=None):
        self.format = _FORMATS[format]
        self.compute_sums = compute_sums
        self.selector = selector
        self.capacity = capacity
        self.workers = workers
        memset(&self.sums, 0, sizeof(self.sums))
        self.rejects = []
        if stream is not None:
            self._open(find_stream(stream))

    def __dealloc__(self):
        free(self.selection)
        buffer_free(&self.out)

    cdef int _open(self, const StreamSpec* stream) except -1:
        """Make the table and the workers for a stream."""
        if not self.selector.accepts_stream(stream):
            raise UnsuitableFilter(f"statuses are those of orders, not of {stream.name.decode()}")
        self.table = table_new(stream, self.capacity, <size_t>self.workers)
        self.pool = WorkerPool(self.workers, self.table, max_rejects=MAX_REJECTS)
        self.selection = <uint32_t*>calloc(self.table.rows_cap, sizeof(uint32_t))
        if self.selection == NULL:
            raise MemoryError
        return 0

    def convert_block(self, Reader reader not None) -> bytes:
        """Convert and consume the lines that the reader holds after FILL_LINES. Return the text."""
        self._convert(reader.base + reader.begin, reader.base + reader.lines_end, reader.base + reader.capacity, reader.offset)
        if reader.lines_end - reader.begin > RETAINED_WINDOWS * reader.window:
            self.table.trim(RETAINED_WINDOWS * reader.window)
        reader.consume()
        return PyBytes_FromStringAndSize(self.out.data, <Py_ssize_t>self.out.size)

    def convert_line(self, bytes text, uint64_t offset) -> bytes:
        """Convert one or more lines at file position `offset`, such as a last line without its newline."""
        cdef const char* p = text
        self._convert(p, p + len(text), p + len(text), offset)
        return PyBytes_FromStringAndSize(self.out.data, <Py_ssize_t>self.out.size)

    def sums_dict(self) -> dict:
        """Return the sums of all orders selected so far, in the form of `Batch.sums`."""
        return column_sums_to_dict(&self.sums, self.table.stream if self.table is not None else &ORDERS)

    cdef int _convert(self, const char* begin, const char* limit, const char* readable, uint64_t offset) except -1:
        cdef int code
        cdef size_t i, n = 0
        cdef const RowHead* row
        if self.table is None:
            self._open(detect_stream(begin, <size_t>(limit - begin)))
        buffer_clear(&self.out, KEEP_TEXT)
        with nogil:
            self.table.clear()
            code = self.pool.parse_batch(begin, begin, limit, readable)
        self.rejected += self.pool.rejected
        self.rejects = [(self.pool.kept[i].line_offset + offset, reason_text(self.table.stream, self.pool.kept[i].reason,
                                                                                 self.pool.kept[i].field))
                        for i in range(self.pool.kept_len)]
        self.rejects_omitted = self.pool.rejected - self.pool.kept_len
        check_batch(code)
        with nogil:
            n = self.selector.select(self.table, begin, self.selection)
            for i in range(n):
                row = table_row(self.table, self.selection[i])
                if self.compute_sums:
                    add_row(&self.sums, self.table.stream, row)
                if self.format == FORMAT_RAW:
                    encode_raw(&self.out, row, begin)
                elif self.format == FORMAT_JSON:
                    encode_json(&self.out, row, self.table, begin)
        if self.out.out_of_memory:
            raise MemoryError
        self.lines += self.pool.lines()
        self.orders += n
        self.bytes += <uint64_t>(limit - begin)
        return 0
