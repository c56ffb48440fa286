"""Checks what must hold for any input of the parser, for the fuzzer and the tests that replay its corpus.

Every input is parsed in several surroundings, each in a buffer of exactly its size, so that a sanitizer build
detects reads outside:

    alone            [data]                         the general path, except for lines far from the end
    in front         [data, a line, blanks]         the template path may try every line
    blanks inside    [data, "{" now "{ "]           the template path declines every line
    between          [a line, data, a line]         chunk boundaries anywhere in it, for several workers
    behind shuffled  [two lines, data, blanks]      the general path uses the lines' structural index
    by_block         [one huge line with data in]   chunk boundaries inside a line
    in pieces        [data split at a newline]
"""

from __future__ import annotations

import ctypes
import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from struct import unpack
from typing import Any

import orjson
import plain_reader
from lines import envelope, event, plain

import fasttail
from fasttail.engine.rejects import Rejected
from fasttail.streams import isa
from fasttail.streams.vocabulary import ORDER_TYPE_NAMES, STATUS_NAMES, TIF_NAMES

WORKERS = (1, 2, 3, 8)
ISAS = isa.available()
FORMATS = {
    "oid": "Q", "timestamp": "q", "time_ns": "q", "limitPx": "d", "sz": "d", "origSz": "d",
    "status_code": "B", "orderType_code": "B", "tif_code": "B", "flags": "B",
}  # fmt: skip
FLOATS = ("limitPx", "sz", "origSz")
DECIMALS = (*FLOATS, "triggerPx")
LONGEST_DECODED = 250  # bytes; a longer decimal with escapes may be rejected, see docs/parsing.md
MOST_PIECES = 3

NEIGHBOUR = plain(event(time="2026-05-05T17:39:15.000000001", coin="neighbour", oid=7))
BLANKS = b" " * 2100  # as many bytes as the template path requires before it tries a line
# Six events before the line and twelve after it, each at the longest that the template path accepts, so that
# most chunk boundaries fall inside.
LONG = {key: key[0] * 60 for key in ("status", "coin", "triggerCondition", "orderType")}
FILLER = plain(event(hash="0x" + "ab" * 32, **LONG))[:-1]
BEFORE, BEHIND = b",".join([FILLER] * 6), b",".join([FILLER] * 12)


def shuffled(seed: int) -> bytes:
    """Return the neighbour with its keys shuffled."""
    chance = random.Random(seed)

    def turn(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        chance.shuffle(items)
        return {key: turn(each) for key, each in items}

    return orjson.dumps(turn(orjson.loads(NEIGHBOUR))) + b"\n"


# Two lines with different key orders, so that the first does not predict the second's.
SHUFFLED = shuffled(1) + shuffled(2)
EMPTY_BLOCK = envelope([])[:-1]
EVENTS = b'"events":['

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]
_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.restype = ctypes.py_object
_view.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
_PYBUF_READ = 0x100


@contextmanager
def exact_address(data: bytes) -> Iterator[int]:
    """Yield the address of a copy of `data` without the NUL that follows a bytes object."""
    address = _libc.malloc(len(data))
    if address is None:
        raise MemoryError
    ctypes.memmove(address, data, len(data))
    yield address
    # Not in a finally: after an exception the traceback may keep the batch, which needs the memory.
    _libc.free(address)


@contextmanager
def exactly(data: bytes) -> Iterator[memoryview]:
    with exact_address(data) as address:
        view = _view(address, len(data), _PYBUF_READ)
        yield view
        view.release()  # raises BufferError if it is still in use


def moved(rejected: list[Rejected], by: int) -> list[Rejected]:
    return [Rejected(each.offset + by, each.at + by, each.reason) for each in rejected]


@dataclass(frozen=True)
class Result:
    """Everything that a batch shows. numbers: the columns' bytes, so that -0.0 differs from 0.0."""

    rows: list[dict[str, Any]]
    numbers: list[bytes]
    coins: list[str]  # of each row, from its code; "" without a code
    rejected: list[Rejected]


def parsed(
    data: bytes, workers: int = 1, name: str = ISAS[0], *, before: bytes = b"", behind: bytes = b""
) -> Result:
    """Parse `data` between `before` and `behind`, in which all lines are valid, and return its own result."""
    isa.use(name)
    text = before + data + behind
    with exactly(text) as view:
        batch = fasttail.parse(view, workers=workers, stream="orders")
        assert batch.lines == text.count(b"\n") + (text != b"" and not text.endswith(b"\n"))
        skip, drop = before.count(b"\n"), int(NEIGHBOUR in behind)
        until = len(batch) - drop
        coins = batch.coins
        columns = [batch.column(name) for name in FORMATS]
        result = Result(
            batch.to_pylist()[skip:until],
            [column[skip:until].tobytes() for column in columns],
            [coins[code] for code in batch.column("coin_code")[skip:until]],
            moved(batch.rejected, -len(before)),
        )
        assert batch.sums()["oid"] == sum(batch.column("oid").tolist())
        for column in columns:
            column.release()
        del batch, column, columns
    return result


def line_of(data: bytes, offset: int) -> bytes:
    return data[offset:].partition(b"\n")[0]


def check_against_plain_reader(data: bytes, result: Result) -> None:
    """Check that the plain reader accepts the same lines with the same values."""
    for each in result.rejected:
        assert each.offset <= each.at <= each.offset + len(line_of(data, each.offset)), each
    expected, rejected = plain_reader.read(data)
    longest = max((len(row[key].encode()) for row in expected for key in DECIMALS), default=0)
    if b"\\" in data and longest > LONGEST_DECODED:
        return
    assert [each.offset for each in result.rejected] == rejected, (result.rejected, rejected)
    assert result.rows == expected
    values = {
        name: unpack(f"={len(expected)}{kind}", numbers)
        for (name, kind), numbers in zip(FORMATS.items(), result.numbers, strict=True)
    }
    for i, row in enumerate(expected):
        assert values["time_ns"][i] == plain_reader.time_ns(row["time"])
        for key in FLOATS:
            number, wanted = values[key][i], float(row[key])
            assert (number, math.copysign(1, number)) == (wanted, math.copysign(1, wanted)), row[key]
        for key, names in (("status", STATUS_NAMES), ("orderType", ORDER_TYPE_NAMES), ("tif", TIF_NAMES)):
            code = names.index(row[key]) + 1 if row[key] in names else 0
            assert values[f"{key}_code"][i] == code, row[key]
        flags = row["isTrigger"] + 2 * row["isPositionTpsl"] + 4 * row["reduceOnly"]
        assert values["flags"][i] & 7 == flags
        assert not values["flags"][i] & 8 or b"\\" in data
        assert result.coins[i] == row["coin"] or (
            result.coins[i] == "" and len(row["coin"].encode()) > LONGEST_DECODED
        )


def check_raw(data: bytes) -> None:
    """Check that each event's raw text parses to the event's values and occurs in the data."""
    with exactly(data) as view:
        batch = fasttail.parse(view, stream="orders")
        rows, texts = batch.to_pylist(), [batch.raw(i) for i in range(len(batch))]
        del batch
    at = 0
    for row, text in zip(rows, texts, strict=True):
        at = data.index(text, at)
        assert plain_reader.read_event(orjson.loads(text)).items() <= row.items()


def same(one: Result, other: Result, where: str) -> None:
    assert one.rejected == other.rejected, where
    assert one.rows == other.rows, where
    assert one.numbers == other.numbers, where
    assert one.coins == other.coins, where


def check_general_path(data: bytes, fast: Result) -> None:
    """Check the general path: a blank after each line's first brace makes the template path decline."""
    lines = data.split(b"\n")
    slow = parsed(b"\n".join(b"{ " + line[1:] if line[:1] == b"{" else line for line in lines))
    starts, slow_starts = [0], [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
        slow_starts.append(slow_starts[-1] + len(line) + 1 + (line[:1] == b"{"))
    numbers = [(bisect_right(starts, each.offset), each.reason) for each in fast.rejected]
    slow_numbers = [(bisect_right(slow_starts, each.offset), each.reason) for each in slow.rejected]
    assert numbers == slow_numbers, (fast.rejected, slow.rejected)
    assert (fast.rows, fast.numbers, fast.coins) == (slow.rows, slow.numbers, slow.coins)


def by_block(data: bytes) -> bytes:
    """Return a huge line with the first line of `data` as an event, or an envelope with more events added."""
    line = next((line for line in data.split(b"\n") if line), b"")
    head, found, tail = line.partition(EVENTS)
    if not found:
        head, found, tail = EMPTY_BLOCK.partition(EVENTS)
        return head + found + BEFORE + b"," + line + b"," + BEHIND + tail
    return head + found + BEFORE + b"," + BEHIND + (b"" if tail.startswith(b"]") else b",") + tail


def check(data: bytes) -> None:
    """Check all invariants. Raise AssertionError."""
    alone = parsed(data)
    check_against_plain_reader(data, alone)
    if alone.rows:
        check_raw(data)
    for name in ISAS:
        same(alone, parsed(data, name=name), f"alone, {name}")
        same(alone, parsed(data, name=name, behind=b"\n" + NEIGHBOUR + BLANKS), f"in front, {name}")
    for name in ISAS:
        behind = parsed(data, name=name, before=SHUFFLED, behind=b"\n" + BLANKS)
        same(alone, behind, f"behind shuffled, {name}")
    check_general_path(data, alone)
    end = b"" if data.endswith(b"\n") else b"\n"
    for k, workers in enumerate(WORKERS):
        name = ISAS[k % len(ISAS)]
        around = parsed(data + end, workers, name, before=NEIGHBOUR, behind=NEIGHBOUR + BLANKS)
        same(alone, around, f"between, {workers} workers, {name}")
    block, after = by_block(data) + b"\n", NEIGHBOUR + BLANKS
    one = parsed(block, behind=after)
    check_against_plain_reader(block, one)
    for k, workers in enumerate(WORKERS[1:]):
        name = ISAS[k % len(ISAS)]
        same(one, parsed(block, workers, name, behind=after), f"by_block, {workers} workers, {name}")
    at = -1
    for _ in range(MOST_PIECES):
        at = data.find(b"\n", at + 1)
        if at < 0:
            break
        first, second = parsed(data[: at + 1], name=ISAS[-1]), parsed(data[at + 1 :], name=ISAS[-1])
        assert first.rows + second.rows == alone.rows
        assert [a + b for a, b in zip(first.numbers, second.numbers, strict=True)] == alone.numbers
        assert first.rejected + moved(second.rejected, at + 1) == alone.rejected
