"""Describes a file of streaming lines and which of them a filter selects, found with orjson."""

from __future__ import annotations

import mmap
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson

from bench.measure import WrongAnswer

COINS = "HYPE,xyz:GOLD"
"""Together a tenth of the orders that `fasttail synth` makes."""


@dataclass
class Replay:
    """starts: offset of each line, and the end of the last. chosen: numbers of the selected lines.

    digest: of these lines' orders, in file order.
    """

    path: Path
    starts: array[int] = field(default_factory=lambda: array("Q"))
    chosen: array[int] = field(default_factory=lambda: array("Q"))
    digest: int = 0

    @classmethod
    def of(cls, path: Path, coins: Sequence[str]) -> Replay:
        """Scan the whole file, which is in the page cache afterwards."""
        replay = cls(path)
        marks = [f'"coin":"{coin}"'.encode() for coin in coins]
        sizes = array("Q")

        def orders() -> Iterator[dict[str, Any]]:
            with path.open("rb") as file:
                for number, line in enumerate(file):
                    sizes.append(len(line))
                    if any(mark in line for mark in marks):
                        (event,) = orjson.loads(line)["events"]
                        if event["order"]["coin"] in coins:  # the mark may also match a child's coin
                            replay.chosen.append(number)
                            yield event

        replay.digest = digest(orders())
        replay.starts = array("Q", accumulate(sizes, initial=0))
        if not replay.chosen:
            raise WrongAnswer(f"no order of {', '.join(coins)} in {path}")
        return replay

    @property
    def lines(self) -> int:
        return len(self.starts) - 1

    def last(self) -> int:
        """Return the offset of the last selected line."""
        return self.starts[self.chosen[-1]]

    def mapped(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def digest(events: Iterable[dict[str, Any]]) -> int:
    """Hash what the format `ws` has of each order except the status time, in order."""
    value = 0
    for event in events:
        order = event["order"]
        text = (
            f"{order['oid']} {event['status']} {order['coin']} {order['side']} {order['limitPx']} "
            f"{order['sz']} {order['origSz']} {order['timestamp']} {order.get('cloid')}\n"
        )
        value = zlib.crc32(text.encode(), value)
    return value
