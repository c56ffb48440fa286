"""Requests on /ws: parses a message into a ClientRequest, or into the error to answer with.

    {"method":"subscribe"|"unsubscribe","subscription":{"type":…}}        {"method":"ping"}
    {"method":"post","id":…,"request":{"type":"info"|"action",…}}         always rejected, on its own channel

    type           fields; null is the same as absent, and absent selects all
    orderUpdates   user
    orders         coins  users  sides  statuses  minNotional  format
    trades         coin
    userFills      user
    userEvents     user
    fills          coins  users  sides  minNotional  liquidations  format
    status  summary  tape   none
    any of them    cursor  since  onSlow: where to begin and what to do when slow; not part of the selection

`Subscription.echo` is the canonical form of all spellings, and so the subscription's identity: every field,
lists sorted and without duplicates, addresses in lower case, status groups expanded.

Errors begin with the public API's own words, because clients extract the request from them. If the fault is
in something that API lacks, or the type is not served here, ": " and a reason follow. A reason contains no
brace, because clients parse from the first brace to the last.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self, get_args

import orjson

from fasttail.streams.vocabulary import STATUS_NAMES

MAX_ENTRIES = 1000
"""Entries of one list."""

MAX_TEXT_CHARS = 64
"""Characters of a coin, a status, a number sent as text, or a cursor."""

MAX_SHOWN_CHARS = 1000
"""Characters quoted from a message that is not JSON."""

MAX_FIELDS = 32
"""Fields of one subscription, including unknown ones."""

MAX_TIME_NS = 2**63 - 1
"""The latest time that fits into 64-bit nanoseconds since 1970."""

PUBLIC_TYPES = frozenset(
    (
        "activeAssetCtx",
        "activeAssetData",
        "allDexsAssetCtxs",
        "allDexsClearinghouseState",
        "allMids",
        "assetCtxs",
        "bbo",
        "candle",
        "clearinghouseState",
        "explorerBlock",
        "explorerTxs",
        "fastAssetCtxs",
        "l2Book",
        "notification",
        "openOrders",
        "orderUpdates",
        "outcomeMetaUpdates",
        "spotAssetCtxs",
        "spotState",
        "trades",
        "twapStates",
        "userEvents",
        "userFills",
        "userFundings",
        "userHistoricalOrders",
        "userNonFundingLedgerUpdates",
        "userTwapHistory",
        "userTwapSliceFills",
        "webData2",
        "webData3",
        # Undocumented, but in use: hummingbot sends "user" instead of "userEvents", and "l4Book" belongs to
        # the order book server that runs beside a node.
        "l4Book",
        "user",
    )
)
"""Subscription types of the public API. Those not in `_FIELDS` are not served here."""

PUBLIC_URL = "https://api.hyperliquid.xyz"

Type = Literal[
    "orders", "orderUpdates", "fills", "trades", "userFills", "userEvents", "status", "summary", "tape"
]
Broadcast = Literal["status", "summary", "tape"]
BROADCASTS: frozenset[str] = frozenset(get_args(Broadcast))
"""Types that are no events of a stream: one message for all, made by the server at an interval."""
PAGE_BROADCASTS: frozenset[str] = frozenset(("summary", "tape"))
Method = Literal["subscribe", "unsubscribe", "ping"]
Format = Literal["full", "ws", "raw"]
OnSlow = Literal["replay", "gap", "close"]

_CANCELED = tuple(name for name in STATUS_NAMES if name.lower().endswith(("canceled", "cancelled", "cancel")))
_REJECTED = tuple(name for name in STATUS_NAMES if name.lower().endswith("rejected"))

STATUS_GROUPS: Mapping[str, tuple[str, ...]] = {
    # Live: in the book, waiting for its trigger, or just triggered.
    "resting": ("open", "triggered"),
    # Ended before it was live.
    "rejected": _REJECTED,
    # Ended with a remaining size.
    "canceled": _CANCELED,
    # Ended in any way.
    "terminal": ("filled", *_CANCELED, *_REJECTED),
}
"""Group -> the node's statuses. "resting" and "terminal" together contain each known status once.

"rejected" and "canceled" are also statuses; in a request they mean the group. A status that the node added
later is in no group, but can be requested by name.
"""

_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}")
_STATUS = re.compile(r"[A-Za-z]+")
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
_TIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?Z?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SELECTION_FIELDS: Mapping[str, tuple[str, ...]] = {
    "orders": ("coins", "users", "sides", "statuses", "minNotional", "format"),
    "orderUpdates": ("user",),
    "fills": ("coins", "users", "sides", "minNotional", "liquidations", "format"),
    "trades": ("coin",),
    "userFills": ("user", "aggregateByTime"),  # only false; some clients want it in the answer
    "userEvents": ("user",),
    "status": (),
    "summary": (),
    "tape": (),
}
_OPTION_FIELDS = ("cursor", "since", "onSlow")
_FIELDS = {kind: ("type", *fields, *_OPTION_FIELDS) for kind, fields in _SELECTION_FIELDS.items()}
_OWN_TYPES = {"orderUpdates": "orders", "trades": "fills", "userFills": "fills", "userEvents": "fills"}
"""Type of the public API -> the one here that selects from the same stream by more fields."""


class RequestError(Exception):
    """A request is rejected: the answer is a message on `channel` with this `data`."""

    channel = "error"

    @property
    def data(self) -> Any:
        return str(self)


class PostError(RequestError):
    """The rejection of a post, in the public API's form.

    With the post's id, a client fails only that post. Without it, on the channel "error", ccxt fails all its
    requests, including subscriptions.
    """

    channel = "post"

    def __init__(self, post_id: int | str, text: str, *, action: bool = False) -> None:
        super().__init__(text)
        self._post_id = post_id
        self._action = action

    @property
    def data(self) -> Any:
        if self._action:
            response = {"type": "action", "payload": {"status": "err", "response": str(self)}}
        else:
            response = {"type": "error", "payload": str(self)}
        return {"id": self._post_id, "response": response}


class _InvalidSubscription(Exception):
    """The reason to reject a subscription. Empty where the public API's words suffice."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What is selected, in which form, and where to begin. The first two decide equality."""

    type: Type = field(compare=False)
    echo: Mapping[str, Any] = field(compare=False)
    key: str
    """`echo` as compact JSON with sorted keys."""

    user: str | None = field(compare=False, default=None)
    """The only user, in a type that requires one."""

    coins: tuple[str, ...] | None = field(compare=False, default=None)
    users: tuple[str, ...] | None = field(compare=False, default=None)
    sides: tuple[str, ...] | None = field(compare=False, default=None)
    statuses: tuple[str, ...] | None = field(compare=False, default=None)
    min_notional: float = field(compare=False, default=0.0)
    liquidations: bool = field(compare=False, default=False)
    """Whether only fills of liquidations are selected."""

    format: Format = field(compare=False, default="full")
    cursor: str | None = field(compare=False, default=None)
    """As the client sent it, not validated here."""

    since: int | None = field(compare=False, default=None)
    """Nanoseconds since 1970, UTC."""

    on_slow: OnSlow = field(compare=False, default="replay")

    def sharing_fields_of(self, equal: Self) -> Self:
        """Return a copy that shares the texts and lists of an equal subscription."""
        return replace(
            self,
            echo=equal.echo,
            key=equal.key,
            coins=equal.coins,
            users=equal.users,
            sides=equal.sides,
            statuses=equal.statuses,
        )


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """One message of a client. All but a ping have a subscription, parsed and as `sent`."""

    method: Method
    subscription: Subscription | None = None
    sent: Mapping[str, Any] = field(default_factory=dict)

    @property
    def response_fields(self) -> dict[str, Any]:
        """The subscription as a subscriptionResponse shows it: the echo, with the values as sent.

        Clients may match answers to requests by value, and `["ETH","BTC"]` differs from `["BTC","ETH"]`. For
        a client of the public API this equals the echo.
        """
        if self.subscription is None:
            return {}
        echo, known = self.subscription.echo, _FIELDS[self.subscription.type]
        return {**echo, **{key: value for key, value in self.sent.items() if key in known and key != "user"}}


def parse_request(payload: bytes) -> ClientRequest:
    """Parse a text message. Raise RequestError, which is the answer, if it is invalid or cannot be served."""
    try:
        message = orjson.loads(payload)
        orjson.dumps(message)  # reject what is nested too deep to be quoted in an error
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        raise _malformed_request(payload, MAX_SHOWN_CHARS) from None
    match message:
        case {"method": "ping"}:
            return ClientRequest("ping")
        case {"method": "subscribe", "subscription": dict(sent)}:
            return ClientRequest("subscribe", _subscription(sent, is_subscribe=True), sent)
        case {"method": "unsubscribe", "subscription": dict(sent)}:
            return ClientRequest("unsubscribe", _subscription(sent, is_subscribe=False), sent)
        case {"method": "post", "id": int() | str() as post_id} if not isinstance(post_id, bool):
            raise _reject_post(post_id, message.get("request"))
        case {"method": "post"}:
            raise _malformed_request(payload, reason="a post request needs an id, a 64-bit integer")
    raise _malformed_request(payload)


def invalid_subscription(sent: Mapping[str, Any], reason: str = "") -> RequestError:
    """Return the error for a subscription that cannot be served; `reason` must not contain braces."""
    shown = orjson.dumps(sent).decode()
    return RequestError(f"Invalid subscription: {shown}" + (f": {reason}" if reason else ""))


def binary_not_supported(size: int) -> RequestError:
    """Return the error for a binary message of `size` bytes."""
    return _malformed_request(f"a binary message of {size} bytes, but requests are text messages".encode())


def _malformed_request(payload: bytes, max_chars: int | None = None, *, reason: str = "") -> RequestError:
    """Return the error for a malformed request, quoting at most `max_chars` characters.

    JSON is quoted whole, because clients parse it, and half of it may crash them.
    """
    shown = payload.decode("utf-8", "replace")[:max_chars]
    text = f"Error parsing JSON into valid websocket request: {shown}"
    return RequestError(text + (f": {reason}" if reason else ""))


def _reject_post(post_id: int | str, request: Any) -> PostError:
    """Return the rejection of a post, which begins with an HTTP status as the public API's does."""
    match request:
        case {"type": "info"}:
            return PostError(post_id, f"501 Not Implemented: {_not_served('info requests', 'info')}")
        case {"type": "action"}:
            text = f"501 Not Implemented: {_not_served('actions', 'exchange')}"
            return PostError(post_id, text, action=True)
    return PostError(post_id, '400 Bad Request: the type of a post\'s request is "info" or "action"')


def _not_served(what: str, path: str) -> str:
    return f"{what} are not served here; send them to the public API, {PUBLIC_URL}/{path}"


def _subscription(sent: dict[str, Any], *, is_subscribe: bool) -> Subscription:
    try:
        match sent.get("type"):
            case "orderUpdates" | "userFills" | "userEvents" as kind:
                return _of_user(kind, sent, is_subscribe)
            case "trades":
                return _trades(sent, is_subscribe)
            case "orders" | "fills" as kind:
                return _selected(kind, sent, is_subscribe)
            case "status" | "summary" | "tape" as kind:
                _check_fields(kind, sent)
                return _build_subscription(kind, {}, _parse_options(sent, is_subscribe))
            case str(kind):
                raise _InvalidSubscription(_unknown_type(kind))
        raise _InvalidSubscription
    except _InvalidSubscription as error:
        raise invalid_subscription(sent, str(error)) from None


def _unknown_type(kind: str) -> str:
    """Return the reason for rejecting a type that is not served; its fields are not checked."""
    if kind in PUBLIC_TYPES:
        return f'"{kind}" is not served here'
    if not _is_quotable(kind):
        return "unknown type"
    near = _nearest(kind, {*_FIELDS, *PUBLIC_TYPES})
    if near is None:
        return f'unknown type "{kind}"'
    served = "" if near in _FIELDS else ", which is not served here"
    return f'unknown type "{kind}", did you mean "{near}"{served}?'


def _build_subscription(
    kind: Type, fields: dict[str, Any], options: dict[str, Any], **selection: Any
) -> Subscription:
    echo = {"type": kind, **fields}
    key = orjson.dumps(echo, option=orjson.OPT_SORT_KEYS).decode()
    return Subscription(type=kind, echo=echo, key=key, **selection, **options)


def _of_user(kind: Type, sent: dict[str, Any], is_subscribe: bool) -> Subscription:
    if not _is_address(sent.get("user")):
        raise _InvalidSubscription
    if kind == "userFills" and _flag(sent, "aggregateByTime"):
        raise _InvalidSubscription("aggregateByTime is not served here")
    _check_fields(kind, sent)
    user = sent["user"].lower()
    return _build_subscription(
        kind, {"user": user}, _parse_options(sent, is_subscribe), user=user, users=(user,)
    )


def _trades(sent: dict[str, Any], is_subscribe: bool) -> Subscription:
    if not _is_coin(sent.get("coin")):
        raise _InvalidSubscription
    _check_fields("trades", sent)
    coin = sent["coin"]
    return _build_subscription("trades", {"coin": coin}, _parse_options(sent, is_subscribe), coins=(coin,))


def _selected(kind: Type, sent: dict[str, Any], is_subscribe: bool) -> Subscription:
    """Parse a subscription to the orders or fills that its fields select."""
    _check_fields(kind, sent)
    coins = _string_list(sent, "coins", _is_coin, f"a coin's name of at most {MAX_TEXT_CHARS} characters")
    users = _string_list(sent, "users", _is_address, "an address of 0x and 40 hexadecimal digits")
    sides = _string_list(sent, "sides", _is_side, '"A" (ask) or "B" (bid)')
    statuses = _string_list(sent, "statuses", _is_status, f"a status of at most {MAX_TEXT_CHARS} letters")
    if sides is not None and len(set(sides)) == 2:
        sides = None  # both sides are all
    if users is not None:
        users = [user.lower() for user in users]
    if statuses is not None:
        statuses = [name for status in statuses for name in STATUS_GROUPS.get(status, (status,))]
    selection = {
        "coins": _sorted(coins),
        "users": _sorted(users),
        "sides": _sorted(sides),
        "statuses": _sorted(statuses),
    }
    min_notional = _notional(sent)
    formats = ("full", "ws", "raw") if kind == "orders" else ("full", "raw")
    chosen = {
        **{name: None if texts is None else list(texts) for name, texts in selection.items()},
        "minNotional": _compact_number(min_notional) if min_notional > 0 else None,
        "liquidations": _flag(sent, "liquidations") or None,
        "format": _one_of(sent, "format", *formats),
    }
    return _build_subscription(
        kind,
        {name: chosen[name] for name in _SELECTION_FIELDS[kind]},
        _parse_options(sent, is_subscribe),
        min_notional=min_notional,
        liquidations=bool(chosen["liquidations"]),
        format=chosen["format"],
        **selection,
    )


def _check_fields(kind: Type, sent: dict[str, Any]) -> None:
    """Reject unknown fields: an ignored typo would select everything.

    The public API ignores them. So does its own type here, except for names that resemble our fields.
    """
    if len(sent) > MAX_FIELDS:
        raise _InvalidSubscription(f"{len(sent)} fields, at most {MAX_FIELDS}")
    own = _OWN_TYPES.get(kind)
    strict = own is None
    meant = _FIELDS[kind] if own is None else (*_SELECTION_FIELDS[own], *_OPTION_FIELDS)
    for name in sent:
        if name in _FIELDS[kind]:
            continue
        shown = f' "{name}"' if _is_quotable(name) else ""
        near = _nearest(name, meant) if shown else None
        if near in _FIELDS[kind]:
            raise _InvalidSubscription(f'unknown field{shown}, did you mean "{near}"?')
        if near is not None:
            raise _InvalidSubscription(f'unknown field{shown}: "{near}" belongs to type "{own}"')
        if strict:
            raise _InvalidSubscription(f"unknown field{shown}")


def _is_quotable(name: str) -> bool:
    """Return whether a name may be quoted in a reason."""
    return len(name) <= MAX_TEXT_CHARS and _PLAIN_NAME.fullmatch(name) is not None


def _nearest(name: str, names: Iterable[str]) -> str | None:
    by_letters = {each.lower(): each for each in sorted(names)}
    found = difflib.get_close_matches(name.replace("_", "").lower(), by_letters, 1, 0.8)
    return by_letters[found[0]] if found else None


def _parse_options(sent: dict[str, Any], is_subscribe: bool) -> dict[str, Any]:
    """Parse where to begin and what to do when slow. An unsubscribe ignores these fields, even if invalid."""
    if not is_subscribe:
        return {}
    cursor = sent.get("cursor")
    if cursor is not None and not (isinstance(cursor, str) and 0 < len(cursor) <= MAX_TEXT_CHARS):
        raise _InvalidSubscription(f"cursor: expected a text of at most {MAX_TEXT_CHARS} characters")
    since = None
    if sent.get("since") is not None:
        since = _nanoseconds(sent["since"])
        if since is None:
            raise _InvalidSubscription(
                'since: expected a time in UTC from 1970 on, such as "2026-05-05T17:39:00"'
            )
        if cursor is not None:
            raise _InvalidSubscription("cursor and since exclude each other")
    return {"cursor": cursor, "since": since, "on_slow": _one_of(sent, "onSlow", "replay", "gap", "close")}


def _string_list(
    sent: dict[str, Any], name: str, fits: Callable[[Any], bool], expected: str
) -> list[str] | None:
    """Return a field that is a list of texts, or None if it is absent."""
    value = sent.get(name)
    if value is None:
        return None
    if not isinstance(value, list):
        raise _InvalidSubscription(f"{name}: expected a list, each entry {expected}")
    if not value:
        raise _InvalidSubscription(
            f"{name}: an empty list selects nothing; leave the field out to select all"
        )
    if len(value) > MAX_ENTRIES:
        raise _InvalidSubscription(f"{name}: {len(value):,} entries, at most {MAX_ENTRIES:,}")
    for number, text in enumerate(value, 1):
        if not fits(text):
            raise _InvalidSubscription(f"{name}: entry {number} is not {expected}")
    return value


def _one_of(sent: dict[str, Any], name: str, *choices: str) -> str:
    """Return a field that must be one of `choices`; by default the first."""
    value = sent.get(name)
    if value is None:
        return choices[0]
    if value not in choices:
        shown = ", ".join(f'"{choice}"' for choice in choices[:-1])
        raise _InvalidSubscription(f'{name}: expected {shown} or "{choices[-1]}"')
    return str(value)


def _flag(sent: dict[str, Any], name: str) -> bool:
    value = sent.get(name)
    if value is not None and not isinstance(value, bool):
        raise _InvalidSubscription(f"{name}: expected true or false")
    return bool(value)


def _notional(sent: dict[str, Any]) -> float:
    value = sent.get("minNotional")
    if value is None:
        return 0.0
    if isinstance(value, str) and len(value) <= MAX_TEXT_CHARS and _DECIMAL.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _InvalidSubscription(
            'minNotional: expected a number of USD from 0 on, such as 1000 or "1000.0"'
        )
    return float(value)


def _compact_number(number: float) -> int | float:
    """Return 1000 for 1000.0, up to the largest range in which doubles hold every integer."""
    return int(number) if number.is_integer() and number <= 1 << 53 else number


def _sorted(texts: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if texts is None else tuple(sorted(set(texts)))


def _nanoseconds(text: object) -> int | None:
    """Return the nanoseconds since 1970 of an ISO time in UTC, or None."""
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    try:
        since = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - _EPOCH
    except ValueError:
        return None
    nanoseconds = (since.days * 86400 + since.seconds) * 10**9 + int((found[7] or "").ljust(9, "0"))
    return nanoseconds if 0 <= nanoseconds <= MAX_TIME_NS else None


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and _ADDRESS.fullmatch(value) is not None


def _is_coin(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT_CHARS


def _is_side(value: Any) -> bool:
    return value in ("A", "B")


def _is_status(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARS and _STATUS.fullmatch(value) is not None
