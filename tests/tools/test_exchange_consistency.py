"""The streams of the simulated exchange agree, by checks that know nothing of its engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exchange_checks import check
from exchange_compare import compare_layouts
from exchange_run import run_round, write_snapshot

from fasttail.tools.exchange import LAYOUTS, STREAMS, ExchangeOptions, NodeOptions, Truth, run

pytestmark = pytest.mark.plain_build

OPTIONS = ExchangeOptions(
    streams=tuple(STREAMS), resting=2000, block_lines=300, rejected=0.34, children=0.01, lifecycle=9
)
ORDERS = 20_000


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "options",
    [
        {"seed": 7},
        {"seed": 8, "rejected": 0.6, "block_lines": 1506.0, "resting": 20_000},
        {"seed": 9, "funding_deltas": 5000, "lifecycle": 3, "children": 0.1, "long_sides": True},
    ],
)
def test_all_streams_agree(tmp_path: Path, layout: str, options: dict[str, Any]) -> None:
    report, events, _ = run_round(tmp_path, Truth(replace(OPTIONS, **options)), layout, ORDERS)
    assert report.findings == []
    assert events > ORDERS
    assert report.counts["fills"] > 100


def test_a_lost_diff_would_be_found(tmp_path: Path) -> None:
    """The checks see the smallest fault: one event of the whole run is missing."""
    truth = Truth(OPTIONS)
    options = NodeOptions(lines=5000, streams=tuple(STREAMS), layout="by_block", live=False)
    first = write_snapshot(tmp_path / "first.json", truth)
    run(tmp_path / "node", options, source=truth)
    last = write_snapshot(tmp_path / "last.json", truth)
    assert not check(tmp_path / "node", first, last).findings
    (path,) = (tmp_path / "node" / "node_raw_book_diffs_by_block" / "hourly").glob("*/*")
    lines = path.read_bytes().splitlines(keepends=True)
    index = next(number for number, line in enumerate(lines) if line.count(b'"raw_book_diff":"remove"') > 1)
    end = lines[index].index(b'"raw_book_diff":"remove"}') + len(b'"raw_book_diff":"remove"},')
    begin = lines[index].rindex(b'{"user"', 0, end)
    lines[index] = lines[index][:begin] + lines[index][end:]
    path.write_bytes(b"".join(lines))
    assert check(tmp_path / "node", first, last).findings


def test_layouts_and_nodes_hold_the_same_events(tmp_path: Path) -> None:
    market = replace(OPTIONS, block_lines=60)  # many blocks, so that each stream has events
    for layout in LAYOUTS:
        options = NodeOptions(
            lines=ORDERS, streams=tuple(STREAMS), layout=layout, live=False, market=market,
            second_node=tmp_path / f"{layout}-second", second_skip=0,
        )  # fmt: skip
        run(tmp_path / layout, options)
    for layout in LAYOUTS:
        for other in (tmp_path / "by_block", tmp_path / f"{layout}-second"):
            compared = compare_layouts(tmp_path / layout, other)
            assert not compared.differences, (layout, other)
