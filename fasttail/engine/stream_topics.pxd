"""The topics of one stream: those of its rows, and those of the rows that its stage makes."""
cimport cython

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fasttail.engine.buffer cimport Outbox
from fasttail.engine.pool cimport WorkerPool
from fasttail.engine.replayed_blocks cimport ReplayedBlocks
from fasttail.engine.router cimport Router
from fasttail.engine.table cimport RowTable
from fasttail.engine.topics cimport BatchLocation
from fasttail.engine.trades cimport TradeStage
from fasttail.sources.reader cimport Reader


@cython.final
cdef class StreamTopics:
    cdef RowTable table
    cdef Router router
    cdef TradeStage stage            # None: none
    cdef Router stage_router         # None: none
    cdef int register_topic(self, void* topic) noexcept nogil
    cdef void unregister_topic(self, void* topic) noexcept nogil
    cdef size_t route_batch(self, const BatchLocation* location, const uint32_t* selection, size_t selected, int64_t now_ns,
                            Outbox* outboxes) noexcept nogil
    cdef void set_quotas(self, bint enforced) noexcept nogil
    cdef void reset_stage(self) noexcept nogil
    cdef void trim(self, size_t keep_bytes) noexcept nogil
    cdef uint64_t quota_batches(self) noexcept nogil
    cdef uint64_t oversize(self) noexcept nogil
    cdef int prime(self, WorkerPool pool, Reader reader, path, ReplayedBlocks blocks, bint keep_replayed=*) except -1
    cdef int _prime_lines(self, WorkerPool pool, bytes lines, ReplayedBlocks blocks) except -1
