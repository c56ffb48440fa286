"""The stream of order statuses: its table of fields."""
from fasttail.streams cimport isa
from fasttail.streams.spec cimport (
    ARRAY, BOOL, INTEGER, NULLABLE, OBJECT, OPTIONAL, TEXT, add_field, spec_finish)
from fasttail.streams.types cimport (
    AS_BOOL, AS_COIN, AS_DECIMAL, AS_INT, AS_JSON, AS_NESTED, AS_SIDE, AS_TEXT, AS_TIME, AS_UINT, AS_WORD, FIRST_FIELD,
    NOT_STORED, Chunk, FieldSpec)
from fasttail.streams.vocabulary cimport ORDER_TYPES, STATUSES, TIFS


cdef void _parse(Chunk* c) noexcept nogil:
    isa.active_parse_chunk(c)


cdef OrderRow LAYOUT             # for the offsets of its members


cdef inline size_t _at(const void* member) noexcept:
    """Return the offset of a member of LAYOUT."""
    return <size_t>member - <size_t>&LAYOUT


cdef int _describe() except -1:
    cdef StreamSpec* s = &ORDERS
    cdef FieldSpec* tif
    cdef int event_fields
    cdef int NULL_OR_ABSENT = NULLABLE | OPTIONAL
    s.name = "orders"
    add_field(s, b"order", AS_NESTED, OBJECT)
    add_field(s, b"time", AS_TIME, TEXT, _at(&LAYOUT.time), _at(&LAYOUT.head.time_ns))
    add_field(s, b"user", AS_TEXT, TEXT, _at(&LAYOUT.head.user))
    # These two keys are absent in lines of 2024.
    add_field(s, b"hash", AS_TEXT, TEXT | NULL_OR_ABSENT, _at(&LAYOUT.hash)).null_if_absent = True
    add_field(s, b"builder", AS_JSON, OBJECT | NULL_OR_ABSENT, _at(&LAYOUT.builder)).null_if_absent = True
    add_field(s, b"status", AS_WORD, TEXT, _at(&LAYOUT.status_text), _at(&LAYOUT.head.codes[<int>STATUS])).words = &STATUSES
    event_fields = s.fields_len
    add_field(s, b"coin", AS_COIN, TEXT, _at(&LAYOUT.head.coin_text), _at(&LAYOUT.head.coin))
    add_field(s, b"side", AS_SIDE, TEXT, NOT_STORED, _at(&LAYOUT.head.side))
    add_field(s, b"limitPx", AS_DECIMAL, TEXT, _at(&LAYOUT.limitPx_text), _at(&LAYOUT.limitPx))
    add_field(s, b"sz", AS_DECIMAL, TEXT, _at(&LAYOUT.sz_text), _at(&LAYOUT.sz))
    add_field(s, b"oid", AS_UINT, INTEGER, NOT_STORED, _at(&LAYOUT.oid))
    add_field(s, b"timestamp", AS_INT, INTEGER, NOT_STORED, _at(&LAYOUT.timestamp))
    add_field(s, b"triggerCondition", AS_TEXT, TEXT, _at(&LAYOUT.triggerCondition))
    add_field(s, b"isTrigger", AS_BOOL, BOOL).flag = IS_TRIGGER
    add_field(s, b"triggerPx", AS_DECIMAL, TEXT, _at(&LAYOUT.triggerPx_text))
    add_field(s, b"children", AS_JSON, ARRAY, _at(&LAYOUT.children))
    add_field(s, b"isPositionTpsl", AS_BOOL, BOOL).flag = IS_POSITION_TPSL
    add_field(s, b"reduceOnly", AS_BOOL, BOOL).flag = REDUCE_ONLY
    add_field(s, b"orderType", AS_WORD, TEXT, _at(&LAYOUT.orderType_text),
              _at(&LAYOUT.head.codes[<int>ORDER_TYPE])).words = &ORDER_TYPES
    add_field(s, b"origSz", AS_DECIMAL, TEXT, _at(&LAYOUT.origSz_text), _at(&LAYOUT.origSz))
    tif = add_field(s, b"tif", AS_WORD, TEXT | NULL_OR_ABSENT, _at(&LAYOUT.tif_text), _at(&LAYOUT.head.codes[<int>TIF]))
    tif.words = &TIFS
    tif.null_if_absent = True
    add_field(s, b"cloid", AS_TEXT, TEXT | NULL_OR_ABSENT, _at(&LAYOUT.cloid)).null_if_absent = True
    s.marker = FIRST_FIELD
    spec_finish(s, event_fields)
    s.parse = _parse
    s.row_bytes = sizeof(OrderRow)
    s.price = _at(&LAYOUT.limitPx)
    s.quantity = _at(&LAYOUT.origSz)
    s.word = _at(&LAYOUT.status_text)
    s.words = &STATUSES
    s.event_separator = b'},{"time":"'
    s.separator_size = 11
    s.event_start_skip = 2
    return 0


_describe()
