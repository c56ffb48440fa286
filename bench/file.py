"""Measures `fasttail parse FILE --format none` as a whole process, on a file in the page cache.

orjson reads the same file line by line for comparison, in this process and so without interpreter start-up.
The command's answer is its own `--stats`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import orjson

from bench.inputs import DATA, LAYOUTS, replay_file
from bench.measure import Answer, Benchmark, Engine, Report, Table, WrongAnswer, take_turns
from bench.readers import checked, python_answer

COMMAND = Path(sysconfig.get_path("scripts"), "fasttail")
PEAK = Path(__file__).resolve().parent / "peak.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--orders", type=int, default=2_100_000, help="orders in the file: 1 GB by default")
    parser.add_argument("--layout", choices=LAYOUTS, default="plain", help="layout of the file")
    parser.add_argument("--seed", type=int, default=1, help="seed of the file")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each; the best one counts")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="workers of fasttail")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that keeps the files made")


def run(args: argparse.Namespace) -> Report:
    path = replay_file(args.data, args.orders, args.layout, args.seed)
    with path.open("rb") as lines:  # also brings the file into the page cache
        expected, rejected = checked(orjson.loads, lines)
    if rejected or expected.orders != args.orders:
        raise WrongAnswer(f"{path}: {expected.orders} orders in the file, {args.orders} asked for")
    engines = [
        Engine("orjson by lines", partial(orjson_answer, path, args.layout)),
        *(Engine(f"fasttail parse FILE, {n} w", partial(command_answer, path, n)) for n in args.workers),
    ]
    size = path.stat().st_size
    table = Table.of(
        f"file: {args.orders} orders, {args.layout}, {size / 1e6:.0f} MB, best of {args.rounds}",
        take_turns(engines, expected, args.rounds),
        base="orjson by lines",
        size=size,
        lines=count_lines(path),
        expected=expected,
    )
    peaks = {n: peak_rss(path, n) for n in args.workers}
    notes = [f"most memory resident with {n} w: {peak / 1e6:.0f} MB" for n, peak in peaks.items()]
    settings = {name: getattr(args, name) for name in ("orders", "layout", "seed", "rounds")}
    return Report("file", [table], settings | {"bytes": size, "peak_rss": peaks}, notes)


def orjson_answer(path: Path, layout: str) -> Answer:
    with path.open("rb") as lines:
        return python_answer(orjson.loads, lines, layout)


def command(path: Path, workers: int) -> list[str]:
    return [str(COMMAND), "parse", str(path), "--format", "none", "--stats", "--workers", str(workers)]


def command_answer(path: Path, workers: int) -> Answer:
    done = subprocess.run(
        command(path, workers), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise WrongAnswer(f"{COMMAND} parse ended with {done.returncode}: {done.stderr}")
    stats = json.loads(done.stderr.splitlines()[-1])
    return Answer(stats["orders"], stats["sums"], stats["rejected"])


def peak_rss(path: Path, workers: int) -> int:
    """Return the peak RSS in bytes of an extra, untimed run."""
    launcher = [sys.executable, "-I", "-S", str(PEAK), *command(path, workers)]
    done = subprocess.run(launcher, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise WrongAnswer(f"{COMMAND} parse ended with {done.returncode}: {done.stderr}")
    return int(done.stderr.splitlines()[-1]) * 1024


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(partial(file.read, 1 << 20), b""))


BENCHMARK = Benchmark("file", "`fasttail parse FILE` as a whole process, beside orjson", add_arguments, run)
