"""The columns of a batch as Python sees them: the `Batch` that `parse()` returns.

A numeric column is a view of one member of all rows, with a stride of one row, so numpy and memoryview read it in place.
"""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport usleep

from fasttail.engine.table cimport RowTable, row_envelope, table_release
from fasttail.streams.orders cimport IS_POSITION_TPSL, IS_TRIGGER, ORDER_TYPE, REDUCE_ONLY, STATUS, TIF, OrderRow
from fasttail.streams.types cimport (
    ESCAPED, F_BUILDER, F_CHILDREN, F_CLOID, F_COIN, F_HASH, F_LIMIT_PX, F_ORDER_TYPE, F_ORIG_SZ, F_STATUS, F_SZ, F_TIF, F_TIME,
    F_TRIGGER_CONDITION, F_TRIGGER_PX, F_USER, Envelope, TextSpan)

# The keys of `to_pylist` and of `--format json`, in order.
COLUMNS = (
    "time", "user", "hash", "builder", "status", "coin", "side", "limitPx", "sz", "oid", "timestamp", "triggerCondition",
    "isTrigger", "triggerPx", "children", "isPositionTpsl", "reduceOnly", "orderType", "origSz", "tif", "cloid",
    "block_number", "block_time", "local_time",
)
_TEXT_FIELDS = {
    "time": F_TIME, "user": F_USER, "hash": F_HASH, "status": F_STATUS, "coin": F_COIN, "limitPx": F_LIMIT_PX, "sz": F_SZ,
    "triggerCondition": F_TRIGGER_CONDITION, "triggerPx": F_TRIGGER_PX, "orderType": F_ORDER_TYPE, "origSz": F_ORIG_SZ,
    "tif": F_TIF, "cloid": F_CLOID,
}
_DECIMAL_TEXTS = {f"{name}_text": name for name in ("limitPx", "sz", "origSz")}
_JSON_FIELDS = {"builder": F_BUILDER, "children": F_CHILDREN}
_FLAGS = {"isTrigger": IS_TRIGGER, "isPositionTpsl": IS_POSITION_TPSL, "reduceOnly": REDUCE_ONLY}


cdef const char* _field_text(const OrderRow* row, const char* data, int field, size_t* size) noexcept nogil:
    """Return the JSON text of one value, without quotes, or NULL for null. Valid as long as the data is."""
    cdef const TextSpan* span
    if field == F_TIME:
        span = &row.time
    elif field == F_USER:
        span = &row.head.user
    elif field == F_HASH:
        span = &row.hash
    elif field == F_BUILDER:
        span = &row.builder
    elif field == F_STATUS:
        span = &row.status_text
    elif field == F_COIN:
        span = &row.head.coin_text
    elif field == F_LIMIT_PX:
        span = &row.limitPx_text
    elif field == F_SZ:
        span = &row.sz_text
    elif field == F_TRIGGER_CONDITION:
        span = &row.triggerCondition
    elif field == F_TRIGGER_PX:
        span = &row.triggerPx_text
    elif field == F_CHILDREN:
        span = &row.children
    elif field == F_ORDER_TYPE:
        span = &row.orderType_text
    elif field == F_ORIG_SZ:
        span = &row.origSz_text
    elif field == F_TIF:
        span = &row.tif_text
    else:
        span = &row.cloid
    size[0] = span.size
    return data + row.head.offset + span.offset if span.offset else NULL


cdef void column_sums_add(ColumnSums* sums, RowTable table) noexcept nogil:
    """Add the rows' numbers to `sums`."""
    cdef size_t i, k
    for k in range(table.segments_len):
        for i in range(table.segments[k].first, table.segments[k].first + table.segments[k].count):
            add_row(sums, &(<OrderRow*>table.rows)[i])


cdef dict column_sums_to_dict(const ColumnSums* sums):
    """Return the sums as Python numbers: exact integers, and decimals as float64."""
    cdef ft_i128 t = sums.timestamp
    return {
        "oid": (int(<uint64_t>(sums.oid >> 64)) << 64) + int(<uint64_t>sums.oid),
        "timestamp": (int(<int64_t>(t >> 64)) << 64) + int(<uint64_t>t),
        "limitPx": sums.limitPx, "sz": sums.sz, "origSz": sums.origSz,
    }


cdef class Column:
    """One number of every row, in place: shape (orders,), stride one row, read-only. Keeps its batch alive."""

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


cdef object _column(Batch batch, void* first, const char* format, Py_ssize_t itemsize):
    cdef Column column = Column.__new__(Column)
    column.batch = batch
    column.first = <char*>first
    column.format = format
    column.itemsize = itemsize
    column.shape[0] = <Py_ssize_t>batch.table.rows_len
    column.strides[0] = sizeof(OrderRow)
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
    """Order statuses as typed columns.

    `len()` is the number of orders. `lines` counts all lines, and `rejected` lists those that are no order status (an envelope
    counts as one line and is rejected as a whole). The batch holds the buffer it was made from.
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
    def coins(self) -> list:
        """The coin of each code of column "coin_code". Code 0: more than 32,767 coins, or a name over 255 bytes."""
        return self.pool.coin_names()

    def column(self, str name):
        """Return a column by name. Raises KeyError for an unknown name.

        A memoryview, in place: oid (uint64), timestamp (ms), time_ns (ns since 1970), limitPx, sz, origSz (float64), coin_code
        (index into `coins`), flags, and status_code, orderType_code, tif_code (index into STATUS_NAMES, ORDER_TYPE_NAMES,
        TIF_NAMES of `fasttail.streams.vocabulary`, starting at 1; 0: another).

        A list: every other key of `to_pylist`, and the exact text of decimals as `limitPx_text`, `sz_text`, `origSz_text`.
        """
        cdef OrderRow* r = <OrderRow*>self.table.rows
        self._compact_rows()
        if name == "oid":
            return _column(self, &r.oid, "Q", 8)
        if name == "timestamp":
            return _column(self, &r.timestamp, "q", 8)
        if name == "time_ns":
            return _column(self, &r.head.time_ns, "q", 8)
        if name == "limitPx":
            return _column(self, &r.limitPx, "d", 8)
        if name == "sz":
            return _column(self, &r.sz, "d", 8)
        if name == "origSz":
            return _column(self, &r.origSz, "d", 8)
        if name == "coin_code":
            return _column(self, &r.head.coin, "H", 2)
        if name == "status_code":
            return _column(self, &r.head.codes[<int>STATUS], "B", 1)
        if name == "orderType_code":
            return _column(self, &r.head.codes[<int>ORDER_TYPE], "B", 1)
        if name == "tif_code":
            return _column(self, &r.head.codes[<int>TIF], "B", 1)
        if name == "flags":
            return _column(self, &r.head.flags, "B", 1)
        if name in _DECIMAL_TEXTS:
            name = _DECIMAL_TEXTS[name]
        elif name not in COLUMNS:
            raise KeyError(name)
        cdef size_t i
        return [self._value(&(<OrderRow*>self.table.rows)[i], name) for i in range(self.table.rows_len)]

    def sums(self) -> dict:
        """Return the sums of oid and timestamp (exact) and of limitPx, sz, origSz (float64, in line order)."""
        cdef ColumnSums sums
        memset(&sums, 0, sizeof(ColumnSums))
        self.active_sums += 1
        with nogil:
            column_sums_add(&sums, self.table)
        self.active_sums -= 1
        return column_sums_to_dict(&sums)

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
        cdef const OrderRow* row = &(<OrderRow*>self.table.rows)[index]
        return (<const char*>self.data.buf + row.head.offset)[:row.head.size]

    def to_pylist(self) -> list:
        """Return one dict per order. It has all keys of COLUMNS, with None where the node has no value.

        Values are as the node wrote them: decimals and times stay text; `builder` and `children` are decoded JSON.
        """
        cdef size_t i
        self._compact_rows()
        return [{name: self._value(&(<OrderRow*>self.table.rows)[i], name) for name in COLUMNS} for i in range(self.table.rows_len)]

    cdef object _value(self, const OrderRow* row, str name):
        cdef const char* data = <const char*>self.data.buf
        cdef const char* text
        cdef size_t size = 0
        cdef const Envelope* e
        if name in _TEXT_FIELDS:
            text = _field_text(row, data, _TEXT_FIELDS[name], &size)
            return None if text == NULL else _decode(text, size, row.head.flags & ESCAPED)
        if name in _JSON_FIELDS:
            text = _field_text(row, data, _JSON_FIELDS[name], &size)
            return None if text == NULL else _loads(text[:size])
        if name in _FLAGS:
            return bool(row.head.flags & <uint8_t>_FLAGS[name])
        if name == "oid":
            return row.oid
        if name == "timestamp":
            return row.timestamp
        if name == "side":
            return chr(row.head.side)
        e = row_envelope(self.table, &row.head)
        if e == NULL:
            return None
        if name == "block_number":
            return e.block_number
        if name == "block_time":
            return _decode(data + e.offset + e.block_time.offset, e.block_time.size, True)
        return _decode(data + e.offset + e.local_time.offset, e.local_time.size, True)
