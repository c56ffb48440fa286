"""The topics of one stream: those of its rows, and those of the rows that its stage makes.

    rows ─┬─► Router ────────────────────────► messages
          └─► stage ─► its rows ─► Router ───► messages
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fasttail.system.atomics cimport ft_load_relaxed
from fasttail.engine.buffer cimport Outbox
from fasttail.engine.pool cimport BATCH_DONE, WorkerPool, check_batch
from fasttail.engine.replayed_blocks cimport ReplayedBlocks
from fasttail.engine.router cimport MAX_TOPICS, Router
from fasttail.engine.table cimport RowTable
from fasttail.engine.topics cimport BatchLocation, Topic
from fasttail.engine.trades cimport TradeStage
from fasttail.sources.reader cimport Reader

from fasttail.engine.channels import CHANNELS
from fasttail.engine.lookback import lines_before


cdef class StreamTopics:
    """The topics of the rows in `table`. Only the thread that fills the table may use it.

    max_topics: limit of topics, beyond which they are refused, except the old channels' two.
    """

    def __cinit__(self, int workers, RowTable table not None, *, uint32_t max_topics=MAX_TOPICS):
        stream = table.stream.name.decode()
        self.table = table
        self.router = Router(workers, table, max_topics=max_topics)
        if any(spec.stage for spec in CHANNELS.values() if spec.stream == stream):
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
        if self.stage is not None:
            self.stage.run(self.table, location.data, location.late)
            self.stage_router.route_batch(self.stage.table, location, NULL, 0, now_ns, outboxes)
        return orders

    cdef void set_quotas(self, bint enforced) noexcept nogil:
        """Set whether batches whose messages exceed the limit leave something out."""
        self.router.enforce_quotas = enforced
        if self.stage is not None:
            self.stage_router.enforce_quotas = enforced

    cdef void reset_stage(self) noexcept nogil:
        """Let the stage forget what it keeps, before lines that do not follow those read so far."""
        if self.stage is not None:
            self.stage.reset()

    cdef void trim(self, size_t keep_bytes) noexcept nogil:
        """Return pages that only an oversize line needed. Rows for `keep_bytes` of data stay resident."""
        self.table.trim(keep_bytes)
        if self.stage is not None:
            self.stage.table.trim_rows(keep_bytes)

    cdef uint64_t quota_batches(self) noexcept nogil:
        """Return the number of batches whose messages exceeded the limit. Callable from any thread."""
        return ft_load_relaxed(&self.router.quota_batches) + (
            ft_load_relaxed(&self.stage_router.quota_batches) if self.stage is not None else 0)

    cdef uint64_t oversize(self) noexcept nogil:
        """Return the number of rows that fitted into no message of the old channels. Callable from any thread."""
        return ft_load_relaxed(&self.router.oversize)

    cdef int prime(self, WorkerPool pool, Reader reader, path, ReplayedBlocks blocks, bint keep_replayed=False) except -1:
        """Let `blocks` and the stage know only some lines before the reader's position in the file `path` (`lookback.py`).

        keep_replayed: the stage gets blocks that were written again, too; the caller sets how far reading has come
        Raises OSError, MemoryError.
        """
        cdef uint64_t regressions = blocks.regressions, dropped = blocks.dropped, trades = 0, unpaired = 0
        cdef bytes lines
        blocks.reset()
        self.reset_stage()
        if self.stage is not None:
            trades, unpaired = self.stage.trades, self.stage.unpaired
        deliver, blocks.deliver = blocks.deliver, blocks.deliver or keep_replayed
        try:
            for lines in lines_before(reader, path, self.table.stream.name.decode()):
                self._prime_lines(pool, lines, blocks)
        finally:
            blocks.deliver = deliver
        blocks.regressions, blocks.dropped = regressions, dropped
        if self.stage is not None:
            self.stage.trades, self.stage.unpaired = trades, unpaired
        return 0

    cdef int _prime_lines(self, WorkerPool pool, bytes lines, ReplayedBlocks blocks) except -1:
        cdef const char* data = lines
        cdef size_t size = <size_t>len(lines)
        cdef int code
        with nogil:
            self.table.clear()
            code = pool.parse_batch(data, data, data + size, data + size)
            if code == BATCH_DONE:
                blocks.drop_rows(pool)
                if self.stage is not None:
                    self.stage.run(self.table, data, False)
        check_batch(code)
        return 0
