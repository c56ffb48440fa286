"""The topics of one stream: those of its rows, and those of the rows that its stage makes.

    rows ─┬─► Router ────────────────────────► messages
          └─► stage ─► its rows ─► Router ───► messages
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fasttail.engine.buffer cimport Outbox
from fasttail.engine.pool cimport WorkerPool, check_batch
from fasttail.engine.replayed_blocks cimport ReplayedBlocks
from fasttail.engine.router cimport MAX_TOPICS, Router
from fasttail.engine.table cimport RowTable
from fasttail.engine.topics cimport BatchLocation, Topic
from fasttail.engine.trades cimport TradeStage
from fasttail.sources.reader cimport Reader

from fasttail.engine.channels import CHANNELS

cdef enum:
    LOOKBACK_BYTES = 1 << 18     # before a position, in which its block is assumed to begin


cdef class StreamTopics:
    """The topics of the rows in `table`. Only the thread that fills the table may use it.

    max_topics: limit of topics, beyond which they are refused, except the old channels' two.
    """

    def __cinit__(self, int workers, RowTable table not None, *, uint32_t max_topics=MAX_TOPICS):
        stream = table.stream.name.decode()
        self.table = table
        self.router = Router(workers, table, max_topics=max_topics)
        self.has_stage = any(spec.stage for spec in CHANNELS.values() if spec.stream == stream)
        if self.has_stage:
            self.stage = TradeStage(table)
            self.stage_router = Router(workers, self.stage.table, max_topics=max_topics)

    cdef int register_topic(self, void* topic) noexcept nogil:
        """Start producing the topic's messages. Return 1, or mark the topic as refused and return 0."""
        if (<Topic>topic).of_stage:
            return self.stage_router.register_topic(topic)
        return self.router.register_topic(topic)

    cdef void unregister_topic(self, void* topic) noexcept nogil:
        """Stop producing the topic's messages. Does nothing for a topic that was refused."""
        if (<Topic>topic).of_stage:
            self.stage_router.unregister_topic(topic)
        else:
            self.router.unregister_topic(topic)

    cdef size_t route_batch(self, const BatchLocation* location, const uint32_t* selection, size_t selected, int64_t now_ns,
                            Outbox* outboxes) noexcept nogil:
        """Write the messages of the table's rows. The arguments and the result are those of `Router.route_batch`."""
        cdef size_t orders = self.router.route_batch(self.table, location, selection, selected, now_ns, outboxes)
        if self.has_stage:
            self.stage.run(self.table, location.data, location.late)
            self.stage_router.route_batch(self.stage.table, location, NULL, 0, now_ns, outboxes)
        return orders

    cdef void set_quotas(self, bint enforced) noexcept nogil:
        """Set whether batches whose messages exceed the limit leave something out."""
        self.router.enforce_quotas = enforced
        if self.has_stage:
            self.stage_router.enforce_quotas = enforced

    cdef void reset_stage(self) noexcept nogil:
        """Let the stage forget what it keeps, before lines that do not follow those read so far."""
        if self.has_stage:
            self.stage.reset()

    cdef int prime(self, WorkerPool pool, Reader reader, ReplayedBlocks blocks) except -1:
        """Give the lines before the reader's position to `blocks` and to the stage, because their block may not be complete.

        Raises OSError, MemoryError.
        """
        cdef uint64_t offset = reader.offset, regressions = blocks.regressions, dropped = blocks.dropped, trades, unpaired
        cdef bytes lines
        cdef const char* data
        cdef size_t begin = 0, size
        if offset == 0:
            return 0
        size = <size_t>min(offset, <uint64_t>LOOKBACK_BYTES)
        lines = reader.pread_at(offset - size, size)
        if size < offset:
            begin = <size_t>(lines.find(b"\n") + 1)
            if begin == 0:
                return 0                     # a single line, which is complete
        data = lines
        size = <size_t>len(lines)
        self.table.clear()
        check_batch(pool.parse_batch(data, data + begin, data + size, data + size))
        blocks.drop_rows(pool)
        blocks.regressions, blocks.dropped = regressions, dropped
        if self.has_stage:
            trades, unpaired = self.stage.trades, self.stage.unpaired
            self.stage.run(self.table, data, False)
            self.stage.trades, self.stage.unpaired = trades, unpaired
        return 0
