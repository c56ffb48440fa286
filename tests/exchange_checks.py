"""Checks that all streams of a node's folder agree, and keep the rules of the schema.

The checks know nothing of what wrote the files: they read them, and book snapshots in the node's own format.
One block is in memory at a time, besides the books and what has not ended: orders, TWAPs, positions.
In the plain layout book diffs have neither block nor time: there, the checks of books are left out.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exchange_books import Books
from exchange_clock import Clock
from exchange_fills import Fills
from exchange_findings import Report
from exchange_folder import Block, Line, NodeFolder, Snapshot, read_snapshot
from exchange_lives import Lives
from exchange_misc import Misc
from exchange_node_trades import check_node_trades
from exchange_shapes import line_problem
from exchange_sizes import Sizes
from exchange_twaps import Twaps


class Checker:
    """All checks of one run over a folder's blocks.

    streams: those that can be tied to blocks.
    first:   the books before the first block to check; without it, orders from before are let pass.
    last:    the books after a later block, to compare with the replayed ones.
    """

    def __init__(
        self, report: Report, clock: Clock, streams: list[str], first: Snapshot | None, last: Snapshot | None
    ) -> None:
        self.report = report
        self.clock = clock
        self.streams = streams
        self.first = first
        self.last = last
        self.books = Books(report)
        self.lives = Lives(report)
        self.sizes = Sizes(report, self.books, self.lives, "bookDiffs" in streams, "fills" in streams)
        self.fills = Fills(report)
        self.twaps = Twaps(report)
        self.misc = Misc(report, self.fills.positions, "miscEvents" in streams)
        if first is not None:
            self.books.install(first)
            self.lives.install(first)

    def block(self, block: Block) -> None:
        """Check the next block."""
        self.report.counts["blocks"] += 1
        self.clock.block(block)
        if self.last is not None and block.number is not None and block.number > self.last.height:
            self.compare()
        self.misc.block(block)
        self.twaps.begin(block)
        follows = self.first is None or block.number is None or block.number > self.first.height
        seen = self.lives.statuses(block) if follows else None
        by_oid, trades = self.fills.fills(block, seen.hashes if seen else {})
        self.twaps.fills(block)
        self.twaps.end(block)
        if {"nodeTrades", "fills"} <= set(self.streams):
            check_node_trades(self.report, block, trades)
        if seen is not None and "orders" in self.streams:
            changes = self.books.apply(block, seen.opened, seen.filled())
            self.sizes.settle(block, seen, changes, by_oid)

    def compare(self) -> None:
        """Compare the replayed books with the last snapshot, once."""
        assert self.last is not None
        self.books.compare(self.last)
        self.lives.compare(self.last)
        self.last = None


def check(
    folder: Path,
    first: Path | None = None,
    last: Path | None = None,
    *,
    layout: str | None = None,
    hour_files: bool = True,
    shapes: bool = False,
    keep: int = 20,
) -> Report:
    """Check a node's folder.

    first, last: snapshots as a node's fileSnapshot writes them, with heights.
    hour_files:  whether files are named by the hour of local_time, as a node names them.
    shapes:      also check each line's shape, for about as long again.
    keep:        how many findings of a rule to keep.
    """
    report = Report(keep)

    def broken(line: Line, reason: str) -> None:
        report.add("line", None, str(line), reason)

    node = NodeFolder(folder, layout, broken)
    if shapes:
        check_shapes(node, report)
    plain = node.layout == "plain"
    streams = [name for name in node.streams() if not plain or name != "bookDiffs"]
    snapshots = [None if path is None or plain else read_snapshot(path) for path in (first, last)]
    checker = Checker(report, Clock(report, node.layout, hour_files), streams, *snapshots)
    with _without_collector():
        for block in node.blocks():
            try:
                checker.block(block)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                where = str(next(iter(block.streams.values())).lines[0])
                report.add("shape", block.number, where, f"the block cannot be read on: {error!r}")
    if checker.last is not None:
        checker.compare()
    return report


@contextmanager
def _without_collector() -> Iterator[None]:
    """Turn the garbage collector off: events hold no cycles, and it would take a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def check_shapes(node: NodeFolder, report: Report) -> None:
    """Check the shape of each line of all streams."""
    for stream in node.streams():
        for path, number, data in node.lines(stream):
            report.counts["shapes: lines"] += 1
            problem = line_problem(stream, node.layout, data)
            if problem is not None:
                report.add("shape", None, str(Line(path, number, "")), stream + problem)
