"""Reads a node's folder: all streams, block by block, in any layout; and book snapshots."""

from __future__ import annotations

import gzip
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import plain_reader

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
"""Stream -> its folder in the plain layout."""
SUFFIXES = {"plain": "", "by_block": "_by_block", "streaming": "_streaming"}
"""Layout -> what it adds to a folder's name."""
TIMED = ("orders", "fills", "nodeTrades", "twapStatuses", "miscEvents")
"""Streams whose events carry a time: in the plain layout only these can be tied to a block."""
SCALE = 8
UNIT = 10**SCALE


@lru_cache(maxsize=4096)
def time_ms(text: str) -> int:
    """Return a text time as whole milliseconds since 1970."""
    return plain_reader.time_ns(text) // 1_000_000


def scaled(text: str) -> int:
    """Return a decimal text as an integer, times 10^8.

    More than 8 decimals are floating point noise (`"9559659.3399999999"`): they are rounded away.
    """
    whole, _, decimals = text.partition(".")
    if len(decimals) <= SCALE:
        return int(whole + decimals.ljust(SCALE, "0"))
    beyond: int = 10 ** (len(decimals) - SCALE)
    value = int(whole.lstrip("-") + decimals)
    value = (value + beyond // 2) // beyond
    return -value if text[0] == "-" else value


class Line(NamedTuple):
    """Where a line stands, and its local_time ("" in the plain layout)."""

    file: Path
    number: int
    local_time: str

    def __str__(self) -> str:
        return f"{'/'.join(self.file.parts[-4:])}:{self.number}"


@dataclass(slots=True)
class Lines:
    """Consecutive lines of a stream that belong to the same block.

    key:    what puts blocks in order: the block's number; in the plain layout the time in milliseconds.
    time:   the block_time, or None where the events do not tell it.
    lines:  all lines.
    events: all events of the lines.
    at:     the line of each event.
    """

    key: int
    time: str | None
    lines: list[Line] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    at: list[Line] = field(default_factory=list)

    def add(self, line: Line, events: list[Any]) -> None:
        self.lines.append(line)
        self.events += events
        self.at += [line] * len(events)


@dataclass(slots=True)
class Block:
    """The lines of a block in all streams.

    number: None in the plain layout when no transaction hash tells it.
    time:   the block_time; in the plain layout the one of an event, if one tells it in full.
    """

    number: int | None
    time: str | None
    time_ms: int
    streams: dict[str, Lines]

    def events(self, stream: str) -> list[Any]:
        lines = self.streams.get(stream)
        return lines.events if lines else []

    def where(self, stream: str, event: int) -> str:
        """Return the file and line of an event, for a finding."""
        return str(self.streams[stream].at[event])


def layout_of(folder: Path) -> str:
    """Return the layout of the streams in a node's folder. Raise ValueError unless there is just one."""
    found = {
        layout
        for layout, suffix in SUFFIXES.items()
        for name in STREAMS.values()
        if (folder / (name + suffix)).is_dir()
    }
    if len(found) != 1:
        raise ValueError(f"{folder}: one layout expected, found {sorted(found) or 'none'}")
    return found.pop()


def hash_block(digest: str) -> int | None:
    """Return the block number in a transaction hash, or None when the hash is zero."""
    return int(digest[24:32], 16) if digest[22:24] == "04" else None


class Read(NamedTuple):
    """One line; see `Lines`."""

    key: int
    time: str | None
    local_time: str
    events: list[Any]


def _read_plain(stream: str, data: bytes) -> Read:
    event = orjson.loads(data)
    if stream not in TIMED:
        return Read(0, None, "", [event])
    if stream == "fills":
        return Read(int(event[1]["time"]), None, "", [event])
    return Read(time_ms(event["time"]), event["time"], "", [event])


def _read_envelope(stream: str, data: bytes) -> Read:
    value = orjson.loads(data)
    key, events = value["block_number"], value["events"]
    if type(key) is not int or type(events) is not list:
        raise ValueError("no block number, or no array of events")
    return Read(key, value["block_time"], value["local_time"], events)


Broken = Callable[[Line, str], None]
"""Is told a line that cannot be read, and why."""


def _refuse(line: Line, reason: str) -> None:
    raise ValueError(f"{line}: {reason}")


class NodeFolder:
    """The streams of a node's folder, line by line or block by block.

    broken: is told each line that cannot be read; by default this raises ValueError.
    """

    def __init__(self, path: Path, layout: str | None = None, broken: Broken = _refuse) -> None:
        self.path = path
        self.layout = layout or layout_of(path)
        self.broken = broken
        self._read = _read_plain if self.layout == "plain" else _read_envelope

    def streams(self) -> list[str]:
        """Return the streams that have a folder."""
        return [stream for stream in STREAMS if self._root(stream).is_dir()]

    def _root(self, stream: str) -> Path:
        return self.path / (STREAMS[stream] + SUFFIXES[self.layout])

    def files(self, stream: str) -> list[Path]:
        """Return the hour files of a stream from the oldest to the newest."""
        root = self._root(stream)
        root = root / "hourly" if (root / "hourly").is_dir() else root
        files = [path for path in root.glob("*/*") if path.name.isdigit() and path.parent.name.isdigit()]
        return sorted(files, key=lambda path: (path.parent.name, int(path.name)))

    def lines(self, stream: str) -> Iterator[tuple[Path, int, bytes]]:
        """Yield each line without its newline: file, line number from 1, bytes.

        The newest file may end in a line that is still being written: it is left out.
        """
        files = self.files(stream)
        for path in files:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        yield path, number, line[:-1]
                    elif path != files[-1]:
                        self.broken(Line(path, number, ""), "the file ends in the middle of a line")

    def groups(self, stream: str) -> Iterator[Lines]:
        """Yield a stream's lines block by block, one block in memory at a time."""
        group: Lines | None = None
        for path, number, data in self.lines(stream):
            try:
                key, time, local_time, events = self._read(stream, data)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                self.broken(Line(path, number, ""), f"cannot be read: {error!r}")
                continue
            if group is None or key != group.key:
                if group is not None:
                    yield group
                group = Lines(key, time)
            group.add(Line(path, number, local_time), events)
        if group is not None:
            yield group

    def events(self, stream: str) -> Iterator[Any]:
        """Yield all events of a stream in their order."""
        for path, number, data in self.lines(stream):
            try:
                yield from self._read(stream, data).events
            except (ValueError, KeyError, TypeError, IndexError) as error:
                self.broken(Line(path, number, ""), f"cannot be read: {error!r}")

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks in order, each with its lines in all streams that can be tied to a block."""
        plain = self.layout == "plain"
        readers = {name: self.groups(name) for name in self.streams() if not plain or name in TIMED}
        heads = [(lines.key, name, lines) for name in readers if (lines := next(readers[name], None))]
        heapq.heapify(heads)
        while heads:
            key = heads[0][0]
            streams: dict[str, Lines] = {}
            while heads and heads[0][0] == key and heads[0][1] not in streams:
                _, name, streams[name] = heads[0]
                following = next(readers[name], None)
                if following is None:
                    heapq.heappop(heads)
                else:
                    heapq.heapreplace(heads, (following.key, name, following))
            yield _plain_block(key, streams) if plain else _block(key, streams)


def _block(key: int, streams: dict[str, Lines]) -> Block:
    time = next(iter(streams.values())).time
    assert time is not None
    return Block(key, time, time_ms(time), streams)


def _plain_block(key: int, streams: dict[str, Lines]) -> Block:
    """Return a block whose number is that of the first transaction hash."""
    hashes = (
        event[1]["hash"] if stream == "fills" else event.get("hash")
        for stream, lines in streams.items()
        for event in lines.events
    )
    number = next((hash_block(digest) for digest in hashes if digest and digest[22:24] == "04"), None)
    time = next((lines.time for lines in streams.values() if lines.time is not None), None)
    return Block(number, time, key, streams)


class SnapshotOrder(NamedTuple):
    """One order of a snapshot; `user` is None when the snapshot was written without users."""

    user: str | None
    order: dict[str, Any]


class SnapshotCoin(NamedTuple):
    """One coin's book. waiting: its trigger orders that have not triggered, None when not included."""

    bids: list[SnapshotOrder]
    asks: list[SnapshotOrder]
    waiting: list[SnapshotOrder] | None


class Snapshot(NamedTuple):
    height: int
    coins: dict[str, SnapshotCoin]


def _order(value: Any) -> SnapshotOrder:
    return SnapshotOrder(*value) if isinstance(value, list) else SnapshotOrder(None, value)


def _coin(value: Any) -> SnapshotCoin:
    """Read both forms: an object with untriggered_orders, or a list of the two sides.

    Old lists may have the waiting trigger orders at the end of both sides.
    """
    sides = value["book_orders"] if isinstance(value, dict) else value
    bids, asks = ([_order(each) for each in side] for side in sides)
    if isinstance(value, dict):
        return SnapshotCoin(bids, asks, [_order(each) for each in value["untriggered_orders"]])
    waiting = {each.order["oid"]: each for each in bids + asks if each.order["isTrigger"]}
    bids, asks = ([each for each in side if not each.order["isTrigger"]] for side in (bids, asks))
    return SnapshotCoin(bids, asks, list(waiting.values()) if waiting else None)


def read_snapshot(path: Path) -> Snapshot:
    """Read what a node's fileSnapshot request writes, also compressed with gzip."""
    data = path.read_bytes()
    height, coins = orjson.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    return Snapshot(height, {coin: _coin(value) for coin, value in coins})
