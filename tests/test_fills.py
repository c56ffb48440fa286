"""Fills against the plain reader: every genuine line, other forms of it, and lines with one fault."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import plain_fills
import pytest
from json_forms import reordered, spaced

import fasttail
from fasttail.sources.layout import stream_of_path
from fasttail.streams.vocabulary import DIRECTION_NAMES

USER = "0xa4a6e0fd7528a6f5c6ccbb3240ba8a2f825446cf"
FILL: dict[str, Any] = {
    "coin": "ENA", "px": "0.81717", "sz": "24.0", "side": "B", "time": 1757414494669,
    "startPosition": "-195643.0", "dir": "Close Short", "closedPnl": "0.12396", "hash": "0x" + "4" * 64,
    "oid": 157341930362, "crossed": False, "fee": "-0.000392", "builderFee": "0.1", "tid": 969007110865318,
    "cloid": "0x" + "1" * 32, "liquidation": {"liquidatedUser": USER, "markPx": "1.0", "method": "market"},
    "feeToken": "USDC", "builder": USER, "twapId": None, "deployerFee": "0.00000001", "priorityGas": "12",
}  # fmt: skip
BLOCK = {
    "local_time": "2026-05-05T17:39:16.9", "block_time": "2026-05-05T17:39:16.5", "block_number": 985148209,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(real_data: Path) -> list[Path]:
    found = sorted(real_data.glob("node_fills.*.jsonl"))
    assert len(found) >= 7
    return found


def agree(data: bytes, workers: int = 1, stream: str | None = None) -> fasttail.Batch:
    """Assert that the parser and the plain reader agree about these lines, in all that a batch shows."""
    expected, rejected = plain_fills.read(data)
    batch = fasttail.parse(data, workers=workers, stream=stream)
    assert [each.offset for each in batch.rejected] == rejected, batch.rejected
    assert batch.stream == "fills"
    rows = batch.to_pylist()
    assert [repr(row) for row in rows] == [repr(row) for row in expected]  # distinguishes True and 1
    assert batch.keys == (*plain_fills.KEYS, "block_number", "block_time", "local_time")
    for key in ("time", "oid", "tid"):
        assert batch.column(key).tolist() == [row[key] for row in expected]
    assert batch.column("twapId").tolist() == [row.get("twapId") or 0 for row in expected]
    assert batch.column("time_ns").tolist() == [row["time"] * 10**6 for row in expected]
    coins = batch.coins
    assert [coins[code] for code in batch.column("coin_code")] == [row["coin"] for row in expected]
    assert [code & 1 for code in batch.column("flags")] == [row["crossed"] for row in expected]
    directions = ("", *DIRECTION_NAMES)
    for code, row in zip(batch.column("dir_code"), expected, strict=True):
        assert directions[code] == (row["dir"] if row["dir"] in directions else "")
    for key in plain_fills.AMOUNTS:
        texts = [row.get(key) for row in expected]
        assert batch.column(f"{key}_text") == texts
        numbers, amounts, exact = (batch.column(key + name) for name in ("", "_units", "_exact"))
        for text, number, amount, is_exact in zip(texts, numbers, amounts, exact, strict=True):
            if text is None:
                assert math.isnan(number)
                assert (amount, is_exact) == (0, 0)
                continue
            assert number == float(text)
            units = plain_fills.units(text)
            if is_exact:
                assert amount == units
            else:
                assert units is None or abs(units) >= 2**63 // 10 - 10, text
    for key in ("user", "dir", "hash", "cloid", "liquidation", "feeToken", "builder", "block_time"):
        assert batch.column(key) == [row.get(key) for row in expected]
    return batch


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_genuine_lines_equal_the_plain_reader(files: list[Path], workers: int) -> None:
    fills = 0
    for path in files:
        batch = agree(path.read_bytes(), workers, stream="fills")
        assert batch.rejected == [], path.name
        fills += len(batch)
        assert sum(batch.column("px_exact")) == len(batch)
    assert fills > 4_900


def test_all_genuine_lines_together(files: list[Path]) -> None:
    data = b"".join(path.read_bytes() for path in files) * 4
    for workers in (1, 2, 3, 8):
        agree(data, workers)


def test_twin_capture_is_equal_through_both_layouts(real_data: Path) -> None:
    """Blocks that one node wrote as streaming and another as by_block contain the same fills, in order."""
    by_block = fasttail.parse((real_data / "node_fills.by_block.dz_20260505.jsonl").read_bytes())
    streaming = fasttail.parse((real_data / "node_fills.streaming.dz_20260505.jsonl").read_bytes())
    both = set(by_block.column("block_number")) & set(streaming.column("block_number"))
    raws = [
        [batch.raw(i) for i, number in enumerate(batch.column("block_number")) if number in both]
        for batch in (by_block, streaming)
    ]
    assert raws[0] == raws[1] != []


def test_genuine_lines_in_other_forms(files: list[Path]) -> None:
    """The same values with spaces, reordered keys or escapes give equal rows."""
    for path in files:
        lines = path.read_bytes().splitlines()[:100]
        expected, _ = plain_fills.read(b"\n".join(lines))
        escaped = b"\n".join(lines).replace(b"0x", b"\\u0030x").replace(b'"px', b'"p\\u0078')
        escaped = escaped.replace(b"0.0", b"0\\u002e0")
        for data in (spaced(lines), reordered(lines), escaped):
            assert agree(data, stream="fills").to_pylist() == expected


def both_layouts(event: object) -> bytes:
    return orjson.dumps(event) + b"\n" + orjson.dumps(BLOCK | {"events": [[USER, FILL], event]}) + b"\n"


VALUES: tuple[object, ...] = (
    None, True, False, 0, 5, -1, 2**64 - 1, -(2**63), 1.5, "", "A", "1", "-0.0", "1e5", "01", "x\\y\n",
    [], {}, [1], {"a": 1},
)  # fmt: skip


@pytest.mark.parametrize("key", plain_fills.KEYS)
def test_any_value_of_any_key(key: str) -> None:
    for value in VALUES:
        event: list[Any] = [value, FILL] if key == "user" else [USER, FILL | {key: value}]
        agree(both_layouts(event), stream="fills")
    agree(both_layouts([USER, {name: FILL[name] for name in FILL if name != key}]), stream="fills")


@pytest.mark.parametrize(
    "event",
    [
        [], [USER], [FILL], [USER, FILL, 1], [FILL, USER], [USER, [FILL]], FILL, USER, None, [USER, None],
        [[USER, FILL]],
    ],
)  # fmt: skip
def test_what_is_no_pair(event: object) -> None:
    batch = agree(both_layouts(event), stream="fills")
    assert len(batch.rejected) == 2


def test_lines_cut_anywhere() -> None:
    whole = both_layouts([USER, FILL])
    for line in whole.splitlines():
        agree(b"\n".join(line[:at] for at in range(len(line))) + b"\n" + whole, stream="fills")


def test_bytes_changed_anywhere() -> None:
    chance = random.Random(1)
    whole = both_layouts([USER, FILL])
    for _ in range(2_000):
        at = chance.randrange(len(whole))
        agree(whole[:at] + bytes([chance.choice(b'"{}[]:,\\0- eA')]) + whole[at + 1 :], stream="fills")


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("0.0", 0), ("-0.00000001", -1), ("1", 10**8), ("92233720368.0", 9223372036800000000),
        ("0.123456789", None), ("0.123456780", 12345678), ("1e2", None), ("-195643.5", -19564350000000),
        ("99999999999999999999.0", None), ("0.00000000000000000001", None), ("9559659.3399999999", None),
    ],
)  # fmt: skip
def test_exact_amounts(text: str, units: int | None) -> None:
    batch = fasttail.parse(orjson.dumps([USER, FILL | {"fee": text}]))
    assert batch.column("fee_exact")[0] == (units is not None)
    assert batch.column("fee_units")[0] == (units or 0)
    assert batch.column("fee")[0] == float(text)


def test_the_stream_is_that_of_the_first_event() -> None:
    empty = orjson.dumps(BLOCK | {"events": []}) + b"\n"
    fill = orjson.dumps(BLOCK | {"events": [[USER, FILL]]})
    assert fasttail.parse(b"\n" + empty + fill).stream == "fills"
    assert fasttail.parse(b"\n[]\nnull\n\0\0" + orjson.dumps([USER, FILL])).stream == "fills"
    assert fasttail.parse(empty + fill.replace(b'"events":[', b'"events": [')).stream == "orders"
    for data in (b"", empty, b"{}", b"null", b"[]", b'["a",{}]'):
        assert fasttail.parse(data).stream == "orders"
    assert len(fasttail.parse(fill, stream="orders")) == 0


def test_names_of_streams() -> None:
    with pytest.raises(ValueError, match="stream 'nodeTrades' cannot be parsed"):
        fasttail.parse(b"", stream="nodeTrades")
    with pytest.raises(ValueError, match="stream 'x' cannot be parsed"):
        fasttail.parse(b"", stream="x")
    assert stream_of_path("/hl/data/node_fills_by_block/hourly/20260505/9") == "fills"
    assert stream_of_path("node_order_statuses/hourly/20260505/9") == "orders"
    assert stream_of_path("misc_events/hourly/20260505/9") == "miscEvents"
    assert stream_of_path("/tmp/9") is None


def test_sums() -> None:
    batch = fasttail.parse(both_layouts([USER, FILL]))
    assert batch.sums() == {
        "time": 3 * FILL["time"], "oid": 3 * FILL["oid"], "tid": 3 * FILL["tid"],
        **{key: sum([float(FILL[key])] * 3) for key in ("px", "sz", "startPosition", "closedPnl", "fee")},
    }  # fmt: skip


def parse_command(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "fasttail", "parse", *map(str, arguments)], input=stdin, capture_output=True
    )


def test_the_command_prints_them(files: list[Path], tmp_path: Path) -> None:
    data = b"".join(path.read_bytes() for path in files)
    expected, _ = plain_fills.read(data)
    done = parse_command("-", stdin=data)
    assert done.stderr == b""
    assert [orjson.loads(line) for line in done.stdout.splitlines()] == expected
    done = parse_command("-", "--stream", "fills", "--format", "raw", stdin=data)
    assert done.stdout.splitlines() == [
        orjson.dumps([fill["user"], {key: fill[key] for key in fill if key not in ("user", *BLOCK)}])
        for fill in expected
    ]
    hour = tmp_path / "node_fills" / "hourly" / "20260505" / "9"
    hour.parent.mkdir(parents=True)
    hour.write_bytes(data)
    done = parse_command(hour, "--coin", "BTC", "--side", "B", "--min-notional", "100", "--workers", "3")
    assert [orjson.loads(line) for line in done.stdout.splitlines()] == [
        fill
        for fill in expected
        if fill["coin"] == "BTC" and fill["side"] == "B" and float(fill["px"]) * float(fill["sz"]) >= 100
    ]
    done = parse_command(hour, "--status", "open")
    assert done.returncode != 0
    assert b"statuses are those of orders" in done.stderr
