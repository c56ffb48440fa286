"""`parse()`, which turns lines in memory into a Batch."""
from cpython.buffer cimport PyBUF_SIMPLE, PyObject_GetBuffer
from libc.string cimport memchr

from fasttail.system.checks cimport ft_assert
from fasttail.engine.columns cimport Batch
from fasttail.engine.pool cimport WorkerPool, check_batch
from fasttail.engine.rejects cimport rejected_lines
from fasttail.streams.registry cimport detect_stream, find_stream
from fasttail.streams.types cimport StreamSpec
from fasttail.engine.table cimport table_acquire

cdef enum:
    FIRST_PASS_BYTES = 1 << 18   # bytes
    MAX_WORKERS = 256


def parse(data, int workers=1, str stream=None) -> Batch:
    """Parse lines of one stream, in any layout.

    data: an object with a contiguous buffer of bytes, which is held and not copied
    workers: number of threads, 1 to 256
    stream: "orders" or "fills"; None: that of the first event

    Callable from any thread; releases the GIL while parsing. Lines that are no event of the stream do not raise;
    `Batch.rejected` lists them in the order of the data. Raises ValueError for another number of workers or an
    unknown stream, and MemoryError.
    """
    cdef Batch batch = Batch.__new__(Batch)
    cdef const char* start
    cdef const char* end
    cdef const char* p
    cdef const char* q
    cdef size_t shares, size
    cdef int code
    cdef WorkerPool pool
    cdef const StreamSpec* spec
    PyObject_GetBuffer(data, &batch.data, PyBUF_SIMPLE)
    batch.has_data = True
    batch.rejected = []
    start = <const char*>batch.data.buf
    size = <size_t>batch.data.len
    end = start + size
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if workers > MAX_WORKERS:
        raise ValueError(f"workers must be at most {MAX_WORKERS}, not {workers}")     # without threads, libgomp exits
    shares = 2 * <size_t>workers
    spec = find_stream(stream) if stream is not None else detect_stream(start, size)
    batch.table = table_acquire(spec, size, shares)
    pool = batch.pool = WorkerPool(workers, batch.table, max_rejects=<size_t>-1)
    p = start
    while p < end:
        with nogil:
            q = end
            if workers > 1 and p == start and size > 3 * FIRST_PASS_BYTES:
                # Parse a small part first, so that most coins are known: several workers cannot add coins while they run. With
                # by_block lines, the part may be up to a sixteenth of the data.
                ft_assert(2 * FIRST_PASS_BYTES + size // 16 <= size)
                q = <const char*>memchr(p + FIRST_PASS_BYTES, c'\n', FIRST_PASS_BYTES + size // 16)
                q = q + 1 if q != NULL else end
            code = pool.parse_batch(start, p, q, end)
        check_batch(code)
        batch.rejected += rejected_lines(pool)
        batch.lines += pool.lines()
        p = q
    pool.drop_rejects()
    if batch.table.segments_len == 0:
        batch.table.compact()
    if workers > 1:
        batch.rejected.sort()                            # a paused worker continued after the others
    return batch
