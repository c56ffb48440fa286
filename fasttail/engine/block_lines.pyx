"""Cuts a stream's lines into runs that name their blocks, without those that the node writes again.

It parses with one worker. A line whose block was read before is dropped as in the pipeline, and so is one of a lower block than
a line before it; a line that is no valid event stays
with the valid one before it, or with the first one after it if it begins the data.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, uint64_t
from libc.string cimport memcpy

from fasttail.engine.pool cimport WorkerPool, check_batch, chunk_row, skip_line_rows, skip_plain_rows
from fasttail.engine.replayed_blocks cimport ReplayedBlocks
from fasttail.engine.table cimport table_new
from fasttail.sources.reader cimport RETAINED_WINDOWS, Reader
from fasttail.streams.registry cimport find_stream
from fasttail.streams.types cimport Chunk, Envelope, RowHead

from typing import NamedTuple

from fasttail.sources.cursor import BlockPosition

cdef enum:
    MAX_REJECTED_BYTES = 1 << 20


class LineRun(NamedTuple):
    """Whole lines that follow each other, newlines included.

    after, last: the positions before the first event and after the last one
    hash: the sum of `hashes`, modulo 2**64
    hashes: of each event with its position, 8 bytes in the machine's order, without what its line says of block and time
    blocks: the position before the first event of each block, and how many events of the run come before it
    """

    data: bytes
    after: BlockPosition
    last: BlockPosition
    events: int
    hash: int
    hashes: bytes
    blocks: list


cdef inline uint64_t _mix(uint64_t value) noexcept nogil:
    value ^= value >> 32
    value *= <uint64_t>0xD6E8FEB86659FD93
    return value ^ (value >> 32)


cdef uint64_t _hash_event(uint64_t seed, const char* event, size_t size) noexcept nogil:
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, event, 8)
        seed = (seed ^ word) * <uint64_t>0x9E3779B97F4A7C15
        seed ^= seed >> 29
        event += 8
        size -= 8
    word = 0
    memcpy(&word, event, size)
    return _mix(seed ^ word)


cdef class BlockLines:
    """Cuts the lines of a stream in the order of its files.

    capacity: bytes of the largest block of lines
    max_bytes: of a run, but for a line that is longer
    """

    def __cinit__(self, str stream, *, size_t capacity, size_t max_bytes):
        self.table = table_new(find_stream(stream), capacity, 1)
        self.pool = WorkerPool(1, self.table, max_rejects=1)
        self.blocks = ReplayedBlocks()
        self.max_bytes = max_bytes
        self.rejected = b""

    def begin_after(self, line, delivered) -> None:
        """Continue at a line that begins at one BlockPosition, and drop what is at or before another one."""
        self.blocks.reset()
        self.blocks.block, self.blocks.index = line
        self.blocks.seek(delivered[0], delivered[1])
        self.blocks.block_known = True
        self.blocks.highest_time_ns = INT64_MAX   # lower blocks that follow were written again, and are no other history
        self.newest = delivered[0]

    def take_lines(self, Reader reader not None) -> list:
        """Return the runs of the lines that the reader holds after FILL_LINES, and consume these. Raises MemoryError."""
        cdef list runs = self._take(reader.base + reader.begin, reader.base + reader.lines_end, reader.base + reader.capacity)
        if reader.lines_end - reader.begin > RETAINED_WINDOWS * reader.window:
            self.table.trim(RETAINED_WINDOWS * reader.window)
        reader.consume()
        return runs

    def take_data(self, bytes lines not None) -> list:
        """Return the runs of lines, of which the last one may lack its newline. Raises MemoryError, ValueError."""
        cdef const char* p
        if not lines.endswith(b"\n"):
            lines += b"\n"
        if not self.table.fits(self.table.stream, <size_t>len(lines), 1):
            raise ValueError(f"{len(lines)} bytes of lines are more than the capacity")
        p = lines
        return self._take(p, p + len(lines), p + len(lines))

    cdef list _take(self, const char* begin, const char* limit, const char* readable):
        cdef const Chunk* c = &self.pool.chunks[0]
        cdef const Envelope* line
        cdef size_t row_bytes = self.table.row_bytes, size = <size_t>(limit - begin), e, row = 0, first, line_end
        cdef uint64_t index, value
        cdef int code
        cdef bint open = False, left_out
        cdef Run run
        cdef list runs = [], blocks = []
        cdef bytearray hashes = bytearray()
        with nogil:
            self.table.clear()
            code = self.pool.parse_batch(begin, begin, limit, readable)
        check_batch(code)
        self.blocks.drop_rows(self.pool)
        self.pool.drop_rejects()
        if c.envelopes_len == 0:
            self.rejected = (self.rejected + PyBytes_FromStringAndSize(begin, <Py_ssize_t>size))[-MAX_REJECTED_BYTES:]
            return runs
        for e in range(c.envelopes_len):
            line = &c.envelopes[e]
            line_end = c.envelopes[e + 1].offset if e + 1 < c.envelopes_len else size
            first = skip_plain_rows(c, row_bytes, row)
            row = skip_line_rows(c, row_bytes, first, e)
            # Blocks that come late are not in the order of the chain.
            left_out = line.dropped or line.block_number < self.newest
            if open and (left_out or line_end - run.begin > self.max_bytes):
                runs.append(self._run(begin, line.offset, &run, blocks, hashes))
                open = False
            if left_out:
                continue
            self.newest = line.block_number
            if not open:
                open = True
                run = Run(begin=line.offset if e > 0 else 0, end=0, after_block=line.block_number, after_events=line.events_before,
                          last_block=0, last_events=0, events=0, hash=0)
                blocks, hashes = [], bytearray()
            index = line.events_before
            if run.last_block != line.block_number:
                blocks.append((BlockPosition(line.block_number, index), run.events))
            while first < row:
                index += 1
                value = _hash_event(_mix(line.block_number) ^ index, begin + chunk_row(c, row_bytes, first).offset,
                                    chunk_row(c, row_bytes, first).size)
                hashes += (<const char*>&value)[:8]
                run.hash += value
                run.events += 1
                first += 1
            run.last_block = line.block_number
            run.last_events = index
        if open:
            runs.append(self._run(begin, size, &run, blocks, hashes))
        return runs

    cdef object _run(self, const char* begin, size_t end, Run* run, list blocks, bytearray hashes):
        data = PyBytes_FromStringAndSize(begin + run.begin, <Py_ssize_t>(end - run.begin))
        if self.rejected:
            data, self.rejected = self.rejected + data, b""
        return LineRun(data, BlockPosition(run.after_block, run.after_events), BlockPosition(run.last_block, run.last_events),
                       run.events, run.hash, bytes(hashes), blocks)
