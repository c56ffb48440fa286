"""Prepared files: blocks of an exchange, made once and written out by a node at any speed.

    fasttail exchange blocks 1
    {"options": {"seed": 1, …}}
    {"number": 1019927126, "time_ns": …, "streams": {"orders": [1243, 584210], …}}
    the events of the first stream, a line each as in the plain layout, then those of the next one
    … the other blocks …
    {"end": {"blocks": 935, "orders": 1408110, "events": 2400123}}

A block's line names each stream with its events and bytes. The times of the events are fixed, so a replay is
never live. Neither writer nor reader holds more than a block in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, TypeGuard

from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.chain import Exchange, ExchangeOptions
from fasttail.tools.exchange.constants import BLOCK_S, NS, STREAMS, SynthError
from fasttail.tools.exchange.faults import FaultRecord
from fasttail.tools.exchange.layouts import Chunk
from fasttail.tools.exchange.node import NodeOptions, Summary, run
from fasttail.tools.exchange.truth import replacing

_MAGIC = b"fasttail exchange blocks 1\n"
_MAGIC_NAME = b"fasttail exchange blocks "
_MAX_HEAD = 65_536
_BUFFER = 1 << 20
_MAX_TEXT = 1 << 30  # bytes of a stream in a block, unless the file is larger
_MAX_NS = 253_402_300_800 * NS  # the year 10000
_LEAST_BLOCK_LINES, _MOST_BLOCK_LINES = 1e-12, 1e12


@dataclass(frozen=True)
class Prepared:
    """Totals of a prepared file. orders: order statuses. events: of all streams."""

    blocks: int = 0
    orders: int = 0
    events: int = 0
    bytes: int = 0


class PreparedBlock(NamedTuple):
    """A block from a prepared file, whose events are not split."""

    number: int
    time_ns: int
    events: dict[str, Chunk]


def prepare(
    path: str | os.PathLike[str],
    options: ExchangeOptions,
    *,
    lines: int | None = None,
    blocks: int | None = None,
    stop: Callable[[], bool] | None = None,
) -> Prepared:
    """Write an exchange's first blocks to a file. Equal arguments give equal bytes.

    lines:  order statuses to write, exactly.
    blocks: blocks to write.
    stop:   asked after each block; True ends the file there.

    The file appears when it is complete. Raises SynthError for values out of range, if the file cannot be
    written, or if the path is there and no regular file.
    """
    if lines is None and blocks is None:
        raise SynthError("a prepared file needs an end: lines or blocks")
    if lines is not None and "orders" not in options.streams:
        raise SynthError("lines counts order statuses, so it needs the stream orders")
    with replacing(Path(path)) as file:
        return _write_blocks(file, options, lines, blocks, stop)


def _write_blocks(
    file: IO[bytes],
    options: ExchangeOptions,
    lines: int | None,
    blocks: int | None,
    stop: Callable[[], bool] | None,
) -> Prepared:
    exchange = Exchange(options)
    file.write(_MAGIC + _json_line({"options": asdict(options) | {"start": options.start.isoformat()}}))
    done = Prepared()
    while done.blocks != blocks and done.orders != lines and not (stop is not None and stop()):
        block = exchange.next_block(max_orders=None if lines is None else lines - done.orders)
        _write_block(file, block)
        done = Prepared(
            done.blocks + 1,
            done.orders + len(block.events.get("orders", ())),
            done.events + sum(map(len, block.events.values())),
        )
    file.write(_json_line({"end": _totals(done)}))
    return replace(done, bytes=file.tell())


def _write_block(file: IO[bytes], block: Block) -> None:
    chunks = {stream: Chunk.of(events) for stream, events in block.events.items()}
    sizes = {stream: [len(chunk), len(chunk.text)] for stream, chunk in chunks.items()}
    file.write(_json_line({"number": block.number, "time_ns": block.time_ns, "streams": sizes}))
    for chunk in chunks.values():
        file.write(chunk.text)


def _totals(done: Prepared) -> dict[str, int]:
    return {"blocks": done.blocks, "orders": done.orders, "events": done.events}


def _json_line(value: object) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


class PreparedBlocks:
    """Reads a prepared file block by block. Raises SynthError if it is none, or is damaged.

    streams:     what it holds.
    block_lines: mean number of order statuses per block, as it was asked for.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb", buffering=_BUFFER)
        except OSError as error:
            raise self._read_error(error) from error
        self._total: Prepared | None = None  # once the end was read
        self._done = Prepared()
        self._last: PreparedBlock | None = None
        try:
            self._max_text = max(os.fstat(self._file.fileno()).st_size, _MAX_TEXT)
            self._check_magic()
            options = self._head().get("options")
            if not isinstance(options, dict):
                raise self._damaged()
            self.streams, self.block_lines = self._checked(options)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PreparedBlocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def next_block(self, time_ns: int | None = None, max_orders: int | None = None) -> PreparedBlock | None:
        """Return the next block, or None after the last one.

        time_ns:    must be None: prepared events keep their times.
        max_orders: the order statuses after so many are left out; the other streams stay whole.
        """
        if time_ns is not None:
            raise SynthError("prepared events keep their times, so they cannot be live")
        if self._total is not None:
            return None
        head = self._head()
        if "end" in head:
            self._check_end(head["end"])
            return None
        block = self._last = self._block(head)
        done = self._done
        orders = block.events.get("orders")
        self._done = Prepared(
            done.blocks + 1,
            done.orders + (0 if orders is None else len(orders)),
            done.events + sum(map(len, block.events.values())),
        )
        if max_orders is not None and orders is not None and len(orders) > max_orders:
            block.events["orders"] = Chunk.of(orders[:max_orders])
        return block

    def _block(self, head: dict[str, Any]) -> PreparedBlock:
        number, time_ns, sizes = head.get("number"), head.get("time_ns"), head.get("streams")
        if not (_is_count(number) and _is_count(time_ns) and isinstance(sizes, dict)):
            raise self._damaged()
        last = self._last
        if time_ns >= _MAX_NS or (last and (number != last.number + 1 or time_ns <= last.time_ns)):
            raise self._damaged()
        if sorted(sizes) != sorted(self.streams):
            raise self._damaged()
        events = {}
        for stream, size in sizes.items():
            match size:
                case [count, length] if _is_count(count) and _is_count(length) and length <= self._max_text:
                    text = self._read(length)
                case _:
                    raise self._damaged()
            if text.count(b"\n") != count or (text and not text.endswith(b"\n")) or not text.isascii():
                raise self._damaged()
            events[stream] = Chunk(text, count)
        return PreparedBlock(number, time_ns, events)

    def _check_magic(self) -> None:
        magic = self._read(len(_MAGIC), short=True)
        if magic != _MAGIC:
            if magic.startswith(_MAGIC_NAME):
                raise SynthError(f"{self.path} was prepared by another version of fasttail")
            raise SynthError(f"{self.path} is not a prepared file")

    def _checked(self, options: dict[str, Any]) -> tuple[tuple[str, ...], float]:
        streams, block_lines = options.get("streams"), options.get("block_lines")
        if not (isinstance(streams, list) and streams and all(isinstance(name, str) for name in streams)):
            raise self._damaged()
        if len(set(streams)) < len(streams) or not set(streams) <= set(STREAMS):
            raise self._damaged()
        if not isinstance(block_lines, int | float) or isinstance(block_lines, bool):
            raise self._damaged()
        if not _LEAST_BLOCK_LINES <= block_lines <= _MOST_BLOCK_LINES:
            raise self._damaged()
        return tuple(streams), float(block_lines)

    def _check_end(self, end: object) -> None:
        if end != _totals(self._done) or self._read(1, short=True):
            raise self._damaged()
        self._total = self._done

    def _head(self) -> dict[str, Any]:
        try:
            line = self._file.readline(_MAX_HEAD)
        except OSError as error:
            raise self._read_error(error) from error
        if not line:
            raise SynthError(f"{self.path} ends too early: it was not prepared to its end")
        try:
            head = json.loads(line)
        except (ValueError, RecursionError):
            raise self._damaged() from None
        if not (isinstance(head, dict) and line.endswith(b"\n")):
            raise self._damaged()
        return head

    def _read(self, length: int, *, short: bool = False) -> bytes:
        try:
            data = self._file.read(length)
        except OSError as error:
            raise self._read_error(error) from error
        if len(data) != length and not short:
            raise SynthError(f"{self.path} ends too early: it was not prepared to its end")
        return data

    def _damaged(self) -> SynthError:
        return SynthError(f"{self.path} is damaged: prepare it again")

    def _read_error(self, error: OSError) -> SynthError:
        return SynthError(f"cannot read {self.path}: {error.strerror or error}")


def _is_count(value: object) -> TypeGuard[int]:
    """Return whether a value of a JSON line is a whole number from 0 on (and not `true`)."""
    return type(value) is int and 0 <= value < 1 << 63


def replay(
    directory: str | os.PathLike[str],
    path: str | os.PathLike[str],
    options: NodeOptions,
    *,
    progress: Callable[[Summary], None] | None = None,
    stop: Callable[[], bool] | None = None,
    on_write: Callable[[Block], None] | None = None,
    on_fault: Callable[[FaultRecord], None] | None = None,
) -> Summary:
    """Write the blocks of a prepared file as a node's files, like `node.run`, until they end.

    A rate makes them faster or slower than their own times. Of the options, those of the exchange have no
    effect, and with a `start` (any) local times and folders follow the blocks' times.
    """
    if options.live:
        raise SynthError("prepared events keep their times, so they cannot be live")
    with PreparedBlocks(path) as blocks:
        for stream in options.streams:
            if stream not in blocks.streams:
                raise SynthError(f"{path} was prepared without {stream}: it has {', '.join(blocks.streams)}")
        speed = 1.0 if options.rate is None else options.rate * BLOCK_S / blocks.block_lines
        return run(
            directory,
            replace(options, live=False),
            source=blocks,
            speed=speed,
            progress=progress,
            stop=stop,
            on_write=on_write,
            on_fault=on_fault,
        )
