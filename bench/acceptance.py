"""Decides which lines are order statuses by the rules of docs/parsing.md, in plain Python over any decoder.

It uses nothing of fasttail, because fasttail's count of rejected lines is compared with it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?")
Rule = Callable[[Any], bool]


class Numbers(NamedTuple):
    """The numbers of an order that the benchmarks add up."""

    oid: int
    timestamp: int
    limitPx: float
    sz: float
    origSz: float


class NoOrder(ValueError):
    """The line is not an order status."""


def _is(*kinds: type) -> Rule:
    return lambda value: type(value) in kinds


def _integer(low: int, high: int) -> Rule:
    return lambda value: type(value) is int and low <= value <= high


def _decimal(value: Any) -> bool:
    return type(value) is str and DECIMAL.fullmatch(value) is not None


def _time(value: Any) -> bool:
    match = TIME.fullmatch(value) if type(value) is str else None
    if match is None:
        return False
    try:
        return 1970 <= datetime.fromisoformat(match[1]).year <= 2261
    except ValueError:
        return False


NONE = type(None)
EVENT: dict[str, Rule] = {
    "time": _time,
    "user": _is(str),
    "hash": _is(str, NONE),
    "builder": _is(dict, NONE),
    "status": _is(str),
    "order": _is(dict),
}
ORDER: dict[str, Rule] = {
    "coin": _is(str),
    "side": lambda value: value in ("A", "B"),
    "limitPx": _decimal,
    "sz": _decimal,
    "oid": _integer(0, 2**64 - 1),
    "timestamp": _integer(-(2**63), 2**63 - 1),
    "triggerCondition": _is(str),
    "isTrigger": _is(bool),
    "triggerPx": _decimal,
    "children": _is(list),
    "isPositionTpsl": _is(bool),
    "reduceOnly": _is(bool),
    "orderType": _is(str),
    "origSz": _decimal,
    "tif": _is(str, NONE),
    "cloid": _is(str, NONE),
}
ENVELOPE: dict[str, Rule] = {
    "local_time": _time,
    "block_time": _time,
    "block_number": _integer(0, 2**64 - 1),
    "events": _is(list),
}


def _keep(rules: dict[str, Rule], value: dict[str, Any]) -> None:
    # A missing key counts as null, which only some keys may be.
    for key, rule in rules.items():
        if not rule(value.get(key)):
            raise NoOrder(key)


def _numbers(event: Any) -> Numbers:
    if type(event) is not dict:
        raise NoOrder("no object")
    _keep(EVENT, event)
    order = event["order"]
    _keep(ORDER, order)
    decimals = (float(order["limitPx"]), float(order["sz"]), float(order["origSz"]))
    return Numbers(order["oid"], order["timestamp"], *decimals)


def read_line(loads: Callable[[bytes], Any], line: bytes) -> list[Numbers]:
    """Return a line's orders in any layout, [] for a blank line. Raise NoOrder or what `loads` raises."""
    line = line.lstrip(b"\0").removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")
    if not line:
        return []
    value = loads(line)
    if type(value) is not dict:
        raise NoOrder("no object")
    if "events" not in value or "order" in value:
        return [_numbers(value)]
    _keep(ENVELOPE, value)
    return [_numbers(event) for event in value["events"]]


def _no_constant(name: str) -> Any:
    raise NoOrder(name)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise NoOrder(text)
    return number


def strict_json(line: bytes) -> Any:
    """Decode with the standard library, held to the stricter rules of RFC 8259. Raise ValueError.

    It is still laxer than orjson for integers of more than 308 digits, and stricter for nesting between its
    own limit and 1,024.
    """
    text = line.decode("utf-8")
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise NoOrder("nesting") from error
    if "\\u" in text:  # half a surrogate pair cannot be encoded as UTF-8
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value
