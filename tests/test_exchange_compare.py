"""The comparison of two node folders, and the shares of what they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from exchange_compare import compare_layouts
from exchange_example import FIRST, Example
from exchange_folder import layout_of
from exchange_shares import shares, shares_table

LAYOUTS = ("plain", "by_block", "streaming")


def _swapped(node: Example) -> None:
    """Two order statuses of block 1 change places."""
    events = node.blocks[1]["orders"]
    events[0], events[1] = events[1], events[0]


def _another_fee(node: Example) -> None:
    node.a_fill(119)["fee"] = "0.02"


def _no_diffs(node: Example) -> None:
    for block in node.blocks:
        block["bookDiffs"] = []


def _one_event_less(node: Example) -> None:
    node.blocks[9]["orders"].pop()


def test_layouts_hold_the_same_events(tmp_path: Path) -> None:
    folders = [Example().write(tmp_path / layout, layout) for layout in LAYOUTS]
    for one in folders:
        for other in folders:
            compared = compare_layouts(one, other)
            assert compared.differences == []
            assert compared.events["orders"] == 26


@pytest.mark.parametrize("change", [_swapped, _another_fee, _no_diffs, _one_event_less])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_difference_is_found(layout: str, change: Callable[[Example], None], tmp_path: Path) -> None:
    one = Example().write(tmp_path / "one", "streaming")
    node = Example()
    change(node)
    other = node.write(tmp_path / "other", layout)
    assert not compare_layouts(one, other).same
    assert not compare_layouts(other, one).same


def test_another_block_time_is_found(tmp_path: Path) -> None:
    one = Example().write(tmp_path / "one", "streaming")
    other = Example().write(tmp_path / "other")
    path = other / "node_raw_book_diffs_by_block/hourly/20260602/10"
    path.write_bytes(path.read_bytes().replace(b"188000010", b"188000011"))
    compared = compare_layouts(one, other)
    assert len(compared.differences) == 1
    assert "bookDiffs: block" in compared.differences[0]


def test_a_missing_stream_is_found(tmp_path: Path) -> None:
    one = Example().write(tmp_path / "one")
    other = Example().write(tmp_path / "other")
    (other / "misc_events_by_block").rename(other / "something_else")
    assert compare_layouts(one, other).differences == [f"miscEvents is in {one} only"]


def test_some_blocks_are_compared(tmp_path: Path) -> None:
    one = Example().write(tmp_path / "one", "streaming")
    node = Example()
    _swapped(node)
    other = node.write(tmp_path / "other")
    compared = compare_layouts(one, other, since=FIRST + 2, until=FIRST + 8)
    assert compared.same
    assert compared.blocks["orders"] == 5
    assert not compare_layouts(one, other, since=FIRST + 1).same
    with pytest.raises(ValueError, match="plain"):
        compare_layouts(one, Example().write(tmp_path / "plain", "plain"), since=FIRST)


def test_a_folder_must_have_one_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none"):
        layout_of(tmp_path)
    Example().write(tmp_path)
    assert layout_of(tmp_path) == "by_block"
    Example().write(tmp_path, "plain")
    with pytest.raises(ValueError, match="plain"):
        layout_of(tmp_path)


def test_shares_are_counted(tmp_path: Path) -> None:
    counted = shares(Example().write(tmp_path))
    assert counted["status"]["filled"] == 9
    assert counted["raw_book_diff"] == {"new": 7, "update": 7, "remove": 5, "new with insertBefore": 1}
    assert counted["fill with"]["builderFee"] == 2
    assert counted["tif"]["null"] == 7
    assert "| status | open | 46.154 % | 46.154 % |" in shares_table(counted, counted)
