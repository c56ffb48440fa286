"""Measures three layers alone on a file in the page cache: split, filter and encode.

split: `Reader` returns whole lines in blocks, copying each, which the server does not. filter and encode run
the path of `fasttail parse`, so both include parsing; a filter's cost is its table's time beyond that of
everything. Each output is compared with orjson's by length and CRC.

It does not show the frames for WebSocket clients, which only a running server makes: see `fanout`.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import orjson

from bench.inputs import DATA, replay_file
from bench.measure import Answer, Benchmark, Engine, Report, Table, WrongAnswer, take_turns
from fasttail.commands.text_converter import Converter
from fasttail.engine.filters import Selector
from fasttail.sources.reader import FILL_EOF, FILL_LINES, Reader

BLOCK = 1 << 20
BASE = "orjson"
Event = dict[str, Any]
Format = Literal["json", "raw", "none"]


@dataclass(frozen=True)
class Choice:
    """A filter, as fasttail's conditions and as a Python predicate."""

    name: str
    passes: Callable[[Event], bool]
    conditions: dict[str, Any] = field(default_factory=dict)


COINS = ("HYPE", "xyz:GOLD")
LEAST = 5_000.0
CHOICES = (
    Choice("everything", lambda event: True),
    Choice("two coins", lambda event: event["order"]["coin"] in COINS, {"coins": dict.fromkeys(COINS, 0.0)}),
    Choice(
        "coins, status and notional",
        lambda event: (
            event["order"]["coin"] in COINS
            and event["status"] == "open"
            and float(event["order"]["limitPx"]) * float(event["order"]["origSz"]) >= LEAST
        ),
        {"coins": dict.fromkeys(COINS, LEAST), "statuses": ["open"]},
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", nargs="+", choices=LAYERS, default=list(LAYERS), help="which")
    parser.add_argument("--orders", type=int, default=200_000, help="in the file, plain layout")
    parser.add_argument("--seed", type=int, default=1, help="seed of the file")
    parser.add_argument("--rounds", type=int, default=5, help="of each engine")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="workers of fasttail")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that keeps the files made")


def run(args: argparse.Namespace) -> Report:
    path = replay_file(args.data, args.orders, "plain", args.seed)
    tables = [table for layer in args.layer for table in LAYERS[layer](args, path)]
    settings = {name: getattr(args, name) for name in ("layer", "orders", "seed", "rounds")}
    return Report("layers", tables, settings | {"bytes": path.stat().st_size})


def _table(
    args: argparse.Namespace, path: Path, title: str, engines: list[Engine], expected: Answer
) -> Table:
    size = path.stat().st_size
    return Table.of(
        f"{title}: {args.orders} orders, {size / 1e6:.0f} MB",
        take_turns(engines, expected, args.rounds),
        base=engines[0].name,
        size=size,
        lines=args.orders,
        expected=expected,
    )


# ---------------------------------------------------------------- split
def split(args: argparse.Namespace, path: Path) -> list[Table]:
    data = path.read_bytes()
    expected = Answer(data.count(b"\n"), {"bytes": len(data), "crc": zlib.crc32(data)})
    if expected.orders != args.orders:
        raise WrongAnswer(f"{path}: {expected.orders} lines in the file, {args.orders} asked for")
    engines = [
        Engine("for line in file", partial(_python_lines, path), _lines_answer),
        Engine("Reader", partial(_blocks, path), _lines_answer),
        Engine("Reader, newlines counted", partial(_counted, path), lambda found: _lines_answer(found[0])),
    ]
    return [_table(args, path, "split", engines, expected)]


def _python_lines(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return list(file)


def _blocks(path: Path) -> list[bytes]:
    reader = Reader(window=BLOCK, max_line=BLOCK)
    reader.open(path)
    blocks = []
    while reader.fill_once() == FILL_LINES:
        blocks.append(reader.take_lines())
    return blocks


def _counted(path: Path) -> tuple[list[bytes], int]:
    blocks = _blocks(path)
    return blocks, sum(block.count(b"\n") for block in blocks)


def _lines_answer(pieces: list[bytes]) -> Answer:
    return _answer(sum(piece.count(b"\n") for piece in pieces), pieces)


# ---------------------------------------------------------------- filter, encode
def filters(args: argparse.Namespace, path: Path) -> list[Table]:
    for choice in CHOICES:  # untimed: compares the orders themselves, not only their number
        _same(choice, _fasttail(path, choice, "raw", 1), _python(path, choice, "raw"))
    return [_converted(args, path, f"filter, {choice.name}", choice, "none") for choice in CHOICES]


def encode(args: argparse.Namespace, path: Path) -> list[Table]:
    return [_converted(args, path, f"encode as {format}", CHOICES[0], format) for format in ("json", "raw")]


def _converted(args: argparse.Namespace, path: Path, title: str, choice: Choice, format: Format) -> Table:
    expected = _found(_python(path, choice, format))
    engines = [
        Engine(BASE, partial(_python, path, choice, format), _found),
        *(
            Engine(f"fasttail, {n} w", partial(_fasttail, path, choice, format, n), _found)
            for n in args.workers
        ),
    ]
    return _table(args, path, title, engines, expected)


def _same(choice: Choice, got: tuple[int, list[bytes]], right: tuple[int, list[bytes]]) -> None:
    if _answer(*got) != _answer(*right):
        raise WrongAnswer(f"filter, {choice.name}: {got[0]} orders, not the {right[0]} that Python takes")


def _answer(orders: int, pieces: Iterable[bytes]) -> Answer:
    size = crc = 0
    for piece in pieces:
        size += len(piece)
        crc = zlib.crc32(piece, crc)
    return Answer(orders, {"bytes": size, "crc": crc})


def _found(found: tuple[int, list[bytes]]) -> Answer:
    return _answer(*found)


def _python(path: Path, choice: Choice, format: Format) -> tuple[int, list[bytes]]:
    count = 0
    pieces: list[bytes] = []
    passes = choice.passes
    with path.open("rb") as lines:
        for line in lines:
            event = orjson.loads(line)
            if not passes(event):
                continue
            count += 1
            if format == "json":
                pieces.append(orjson.dumps(_flat(event), option=orjson.OPT_APPEND_NEWLINE))
            elif format == "raw":
                pieces.append(line)
    return count, pieces


def _flat(event: Event) -> Event:
    """Flatten a plain event as docs/parsing.md specifies."""
    return {
        "time": event["time"],
        "user": event["user"],
        "hash": event.get("hash"),
        "builder": event.get("builder"),
        "status": event["status"],
        **event["order"],
        "block_number": None,
        "block_time": None,
        "local_time": None,
    }


def _fasttail(path: Path, choice: Choice, format: Format, workers: int) -> tuple[int, list[bytes]]:
    reader = Reader(window=BLOCK, max_line=BLOCK)
    converter = Converter(
        capacity=2 * BLOCK, workers=workers, selector=Selector(**choice.conditions), format=format
    )
    reader.open(path)
    pieces = []
    while (code := reader.fill_once()) == FILL_LINES:
        pieces.append(converter.convert_block(reader))
    if code != FILL_EOF or converter.rejected:
        raise WrongAnswer(f"{path}: read with code {code}, {converter.rejected} lines rejected")
    return converter.orders, pieces


LAYERS: dict[str, Callable[[argparse.Namespace, Path], list[Table]]] = {
    "split": split,
    "filter": filters,
    "encode": encode,
}

BENCHMARK = Benchmark("layers", "splitting, filtering and encoding, each alone", add_arguments, run)
