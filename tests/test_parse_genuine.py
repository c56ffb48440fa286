"""Every genuine order-status line, field by field, against the plain reader."""

from __future__ import annotations

from pathlib import Path

import plain_reader
import pytest
from json_forms import reordered, spaced

import fasttail
from fasttail.engine.columns import COLUMNS


@pytest.fixture(scope="module")
def files(real_data: Path) -> list[Path]:
    found = sorted(real_data.glob("node_order_statuses.*.jsonl"))
    assert len(found) >= 8
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_equals_the_plain_reader(files: list[Path], workers: int) -> None:
    orders = 0
    for path in files:
        data = path.read_bytes()
        expected, rejected = plain_reader.read(data)
        assert rejected == []
        batch = fasttail.parse(data, workers=workers)
        assert batch.rejected == []
        assert batch.to_pylist() == expected, path.name
        assert batch.lines == data.count(b"\n")
        orders += len(batch)
    assert orders > 20_000


def test_columns_hold_the_same_numbers(files: list[Path]) -> None:
    for path in files:
        data = path.read_bytes()
        expected, _ = plain_reader.read(data)
        batch = fasttail.parse(data)
        assert batch.column("oid").tolist() == [order["oid"] for order in expected]
        assert batch.column("timestamp").tolist() == [order["timestamp"] for order in expected]
        assert batch.column("time_ns").tolist() == [plain_reader.time_ns(order["time"]) for order in expected]
        for name in ("limitPx", "sz", "origSz"):
            assert batch.column(name).tolist() == [float(order[name]) for order in expected]
            assert batch.column(f"{name}_text") == [order[name] for order in expected]
        coins = batch.coins
        assert [coins[code] for code in batch.column("coin_code")] == [order["coin"] for order in expected]
        for name in COLUMNS:
            if name not in ("oid", "timestamp", "limitPx", "sz", "origSz"):
                assert list(batch.column(name)) == [order[name] for order in expected], name


def test_twin_capture_is_equal_through_both_layouts(real_data: Path) -> None:
    """Blocks that one node wrote as streaming and another as by_block contain the same events, in order."""
    by_block = fasttail.parse((real_data / "node_order_statuses.by_block.dz_20260505.jsonl").read_bytes())
    streaming = fasttail.parse((real_data / "node_order_statuses.streaming.dz_20260505.jsonl").read_bytes())
    blocks = set(by_block.column("block_number"))
    both = [i for i, number in enumerate(streaming.column("block_number")) if number in blocks]
    assert len(both) == len(by_block) == 4906
    assert [streaming.raw(i) for i in both] == [by_block.raw(i) for i in range(len(by_block))]
    first, second = streaming.to_pylist(), by_block.to_pylist()
    for i, order in zip(both, second, strict=True):
        assert {**first[i], "local_time": None} == {**order, "local_time": None}


def test_genuine_lines_in_other_forms(files: list[Path]) -> None:
    """The same values with spaces, reordered keys or escapes give equal rows."""
    for path in files:
        lines = path.read_bytes().splitlines()[:400]
        expected, _ = plain_reader.read(b"\n".join(lines))
        escaped = b"\n".join(lines).replace(b"0x", b"\\u0030x").replace(b"open", b"o\\u0070en")
        for data in (spaced(lines), reordered(lines), escaped):
            batch = fasttail.parse(data)
            assert batch.rejected == []
            assert batch.to_pylist() == expected
