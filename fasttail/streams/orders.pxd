"""The stream of order statuses and its rows."""
from libc.stdint cimport int64_t, uint64_t

from fasttail.streams.types cimport RowHead, StreamSpec, TextSpan


cdef enum:                   # flags of a row
    IS_TRIGGER = 1
    IS_POSITION_TPSL = 2
    REDUCE_ONLY = 4


cdef enum:                   # indices of RowHead.codes
    STATUS = 0               # code in STATUSES
    ORDER_TYPE = 1           # code in ORDER_TYPES
    TIF = 2                  # code in TIFS; NO_CODE: null or unknown (see `tif_text`)


# One order status: 192 bytes, three cache lines. A batch is an array of rows; columns read it with a stride.
cdef struct OrderRow:
    RowHead head
    uint64_t oid
    int64_t timestamp    # ms since 1970
    double limitPx
    double sz
    double origSz
    TextSpan time
    TextSpan hash
    TextSpan builder
    TextSpan status_text
    TextSpan limitPx_text
    TextSpan sz_text
    TextSpan triggerCondition
    TextSpan triggerPx_text
    TextSpan children
    TextSpan orderType_text
    TextSpan origSz_text
    TextSpan tif_text
    TextSpan cloid


cdef StreamSpec ORDERS
