"""Names of the node's files: order, what is ignored, and the layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from fasttail.sources import layout
from fasttail.tools.exchange import LAYOUTS, folder_name


def make(data_dir: Path, name: str, stream: str = "node_order_statuses_streaming") -> Path:
    path = data_dir / stream / "hourly" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"{}\n")
    return path


def names(found: list[layout.HourFile]) -> list[str]:
    return [f"{hour.date}/{hour.hour}" for hour in found]


def hourly(data_dir: Path) -> str:
    return layout.hourly_folder(data_dir, "streaming")


@pytest.mark.fault(6)
def test_hours_are_numbers(tmp_path: Path) -> None:
    for name in ("20260505/10", "20260505/9", "20260505/0", "20260504/23", "20260505/23"):
        make(tmp_path, name)
    found = layout.hour_files(hourly(tmp_path))
    assert names(found) == ["20260504/23", "20260505/0", "20260505/9", "20260505/10", "20260505/23"]
    assert found[1].path == str(tmp_path / "node_order_statuses_streaming/hourly/20260505/0")


@pytest.mark.fault(6)
def test_other_names_are_ignored(tmp_path: Path) -> None:
    for name in ("07", "24", "9.tmp", "9.lz4", "x", "-1", "٣"):
        make(tmp_path, f"20260505/{name}")
    for name in ("2026050", "notes", "20260505.old"):
        make(tmp_path, f"{name}/1")
    make(tmp_path, "20260505/9")
    (tmp_path / "node_order_statuses_streaming/hourly/20260505/8").mkdir()
    os.mkfifo(tmp_path / "node_order_statuses_streaming/hourly/20260505/7")
    (tmp_path / "node_order_statuses_streaming/hourly/20260506").write_bytes(b"a file, not a folder")
    assert names(layout.hour_files(hourly(tmp_path))) == ["20260505/9"]


@pytest.mark.fault(6)
def test_links_are_followed_and_loops_do_no_harm(tmp_path: Path) -> None:
    real = make(tmp_path, "20260505/9")
    folder = real.parent
    (folder / "10").symlink_to(real)
    (folder / "11").symlink_to("11")
    (folder / "12").symlink_to("gone")
    (folder / "13").symlink_to(folder)
    (folder.parent / "20260506").symlink_to("20260506")
    (folder.parent / "20260507").symlink_to("..")
    assert names(layout.hour_files(hourly(tmp_path))) == ["20260505/9", "20260505/10"]


def test_since_leaves_out_older_dates(tmp_path: Path) -> None:
    for name in ("20251231/23", "20260101/0", "20260102/0"):
        make(tmp_path, name)
    assert names(layout.hour_files(hourly(tmp_path), since="20260101")) == ["20260101/0", "20260102/0"]
    assert layout.date_folders(hourly(tmp_path), since="20260102") == ["20260102"]


def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    assert layout.hour_files(hourly(tmp_path / "missing")) == []
    (tmp_path / "node_order_statuses_streaming").write_bytes(b"a file where a folder should be")
    assert layout.hour_files(hourly(tmp_path)) == []
    assert layout.choose_layout(tmp_path) == layout.LayoutChoice(None, ())


def test_layout_preference(tmp_path: Path) -> None:
    make(tmp_path, "20260505/1", "node_order_statuses")
    assert layout.choose_layout(tmp_path) == layout.LayoutChoice("plain", ())
    make(tmp_path, "20260505/1", "node_order_statuses_by_block")
    assert layout.choose_layout(tmp_path) == layout.LayoutChoice("by_block", ("plain",))
    (tmp_path / "node_order_statuses_streaming/hourly/20260505").mkdir(parents=True)
    assert layout.choose_layout(tmp_path).layout == "by_block", "an empty folder is no layout"
    make(tmp_path, "20260505/1")
    assert layout.choose_layout(tmp_path) == layout.LayoutChoice("streaming", ("by_block", "plain"))
    assert layout.choose_layout(tmp_path, "plain") == layout.LayoutChoice("plain", ("streaming", "by_block"))


def test_set_layout_need_not_be_there(tmp_path: Path) -> None:
    assert layout.choose_layout(tmp_path, "by_block") == layout.LayoutChoice("by_block", ())


def test_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown layout 'plane'"):
        layout.choose_layout(tmp_path, "plane")


def test_other_streams(tmp_path: Path) -> None:
    make(tmp_path, "20260505/1", "node_fills_by_block")
    assert layout.choose_layout(tmp_path, stream="fills").layout == "by_block"
    assert layout.choose_layout(tmp_path).layout is None


def test_locate(tmp_path: Path) -> None:
    path = str(tmp_path / "node_order_statuses_by_block/hourly/20260505/7")
    assert layout.parse_hour_path(tmp_path, path) == ("by_block", layout.HourFile("20260505", 7, path))
    for other in (path + ".tmp", str(tmp_path / "x/hourly/20260505/7"), "/elsewhere/7", "", "7"):
        assert layout.parse_hour_path(tmp_path, other) is None


def test_layouts_have_one_set_of_names() -> None:
    assert set(get_args(layout.Layout)) == set(layout.LAYOUTS)
    assert len({name[0] for name in layout.LAYOUTS}) == len(layout.LAYOUTS), "a cursor's letter tells which"
    made = {name: os.path.basename(layout.stream_folder("", name)) for name in layout.LAYOUTS}
    simulated = {name: folder_name("orders", name) for name in LAYOUTS}
    assert made == simulated, "the simulated node shares no code with what reads it"
