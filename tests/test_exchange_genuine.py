"""The checks over genuine lines: they keep the rules that the simulated exchange must keep."""

from __future__ import annotations

from pathlib import Path

from exchange_checks import check
from exchange_compare import compare_layouts
from exchange_folder import NodeFolder


def _genuine(folder: Path, real_data: Path, suffix: str, hour: str, **files: list[str]) -> Path:
    """Lay genuine files out as a node's folder; none of a stream's lines is changed."""
    for stream, names in files.items():
        path = folder / (stream + suffix) / "hourly" / hour
        path.parent.mkdir(parents=True)
        path.write_bytes(b"".join((real_data / name).read_bytes() for name in names))
    return folder


def _capture(folder: Path, real_data: Path) -> Path:
    return _genuine(
        folder,
        real_data,
        "_streaming",
        "20260505/17",
        node_order_statuses=[
            f"node_order_statuses.streaming.dz_20260505{part}.jsonl" for part in ("", "_rare")
        ],
        node_raw_book_diffs=["node_raw_book_diffs.streaming.dz_20260505.jsonl"],
        node_fills=["node_fills.streaming.dz_20260505.jsonl"],
    )


def test_the_genuine_book_keeps_the_rules(real_data: Path, tmp_path: Path) -> None:
    """Blocks 985148182 to 985148216 of BTC; from ..192 on without the rejections, which touch no book."""
    snapshot = real_data / "l4_snapshot.dz_20260505_985148181.json.gz"
    report = check(_capture(tmp_path, real_data), snapshot, shapes=True)
    assert report.findings == []
    assert report.counts["diffs: new"] == 581
    assert report.counts["diffs: remove"] == 591
    assert report.counts["books: fills taken from the front"] == report.counts["diffs: update"] == 7
    assert report.counts["sizes: orders"] == 1125


def test_the_genuine_book_without_a_diff_breaks_them(real_data: Path, tmp_path: Path) -> None:
    snapshot = real_data / "l4_snapshot.dz_20260505_985148181.json.gz"
    path = _capture(tmp_path, real_data) / "node_raw_book_diffs_streaming/hourly/20260505/17"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:100] + lines[101:]))
    assert not check(tmp_path, snapshot).ok


def test_genuine_layouts_hold_the_same_events(real_data: Path, tmp_path: Path) -> None:
    one = _capture(tmp_path / "streaming", real_data)
    names = ("node_order_statuses", "node_raw_book_diffs", "node_fills")
    files = {name: [f"{name}.by_block.dz_20260505.jsonl"] for name in names}
    other = _genuine(tmp_path / "by_block", real_data, "_by_block", "20260505/17", **files)
    compared = compare_layouts(one, other, until=985148186)
    assert compared.differences == []
    assert compared.blocks["orders"] == 5
    assert compared.events["orders"] == 4906


def test_another_genuine_capture_keeps_the_rules(real_data: Path, tmp_path: Path) -> None:
    """One with trigger orders and a trigger's rejection, without a snapshot."""
    names = ("node_order_statuses", "node_raw_book_diffs", "node_fills")
    files = {name: [f"{name}.by_block.dz_20260430.jsonl"] for name in names}
    report = check(_genuine(tmp_path, real_data, "_by_block", "20260430/20", **files), shapes=True)
    assert report.findings == []
    assert report.counts["status: triggered"] == report.counts["status: minTradeNtlRejected"] == 1


def test_genuine_fills_keep_the_rules(real_data: Path, tmp_path: Path) -> None:
    """700 blocks of all coins: pairs, positions, directions."""
    files = {"node_fills": ["node_fills.by_block.hyperanalyze_20251027.jsonl"]}
    report = check(_genuine(tmp_path, real_data, "_by_block", "20251027/17", **files), shapes=True)
    assert report.findings == []
    assert report.counts["fills"] == 2 * report.counts["trades"] == 4924
    assert report.counts["fills: positions compared"] == 3325


def test_genuine_plain_trades_keep_the_rules(real_data: Path, tmp_path: Path) -> None:
    files = {"node_trades": ["node_trades.plain.official_20250624.jsonl"]}
    folder = _genuine(tmp_path, real_data, "", "20250624/2", **files)
    assert check(folder, shapes=True).findings == []
    assert all(block.number for block in NodeFolder(folder).blocks())
