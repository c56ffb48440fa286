"""The words of the schema and their numbers: keys, statuses, order types, tifs. The sets but for the keys are open."""
from libc.stdint cimport uint32_t

from fasttail.parser.json cimport keys_new
from fasttail.parser.words cimport Words, words_add, words_new

FIELD_NAMES = (
    "local_time", "block_time", "block_number", "events",
    "time", "user", "hash", "builder", "status", "order",
    "coin", "side", "limitPx", "sz", "oid", "timestamp", "triggerCondition", "isTrigger", "triggerPx", "children",
    "isPositionTpsl", "reduceOnly", "orderType", "origSz", "tif", "cloid",
)
STATUS_NAMES = (
    "open", "filled", "canceled", "triggered", "rejected", "marginCanceled", "vaultWithdrawalCanceled",
    "openInterestCapCanceled", "selfTradeCanceled", "reduceOnlyCanceled", "siblingFilledCanceled", "delistedCanceled",
    "liquidatedCanceled", "scheduledCancel", "tickRejected", "minTradeNtlRejected", "perpMarginRejected",
    "reduceOnlyRejected", "badAloPxRejected", "iocCancelRejected", "badTriggerPxRejected",
    "marketOrderNoLiquidityRejected", "positionIncreaseAtOpenInterestCapRejected",
    "positionFlipAtOpenInterestCapRejected", "tooAggressiveAtOpenInterestCapRejected", "openInterestIncreaseRejected",
    "insufficientSpotBalanceRejected", "oracleRejected", "perpMaxPositionRejected", "outcomeSettledCanceled",
    "internalCancel", "tooManyOpenOrdersRejected", "minTradeSpotNtlRejected", "outcomeSettledRejected", "cancelled",
)
ORDER_TYPE_NAMES = (
    "Limit", "Market", "Stop Market", "Stop Limit", "Take Profit Market", "Take Profit Limit", "Vault Close", "Twap Slice",
    "Spot Dust Conversion",
)
TIF_NAMES = ("Gtc", "Ioc", "Alo", "FrontendMarket", "LiquidationMarket")


cdef int _fill(Words* table, tuple names) except -1:
    words_new(table, <uint32_t>len(names))
    for name in names:
        raw = name.encode()
        words_add(table, raw, <size_t>len(raw))
    return 0


keys_new(&FIELDS, FIELD_NAMES)
_fill(&STATUSES, STATUS_NAMES)
_fill(&ORDER_TYPES, ORDER_TYPE_NAMES)
_fill(&TIFS, TIF_NAMES)
