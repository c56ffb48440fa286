"""Reading a row's text."""
from fasttail.parser.types cimport (
    F_BUILDER, F_CHILDREN, F_COIN, F_HASH, F_LIMIT_PX, F_ORDER_TYPE, F_ORIG_SZ, F_STATUS, F_SZ, F_TIF, F_TIME,
    F_TRIGGER_CONDITION, F_TRIGGER_PX, F_USER, Ref, Row)


cdef const char* row_text(const Row* row, const char* data, int field, size_t* size) noexcept nogil:
    """The JSON text of one value of a row, quotes left out, or NULL for null. Valid as long as the data is."""
    cdef const Ref* ref
    if field == F_TIME:
        ref = &row.time
    elif field == F_USER:
        ref = &row.user
    elif field == F_HASH:
        ref = &row.hash
    elif field == F_BUILDER:
        ref = &row.builder
    elif field == F_STATUS:
        ref = &row.status_text
    elif field == F_COIN:
        ref = &row.coin_text
    elif field == F_LIMIT_PX:
        ref = &row.limitPx_text
    elif field == F_SZ:
        ref = &row.sz_text
    elif field == F_TRIGGER_CONDITION:
        ref = &row.triggerCondition
    elif field == F_TRIGGER_PX:
        ref = &row.triggerPx_text
    elif field == F_CHILDREN:
        ref = &row.children
    elif field == F_ORDER_TYPE:
        ref = &row.orderType_text
    elif field == F_ORIG_SZ:
        ref = &row.origSz_text
    elif field == F_TIF:
        ref = &row.tif_text
    else:
        ref = &row.cloid
    size[0] = ref.size
    return data + row.at + ref.off if ref.off else NULL
