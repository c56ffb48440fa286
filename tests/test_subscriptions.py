"""Requests of /ws clients: parsing, the canonical form of equal subscriptions, and the texts of errors."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fasttail.publish.subscriptions import (
    PUBLIC_TYPES,
    STATUS_GROUPS,
    ClientRequest,
    PostError,
    RequestError,
    Subscription,
    binary_not_supported,
    parse_request,
)
from fasttail.streams.vocabulary import STATUS_NAMES

USER = "0x4f235c15474f984504b0f188755021ae45c2fa65"
MIXED = "0x4F235C15474f984504b0f188755021AE45c2fa65"
OTHER = "0x" + "0" * 39 + "1"
NO_REQUEST = "Error parsing JSON into valid websocket request: "
EVERYTHING = {
    "type": "orders",
    "coins": None,
    "users": None,
    "sides": None,
    "statuses": None,
    "minNotional": None,
    "format": "full",
}


def text(value: Any) -> str:
    """Serialize as JavaScript's JSON.stringify does."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def request(method: str, subscription: dict[str, Any]) -> ClientRequest:
    return parse_request(text({"method": method, "subscription": subscription}).encode())


def subscribe(**subscription: Any) -> Subscription:
    made = request("subscribe", subscription).subscription
    assert made is not None
    return made


def orders(**fields: Any) -> Subscription:
    return subscribe(type="orders", **fields)


def error(payload: bytes | str) -> str:
    with pytest.raises(RequestError) as caught:
        parse_request(payload.encode() if isinstance(payload, str) else payload)
    return str(caught.value)


def refused(subscription: dict[str, Any], method: str = "subscribe") -> str:
    """Return the reason of a subscription error, or "" if the error gives none."""
    said = error(text({"method": method, "subscription": subscription}))
    public = "Invalid subscription: " + text(subscription)
    assert said.startswith(public)
    reason = said.removeprefix(public)
    assert reason == "" or reason.startswith(": ")
    assert "{" not in reason
    assert "}" not in reason
    return reason.removeprefix(": ")


# Requests


@pytest.mark.parametrize("payload", ['{"method":"ping"}', ' { "method" : "ping", "id": 7 } \n'])
def test_ping(payload: str) -> None:
    assert parse_request(payload.encode()) == ClientRequest("ping")


def test_order_updates() -> None:
    made = request("subscribe", {"type": "orderUpdates", "user": USER})
    assert made.method == "subscribe"
    one = made.subscription
    assert one is not None
    assert (one.type, one.user, one.users) == ("orderUpdates", USER, (USER,))
    assert (one.coins, one.sides, one.statuses, one.min_notional) == (None, None, None, 0.0)
    assert (one.cursor, one.since, one.on_slow) == (None, None, "replay")
    assert one.echo == made.response_fields == {"type": "orderUpdates", "user": USER}
    assert one.key == text({"type": "orderUpdates", "user": USER})


@pytest.mark.parametrize("user", [MIXED, USER.upper(), USER.upper().replace("0X", "0x")])
def test_an_address_in_any_case_is_echoed_in_lower_case(user: str) -> None:
    made = request("subscribe", {"type": "orderUpdates", "user": user})
    assert made.subscription == subscribe(type="orderUpdates", user=USER)
    assert made.response_fields == {"type": "orderUpdates", "user": USER}


@pytest.mark.parametrize("kind", ["userFills", "userEvents"])
def test_fills_of_a_user(kind: str) -> None:
    made = subscribe(type=kind, user=MIXED, onSlow="gap")
    assert (made.type, made.echo, made.user, made.on_slow) == (
        kind,
        {"type": kind, "user": USER},
        USER,
        "gap",
    )
    assert subscribe(type=kind, user=USER, dex="").key == made.key
    assert refused({"type": kind, "user": USER, "coins": ["BTC"]}) == (
        'unknown field "coins": "coins" belongs to type "fills"'
    )


def test_fills_by_time_are_not_put_together() -> None:
    assert subscribe(type="userFills", user=USER, aggregateByTime=False) == subscribe(
        type="userFills", user=USER
    )
    sent = {"type": "userFills", "user": USER, "aggregateByTime": False}
    assert request("subscribe", sent).response_fields == sent, "the TypeScript SDK waits for it"
    reason = refused({"type": "userFills", "user": USER, "aggregateByTime": True})
    assert reason == "aggregateByTime is not served here"


def test_trades_of_a_coin() -> None:
    made = subscribe(type="trades", coin="xyz:GOLD")
    assert (made.echo, made.coins, made.user) == ({"type": "trades", "coin": "xyz:GOLD"}, ("xyz:GOLD",), None)
    assert refused({"type": "trades", "coin": "BTC", "minNotional": 5}) == (
        'unknown field "minNotional": "minNotional" belongs to type "fills"'
    )


def test_fills_with_all_fields() -> None:
    made = subscribe(
        type="fills", coins=["B", "A", "B"], users=[MIXED], sides=["A"], minNotional="5", liquidations=True,
        format="raw",
    )  # fmt: skip
    assert made.echo == {
        "type": "fills", "coins": ["A", "B"], "users": [USER], "sides": ["A"], "minNotional": 5,
        "liquidations": True, "format": "raw",
    }  # fmt: skip
    assert (made.coins, made.users, made.liquidations) == (("A", "B"), (USER,), True)
    assert subscribe(type="fills").echo == {
        "type": "fills", "coins": None, "users": None, "sides": None, "minNotional": None,
        "liquidations": None, "format": "full",
    }  # fmt: skip
    assert subscribe(type="fills", liquidations=False).key == subscribe(type="fills").key
    assert refused({"type": "fills", "liquidations": 1}) == "liquidations: expected true or false"
    assert refused({"type": "fills", "format": "ws"}) == 'format: expected "full" or "raw"'
    assert refused({"type": "fills", "statuses": ["open"]}) == 'unknown field "statuses"'
    assert refused({"type": "orders", "liquidations": True}) == 'unknown field "liquidations"'


def test_unsubscribe_gives_the_same_subscription() -> None:
    made = request("unsubscribe", {"type": "orders", "coins": ["ETH", "BTC"], "minNotional": "5"})
    assert made.method == "unsubscribe"
    assert made.subscription == orders(minNotional=5, coins=["BTC", "ETH", "BTC"])


def test_status() -> None:
    one = subscribe(type="status", onSlow="close")
    assert (one.type, one.echo, one.key) == ("status", {"type": "status"}, '{"type":"status"}')
    assert one.on_slow == "close"


# Subscriptions of type orders


def test_orders_without_a_field_are_all_orders() -> None:
    one = orders()
    assert one.echo == EVERYTHING
    assert (one.coins, one.users, one.sides, one.statuses) == (None, None, None, None)
    assert (one.min_notional, one.format) == (0.0, "full")
    assert one.key == text(dict(sorted(EVERYTHING.items())))


def test_orders_with_all_fields() -> None:
    one = orders(
        coins=["xyz:XYZ100", "BTC", "@107", "BTC"],
        users=[MIXED, OTHER, USER],
        sides=["B"],
        statuses=["someThingNew", "filled", "open"],
        minNotional=12.5,
        format="raw",
    )
    assert one.coins == ("@107", "BTC", "xyz:XYZ100")
    assert one.users == (OTHER, USER)
    assert one.sides == ("B",)
    assert one.statuses == ("filled", "open", "someThingNew")
    assert (one.min_notional, one.format) == (12.5, "raw")
    assert one.echo == {
        "type": "orders",
        "coins": ["@107", "BTC", "xyz:XYZ100"],
        "users": [OTHER, USER],
        "sides": ["B"],
        "statuses": ["filled", "open", "someThingNew"],
        "minNotional": 12.5,
        "format": "raw",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {name: None for name in EVERYTHING if name != "type"},
        {"cursor": None, "since": None, "onSlow": None},
        {"sides": ["B", "A"]},
        {"minNotional": 0},
        {"minNotional": "0.00"},
        {"minNotional": -0.0},
        {"format": "full"},
    ],
    ids=str,
)
def test_other_ways_to_ask_for_everything(fields: dict[str, Any]) -> None:
    assert orders(**fields) == orders()
    assert orders(**fields).echo == EVERYTHING


@pytest.mark.parametrize("same", [1000, 1000.0, "1000", "1000.0", "01000.00"])
def test_the_same_number(same: float | str) -> None:
    one = orders(minNotional=same)
    assert (one.min_notional, text(one.echo["minNotional"])) == (1000.0, "1000")
    assert one.key == orders(minNotional=1000).key


def test_statuses_by_group() -> None:
    assert orders(statuses=["resting"]).statuses == ("open", "triggered")
    assert orders(statuses=["open", "triggered"]) == orders(statuses=["resting", "open"])
    assert set(orders(statuses=["terminal"]).statuses or ()) == {
        *STATUS_GROUPS["canceled"],
        *STATUS_GROUPS["rejected"],
        "filled",
    }
    assert orders(statuses=["filled", "canceled", "rejected"]) == orders(statuses=["terminal"])


def test_each_known_status_is_resting_or_terminal() -> None:
    groups = STATUS_GROUPS["resting"] + STATUS_GROUPS["terminal"]
    assert sorted(groups) == sorted(STATUS_NAMES)
    for name in STATUS_NAMES:
        assert (name in STATUS_GROUPS["rejected"]) == name.lower().endswith("rejected")
        assert (name in STATUS_GROUPS["canceled"]) == bool(re.search(r"[cC]ancel(l?ed)?$", name))


def test_limits() -> None:
    names = [f"C{i}" for i in range(1000)]
    assert len(orders(coins=names).coins or ()) == 1000
    assert "coins: 1,001 entries, at most 1,000" in refused({"type": "orders", "coins": [*names, "X"]})
    assert orders(coins=["ü" * 64]).coins == ("ü" * 64,)
    assert "at most 64 characters" in refused({"type": "orders", "coins": ["BTC", "x" * 65]})
    assert orders(statuses=["x" * 64]).statuses == ("x" * 64,)
    assert "at most 64 letters" in refused({"type": "orders", "statuses": ["x" * 65]})
    assert orders(minNotional="0" * 63 + "7").min_notional == 7
    assert refused({"type": "orders", "minNotional": "0" * 64 + "7"})
    assert orders(cursor="p" * 64).cursor == "p" * 64
    assert refused({"type": "orders", "cursor": "p" * 65})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"coins": "BTC"}, "coins: expected a list"),
        ({"coins": {"BTC": 1}}, "coins: expected a list"),
        ({"coins": []}, "coins: an empty list selects nothing"),
        ({"users": []}, "users: an empty list selects nothing"),
        ({"sides": []}, "sides: an empty list selects nothing"),
        ({"statuses": []}, "statuses: an empty list selects nothing"),
        ({"coins": ["BTC", ""]}, "coins: entry 2 is not a coin's name"),
        ({"coins": [["BTC"]]}, "coins: entry 1 is not a coin's name"),
        ({"users": [USER, USER[:-1]]}, "users: entry 2 is not an address"),
        ({"users": [USER + "\n"]}, "users: entry 1 is not an address"),
        ({"users": [7]}, "users: entry 1 is not an address"),
        ({"sides": ["A", "Bid"]}, 'sides: entry 2 is not "A" (ask) or "B" (bid)'),
        ({"sides": [[]]}, "sides: entry 1 is not"),
        ({"statuses": ["open", "so long"]}, "statuses: entry 2 is not a status"),
        ({"statuses": ["ofen\n"]}, "statuses: entry 1 is not a status"),
        ({"minNotional": -1}, "minNotional: expected a number"),
        ({"minNotional": "-1"}, "minNotional: expected a number"),
        ({"minNotional": "1e3"}, "minNotional: expected a number"),
        ({"minNotional": "١"}, "minNotional: expected a number"),
        ({"minNotional": True}, "minNotional: expected a number"),
        ({"minNotional": [1]}, "minNotional: expected a number"),
        ({"format": "csv"}, 'format: expected "full", "ws" or "raw"'),
        ({"format": ["ws"]}, "format: expected"),
        ({"cursor": 7}, "cursor: expected a text"),
        ({"cursor": ""}, "cursor: expected a text"),
        ({"cursor": "p2026", "since": "2026-05-05T17:39:00"}, "cursor and since exclude each other"),
        ({"onSlow": "wait"}, 'onSlow: expected "replay", "gap" or "close"'),
    ],
    ids=str,
)
def test_a_wrong_value_is_named(fields: dict[str, Any], reason: str) -> None:
    assert refused({"type": "orders", **fields}).startswith(reason)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("coin", 'unknown field "coin", did you mean "coins"?'),
        ("user", 'unknown field "user", did you mean "users"?'),
        ("min_notional", 'unknown field "min_notional", did you mean "minNotional"?'),
        ("status", 'unknown field "status", did you mean "statuses"?'),
        ("Cursor", 'unknown field "Cursor", did you mean "cursor"?'),
        ("onsow", 'unknown field "onsow", did you mean "onSlow"?'),
        ("MIN_NOTIONAL", 'unknown field "MIN_NOTIONAL", did you mean "minNotional"?'),
        ("dex", 'unknown field "dex"'),
        ("}coins{", "unknown field"),
        ("co\nins", "unknown field"),
        ("c" * 65, "unknown field"),
        ("", "unknown field"),
    ],
)
def test_a_slip_in_a_name_does_not_select_everything(name: str, reason: str) -> None:
    assert refused({"type": "orders", name: ["BTC"]}) == reason
    assert refused({"type": "orders", name: ["BTC"]}, "unsubscribe") == reason


def test_the_first_of_several_unknown_fields_is_named() -> None:
    assert refused({"type": "orders", "q": 1, "coin": 1, "user": 1}) == 'unknown field "q"'


def test_status_has_no_selection() -> None:
    assert refused({"type": "status", "coins": ["BTC"]}) == 'unknown field "coins"'


# Where to start: cursor, since, onSlow


@pytest.mark.parametrize(
    "what", [{"type": "orders", "coins": ["BTC"]}, {"type": "orderUpdates", "user": USER}, {"type": "status"}]
)
def test_how_to_begin_is_no_part_of_the_identity(what: dict[str, Any]) -> None:
    how = {"cursor": "p2026050517-0000000123456-0000001", "onSlow": "close"}
    one = subscribe(**what, **how)
    assert (one.cursor, one.since, one.on_slow) == (how["cursor"], None, "close")
    assert one == subscribe(**what)
    assert hash(one) == hash(subscribe(**what))
    assert one.echo == subscribe(**what).echo
    assert subscribe(**what, since="2026-05-05T17:39:00") == one


@pytest.mark.parametrize(
    ("since", "nanoseconds"),
    [
        ("1970-01-01T00:00:00", 0),
        ("2026-05-05T17:39:00", 1778002740 * 10**9),
        ("2026-05-05T17:39:00Z", 1778002740 * 10**9),
        ("2026-05-05T17:39:14.852711983", 1778002754_852711983),
        ("2026-05-05T17:39:14.8527Z", 1778002754_852700000),
        ("2028-02-29T23:59:59.000000001", 1835481599_000000001),
        ("2262-04-11T23:47:16.854775807", 2**63 - 1),
    ],
)
def test_since(since: str, nanoseconds: int) -> None:
    assert orders(since=since).since == nanoseconds


@pytest.mark.parametrize(
    "since",
    [
        "2262-04-11T23:47:16.854775808",
        "1969-12-31T23:59:59",
        "2026-02-29T00:00:00",
        "2026-05-05T24:00:00",
        "2026-05-05T17:39:60",
        "2026-05-05T17:39",
        "2026-05-05 17:39:00",
        "2026-05-05T17:39:00.",
        "2026-05-05T17:39:00.1234567890",
        "2026-05-05T17:39:00+02:00",
        "2026-05-05T17:39:00Z\n",
        "٢026-05-05T17:39:00",
        "",
        1778002740,
    ],
)
def test_no_time(since: Any) -> None:
    assert refused({"type": "orders", "since": since}).startswith("since: expected a time in UTC")


def test_how_to_begin_means_nothing_to_an_unsubscribe() -> None:
    wrong = {"cursor": 7, "since": "yesterday", "onSlow": ["?"]}
    made = request("unsubscribe", {"type": "orders", **wrong})
    assert made.subscription == orders()
    assert made.subscription is not None
    assert (made.subscription.cursor, made.subscription.since) == (None, None)


# Public types that this server does not offer


@pytest.mark.parametrize(
    "subscription",
    [
        {},
        {"type": None},
        {"type": ["orders"]},
        {"coin": "SOL"},
        {"type": "orderUpdates"},
        {"type": "orderUpdates", "user": None},
        {"type": "orderUpdates", "user": USER[:-1]},
        {"type": "orderUpdates", "user": USER + "0"},
        {"type": "orderUpdates", "user": USER[:-1] + "g"},
        {"type": "orderUpdates", "user": [USER]},
        {"type": "orderUpdates", "user": 'ü\n"\\'},
        {"type": "userFills"},
        {"type": "userEvents", "user": USER[:-1]},
        {"type": "trades"},
        {"type": "trades", "coin": ""},
        {"type": "trades", "coin": ["BTC"]},
    ],
    ids=text,
)
@pytest.mark.parametrize("method", ["subscribe", "unsubscribe"])
def test_what_the_public_api_refuses_is_refused_in_its_words(
    method: str, subscription: dict[str, Any]
) -> None:
    said = error(text({"method": method, "subscription": subscription}))
    assert said == "Invalid subscription: " + text(subscription)


SERVED = {"orders", "orderUpdates", "fills", "trades", "userFills", "userEvents", "status"}


@pytest.mark.parametrize("kind", sorted(PUBLIC_TYPES - SERVED))
@pytest.mark.parametrize("method", ["subscribe", "unsubscribe"])
def test_a_public_type_that_is_not_served_is_told_from_a_slip(method: str, kind: str) -> None:
    """A type that is not served gets the same error with any fields, valid or not."""
    for fields in ({}, {"user": USER}, {"coin": "SOL", "nSigFigs": None}, {"coins": [], "x" * 99: {"": []}}):
        assert refused({"type": kind, **fields}, method) == f'"{kind}" is not served here'


def test_what_is_served_is_not_said_not_to_be() -> None:
    public = {"orderUpdates", "trades", "userFills", "userEvents"}
    assert {kind for kind in PUBLIC_TYPES if kind in SERVED} == public
    assert subscribe(type="orderUpdates", user=USER).type == "orderUpdates"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("orderupdates", 'unknown type "orderupdates", did you mean "orderUpdates"?'),
        ("order_updates", 'unknown type "order_updates", did you mean "orderUpdates"?'),
        ("order", 'unknown type "order", did you mean "orders"?'),
        ("Status", 'unknown type "Status", did you mean "status"?'),
        ("candles", 'unknown type "candles", did you mean "candle", which is not served here?'),
        ("trade", 'unknown type "trade", did you mean "trades"?'),
        ("L2BOOK", 'unknown type "L2BOOK", did you mean "l2Book", which is not served here?'),
        ("nonsense", 'unknown type "nonsense"'),
        ("}orders{", "unknown type"),
        ("", "unknown type"),
        ("x" * 65, "unknown type"),
    ],
)
def test_a_slip_in_a_type_is_named(kind: str, reason: str) -> None:
    for fields in ({}, {"user": USER}, {"coins": ["BTC"], "dex": ""}):
        assert refused({"type": kind, **fields}) == reason
        assert refused({"type": kind, **fields}, "unsubscribe") == reason


def test_order_updates_pass_over_what_the_public_api_passes_over() -> None:
    sent = {"type": "orderUpdates", "user": USER, "dex": "", "isSnapshot": False, "aggregateByTime": True}
    made = request("subscribe", sent)
    assert made.subscription == subscribe(type="orderUpdates", user=USER)
    assert made.response_fields == {"type": "orderUpdates", "user": USER}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("curser", 'unknown field "curser", did you mean "cursor"?'),
        ("on_slow", 'unknown field "on_slow", did you mean "onSlow"?'),
        ("coins", 'unknown field "coins": "coins" belongs to type "orders"'),
        ("minNotional", 'unknown field "minNotional": "minNotional" belongs to type "orders"'),
    ],
)
def test_order_updates_do_not_pass_over_what_looks_like_ours(name: str, reason: str) -> None:
    assert refused({"type": "orderUpdates", "user": USER, name: "x"}) == reason


def test_a_subscription_of_many_fields_is_refused() -> None:
    """The number of fields is limited, because each unknown one is compared with the known ones."""
    many = {f"x{i}": 0 for i in range(30)}
    assert subscribe(type="orderUpdates", user=USER, **many).users == (USER,)
    assert refused({"type": "orderUpdates", "user": USER, **many, "one": 1}) == "33 fields, at most 32"


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "ping",
        "nonsense {",
        '"text"',
        "7",
        "null",
        "[]",
        "{}",
        '{"method":"subscribe"}',
        '{"method":"subscribe","subscription":null}',
        '{"method":"subscribe","subscription":"orders"}',
        '{"method":"subscribe","subscription":[{"type":"orders"}]}',
        '{"method":"unsubscribe"}',
        '{"method":"unsubscribe","subscription":"orders"}',
        '{"method":"Subscribe","subscription":{"type":"orders"}}',
        '{"method":["ping"]}',
        '{"subscription":{"type":"orders"}}',
        '{"method":"ping"} trailing',
        '{"method":"subscribe","subscription":{"type":"orders","minNotional":NaN}}',
        '{"method":"subscribe","subscription":{"type":"orders","minNotional":1e999}}',
        '{"method":"subscribe","subscription":{"type":"orders","coins":["\\ud800"]}}',
        '{"method":"ping","deep":' + "[" * 300 + "]" * 300 + "}",
    ],
)
def test_what_is_no_request_is_shown_as_it_came(payload: str) -> None:
    assert error(payload) == NO_REQUEST + payload


def test_a_long_frame_is_shown_in_part_unless_it_is_json() -> None:
    assert error("ü" * 999 + "x") == NO_REQUEST + "ü" * 999 + "x"
    assert error("ü" * 2000) == NO_REQUEST + "ü" * 1000
    assert error("[" * 60_000) == NO_REQUEST + "[" * 1000
    long = text({"method": "submit", "id": 1, "request": {"type": "action", "payload": "ü" * 2000}})
    assert error(long) == NO_REQUEST + long


def test_bytes_that_are_no_text_are_no_request() -> None:
    assert error(b'{"method":"ping","x":"\xff"}').startswith(NO_REQUEST + '{"method":"ping"')


def test_a_binary_message_is_no_request() -> None:
    assert (
        str(binary_not_supported(7))
        == NO_REQUEST + "a binary message of 7 bytes, but requests are text messages"
    )


# Posts


def posted(message: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a post that has an id."""
    with pytest.raises(PostError) as caught:
        parse_request(text({"method": "post", **message}).encode())
    assert caught.value.channel == "post"
    data = caught.value.data
    assert isinstance(data, dict)
    return data


INFO = (
    "501 Not Implemented: info requests are not served here; "
    "send them to the public API, https://api.hyperliquid.xyz/info"
)
ACTION = (
    "501 Not Implemented: actions are not served here; "
    "send them to the public API, https://api.hyperliquid.xyz/exchange"
)


@pytest.mark.parametrize("identity", [1, 0, -1, 2**64 - 1, "1", "", "a1"])
def test_a_post_is_answered_with_its_id_in_the_public_shape(identity: int | str) -> None:
    info = {"type": "info", "payload": {"type": "meta"}}
    assert posted({"id": identity, "request": info}) == {
        "id": identity,
        "response": {"type": "error", "payload": INFO},
    }
    action = {"type": "action", "payload": {"action": {}, "nonce": 1, "signature": {}}}
    assert posted({"id": identity, "request": action}) == {
        "id": identity,
        "response": {"type": "action", "payload": {"status": "err", "response": ACTION}},
    }


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"request": None},
        {"request": "info"},
        {"request": {}},
        {"request": {"type": "explorer", "payload": {}}},
        {"request": {"type": ["info"]}},
    ],
    ids=text,
)
def test_a_broken_post_is_answered_with_its_id_too(broken: dict[str, Any]) -> None:
    payload = '400 Bad Request: the type of a post\'s request is "info" or "action"'
    assert posted({"id": 5, **broken}) == {"id": 5, "response": {"type": "error", "payload": payload}}


@pytest.mark.parametrize(
    "identity", ["", ',"id":null', ',"id":true', ',"id":1.5', ',"id":[1]', ',"id":' + "9" * 30]
)
def test_a_post_without_an_id_is_no_request(identity: str) -> None:
    """As in the public API: without an id, the sender could not recognize the answer."""
    post = '{"method":"post"' + identity + ',"request":{"type":"info","payload":{"type":"meta"}}}'
    assert error(post) == NO_REQUEST + post + ": a post request needs an id, a 64-bit integer"


def is_subset(part: Any, whole: Any) -> bool:
    """Match as the TypeScript SDK does to find the request that a subscriptionResponse answers."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and is_subset(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(is_subset, part, whole))
    if isinstance(part, str) and isinstance(whole, str) and re.match("^0x[0-9a-f]+$", part, re.IGNORECASE):
        return part.lower() == whole.lower()
    return bool(part == whole)


@pytest.mark.parametrize(
    "sent",
    [
        {"type": "orderUpdates", "user": MIXED},
        {"type": "orderUpdates", "user": USER, "cursor": "p2026", "onSlow": "gap"},
        {"type": "orders"},
        {
            "type": "orders",
            "coins": ["ETH", "BTC"],
            "users": [MIXED],
            "minNotional": "1000.0",
            "format": None,
        },
        {
            "type": "orders",
            "statuses": ["resting", "filled"],
            "sides": ["A", "B"],
            "since": "2026-05-05T17:39:00",
        },
        {"type": "status", "onSlow": "close"},
    ],
    ids=text,
)
@pytest.mark.parametrize("method", ["subscribe", "unsubscribe"])
def test_the_answer_holds_what_was_sent_and_the_rest_of_the_echo(method: str, sent: dict[str, Any]) -> None:
    made = request(method, sent)
    assert made.subscription is not None
    assert is_subset(sent, made.response_fields)
    assert made.response_fields.keys() == {*made.subscription.echo, *sent}
    assert made.response_fields.get("user", USER) == USER


# Arbitrary input


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=12), inside, max_size=4),
    max_leaves=12,
)
ADDRESSES = st.sampled_from([USER, MIXED, OTHER, OTHER.upper()])
STATUSES = st.sampled_from(
    ["open", "triggered", "filled", "canceled", "tickRejected", "newKind", *STATUS_GROUPS]
)


def listed(entries: st.SearchStrategy[str]) -> st.SearchStrategy[list[str] | None]:
    return st.none() | st.lists(entries, min_size=1, max_size=5)


GOOD = st.fixed_dictionaries(
    {"type": st.just("orders")},
    optional={
        "coins": listed(st.sampled_from(["BTC", "ETH", "xyz:XYZ100"])),
        "users": listed(ADDRESSES),
        "sides": listed(st.sampled_from("AB")),
        "statuses": listed(STATUSES),
        "minNotional": st.sampled_from([None, 0, 5, 5.0, "5", "5.50", 5.5, 1e300]) | st.floats(0, 1e12),
        "format": st.sampled_from([None, "full", "ws", "raw"]),
    },
)
ODD = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys((*EVERYTHING, "user", "cursor", "since", "onSlow", "coin"), JSON),
)


def selection(sent: dict[str, Any]) -> tuple[Any, ...]:
    """Compute a selection independently: the set of values that pass, for each field, and the format."""

    def passing(name: str, universe: set[str]) -> frozenset[str]:
        wanted = sent.get(name)
        if wanted is None:
            return frozenset(universe)
        if name == "statuses":
            wanted = [each for name in wanted for each in STATUS_GROUPS.get(name, [name])]
        return frozenset(each for each in universe if each.lower() in {want.lower() for want in wanted})

    return (
        passing("coins", {"BTC", "ETH", "xyz:XYZ100", "another"}),
        passing("users", {USER, OTHER, "0x" + "2" * 40}),
        passing("sides", {"A", "B"}),
        passing("statuses", {*STATUS_NAMES, "newKind", "another"}),
        float(sent.get("minNotional") or 0),
        sent.get("format") or "full",
    )


@given(GOOD)
def test_the_echo_asks_for_the_same(sent: dict[str, Any]) -> None:
    one = orders(**{name: value for name, value in sent.items() if name != "type"})
    again = subscribe(**one.echo)
    assert (again.echo, again.key) == (one.echo, one.key)
    assert (again.coins, again.users, again.sides) == (one.coins, one.users, one.sides)
    assert (again.statuses, again.min_notional, again.format) == (one.statuses, one.min_notional, one.format)


@given(GOOD, GOOD)
@example({"type": "orders", "sides": ["A", "B"]}, {"type": "orders"})
@settings(max_examples=300)
def test_keys_are_equal_exactly_if_the_selections_are(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (subscribe(**one).key == subscribe(**two).key) == (selection(one) == selection(two))


@given(GOOD, st.randoms())
def test_order_and_doubles_do_not_matter(sent: dict[str, Any], random: Any) -> None:
    turned: dict[str, Any] = {}
    for name in random.sample(list(sent), len(sent)):
        value = sent[name]
        turned[name] = random.sample(value * 2, 2 * len(value)) if isinstance(value, list) else value
    assert subscribe(**turned) == subscribe(**sent)


@given(
    JSON.map(text)
    | ODD.map(lambda odd: text({"method": "subscribe", "subscription": odd}))
    | st.tuples(ODD, st.sampled_from(["orders", "orderUpdates", "status"])).map(
        lambda odd: text({"method": "unsubscribe", "subscription": {**odd[0], "type": odd[1], "user": USER}})
    )
    | st.text()
)
@settings(max_examples=500)
def test_whatever_comes_is_a_request_or_refused(payload: str) -> None:
    try:
        made = parse_request(payload.encode("utf-8", "replace"))
    except RequestError as refusal:
        said = str(refusal)
    else:
        said = "Invalid subscription: {"
        assert (made.subscription is None) == (made.method == "ping")
        text(made.response_fields).encode()
        hash(made.subscription)
    assert said.startswith(("Invalid subscription: {", NO_REQUEST))


@given(st.binary())
def test_any_bytes_are_a_request_or_refused(payload: bytes) -> None:
    with pytest.raises(RequestError):
        parse_request(payload)
