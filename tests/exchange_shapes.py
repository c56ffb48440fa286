"""The exact shape of every stream's events, as tables, and plain readers made of them.

A shape is called with a parsed value and returns None, or what is wrong with it and where.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import orjson

Shape = Callable[[Any], str | None]
"""Return None for a right value, else the reason, beginning with the path to it."""


def form(name: str, pattern: str) -> Shape:
    """Return the shape of a text that matches a pattern."""
    match = re.compile(pattern, re.ASCII).fullmatch

    def shape(value: Any) -> str | None:
        return None if isinstance(value, str) and match(value) else f": {value!r} is no {name}"

    return shape


def kind(expected: type) -> Shape:
    def shape(value: Any) -> str | None:
        return None if type(value) is expected else f": {value!r} is no {expected.__name__}"

    return shape


def nullable(inner: Shape) -> Shape:
    def shape(value: Any) -> str | None:
        return None if value is None else inner(value)

    return shape


def either(*choices: Shape) -> Shape:
    def shape(value: Any) -> str | None:
        reasons = [choice(value) for choice in choices]
        return None if None in reasons else reasons[-1]

    return shape


def array(inner: Shape, length: int | None = None) -> Shape:
    def shape(value: Any) -> str | None:
        if type(value) is not list or length not in (None, len(value)):
            return f": {value!r} is no array" + (f" of {length}" if length else "")
        for index, each in enumerate(value):
            if (reason := inner(each)) is not None:
                return f"[{index}]{reason}"
        return None

    return shape


def pair(*inner: Shape) -> Shape:
    """Return the shape of an array with a fixed number of values."""

    def shape(value: Any) -> str | None:
        if type(value) is not list or len(value) != len(inner):
            return f": {value!r} is no array of {len(inner)}"
        for index, (each, expected) in enumerate(zip(value, inner, strict=True)):
            if (reason := expected(each)) is not None:
                return f"[{index}]{reason}"
        return None

    return shape


def record(**keys: Shape) -> Shape:
    """Return the shape of an object: its keys in order. A name ending in `_optional` may be absent."""
    table = {name.removesuffix("_optional"): shape for name, shape in keys.items()}
    optional = {name.removesuffix("_optional") for name in keys if name.endswith("_optional")}
    right: set[tuple[str, ...]] = set()

    def sequence(found: tuple[str, ...]) -> str | None:
        wanted = [name for name in table if name in found or name not in optional]
        if list(found) != wanted:
            return f": keys {','.join(found)} instead of {','.join(wanted)}"
        right.add(found)
        return None

    def shape(value: Any) -> str | None:
        if type(value) is not dict:
            return f": {value!r} is no object"
        found = tuple(value)
        if found not in right and (reason := sequence(found)) is not None:
            return reason
        for name, each in value.items():
            if (reason := table[name](each)) is not None:
                return f".{name}{reason}"
        return None

    return shape


def one_of(**kinds: Shape) -> Shape:
    """Return the shape of an object with one key, which names the kind of its value."""

    def shape(value: Any) -> str | None:
        if type(value) is not dict or len(value) != 1 or (name := next(iter(value))) not in kinds:
            return f": {value!r} is no object with one key of {', '.join(kinds)}"
        reason = kinds[name](value[name])
        return None if reason is None else f".{name}{reason}"

    return shape


def typed(exact: dict[str, Shape], others: frozenset[str], values: dict[str, Shape]) -> Shape:
    """Return the shape of an object whose first key `type` decides about the other keys.

    exact:  type -> shape of the whole object.
    others: further types, whose keys no genuine line shows: those in `values` are checked.
    """

    def shape(value: Any) -> str | None:
        if type(value) is not dict or next(iter(value), None) != "type":
            return f": {value!r} is no object that begins with type"
        name = value["type"]
        if name in exact:
            return exact[name](value)
        if name not in others:
            return f".type: {name!r} is not named in the schema"
        for key, each in value.items():
            if key in values and (reason := values[key](each)) is not None:
                return f".{key}{reason}"
        return None

    return shape


# Forms of values.
TEXT = form("text", r"[ -~]+")
DECIMAL = form("decimal", r"-?(0|[1-9][0-9]*)\.[0-9]+")
WIRE = form("amount of an order's action", r"(0|[1-9][0-9]*)(\.[0-9]*[1-9])?")
AMOUNT = form("decimal that is not negative", r"(0|[1-9][0-9]*)\.[0-9]+")
ADDRESS = form("address", r"0x[0-9a-f]{40}")
HASH = form("hash", r"0x[0-9a-f]{64}")
CLOID = form("cloid", r"0x[0-9a-f]{32}")
TIME = form(
    "time", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.(?!000)\d{3}|\.\d{3}(?!000)\d{3}|\.\d{6}(?!000)\d{3})?"
)
COIN = form("coin", r"[A-Za-z0-9]+|[a-z0-9]+:[A-Za-z0-9]+|@\d+|[A-Za-z0-9]+/[A-Za-z0-9]+|#\d+")
HIP3_COIN = form("HIP-3 coin", r"[a-z0-9]+:[A-Za-z0-9]+")
SIDE = form("side", "[AB]")
DIFF_SIDE = form("side", "[AB]|Bid|Ask")  # a page of the docs has the words
INTEGER = kind(int)
FLAG = kind(bool)

STATUS = form(
    "status",
    "open|filled|triggered|(tick|minTradeNtl|minTradeSpotNtl|perpMargin|reduceOnly|badAloPx|iocCancel"
    "|badTriggerPx|marketOrderNoLiquidity|positionIncreaseAtOpenInterestCap|positionFlipAtOpenInterestCap"
    "|tooAggressiveAtOpenInterestCap|openInterestIncrease|insufficientSpotBalance|oracle|perpMaxPosition"
    "|tooManyOpenOrders|outcomeSettled)Rejected|rejected|canceled|scheduledCancel|internalCancel"
    "|(margin|vaultWithdrawal|openInterestCap|selfTrade|reduceOnly|siblingFilled|delisted|liquidated"
    "|outcomeSettled)Canceled",
)
ORDER_TYPE = form(
    "order type",
    "Limit|Market|Stop Market|Stop Limit|Take Profit Market|Take Profit Limit|Vault Close|Twap Slice"
    "|Spot Dust Conversion",
)
TIF = form("tif", "Gtc|Ioc|Alo|FrontendMarket|LiquidationMarket")
TRIGGER = form("trigger condition", r"N/A|Triggered|Price (above|below) (0|[1-9]\d*)(\.\d+)?")
DIR = form(
    "dir",
    "(Open|Close) (Long|Short)|Long > Short|Short > Long|Buy|Sell|Auto-Deleveraging|Settlement"
    r"|Spot Dust Conversion|Liquidated( \w+)+|(Split|Merge|Mint|Burn|Negate)( \w+)*",
)
FEE_TOKEN = form("token", r"[A-Za-z0-9]+|\+\d+")


def _child(value: Any) -> str | None:
    return CHILD(value)


# One table per stream.
_ORDER: dict[str, Shape] = {
    "coin": COIN,
    "side": SIDE,
    "limitPx": AMOUNT,
    "sz": AMOUNT,
    "oid": INTEGER,
    "timestamp": INTEGER,
    "triggerCondition": TRIGGER,
    "isTrigger": FLAG,
    "triggerPx": AMOUNT,
    "children": array(_child),
    "isPositionTpsl": FLAG,
    "reduceOnly": FLAG,
    "orderType": ORDER_TYPE,
    "origSz": AMOUNT,
    "tif": nullable(TIF),
    "cloid": nullable(CLOID),
}
CHILD: Shape = record(**(_ORDER | {"children": array(INTEGER, 0)}))
ORDER = record(**_ORDER)

ORDERS = record(
    time=TIME,
    user=ADDRESS,
    hash=nullable(HASH),
    builder=nullable(record(b=ADDRESS, f=INTEGER)),
    status=STATUS,
    order=ORDER,
)
BOOK_DIFFS = record(
    user=ADDRESS,
    oid=INTEGER,
    coin=COIN,
    side=DIFF_SIDE,
    px=AMOUNT,
    raw_book_diff=either(
        form("remove", "remove"),
        one_of(
            new=record(sz=AMOUNT, insertBefore_optional=INTEGER),
            update=record(origSz=AMOUNT, newSz=AMOUNT),
        ),
    ),
)
FILL = record(
    coin=COIN,
    px=AMOUNT,
    sz=AMOUNT,
    side=SIDE,
    time=INTEGER,
    startPosition=DECIMAL,
    dir=DIR,
    closedPnl=DECIMAL,
    hash=HASH,
    oid=INTEGER,
    crossed=FLAG,
    fee=DECIMAL,
    builderFee_optional=DECIMAL,
    tid=INTEGER,
    cloid_optional=CLOID,
    liquidation_optional=record(
        liquidatedUser=ADDRESS, markPx=AMOUNT, method=form("method", "market|backstop")
    ),
    feeToken=FEE_TOKEN,
    builder_optional=ADDRESS,
    twapId=nullable(INTEGER),
    deployerFee_optional=DECIMAL,
    priorityGas_optional=either(DECIMAL, INTEGER),
)
FILLS = pair(ADDRESS, FILL)
TRADES = record(
    coin=COIN,
    side=SIDE,
    time=TIME,
    px=AMOUNT,
    sz=AMOUNT,
    hash=HASH,
    trade_dir_override=form("override", "Na|LiquidatedMarket|NetChildVaultPositions"),
    side_info=array(
        record(
            user=ADDRESS, start_pos=DECIMAL, oid=INTEGER, twap_id=nullable(INTEGER), cloid=nullable(CLOID)
        ),
        2,
    ),
)
TWAP_STATUSES = record(
    time=TIME,
    twap_id=INTEGER,
    state=record(
        coin=COIN,
        user=ADDRESS,
        side=SIDE,
        sz=AMOUNT,
        executedSz=AMOUNT,
        executedNtl=AMOUNT,
        minutes=INTEGER,
        reduceOnly=FLAG,
        randomize=FLAG,
        timestamp=INTEGER,
        stopPx_optional=nullable(AMOUNT),
        trigger_optional=lambda value: None,  # no genuine line shows it
    ),
    status=either(
        form("status", "activated|finished|terminated|waitingForTrigger|stopped"), one_of(error=TEXT)
    ),
)

# A delta or an action of another type: what is known of keys that genuine lines of other types show.
_KNOWN: dict[str, Shape] = {
    "user": ADDRESS,
    "destination": ADDRESS,
    "amount": DECIMAL,
    "usdc": DECIMAL,
    "usdcValue": DECIMAL,
    "fee": DECIMAL,
    "nativeTokenFee": DECIMAL,
    "nonce": nullable(INTEGER),
    "fromSubAccount": nullable(ADDRESS),
    "sourceDexOrSpot": nullable(INTEGER),
    "destinationDexOrSpot": nullable(INTEGER),
    "wei": INTEGER,
}
_DELTAS = frozenset(
    [
        "spotTransfer",
        "accountClassTransfer",
        "subAccountTransfer",
        "internalTransfer",
        "deposit",
        "withdraw",
        "cStakingTransfer",
        "gossipPriorityGasAuction",
        "borrowLend",
        "rewardsClaim",
        "vaultCreate",
        "vaultDeposit",
        "vaultWithdraw",
        "vaultDistribution",
        "vaultLeaderCommission",
        "liquidation",
        "spotGenesis",
        "accountActivationGas",
        "perpDexClassTransfer",
        "deployGasAuction",
        "activateDexAbstraction",
    ]
)
_SEND = record(
    type=form("type", "send"),
    user=ADDRESS,
    destination=ADDRESS,
    sourceDex=form("dex", r"spot|\w*"),
    destinationDex=form("dex", r"spot|\w*"),
    token=FEE_TOKEN,
    amount=AMOUNT,
    usdcValue=AMOUNT,
    fee=AMOUNT,
    nativeTokenFee=AMOUNT,
    nonce=INTEGER,
    feeToken=either(form("nothing", ""), FEE_TOKEN),
)
_FUNDING_DELTA = record(user=ADDRESS, coin=COIN, funding_amount=DECIMAL, szi=DECIMAL, funding_rate=DECIMAL)
MISC_EVENTS = record(
    time=TIME,
    hash=HASH,
    inner=one_of(
        CDeposit=record(user=ADDRESS, amount=AMOUNT),
        CWithdrawal=record(user=ADDRESS, amount=AMOUNT, is_finalized=FLAG),
        Delegation=record(user=ADDRESS, validator=ADDRESS, amount=AMOUNT, is_undelegate=FLAG),
        ValidatorRewards=record(validator_to_reward=array(pair(ADDRESS, AMOUNT))),
        Funding=record(deltas=array(_FUNDING_DELTA)),
        LedgerUpdate=record(users=array(ADDRESS), delta=typed({"send": _SEND}, _DELTAS, _KNOWN)),
        GossipPriorityAuctionRestart=record(slot_id=INTEGER, previous_winner=one_of(Ip=TEXT), end_gas=AMOUNT),
    ),
)
_ORACLE_INPUTS = array(pair(HIP3_COIN, AMOUNT))
_ORACLE_PXS = array(pair(HIP3_COIN, record(px=AMOUNT, last_update_time=TIME, daily_px=AMOUNT)))
ORACLE_UPDATES = record(
    update_class=form("class", "Deployer|Fallback"),
    mark_px_inputs=_ORACLE_INPUTS,
    spot_px_inputs=_ORACLE_INPUTS,
    external_perp_px_inputs=_ORACLE_INPUTS,
    oracle_pxs=record(
        coin_to_mark_px=_ORACLE_PXS, coin_to_oracle_px=_ORACLE_PXS, coin_to_external_perp_px=_ORACLE_PXS
    ),
)
_ACTION_ORDER = record(
    a=INTEGER,
    b=FLAG,
    p=WIRE,
    s=WIRE,
    r=FLAG,
    t=one_of(
        limit=record(tif=TIF),
        trigger=record(isMarket=FLAG, triggerPx=WIRE, tpsl=form("tpsl", "tp|sl")),
    ),
    c_optional=CLOID,
)
_ACTIONS: dict[str, Shape] = {
    "SystemSendAssetAction": record(
        type=TEXT,
        destination=ADDRESS,
        fromSubAccount=nullable(ADDRESS),
        sourceDexOrSpot=nullable(INTEGER),
        destinationDexOrSpot=nullable(INTEGER),
        token=INTEGER,
        wei=INTEGER,
    ),
    "order": record(
        type=TEXT, orders=array(_ACTION_ORDER), grouping=form("grouping", "na|normalTpsl|positionTpsl")
    ),
}
_OTHER_ACTIONS = frozenset(
    ("SystemSpotSendAction", "SystemUsdClassTransferAction", "approveAgent", "tokenDelegate")
)
WRITER_ACTIONS = record(
    user=ADDRESS,
    nonce=INTEGER,
    evm_tx_hash=HASH,
    action=typed(_ACTIONS, _OTHER_ACTIONS, _KNOWN | {"token": INTEGER}),
)

EVENTS: dict[str, Shape] = {
    "orders": ORDERS,
    "fills": FILLS,
    "nodeTrades": TRADES,
    "bookDiffs": BOOK_DIFFS,
    "twapStatuses": TWAP_STATUSES,
    "miscEvents": MISC_EVENTS,
    "oracleUpdates": ORACLE_UPDATES,
    "writerActions": WRITER_ACTIONS,
}
"""Stream -> the shape of its events."""


def _envelope(stream: str) -> Shape:
    return record(local_time=TIME, block_time=TIME, block_number=INTEGER, events=array(EVENTS[stream]))


ENVELOPES: dict[str, Shape] = {stream: _envelope(stream) for stream in EVENTS}


def line_problem(stream: str, layout: str, line: bytes) -> str | None:
    """Return what is wrong with a line (without its newline), or None.

    The line must also be compact JSON with each key once: written again it gives the same bytes.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return str(error)
    if orjson.dumps(value) != line:
        return ": not compact JSON"
    return (EVENTS if layout == "plain" else ENVELOPES)[stream](value)


def keys(value: Any) -> str:
    """Return the key sequence of a value, with those of the objects in it.

    Of an array only the different sequences are named: `[]` when it is empty or holds plain values.
    """
    if isinstance(value, dict):
        return "{" + " ".join(name + keys(each) for name, each in value.items()) + "}"
    if isinstance(value, list):
        inner = dict.fromkeys(text for each in value if (text := keys(each)))
        return "[" + " or ".join(inner) + "]"
    return ""


def shape_table(genuine: Iterable[tuple[str, Any]], simulated: Iterable[tuple[str, Any]]) -> str:
    """Return the Markdown table "genuine against simulated shapes" of (stream, event) pairs."""
    counts = [Counter((stream, keys(event)) for stream, event in events) for events in (genuine, simulated)]
    order = {stream: index for index, stream in enumerate(EVENTS)}
    found = sorted(
        counts[0] | counts[1], key=lambda each: (order[each[0]], -counts[0][each], -counts[1][each], each)
    )
    rows = [
        f"| {stream} | `{sequence}` | {counts[0][stream, sequence]:,} | {counts[1][stream, sequence]:,} |"
        for stream, sequence in found
    ]
    return "\n".join(["| stream | keys | genuine | simulated |", "| --- | --- | ---: | ---: |", *rows, ""])
