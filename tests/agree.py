"""Compares the parser with the plain reader in every value of a row, for every instruction set."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import plain_reader
from lines import event, plain

import fasttail
from fasttail.streams import isa
from fasttail.streams.vocabulary import ORDER_TYPE_NAMES, STATUS_NAMES, TIF_NAMES

PADDING = plain(event()) * 8  # appended to the lines: the template path needs 2,048 readable bytes
NUMBER = re.compile(rb"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
DECIMALS = ("limitPx", "sz", "triggerPx", "origSz")
JSON_REASONS = {"not valid JSON", "not UTF-8", "nested deeper than 1024", "a number beyond float64"}


@contextmanager
def isa_restored() -> Iterator[None]:
    before = isa.name()
    try:
        yield
    finally:
        isa.use(before)


def json_reasons(line: bytes) -> set[str]:
    """Return the reasons that may be given for a line that orjson rejects; a line can have several faults."""
    found = set()
    try:
        line.decode()
    except UnicodeDecodeError:
        found.add("not UTF-8")
    if line.count(b"[") + line.count(b"{") > 1024:
        found.add("nested deeper than 1024")
    for match in NUMBER.finditer(line):
        if float(match[0]) == float("inf"):
            found.add("a number beyond float64")
    return {"not valid JSON"} | found


def _key_reason(key: str, holder: dict[str, Any]) -> str | None:
    """Return the only reason that may be given for this key, or None if it is valid."""
    if key not in holder:
        return None if key in ("hash", "builder", "tif", "cloid") else "missing"
    value: Any = holder[key]
    if key in ("oid", "timestamp", "block_number"):
        low, high = (-(2**63), 2**63 - 1) if key == "timestamp" else (0, 2**64 - 1)
        if type(value) is float:  # also how orjson reads an integer beyond 64 bits
            return "of another type|out of range" if abs(value) >= 2.0**63 else "of another type"
        if type(value) is not int:
            return "of another type"
        return None if low <= value <= high else "out of range"
    kinds: dict[str, type] = {"builder": dict, "order": dict, "children": list, "events": list}
    kind = kinds.get(key, str)
    if key in ("isTrigger", "isPositionTpsl", "reduceOnly"):
        kind = bool
    if value is None and key in ("hash", "builder", "tif", "cloid"):
        return None
    if type(value) is not kind:
        return "of another type"
    return _text_reason(key, value) if isinstance(value, str) else None


def _text_reason(key: str, value: str) -> str | None:
    if key == "side":
        return None if value in ("A", "B") else 'neither "A" nor "B"'
    if key in DECIMALS:
        return None if plain_reader.DECIMAL.fullmatch(value) else "not a decimal number"
    if key in ("time", "block_time", "local_time"):
        try:
            plain_reader.time_ns(value)
        except plain_reader.NoOrder:
            return "not a time"
    return None


def _reasons(keys: Iterable[str], holder: dict[str, Any]) -> set[str]:
    found = ((key, _key_reason(key, holder)) for key in keys)
    return {f"{key}: {said}" for key, reason in found if reason for said in reason.split("|")}


def _event_reasons(value: Any) -> set[str]:
    if type(value) is not dict:
        return {"events: of another type"}
    found = _reasons(("time", "user", "hash", "builder", "status", "order"), value)
    order = value.get("order")
    return found | (_reasons(plain_reader.ORDER_KEYS, order) if type(order) is dict else set())


def possible_reasons(line: bytes) -> set[str]:
    """Return every reason that applies to a rejected line."""
    line = line.lstrip(b"\0").removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return json_reasons(line)
    if type(value) is not dict:
        return {"not an object"}
    if "events" not in value or "order" in value:
        return _event_reasons(value)
    found = _reasons(("local_time", "block_time", "block_number", "events"), value)
    if type(value["events"]) is list:
        found = found.union(*map(_event_reasons, value["events"]))
    return found


class Expected:
    """The plain reader's result for some lines, made once and compared many times."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.orders, self.rejected = plain_reader.read(data)
        self.ends = [data.find(b"\n", at) if data.find(b"\n", at) >= 0 else len(data) for at in self.rejected]
        self.reasons: list[set[str]] | None = None
        self.reprs = [repr(order) for order in self.orders]  # distinguishes 1, 1.0, True and 0.0, -0.0
        self.lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))

    def differs(self, batch: fasttail.Batch) -> str | None:
        """Describe the first difference of the batch, or return None."""
        data = self.data
        found = [each.offset for each in batch.rejected]
        if found != self.rejected:
            at = min(set(found) ^ set(self.rejected), default=-1)
            end = data.find(b"\n", at)
            verb = "wrongly rejected" if at in found else "wrongly accepted"
            said = [each.reason for each in batch.rejected if each.offset == at]
            return f"{verb}, byte {at}: {data[at : end if end >= 0 else None]!r} {said}"
        if self.reasons is None:
            self.reasons = [
                possible_reasons(data[at:end]) for at, end in zip(self.rejected, self.ends, strict=True)
            ]
        for each, end, reasons in zip(batch.rejected, self.ends, self.reasons, strict=True):
            if each.reason not in reasons or not each.offset <= each.at <= end:
                return f"{each}, expected one of {reasons} in {data[each.offset : end]!r}"
        rows = batch.to_pylist()
        if len(rows) != len(self.orders):
            return f"{len(rows)} orders, not {len(self.orders)}"
        for row, wanted in zip(rows, self.reprs, strict=True):
            if repr(row) != wanted:
                return f"{row!r}, expected {wanted}"
        if batch.lines != self.lines:
            return f"{batch.lines} lines, not {self.lines}"
        return self._columns_differ(batch)

    def _columns_differ(self, batch: fasttail.Batch) -> str | None:
        orders = self.orders
        wanted: dict[str, list[Any]] = {
            "oid": [order["oid"] for order in orders],
            "timestamp": [order["timestamp"] for order in orders],
            "time_ns": [plain_reader.time_ns(order["time"]) for order in orders],
            "flags": [
                order["isTrigger"] + 2 * order["isPositionTpsl"] + 4 * order["reduceOnly"] for order in orders
            ],
        }
        for key, names in (
            ("status", STATUS_NAMES), ("orderType", ORDER_TYPE_NAMES), ("tif", TIF_NAMES),
        ):  # fmt: skip
            numbers = {name: number for number, name in enumerate(names, 1)}
            wanted[f"{key}_code"] = [numbers.get(order[key], 0) for order in orders]
        for name, values in wanted.items():
            found = batch.column(name).tolist()
            if name == "flags":
                found = [each & 7 for each in found]
            if found != values:
                return f"column {name}: {_first(found, values)}"
        for name in ("limitPx", "sz", "origSz"):
            texts = [order[name] for order in orders]
            if batch.column(f"{name}_text") != texts:
                return f"column {name}_text"
            found = array("d", batch.column(name).tolist())
            numbers_ = array("d", map(float, texts))
            if found.tobytes() != numbers_.tobytes():  # bitwise, since -0.0 is not 0.0
                return f"column {name}: {_first(found, numbers_)}"
        coins = [order["coin"] for order in orders]
        known = {coin: number for number, coin in enumerate(dict.fromkeys(filter(_has_code, coins)), 1)}
        if batch.coins != ["", *known]:  # each once, in row order
            return f"coins {batch.coins}, expected {list(known)}"
        codes = [known.get(coin, 0) for coin in coins]
        if batch.column("coin_code").tolist() != codes:
            return f"column coin_code: {_first(batch.column('coin_code').tolist(), codes)}"
        return None


def _has_code(coin: str) -> bool:
    return len(coin.encode()) <= 255


def _first(found: Any, wanted: Any) -> tuple[int, Any, Any]:
    return next((i, a, b) for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if repr(a) != repr(b))


def agree(lines: Iterable[bytes], workers: Iterable[int] = (1, 3)) -> Expected:
    """Assert that the parser and the plain reader agree about these lines.

    The lines come without newlines. Each goes through the template path, if that accepts it, and with a
    leading blank through the general path, for every instruction set and number of workers.
    """
    lines = list(lines)
    first = Expected(b"\n".join(lines) + b"\n" + PADDING)
    with isa_restored():
        for name in isa.available():
            isa.use(name)
            for count in workers:
                said = first.differs(fasttail.parse(first.data, workers=count, stream="orders"))
                assert said is None, f"{name}, {count} workers: {said}"
    # the general path is the same code for every instruction set
    general = Expected(b"".join(b" " + line + b"\n" for line in lines))

    said = general.differs(fasttail.parse(general.data, stream="orders"))
    assert said is None, f"general path: {said}"
    return first
