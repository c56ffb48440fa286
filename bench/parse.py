"""Order-status lines to typed columns: fasttail beside orjson and the standard library.

Every engine gets the same bytes (a file as `fasttail synth` makes it, in memory) and gives the number of
orders and the sums of five columns; finding the lines is part of the work. The Python readers decode, look
the five fields up, convert and add, and keep nothing, the least they can do. `fasttail.parse` fills all
its columns and then adds. The `fasttail parse FILE` rows are whole processes, from start to exit, interpreter
included, with the file in the page cache.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson

import fasttail
from bench.measure import Answer, Benchmark, Engine, Report, WrongAnswer, check, take_turns
from fasttail import synth

COLUMNS = ("oid", "timestamp", "limitPx", "sz", "origSz")
LAYOUTS = ("plain", "streaming", "by_block")
HERE = Path(__file__).resolve().parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--orders", type=int, default=500_000, help="orders in the file")
    parser.add_argument("--layout", choices=LAYOUTS, default="plain", help="layout of the file")
    parser.add_argument("--seed", type=int, default=1, help="seed of the file")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each engine; the best one counts")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="workers of fasttail")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder that keeps the files made")


def run(args: argparse.Namespace) -> Report:
    path = replay_file(args.data, args.orders, args.layout, args.seed)
    data = path.read_bytes()
    expected = reference(data, args.layout)
    if expected.orders != args.orders:
        raise WrongAnswer(f"{path}: {expected.orders} orders in the file, {args.orders} asked for")
    check("the columns of fasttail.parse", columns_answer(data), expected)

    engines = [
        Engine("orjson", partial(python_answer, orjson.loads, data, args.layout)),
        Engine("json", partial(python_answer, json.loads, data, args.layout)),
        *(Engine(f"fasttail.parse, {n} w", partial(parse_answer, data, n)) for n in args.workers),
        *(Engine(f"fasttail parse FILE, {n} w", partial(command_answer, path, n)) for n in args.workers),
    ]
    return Report.of(
        "parse",
        f"parse: {args.orders} orders, {args.layout}, {len(data) / 1e6:.0f} MB, best of {args.rounds}",
        take_turns(engines, expected, args.rounds),
        base="orjson",
        size=len(data),
        expected=expected,
        settings={"orders": args.orders, "layout": args.layout, "seed": args.seed, "bytes": len(data)},
    )


BENCHMARK = Benchmark("parse", "order lines to typed columns, beside orjson and json", add_arguments, run)


# ---------------------------------------------------------------- the file
def replay_file(folder: Path, orders: int, layout: str, seed: int) -> Path:
    """Made once and kept; its name carries a digest of synth's source: a changed synth makes a new one."""
    made_by = hashlib.sha256(Path(synth.__file__).read_bytes()).hexdigest()[:8]
    path = folder / f"{layout}-{orders}-{seed}-{made_by}.jsonl"
    if not path.exists():
        print(f"making {path} ...", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        new.write_bytes(synth.generate(orders, layout, seed))
        new.replace(path)
    return path


# ---------------------------------------------------------------- Python readers
def orders_in(loads: Callable[[bytes], Any], data: bytes, layout: str) -> Iterator[dict[str, Any]]:
    lines = io.BytesIO(data)
    if layout == "plain":
        return (loads(line)["order"] for line in lines)
    return (event["order"] for line in lines for event in loads(line)["events"])


def python_answer(loads: Callable[[bytes], Any], data: bytes, layout: str) -> Answer:
    count = oid = timestamp = 0
    limit_px = sz = orig_sz = 0.0
    for order in orders_in(loads, data, layout):
        count += 1
        oid += order["oid"]
        timestamp += order["timestamp"]
        limit_px += float(order["limitPx"])
        sz += float(order["sz"])
        orig_sz += float(order["origSz"])
    return Answer(count, dict(zip(COLUMNS, (oid, timestamp, limit_px, sz, orig_sz), strict=True)))


def reference(data: bytes, layout: str) -> Answer:
    """The expected answer, by the standard library and with exact additions."""
    rows = [
        (order["oid"], order["timestamp"], *(float(order[name]) for name in COLUMNS[2:]))
        for order in orders_in(json.loads, data, layout)
    ]
    return summed(len(rows), dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)))


def summed(count: int, columns: dict[str, Any]) -> Answer:
    sums = {name: (sum if name in ("oid", "timestamp") else math.fsum)(columns[name]) for name in COLUMNS}
    return Answer(count, sums)


# ---------------------------------------------------------------- fasttail
def parse_answer(data: bytes, workers: int) -> Answer:
    batch = fasttail.parse(data, workers=workers)
    return Answer(len(batch), batch.sums())


def columns_answer(data: bytes) -> Answer:
    """Not timed: the columns as a caller sees them, added here and not by fasttail."""
    batch = fasttail.parse(data)
    return summed(len(batch), {name: memoryview(batch.column(name)) for name in COLUMNS})


def command_answer(path: Path, workers: int) -> Answer:
    command = Path(sysconfig.get_path("scripts"), "fasttail")
    result = subprocess.run(
        [command, "parse", path, "--format", "none", "--stats", "--workers", str(workers)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if result.returncode:
        raise WrongAnswer(f"{command} parse ended with {result.returncode}: {result.stderr}")
    stats = json.loads(result.stderr.splitlines()[-1])
    if stats["rejected"]:
        raise WrongAnswer(f"{command} parse rejected {stats['rejected']} lines")
    return Answer(stats["orders"], stats["sums"])
