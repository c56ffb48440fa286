"""Measures order-status lines to typed columns, fasttail and other parsers, and compares rejected lines.

Every engine gets the same bytes (a file of `fasttail synth` in memory; duckdb reads the file) and returns the
number of orders and the sums of five columns; finding the lines is included. `fasttail` fills all its columns
and then sums them; `columns only` does not time the summing.

In the second input some lines are broken at random. Only engines that can apply all rules take part. Each
must reject as many lines as orjson with every rule checked, and fasttail must reject the same lines.
"""

from __future__ import annotations

import argparse
import io
import json
from functools import partial
from pathlib import Path

import orjson

import fasttail
from bench.acceptance import strict_json
from bench.inputs import DATA, LAYOUTS, break_lines, replay_file
from bench.measure import Answer, Benchmark, CannotRun, Engine, Report, Table, WrongAnswer, check, take_turns
from bench.parsers import PACKAGES, Input
from bench.readers import COLUMNS, added, answer, checked, checked_answer, python_answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--orders", type=int, default=500_000, help="orders in the file")
    parser.add_argument("--layout", choices=LAYOUTS, default="plain", help="layout of the file")
    parser.add_argument("--seed", type=int, default=1, help="seed of the file")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each engine; the best one counts")
    parser.add_argument("--broken", type=int, default=1000, help="lines to break in the second input")
    parser.add_argument("--broken-rounds", type=int, default=3, help="rounds on the second input")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="workers of fasttail")
    parser.add_argument("--all", action="store_true", help="fail if a parser to compare with is missing")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that keeps the files made")


def run(args: argparse.Namespace) -> Report:
    path = replay_file(args.data, args.orders, args.layout, args.seed)
    data = path.read_bytes()
    others, notes = other_engines(Input(path, data, args.layout, args.workers), args.all)
    tables = [right_lines(args, path, data, others)]
    if args.broken:
        tables.append(broken_lines(args, data))
    settings = {name: getattr(args, name) for name in ("orders", "layout", "seed", "rounds", "broken")}
    return Report("parse", tables, settings | {"bytes": len(data)}, notes)


def other_engines(input: Input, all_of_them: bool) -> tuple[list[Engine], list[str]]:
    engines: list[Engine] = []
    notes: list[str] = []
    for package, make in PACKAGES.items():
        try:
            engines += make(input)
        except ModuleNotFoundError as error:
            if all_of_them:
                raise CannotRun(f"{package} is not installed: pip install '.[bench]'") from error
            notes.append(f"{package} is not installed and left out: pip install '.[bench]'")
    return engines, notes


def right_lines(args: argparse.Namespace, path: Path, data: bytes, others: list[Engine]) -> Table:
    expected, rejected = checked(strict_json, io.BytesIO(data))
    if rejected or expected.orders != args.orders:
        raise WrongAnswer(f"{path}: {expected.orders} orders in the file, {args.orders} asked for")
    check("the columns of fasttail.parse", columns_answer(data), expected)
    engines = [
        Engine("orjson", lambda: python_answer(orjson.loads, io.BytesIO(data), args.layout)),
        Engine("json", lambda: python_answer(json.loads, io.BytesIO(data), args.layout)),
        *others,
        *fasttail_engines(data, args.workers),
        *(
            Engine(f"fasttail, {n} w, columns only", partial(fasttail.parse, data, n), batch_answer)
            for n in args.workers
        ),
    ]
    return Table.of(
        f"parse: {args.orders} orders, {args.layout}, {len(data) / 1e6:.0f} MB, best of {args.rounds}",
        take_turns(engines, expected, args.rounds),
        base="orjson",
        size=len(data),
        lines=data.count(b"\n"),
        expected=expected,
    )


def broken_lines(args: argparse.Namespace, data: bytes) -> Table:
    data, count = break_lines(data, args.broken, args.seed)
    expected, rejected = checked(orjson.loads, io.BytesIO(data))
    for workers in args.workers:
        got = [each.offset for each in fasttail.parse(data, workers).rejected]
        if got != rejected:
            at = min(set(got) ^ set(rejected), default=None)
            raise WrongAnswer(f"fasttail, {workers} w, rejects other lines than orjson: first at byte {at}")
    engines = [
        Engine("orjson, rules checked", partial(checked_answer, orjson.loads, data)),
        Engine("json, rules checked", partial(checked_answer, strict_json, data)),
        *fasttail_engines(data, args.workers),
    ]
    return Table.of(
        f"parse, {count} lines broken: {expected.rejected} of them rejected, best of {args.broken_rounds}",
        take_turns(engines, expected, args.broken_rounds),
        base="orjson, rules checked",
        size=len(data),
        lines=data.count(b"\n"),
        expected=expected,
    )


def fasttail_engines(data: bytes, workers: list[int]) -> list[Engine]:
    return [Engine(f"fasttail, {n} w", partial(parse_answer, data, n)) for n in workers]


def parse_answer(data: bytes, workers: int) -> Answer:
    return batch_answer(fasttail.parse(data, workers))


def batch_answer(batch: fasttail.Batch) -> Answer:
    return Answer(len(batch), batch.sums(), len(batch.rejected))


def columns_answer(data: bytes) -> Answer:
    """Sum the columns as a caller sees them, here and not in fasttail. Not timed."""
    batch = fasttail.parse(data)
    return answer(len(batch), added(memoryview(batch.column(name)) for name in COLUMNS), len(batch.rejected))


BENCHMARK = Benchmark("parse", "order lines to typed columns, beside other parsers", add_arguments, run)
