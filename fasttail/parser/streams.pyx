"""The node's streams, as the pool sees them. Another stream is one more entry here, with a row type and a parser of its own."""
from fasttail.parser cimport isa
from fasttail.parser.general cimport number_coins
from fasttail.parser.types cimport Chunk, Row, Stream


cdef int _order_statuses(Chunk* c) noexcept nogil:
    return isa.chosen(c)


ORDER_STATUSES.parse = _order_statuses
ORDER_STATUSES.finish = number_coins
ORDER_STATUSES.row_size = sizeof(Row)
ORDER_STATUSES.min_event = 256           # the shortest valid one has 265 bytes
ORDER_STATUSES.min_envelope = 96         # 100
ORDER_STATUSES.event_mark = b'},{"time":"'
ORDER_STATUSES.mark_size = 11
ORDER_STATUSES.mark_skip = 2
