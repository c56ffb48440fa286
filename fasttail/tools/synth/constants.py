"""Constants that several modules of the synthetic node share, and its error."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

Style = Literal["2026", "2024"]

DEFAULT_START = datetime(2026, 6, 2, 10, tzinfo=UTC)
BLOCK_LINES = 1506.0  # mean of all coins in June 2026: 23,500 lines/s at 15.6 blocks/s
CHILDREN_SHARE = 3 / 200_000
SHORT_TIMES_SHARE = 1 / 1850

NS = 1_000_000_000
BLOCK_NS = 64_100_000  # 15.6 blocks/s
BLOCK_S = BLOCK_NS / NS
LAG_NS = 350_000_000  # from a block's time to its first line in this node


class SynthError(Exception):
    """The synthetic node cannot do what was asked (bad argument, no permission, full disk); one line."""
