"""Makes order-status lines in the node's usual shapes, and in others for the parser's slower paths."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from fasttail.tools import exchange

NEWER_KEYS = re.compile(rb'"hash":(?:null|"[^"]*"),"builder":(?:null|\{[^}]*\}),')
TIME = re.compile(rb'^(\{"time":"[^".]*)(?:\.000|(\.\d{3}))\d*', re.MULTILINE)
"""A line's time: before its fraction, and its milliseconds if there are any."""


def plain(orders: int, seed: int) -> bytes:
    return exchange.generate(orders, "plain", seed)


def streaming(orders: int, seed: int) -> bytes:
    return exchange.generate(orders, "streaming", seed)


def by_block(orders: int, seed: int) -> bytes:
    return exchange.generate(orders, "by_block", seed)


def year_2024(orders: int, seed: int) -> bytes:
    """Leave out `hash` and `builder`, and give times three digits."""
    return TIME.sub(rb"\1\2", NEWER_KEYS.sub(b"", plain(orders, seed)))


def busy_hour(orders: int, seed: int) -> bytes:
    """Reject a third of the orders instead of 60 %, so more lines open and end orders."""
    return exchange.generate(orders, "plain", seed, options=exchange.ExchangeOptions(rejected=0.34))


def _events(orders: int, seed: int) -> Iterator[dict[str, Any]]:
    return map(orjson.loads, plain(orders, seed).splitlines())


def _lines(events: Iterator[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(event) + b"\n" for event in events)


def reversed_keys(orders: int, seed: int) -> bytes:
    """Reverse the keys, the same in every line."""

    def turn(event: dict[str, Any]) -> dict[str, Any]:
        event["order"] = dict(reversed(event["order"].items()))
        return dict(reversed(event.items()))

    return _lines(map(turn, _events(orders, seed)))


def shuffled_keys(orders: int, seed: int) -> bytes:
    """Shuffle the keys differently in every line."""
    rng = random.Random(f"shuffled {seed}")

    def shuffle(value: dict[str, Any]) -> dict[str, Any]:
        return dict(rng.sample(list(value.items()), len(value)))

    return _lines(shuffle(event | {"order": shuffle(event["order"])}) for event in _events(orders, seed))


def blanks(orders: int, seed: int) -> bytes:
    """Put a blank after every colon and comma."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in _events(orders, seed))


def escapes(orders: int, seed: int) -> bytes:
    r"""Put each kind of escape into strings: \" \\ \/ \n \u00e9 and a surrogate pair."""
    old, new = b'"triggerCondition":"', rb'"triggerCondition":"\"above\"\\ \/\n\u00e9\ud83d\ude00 '
    return plain(orders, seed).replace(old, new).replace(b'"user":"0x', rb'"user":"\u0030x')


def children(orders: int, seed: int) -> bytes:
    """Add two children to each order, like a take-profit and a stop-loss."""

    def add(event: dict[str, Any]) -> dict[str, Any]:
        order = event["order"]
        change = {"isTrigger": True, "triggerPx": order["limitPx"], "isPositionTpsl": True, "tif": None}
        for kind in ("Take Profit Market", "Stop Market"):
            own = {"oid": order["oid"] + 1, "orderType": kind, "children": [], "cloid": None}
            child = order | change | own
            order["children"] = [*order["children"], child]
        return event

    return _lines(map(add, _events(orders, seed)))


def rejected(orders: int, seed: int) -> bytes:
    """Make every line wrong at its end: alternately the last brace is missing and `origSz` is no decimal."""
    lines = plain(orders, seed).splitlines()
    lines[::2] = [line[:-1] for line in lines[::2]]
    lines[1::2] = [line.replace(b'"origSz":"', b'"origSz":"x') for line in lines[1::2]]
    return b"\n".join(lines) + b"\n"


# Functions of (orders, seed). One order per line, except in by_block.
SHAPES: dict[str, Callable[[int, int], bytes]] = {
    "plain": plain,
    "streaming": streaming,
    "by_block": by_block,
    "busy hour": busy_hour,
    "keys reversed": reversed_keys,
    "keys shuffled": shuffled_keys,
    "blanks": blanks,
    "escapes": escapes,
    "children": children,
    "2024": year_2024,
    "all rejected": rejected,
}
ENVELOPED = ("streaming", "by_block")
