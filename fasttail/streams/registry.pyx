"""Lists the node's streams as the pool sees them.

Another stream needs an entry here, a row type and a parser.
"""
from fasttail.streams cimport isa
from fasttail.streams.general cimport assign_coin_codes
from fasttail.streams.orders cimport OrderRow
from fasttail.streams.types cimport Chunk, StreamSpec
from fasttail.streams.vocabulary cimport STATUSES


cdef void _order_statuses(Chunk* c) noexcept nogil:
    isa.active_parse_chunk(c)


ORDER_STATUSES.parse = _order_statuses
ORDER_STATUSES.finish = assign_coin_codes
ORDER_STATUSES.row_bytes = sizeof(OrderRow)
ORDER_STATUSES.price = <size_t>&(<OrderRow*>NULL).limitPx
ORDER_STATUSES.quantity = <size_t>&(<OrderRow*>NULL).origSz
ORDER_STATUSES.word = <size_t>&(<OrderRow*>NULL).status_text
ORDER_STATUSES.words = &STATUSES
ORDER_STATUSES.min_event_bytes = 256     # the shortest valid one has 265 bytes
ORDER_STATUSES.min_envelope_bytes = 96   # the shortest valid one has 100 bytes
ORDER_STATUSES.event_separator = b'},{"time":"'
ORDER_STATUSES.separator_size = 11
ORDER_STATUSES.event_start_skip = 2
