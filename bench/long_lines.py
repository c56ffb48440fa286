"""Measures the cost per byte of one very long line relative to short lines of the same shape.

Each shape makes a line long by one thing: a string, children, unknown keys, events. The short lines hold a
few thousand bytes of it, most of their length, and add up to as many bytes as the long line. A parser that
rescans once per nesting level, or restarts after giving up, shows here.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import orjson

from bench.acceptance import read_line
from bench.measure import Engine, take_turns
from bench.parse import parse_answer
from bench.readers import answer, checked

SHORT = 4096
TARGET = 1.5

HEAD = b'{"time":"2026-05-05T17:39:14.852711983",'
USER = b'"user":"0x4f235c15474f984504b0f188755021ae45c2fa65",'
TAIL = (
    b'"hash":null,"builder":null,"status":"open","order":{"coin":"BTC","side":"B","limitPx":"%b","sz":"0.0003",'
    b'"oid":412036451268,"timestamp":1778002753024,"triggerCondition":"N/A","isTrigger":false,"triggerPx":"0.0",'
    b'"children":[%b],"isPositionTpsl":false,"reduceOnly":false,"orderType":"Limit","origSz":"0.0004",'
    b'"tif":"Alo","cloid":"0x000000000000000018acac9b634b5137"}}'
)
ORDER = TAIL % (b"65045.0", b"")
EVENT = HEAD + USER + ORDER
CHILD = ORDER[ORDER.index(b'{"coin"') : -1]
BLOCK = (
    b'{"local_time":"2026-05-05T17:39:16.001886457","block_time":"2026-05-05T17:39:14.852711983",'
    b'"block_number":985148182,"events":['
)


def _several(piece: bytes, size: int, between: bytes = b"") -> bytes:
    """Repeat a piece, at least once, to about `size` bytes."""
    times = max(1, size // len(piece + between))
    return (piece + between) * (times - 1) + piece


def _keys(size: int) -> Iterator[bytes]:
    """Yield `"key0":...,"key1":...,` and so on, up to `size` bytes in total."""
    for number in count():
        key = b'"key%d":{"a":[%d,"b"]},' % (number, number)
        size -= len(key)
        if size < 0:
            return
        yield key


def string(size: int) -> bytes:
    return HEAD + b'"user":"%b",' % (b"x" * size) + ORDER


def escaped_string(size: int) -> bytes:
    return HEAD + b'"user":"%b",' % _several(rb"\"\u00e9\n\ud83d\ude00abc", size) + ORDER


def other_letters(size: int) -> bytes:
    return HEAD + b'"user":"%b",' % _several("é漢😀".encode(), size) + ORDER


def decimal(size: int) -> bytes:
    """Use a decimal just above the midpoint of two float64 values, so that every digit counts."""
    middle = b"1.00000000000000011102230246251565404236316680908203125"
    return HEAD + USER + TAIL % (middle + b"0" * size + b"1", b"")


def number(size: int) -> bytes:
    return HEAD + b'"more":1.%b,' % (b"7" * size) + USER + ORDER


def children(size: int) -> bytes:
    return HEAD + USER + TAIL % (b"65045.0", _several(CHILD, size, b","))


def unknown_keys(size: int) -> bytes:
    return HEAD + b"".join(_keys(size)) + USER + ORDER


def repeated_key(size: int) -> bytes:
    return HEAD + _several(USER, size) + ORDER


def nested(size: int) -> bytes:
    return HEAD + b'"more":[%b],' % _several(b"[" * 1000 + b"]" * 1000, size, b",") + USER + ORDER


def blanks(size: int) -> bytes:
    return HEAD + b" " * size + USER + ORDER


def unclosed(size: int) -> bytes:
    """Return a line that is rejected only at its end."""
    return unknown_keys(size)[:-1]


def by_block(size: int) -> bytes:
    return BLOCK + _several(EVENT, size, b",") + b"]}"


def by_block_turned(size: int) -> bytes:
    """Put the rest of the envelope after the events, so that workers cannot share the line."""
    return b'{"events":[' + _several(EVENT, size, b",") + b"]," + BLOCK[1 : BLOCK.index(b',"events"')] + b"}"


# Shape -> function that makes a line with about `size` bytes of what lengthens it, and worker counts.
LONG: dict[str, tuple[Callable[[int], bytes], tuple[int, ...]]] = {
    "string": (string, (1,)),
    "string, escapes": (escaped_string, (1,)),
    "string, not ASCII": (other_letters, (1,)),
    "decimal text": (decimal, (1,)),
    "JSON number": (number, (1,)),
    "children": (children, (1,)),
    "unknown keys": (unknown_keys, (1,)),
    "repeated key": (repeated_key, (1,)),
    "nested 1000 deep": (nested, (1,)),
    "blanks": (blanks, (1,)),
    "unclosed at its end": (unclosed, (1,)),
    "by_block": (by_block, (1, 2)),
    "by_block, events first": (by_block_turned, (1,)),
}


@dataclass(frozen=True)
class Cost:
    """long, short: best seconds of each. ratio: of their seconds per byte."""

    shape: str
    workers: int
    bytes: int
    long: float
    short: float
    ratio: float
    target: float


def measure(args: argparse.Namespace) -> list[Cost]:
    return [
        _cost(shape, make, n, args.long_bytes, args.rounds)
        for shape, (make, workers) in LONG.items()
        for n in workers
    ]


def _cost(shape: str, make: Callable[[int], bytes], workers: int, size: int, rounds: int) -> Cost:
    line = make(SHORT) + b"\n"
    short = _several(line, size)
    long = make(size) + b"\n"
    # Sum one short line by the plain rules; the long one repeats what adds nothing, or the same events.
    once, _ = checked(orjson.loads, io.BytesIO(line))
    each = read_line(orjson.loads, line)[0] if once.orders else (0, 0, 0.0, 0.0, 0.0)
    times = len(short) // len(line)
    inputs = {
        "long": (long, _events(long) if once.orders else 0, once.rejected),
        "short": (short, once.orders * times, once.rejected * times),
    }
    seconds: dict[str, list[float]] = {name: [] for name in inputs}
    for _ in range(rounds):
        for name, (data, orders, rejected) in inputs.items():
            expected = answer(orders, (value * orders for value in each), rejected)
            engine = Engine(f"{shape}, {name}, {workers} w", partial(parse_answer, data, workers))
            seconds[name] += take_turns([engine], expected, 1)[engine.name]
    best_long, best_short = min(seconds["long"]), min(seconds["short"])
    ratio = (best_long / len(long)) / (best_short / len(short))
    return Cost(shape, workers, len(long), best_long, best_short, ratio, TARGET)


def _events(line: bytes) -> int:
    return line.count(b'"builder":')
