"""The columns of a batch as Python sees them: the `Batch` that `parse()` returns.

A numeric column is a view of one member of all rows, with a stride of one row, so numpy and memoryview read it in place.
"""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport usleep

from fasttail.engine.table cimport RowTable, row_envelope, table_release, table_row
from fasttail.streams.orders cimport ORDERS
from fasttail.streams.spec cimport NULLABLE, OPTIONAL, field_named
from fasttail.streams.types cimport (
    AS_AMOUNT, AS_BOOL, AS_DECIMAL, AS_INT, AS_JSON, AS_NESTED, AS_SIDE, AS_TIME_MS, AS_UINT, AS_WORD, ESCAPED, NOT_STORED,
    Amount, Envelope, FieldSpec, RowHead, StreamSpec, TextSpan)

cdef tuple _ENVELOPE_KEYS = ("block_number", "block_time", "local_time")


cdef tuple _keys(const StreamSpec* stream):
    cdef int i
    return tuple([stream.fields[i].key[:stream.fields[i].key_size].decode() for i in range(stream.fields_len)
                  if stream.fields[i].conversion != AS_NESTED]) + _ENVELOPE_KEYS


# The keys of `to_pylist` and of `--format json` for order statuses, in order.
COLUMNS = _keys(&ORDERS)


cdef inline bint _is_integer(const FieldSpec* field) noexcept nogil:
    return field.conversion == AS_UINT or field.conversion == AS_INT or field.conversion == AS_TIME_MS


cdef inline bint _is_decimal(const FieldSpec* field) noexcept nogil:
    return (field.conversion == AS_DECIMAL or field.conversion == AS_AMOUNT) and field.value != NOT_STORED


cdef inline bint _is_summed(const FieldSpec* field) noexcept nogil:
    """Whether every row has the number."""
    return not field.kinds & (OPTIONAL | NULLABLE) and (_is_integer(field) or _is_decimal(field))


cdef void add_row(ColumnSums* sums, const StreamSpec* stream, const RowHead* row) noexcept nogil:
    """Add the numbers that every row has to `sums`."""
    cdef const FieldSpec* field
    cdef const char* at
    cdef int i
    for i in range(stream.fields_len):
        field = &stream.fields[i]
        if not _is_summed(field):
            continue
        at = <const char*>row + field.value
        if field.conversion == AS_UINT:
            sums.integers[i] += (<const uint64_t*>at)[0]
        elif _is_decimal(field):
            sums.decimals[i] += (<const double*>at)[0]
        else:
            sums.integers[i] += (<const int64_t*>at)[0]


cdef dict column_sums_to_dict(const ColumnSums* sums, const StreamSpec* stream):
    """Return the sums as Python numbers: exact integers, and decimals as float64."""
    cdef const FieldSpec* field
    cdef dict integers = {}, decimals = {}
    cdef int i
    for i in range(stream.fields_len):
        field = &stream.fields[i]
        if not _is_summed(field):
            continue
        name = field.key[:field.key_size].decode()
        if _is_decimal(field):
            decimals[name] = sums.decimals[i]
        else:
            integers[name] = (int(<int64_t>(sums.integers[i] >> 64)) << 64) + int(<uint64_t>sums.integers[i])
    return integers | decimals


cdef class Column:
    """One number of every row, in place: shape (rows,), stride one row, read-only. Keeps its batch alive."""

    cdef Batch batch
    cdef char* first
    cdef const char* format
    cdef Py_ssize_t itemsize
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getbuffer__(self, Py_buffer* view, int flags):
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("a column is read-only")
        if flags & PyBUF_STRIDES != PyBUF_STRIDES:
            raise BufferError("a column is strided")
        view.buf = self.first
        view.obj = self
        view.len = self.shape[0] * self.itemsize
        view.itemsize = self.itemsize
        view.readonly = 1
        view.ndim = 1
        view.format = <char*>self.format if flags & PyBUF_FORMAT else NULL
        view.shape = self.shape
        view.strides = self.strides
        view.suboffsets = NULL
        view.internal = NULL


cdef object _column(Batch batch, size_t offset, const char* format, Py_ssize_t itemsize):
    """Return the column of the numbers at `offset` in the rows."""
    cdef Column column = Column.__new__(Column)
    column.batch = batch
    column.first = batch.table.rows + offset
    column.format = format
    column.itemsize = itemsize
    column.shape[0] = <Py_ssize_t>batch.table.rows_len
    column.strides[0] = <Py_ssize_t>batch.table.row_bytes
    return memoryview(column)


def _loads(bytes text):
    import orjson  # imported on first use: most runs never need it

    return orjson.loads(text)


cdef str _decode(const char* p, size_t size, bint escaped):
    cdef bytes raw = p[:size]
    if escaped and b"\\" in raw:
        return _loads(b'"%b"' % raw)
    return raw.decode("utf-8")


@cython.no_gc_clear              # __dealloc__ returns the table
cdef class Batch:
    """The events of one stream as typed columns.

    `len()` is the number of events. `lines` counts all lines, and `rejected` lists those that are no event of the stream (an
    envelope counts as one line and is rejected as a whole). The batch holds the buffer it was made from.
    """

    def __init__(self):
        raise TypeError("a Batch is made by parse()")     # it bypasses this, and sets the table

    def __dealloc__(self):
        if self.has_data:
            PyBuffer_Release(&self.data)
        if self.table is not None:       # None: parse() failed before it had one
            table_release(self.table)

    def __len__(self) -> int:
        return self.table.rows_len

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return self.table.stream.name.decode()

    @property
    def keys(self) -> tuple:
        """The keys of `to_pylist`, in order."""
        return _keys(self.table.stream)

    @property
    def coins(self) -> list:
        """The coin of each code of column "coin_code". Code 0: more than 32,767 coins, or a name over 255 bytes."""
        return self.pool.coin_names()

    def column(self, str name):
        """Return a column by name. Raises KeyError for an unknown name.

        A memoryview, in place:
            each integer, by its key
            each decimal as float64, by its key (NaN: null or absent)
            KEY_units, KEY_exact: a fill's decimals in units of 10**-8 (int64), and whether that is the exact value (uint8)
            time_ns (ns since 1970), flags, coin_code (index into `coins`)
            KEY_code: of order statuses' status, orderType and tif, and fills' dir (index into STATUS_NAMES, ORDER_TYPE_NAMES,
            TIF_NAMES, DIRECTION_NAMES of `fasttail.streams.vocabulary`, starting at 1; 0: another)

        A list: every other key, and the exact text of decimals as KEY_text.
        """
        cdef const FieldSpec* field
        cdef size_t i
        self._compact_rows()
        column = self._number_column(name)
        if column is not None:
            return column
        if name in _ENVELOPE_KEYS:
            return [self._envelope_value(table_row(self.table, i), name) for i in range(self.table.rows_len)]
        field = field_named(self.table.stream, name.encode())
        if field == NULL and name.endswith("_text"):
            field = field_named(self.table.stream, name.removesuffix("_text").encode())
            if field != NULL and not _is_decimal(field):
                field = NULL
        if field == NULL or field.conversion == AS_NESTED:
            raise KeyError(name)
        return [self._value(table_row(self.table, i), field) for i in range(self.table.rows_len)]

    cdef object _number_column(self, str name):
        """Return a column of numbers, in place, or None."""
        cdef RowHead head                # for the offsets of their members
        cdef Amount amount
        cdef const FieldSpec* field
        if name == "time_ns":
            return _column(self, <size_t>&head.time_ns - <size_t>&head, "q", 8)
        if name == "coin_code":
            return _column(self, <size_t>&head.coin - <size_t>&head, "H", 2)
        if name == "flags":
            return _column(self, <size_t>&head.flags - <size_t>&head, "B", 1)
        field = field_named(self.table.stream, name.encode())
        if field != NULL:
            if _is_integer(field):
                return _column(self, field.value, "Q" if field.conversion == AS_UINT else "q", 8)
            return _column(self, field.value, "d", 8) if _is_decimal(field) else None
        key, _, kind = name.rpartition("_")
        field = field_named(self.table.stream, key.encode())
        if field != NULL:
            if kind == "code" and field.conversion == AS_WORD:
                return _column(self, field.value, "B", 1)
            if kind == "units" and field.conversion == AS_AMOUNT:
                return _column(self, field.exact + (<size_t>&amount.units - <size_t>&amount), "q", 8)
            if kind == "exact" and field.conversion == AS_AMOUNT:
                return _column(self, field.exact + (<size_t>&amount.exact - <size_t>&amount), "B", 1)
        return None

    def sums(self) -> dict:
        """Return the sums of the integers (exact) and decimals (float64, in line order) that every row has."""
        cdef ColumnSums sums
        cdef size_t i, k
        memset(&sums, 0, sizeof(ColumnSums))
        self.active_sums += 1
        with nogil:
            for k in range(self.table.segments_len):
                for i in range(self.table.segments[k].first, self.table.segments[k].first + self.table.segments[k].count):
                    add_row(&sums, self.table.stream, table_row(self.table, i))
        self.active_sums -= 1
        return column_sums_to_dict(&sums, self.table.stream)

    cdef int _compact_rows(self) except -1:
        """Move all rows into one segment, for columns. Waits while other threads read them."""
        if self.table.segments_len == 1 and self.table.segments[0].first == 0:
            return 0
        while self.active_sums:
            with nogil:
                usleep(100)
        self.table.compact()
        return 0

    def raw(self, Py_ssize_t index) -> bytes:
        """Return the event's JSON text byte for byte, which is the node's plain line. Raises IndexError."""
        if not 0 <= index < <Py_ssize_t>self.table.rows_len:
            raise IndexError(index)
        self._compact_rows()
        cdef const RowHead* row = table_row(self.table, <size_t>index)
        return (<const char*>self.data.buf + row.offset)[:row.size]

    def to_pylist(self) -> list:
        """Return one dict per event, with all `keys` in order.

        Values are as the node wrote them: decimals and times stay text; objects and arrays are decoded JSON. Order statuses
        have None for what is null or absent. Of fills, what is absent is left out. Without an envelope, its keys are None.
        """
        cdef size_t i
        self._compact_rows()
        return [self._to_dict(table_row(self.table, i)) for i in range(self.table.rows_len)]

    cdef dict _to_dict(self, const RowHead* row):
        cdef const StreamSpec* stream = self.table.stream
        cdef const FieldSpec* field
        cdef const TextSpan* span
        cdef dict values = {}
        cdef int i
        for i in range(stream.fields_len):
            field = &stream.fields[i]
            if field.conversion == AS_NESTED:
                continue
            span = <const TextSpan*>(<const char*>row + field.span)
            if field.kinds & OPTIONAL and not field.null_if_absent and span.offset == 0 and span.size == 0:
                continue
            values[field.key[:field.key_size].decode()] = self._value(row, field)
        for name in _ENVELOPE_KEYS:
            values[name] = self._envelope_value(row, name)
        return values

    cdef object _value(self, const RowHead* row, const FieldSpec* field):
        cdef const char* at = <const char*>row + field.value
        cdef const char* text
        cdef const TextSpan* span = NULL
        if field.span != NOT_STORED:
            span = <const TextSpan*>(<const char*>row + field.span)
            if span.offset == 0:
                return None
        if field.conversion == AS_BOOL:
            return bool(row.flags & field.flag)
        if field.conversion == AS_SIDE:
            return chr(row.side)
        if field.conversion == AS_UINT:
            return (<const uint64_t*>at)[0]
        if _is_integer(field):
            return (<const int64_t*>at)[0]
        text = <const char*>self.data.buf + row.offset + span.offset
        if field.conversion == AS_JSON:
            return _loads(text[:span.size])
        return _decode(text, span.size, row.flags & ESCAPED)

    cdef object _envelope_value(self, const RowHead* row, str name):
        cdef const char* data = <const char*>self.data.buf
        cdef const Envelope* e = row_envelope(self.table, row)
        if e == NULL:
            return None
        if name == "block_number":
            return e.block_number
        if name == "block_time":
            return _decode(data + e.offset + e.block_time.offset, e.block_time.size, True)
        return _decode(data + e.offset + e.local_time.offset, e.local_time.size, True)
