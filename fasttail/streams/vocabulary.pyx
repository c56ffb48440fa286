"""Owns the words of the schema and their codes: statuses, order types, tifs, and directions of fills.

Lines may have words that are not listed here; these get code 0.
"""
from libc.stdint cimport uint32_t

from fasttail.streams.intern cimport InternTable, intern_add, intern_init

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
DIRECTION_NAMES = (
    "Open Long", "Close Long", "Open Short", "Close Short", "Long > Short", "Short > Long", "Buy", "Sell",
    "Auto-Deleveraging", "Settlement", "Spot Dust Conversion",
)


cdef int _intern_all(InternTable* table, tuple names) except -1:
    intern_init(table, <uint32_t>len(names))
    for name in names:
        raw = name.encode()
        intern_add(table, raw, <size_t>len(raw))
    return 0


_intern_all(&STATUSES, STATUS_NAMES)
_intern_all(&ORDER_TYPES, ORDER_TYPE_NAMES)
_intern_all(&TIFS, TIF_NAMES)
_intern_all(&DIRECTIONS, DIRECTION_NAMES)
