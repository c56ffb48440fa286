"""Reads fills with orjson and plain Python: the slow reference whose results are right by definition."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import plain_reader
from plain_reader import DECIMAL, NoOrder, time_ns

UNIT = 8  # digits of an exact amount after its point
AMOUNTS = ("px", "sz", "startPosition", "closedPnl", "fee", "builderFee", "deployerFee")
KEYS = (
    "user", "coin", "px", "sz", "side", "time", "startPosition", "dir", "closedPnl", "hash", "oid", "crossed",
    "fee", "builderFee", "tid", "cloid", "liquidation", "feeToken", "builder", "twapId", "deployerFee",
    "priorityGas",
)  # fmt: skip
KINDS: dict[str, tuple[type, ...]] = {
    "time": (int,), "oid": (int,), "tid": (int,), "twapId": (int, type(None)), "crossed": (bool,),
    "liquidation": (dict, type(None)), "cloid": (str, type(None)), "builder": (str, type(None)),
}  # fmt: skip
MAY_BE_ABSENT = {
    "builderFee",
    "cloid",
    "liquidation",
    "builder",
    "twapId",
    "deployerFee",
    "priorityGas",
}
MAX_TIME_MS = 2**63 // 10**6


def read_event(event: object) -> dict[str, Any]:
    """Return one flat fill with the keys of `--format json`, in their order. Raise NoOrder."""
    if type(event) is not list or len(event) != 2 or type(event[0]) is not str or type(event[1]) is not dict:
        raise NoOrder("pair")
    given: dict[str, Any] = {**event[1], "user": event[0]}
    for key in KEYS:
        if key not in given:
            if key not in MAY_BE_ABSENT:
                raise NoOrder(f"{key}: missing")
            continue
        value = given[key]
        if key != "priorityGas" and type(value) not in KINDS.get(key, (str,)):
            raise NoOrder(f"{key}: of another type")
        if key in AMOUNTS and not DECIMAL.fullmatch(value):
            raise NoOrder(f"{key}: not a decimal number")
        if key in ("oid", "tid", "twapId") and value is not None and not 0 <= value < 2**64:
            raise NoOrder(f"{key}: out of range")
    if given["side"] not in ("A", "B"):
        raise NoOrder("side")
    if abs(given["time"]) > MAX_TIME_MS:
        raise NoOrder("time: out of range")
    return {key: given[key] for key in KEYS if key in given}


def read_line(line: bytes) -> list[dict[str, Any]]:
    """Return all fills of a line in any layout, [] for a blank line. Raise NoOrder."""
    line = line.strip(b" \t\r\n")
    if not line:
        return []
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise NoOrder(str(error)) from error
    if type(value) is list:
        return [read_event(value) | {"block_number": None, "block_time": None, "local_time": None}]
    if type(value) is not dict or type(value.get("events")) is not list:
        raise NoOrder("neither a pair nor an envelope")
    time_ns(value.get("block_time"))
    time_ns(value.get("local_time"))
    number = value.get("block_number")
    if type(number) is not int or not 0 <= number < 2**64:
        raise NoOrder("block_number")
    block = {key: value[key] for key in ("block_number", "block_time", "local_time")}
    return [read_event(event) | block for event in value["events"]]


def read(data: bytes) -> tuple[list[dict[str, Any]], list[int]]:
    """Return all fills of `data` and the offsets of the rejected lines."""
    return plain_reader.read(data, read_line)


def units(text: str) -> int | None:
    """Return a decimal text in units of 10**-8, or None if that is not exact."""
    scaled = Decimal(text).scaleb(UNIT) if "e" not in text.lower() else None
    return None if scaled is None or scaled != int(scaled) else int(scaled)
