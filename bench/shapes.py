"""Measures other line shapes: fasttail's speed relative to orjson on each, and the cost of very long lines.

orjson reads each shape as in the benchmark `parse`. by_block is compared with streaming lines of the same
orders, by time and by bytes per second; streaming lines have more bytes because of their envelopes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bench import long_lines
from bench.acceptance import strict_json
from bench.long_lines import Cost
from bench.measure import Answer, Benchmark, Engine, load_text, machine, take_turns, write_json
from bench.parse import fasttail_engines
from bench.readers import checked, python_answer
from bench.shape_lines import ENVELOPED, SHAPES

# Times orjson with one worker: for the shape that a node writes now, and for all others.
USUAL, OTHER = 15.0, 5.0
BY_BLOCK = 0.9


@dataclass(frozen=True)
class Speed:
    """One shape with one worker. line: mean bytes per line. orjson, fasttail: GB/s. ratio: between them."""

    shape: str
    line: float
    orjson: float
    fasttail: float
    ratio: float
    ratios: list[float]  # one per round
    target: float


@dataclass(frozen=True)
class Blocks:
    """by_block relative to streaming lines of the same orders, in orders and in bytes per second."""

    workers: int
    by_orders: float
    by_bytes: float
    target: float


@dataclass(frozen=True)
class Shapes:
    speeds: list[Speed]
    blocks: list[Blocks]
    costs: list[Cost]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        lines = [
            f"shapes: {self.settings['orders']} orders of each shape in memory, 1 worker, best of "
            f"{self.settings['rounds']}, answers checked",
            f"{'shape':22}  {'bytes/line':>10}  {'orjson GB/s':>11}  {'fasttail GB/s':>13}  {'ratio':>6}",
        ]
        lines += [
            f"{row.shape:22}  {row.line:10.0f}  {row.orjson:11.3f}  {row.fasttail:13.3f}  {row.ratio:6.2f}  "
            f"{_target(row.ratio >= row.target, '≥', row.target)}"
            for row in self.speeds
        ]
        lines += ["", f"{'by_block to streaming':22}  {'orders/s':>10}  {'GB/s':>11}  target"]
        lines += [
            f"{f'{row.workers} w':22}  {row.by_orders:10.2f}  {row.by_bytes:11.2f}  "
            f"{_target(min(row.by_orders, row.by_bytes) >= row.target, '≥', row.target)}"
            for row in self.blocks
        ]
        heads = f"{'workers':>7}  {'MB':>6}  {'GB/s':>7}  cost of a byte, to short lines"
        lines += ["", f"{'one long line':22}  {heads}"]
        lines += [
            f"{row.shape:22}  {row.workers:7}  {row.bytes / 1e6:6.1f}  {row.bytes / row.long / 1e9:7.3f}  "
            f"{row.ratio:6.2f}  {_target(row.ratio <= row.target, '≤', row.target)}"
            for row in self.costs
        ]
        return "\n".join([*lines, load_text()])

    def write(self, folder: Path) -> Path:
        return write_json("shapes", asdict(self), folder)


def _target(met: bool, sign: str, target: float) -> str:
    return f"{sign} {target:g} {'met' if met else 'MISSED'}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--orders", type=int, default=60_000, help="orders of each shape")
    parser.add_argument("--seed", type=int, default=1, help="seed of the orders")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each; the best one counts")
    parser.add_argument("--long-bytes", type=int, default=64 << 20, help="bytes of the long lines")


def run(args: argparse.Namespace) -> Shapes:
    return Shapes(
        speeds=[_speed(shape, make, args) for shape, make in SHAPES.items()],
        blocks=_blocks(args),
        costs=long_lines.measure(args),
        settings={name: getattr(args, name) for name in ("orders", "seed", "rounds", "long_bytes")},
    )


def _expected(data: bytes) -> Answer:
    return checked(strict_json, io.BytesIO(data))[0]


def _speed(shape: str, make: Callable[[int, int], bytes], args: argparse.Namespace) -> Speed:
    data = make(args.orders, args.seed)
    layout = "streaming" if shape in ENVELOPED else "plain"
    orjson_engine = Engine("orjson", lambda: python_answer(orjson.loads, io.BytesIO(data), layout))
    engines = [orjson_engine, *fasttail_engines(data, [1])]
    all_slow, all_fast = take_turns(engines, _expected(data), args.rounds).values()
    slow, fast = min(all_slow), min(all_fast)
    return Speed(
        shape=shape,
        line=len(data) / data.count(b"\n"),
        orjson=len(data) / slow / 1e9,
        fasttail=len(data) / fast / 1e9,
        ratio=slow / fast,
        ratios=[one / other for one, other in zip(all_slow, all_fast, strict=True)],
        target=USUAL if shape in ("plain", "streaming", "busy hour") else OTHER,
    )


def _blocks(args: argparse.Namespace) -> list[Blocks]:
    data = {name: SHAPES[name](args.orders, args.seed) for name in ENVELOPED}
    expected = _expected(data["streaming"])
    found = []
    for workers in (1, 2):
        engines = [
            Engine(name, engine.run)
            for name, lines in data.items()
            for engine in fasttail_engines(lines, [workers])
        ]
        streaming, by_block = (min(times) for times in take_turns(engines, expected, args.rounds).values())
        by_orders = streaming / by_block
        size = len(data["by_block"]) / len(data["streaming"])
        found.append(Blocks(workers, by_orders, by_orders * size, BY_BLOCK))
    return found


BENCHMARK = Benchmark("shapes", "other shapes beside orjson, and very long lines", add_arguments, run)
