"""Constants that several modules of the simulated exchange share, and its error."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

STREAMS: dict[str, str] = {
    "orders": "node_order_statuses",
    "fills": "node_fills",
    "nodeTrades": "node_trades",
    "bookDiffs": "node_raw_book_diffs",
    "twapStatuses": "node_twap_statuses",
    "miscEvents": "misc_events",
    "oracleUpdates": "hip3_oracle_updates",
    "writerActions": "system_and_core_writer_actions",
}
"""Stream -> the node's folder for it in the plain layout."""

LAYOUTS: dict[str, str] = {"plain": "", "by_block": "_by_block", "streaming": "_streaming"}
"""Layout -> what it adds to the name of a stream's folder."""

DEFAULT_START = datetime(2026, 6, 2, 10, tzinfo=UTC)
FIRST_HEIGHT = 1_019_927_126
BLOCK_LINES = 1506.0  # order statuses per block, all coins in June 2026: 23,500 lines/s at 15.6 blocks/s

NS = 1_000_000_000
BLOCK_NS = 64_100_000  # 15.6 blocks/s
BLOCK_S = BLOCK_NS / NS
LAG_NS = 350_000_000  # from a block's time to its first line in a node


class SynthError(Exception):
    """The simulated exchange cannot do what was asked (bad argument, no permission, full disk); one line."""


def write_error(path: Path, error: OSError) -> SynthError:
    """Return the error for a path that cannot be written."""
    return SynthError(f"cannot write {path}: {error.strerror or error}")
