"""Reads order-status lines with a JSON decoder and plain Python: the base of ratios and the expected answers.

The readers decode, look up five fields, convert and sum them, and keep nothing: the minimum of work.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from bench.acceptance import Numbers, read_line
from bench.measure import Answer

COLUMNS = Numbers._fields
Loads = Callable[[bytes], Any]


def python_answer(loads: Loads, lines: Iterable[bytes], layout: str) -> Answer:
    """Read valid lines; in the plain layout, reject what the decoder, a lookup or `float` refuses."""
    return (_plain if layout == "plain" else _enveloped)(loads, lines)


def _plain(loads: Loads, lines: Iterable[bytes]) -> Answer:
    count = rejected = oid = timestamp = 0
    limit_px = sz = orig_sz = 0.0
    for line in lines:
        try:
            order = loads(line)["order"]
            price, size, original = float(order["limitPx"]), float(order["sz"]), float(order["origSz"])
            oid += order["oid"]
            timestamp += order["timestamp"]
        except (ValueError, KeyError):
            rejected += 1
            continue
        count += 1
        limit_px += price
        sz += size
        orig_sz += original
    return answer(count, (oid, timestamp, limit_px, sz, orig_sz), rejected)


def _enveloped(loads: Loads, lines: Iterable[bytes]) -> Answer:
    count = oid = timestamp = 0
    limit_px = sz = orig_sz = 0.0
    for line in lines:
        for event in loads(line)["events"]:
            order = event["order"]
            count += 1
            oid += order["oid"]
            timestamp += order["timestamp"]
            limit_px += float(order["limitPx"])
            sz += float(order["sz"])
            orig_sz += float(order["origSz"])
    return answer(count, (oid, timestamp, limit_px, sz, orig_sz))


def answer(count: int, sums: Iterable[int | float], rejected: int = 0) -> Answer:
    return Answer(count, dict(zip(COLUMNS, sums, strict=True)), rejected)


def checked_answer(loads: Loads, data: bytes) -> Answer:
    """Check every rule of bench/acceptance.py on every line."""
    return checked(loads, io.BytesIO(data))[0]


def checked(loads: Loads, lines: Iterable[bytes]) -> tuple[Answer, list[int]]:
    """Return the answer with exact sums, and the offsets of rejected lines."""
    lines = iter(lines)
    rejected: list[int] = []
    parts: list[tuple[int | float, ...]] = []
    count = at = 0
    while piece := list(islice(lines, 100_000)):
        orders: list[Numbers] = []
        for line in piece:
            try:
                orders += read_line(loads, line)
            except ValueError:
                rejected.append(at)
            at += len(line)
        count += len(orders)
        if orders:
            parts.append(added(zip(*orders, strict=True)))
    sums = added(zip(*parts, strict=True)) if parts else (0, 0, 0.0, 0.0, 0.0)
    return answer(count, sums, len(rejected)), rejected


def added(columns: Iterable[Iterable[Any]]) -> tuple[int | float, ...]:
    """Sum each column of COLUMNS, without rounding errors from the order of additions."""
    return tuple(
        sum(column) if name in ("oid", "timestamp") else math.fsum(column)
        for name, column in zip(COLUMNS, columns, strict=True)
    )
