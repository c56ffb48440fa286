"""Reads lines with orjson and plain Python: the slow reference whose results are right by definition."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

ORDER_KEYS = (
    "coin", "side", "limitPx", "sz", "oid", "timestamp", "triggerCondition", "isTrigger", "triggerPx",
    "children", "isPositionTpsl", "reduceOnly", "orderType", "origSz", "tif", "cloid",
)  # fmt: skip
DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
TIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NoOrder(ValueError):
    """The line is not an order status."""


def time_ns(text: object) -> int:
    match = TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise NoOrder("time")
    *parts, fraction = match.groups()
    try:
        moment = datetime(*map(int, parts), tzinfo=UTC)  # type: ignore[arg-type,misc]
    except ValueError as error:
        raise NoOrder("time") from error
    if not 1970 <= moment.year <= 2261:
        raise NoOrder("time")
    since = moment - EPOCH
    return (since.days * 86400 + since.seconds) * 10**9 + int((fraction or "").ljust(9, "0"))


def _want(value: object, kind: type, nullable: bool = False) -> Any:
    if value is None and nullable:
        return None
    if type(value) is not kind:
        raise NoOrder(f"{value!r} is no {kind.__name__}")
    return value


def _integer(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise NoOrder(f"{value!r} is no integer in range")
    return value


def _decimal(value: object) -> str:
    if not isinstance(value, str) or not DECIMAL.fullmatch(value):
        raise NoOrder(f"{value!r} is no decimal")
    return value


def read_event(event: object) -> dict[str, Any]:
    """Return one flat order with the keys of `--format json`, in their order. Raise NoOrder."""
    _want(event, dict)
    assert isinstance(event, dict)
    order = _want(event.get("order"), dict)
    time_ns(event.get("time"))
    side = _want(order.get("side"), str)
    if side not in ("A", "B"):
        raise NoOrder("side")
    return {
        "time": event["time"],
        "user": _want(event.get("user"), str),
        "hash": _want(event.get("hash"), str, True),
        "builder": _want(event.get("builder"), dict, True),
        "status": _want(event.get("status"), str),
        "coin": _want(order.get("coin"), str),
        "side": side,
        "limitPx": _decimal(order.get("limitPx")),
        "sz": _decimal(order.get("sz")),
        "oid": _integer(order.get("oid"), 0, 2**64 - 1),
        "timestamp": _integer(order.get("timestamp"), -(2**63), 2**63 - 1),
        "triggerCondition": _want(order.get("triggerCondition"), str),
        "isTrigger": _want(order.get("isTrigger"), bool),
        "triggerPx": _decimal(order.get("triggerPx")),
        "children": _want(order.get("children"), list),
        "isPositionTpsl": _want(order.get("isPositionTpsl"), bool),
        "reduceOnly": _want(order.get("reduceOnly"), bool),
        "orderType": _want(order.get("orderType"), str),
        "origSz": _decimal(order.get("origSz")),
        "tif": _want(order.get("tif"), str, True),
        "cloid": _want(order.get("cloid"), str, True),
    }


def read_line(line: bytes) -> list[dict[str, Any]]:
    """Return all orders of a line in any layout, [] for a blank line. Raise NoOrder."""
    line = line.lstrip(b"\0")
    line = line.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")
    if not line:
        return []
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise NoOrder(str(error)) from error
    _want(value, dict)
    if "events" not in value or "order" in value:
        return [read_event(value) | {"block_number": None, "block_time": None, "local_time": None}]
    time_ns(value.get("block_time"))
    time_ns(value.get("local_time"))
    block = {
        "block_number": _integer(value.get("block_number"), 0, 2**64 - 1),
        "block_time": value["block_time"],
        "local_time": value["local_time"],
    }
    return [read_event(event) | block for event in _want(value["events"], list)]


def read(
    data: bytes, read_line: Callable[[bytes], list[dict[str, Any]]] = read_line
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return all events of `data` and the offsets of the rejected lines. The events are orders by default."""
    events: list[dict[str, Any]] = []
    rejected: list[int] = []
    at = 0
    for line in data.split(b"\n"):
        try:
            events += read_line(line)
        except NoOrder:
            rejected.append(at)
        at += len(line) + 1
    return events, rejected
