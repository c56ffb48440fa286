"""Instructions per order, counted by callgrind: a figure that does not drift with the machine's load.

A process parses a small file, another a larger one, both under callgrind; the difference, divided by the
orders between them, is what an order costs without start-up. Instructions say nothing of cache misses,
mispredicted branches or how many run at once. With one worker; adding up the sums is left out.

Each instruction set that `FASTTAIL_ISA` can choose is counted if the processor that valgrind shows has it:
that includes AVX2 and leaves out AVX-512.

bench/instructions.json holds the figures on record, with the compiler and the library they depend on.
`--check` fails where an order costs over 5 % more than that.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.acceptance import strict_json
from bench.measure import Answer, Benchmark, CannotRun, OverBudget, WrongAnswer, check, machine, write_json
from bench.readers import checked
from bench.shape_lines import SHAPES
from fasttail.parser import isa

HERE = Path(__file__).resolve().parent
RECORD = HERE / "instructions.json"
CHILD = HERE / "parse_once.py"

ALLOWED = 1.05  # times the record, for --check

PerShape = dict[str, dict[str, float]]  # shape -> instruction set -> instructions per order


@dataclass(frozen=True)
class Instructions:
    per_order: PerShape
    bytes_per_order: dict[str, float]
    sets: list[str]
    left_out: list[str]
    recorded: PerShape
    settings: dict[str, Any]
    tools: dict[str, str]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        heads = "  ".join(f"{name:>18}" for name in self.sets)
        lines = [
            f"instructions per order by {self.tools['valgrind']}, built by {self.tools['compiler']}; "
            "in brackets the change from the record",
            f"{'shape':14}  {'bytes':>6}  {heads}",
        ]
        for shape, counts in self.per_order.items():
            cells = "  ".join(f"{self._cell(shape, name, counts[name]):>18}" for name in self.sets)
            lines.append(f"{shape:14}  {self.bytes_per_order[shape]:6.0f}  {cells}")
        lines += [f"{name}: not counted, for valgrind does not have it" for name in self.left_out]
        return "\n".join(lines)

    def _cell(self, shape: str, name: str, count: float) -> str:
        before = self.recorded.get(shape, {}).get(name)
        return f"{count:.1f}" if before is None else f"{count:.1f} ({(count / before - 1) * 100:+.1f} %)"

    def over_budget(self) -> list[str]:
        """What costs more than the record allows. What is not on record has no budget."""
        return [
            f"{shape}, {name}: {count:.1f}, at most {before * ALLOWED:.1f}"
            for shape, counts in self.per_order.items()
            for name, count in counts.items()
            if (before := self.recorded.get(shape, {}).get(name)) is not None and count > before * ALLOWED
        ]

    def write(self, folder: Path) -> Path:
        return write_json("instructions", asdict(self), folder)

    def record(self, path: Path) -> None:
        content = {
            "what": "instructions per order, by `python -m bench run instructions --record`",
            "commit": self.machine["commit"],
            "tools": self.tools,
            "settings": self.settings,
            "bytes_per_order": {shape: round(size, 1) for shape, size in self.bytes_per_order.items()},
            "per_order": {
                shape: {name: round(count, 1) for name, count in counts.items()}
                for shape, counts in self.per_order.items()
            },
        }
        path.write_text(json.dumps(content, indent=2) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", type=int, default=2000, help="orders of the small file")
    parser.add_argument("--large", type=int, default=8000, help="orders of the large file")
    parser.add_argument("--seed", type=int, default=1, help="seed of the orders")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="which shapes")
    sets = list(isa.available())
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets, help="which instruction sets")
    parser.add_argument("--check", action="store_true", help="fail at over 5 %% more than on record")
    parser.add_argument("--record", action="store_true", help=f"write the figures to bench/{RECORD.name}")


def run(args: argparse.Namespace) -> Instructions:
    if shutil.which("valgrind") is None:
        raise CannotRun("valgrind is not installed: apt-get install valgrind")
    if not 0 < args.small < args.large:
        raise CannotRun("--large must be above --small")
    counts: PerShape = {}
    sizes: dict[str, float] = {}
    left_out: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as folder:
        for shape in args.shapes:
            make = SHAPES[shape]
            small, large = (_file(Path(folder, str(n)), make(n, args.seed)) for n in (args.small, args.large))
            sizes[shape] = (large.size - small.size) / (args.large - args.small)
            counts[shape] = {}
            for name in args.sets:
                if name in left_out:
                    continue
                totals = [_count(each, name, Path(folder, "callgrind")) for each in (small, large)]
                if None in totals:
                    left_out.add(name)
                    continue
                print(f"{shape}, {name}: counted", file=sys.stderr)
                counts[shape][name] = (totals[1] - totals[0]) / (args.large - args.small)  # type: ignore[operator]
    result = Instructions(
        per_order=counts,
        bytes_per_order=sizes,
        sets=[name for name in args.sets if name not in left_out],
        left_out=sorted(left_out),
        recorded=json.loads(RECORD.read_text())["per_order"] if RECORD.exists() else {},
        settings={"small": args.small, "large": args.large, "seed": args.seed},
        tools=_tools(),
    )
    if args.check and (over := result.over_budget()):
        raise OverBudget("\n".join([result.table(), "over budget:", *over]))
    if args.record:
        result.record(RECORD)
    return result


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    expected: Answer


def _file(path: Path, data: bytes) -> _File:
    path.write_bytes(data)
    return _File(path, len(data), checked(strict_json, io.BytesIO(data))[0])


def _count(file: _File, name: str, out: Path) -> int | None:
    """Instructions of a whole process. None if valgrind does not have this instruction set."""
    natively = _answer(_run([], file.path, name, "--sums"))
    answer = Answer(natively["orders"], natively["sums"], natively["rejected"])
    check(f"{name}, natively", answer, file.expected)
    if natively["isa"] != name:
        raise WrongAnswer(f"FASTTAIL_ISA={name} ran {natively['isa']}")
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    counted = _answer(_run(valgrind, file.path, name))
    if counted["isa"] != name:
        return None
    if (counted["orders"], counted["rejected"]) != (file.expected.orders, file.expected.rejected):
        raise WrongAnswer(f"{name}, under callgrind: {counted}, expected {file.expected}")
    total = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
    assert total is not None, "a callgrind file has its total"
    return int(total[1])


def _run(before: list[str], path: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    # A fixed seed of hashes: dictionaries of the interpreter are then filled alike in every run.
    env = {**os.environ, "FASTTAIL_ISA": name, "PYTHONHASHSEED": "0"}
    command = [*before, sys.executable, "-P", str(CHILD), str(path), *options]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def _answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    if done.returncode:
        command = " ".join(map(str, done.args))
        raise WrongAnswer(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _tools() -> dict[str, str]:
    # What builds extensions by default; CC at the build may have named another.
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    return {
        "valgrind": _version("valgrind"),
        "compiler": _version(compiler),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }


def _version(program: str) -> str:
    if shutil.which(program) is None:
        return "unknown"
    return subprocess.run([program, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]


BENCHMARK = Benchmark("instructions", "instructions per order, counted by callgrind", add_arguments, run)
