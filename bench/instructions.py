"""Counts instructions per order with callgrind, a figure that does not drift with the machine's load.

One process handles a small file and another a larger one, both under callgrind with one worker; the
difference divided by the extra orders is the cost of an order without start-up. Instruction counts do not
show cache misses, mispredicted branches or instruction-level parallelism, and exclude the kernel.

Parsing is counted as a whole process, without summing the columns, for each line shape and each instruction
set that `FASTTAIL_ISA` accepts and valgrind's processor has. That includes AVX2 and excludes AVX-512.

For the stages before and after parsing, on plain lines, only the stage's function is counted (callgrind's
--toggle-collect). They are compiled once for all processors: "any". "split" reads blocks and finds their last
newline (the parser finds the others); with 4 KiB a block is as short as a live one. "encode" makes the
messages of one topic that selects every order ("orderUpdate": only its statuses, 2 of 5, divided by all
orders). Functions are found by name, so a stripped build does not work.

bench/instructions.json holds the recorded figures with the compiler and C library they depend on. `--check`
fails if an order costs over 5 % more than recorded. With another compiler or library it only reports that the
figures cannot be compared.
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
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.acceptance import strict_json
from bench.measure import Answer, Benchmark, CannotRun, OverBudget, WrongAnswer, check, machine, write_json
from bench.readers import checked
from bench.shape_lines import SHAPES
from bench.soak_node import OLD_STATUSES
from fasttail.engine import pipeline
from fasttail.streams import isa

HERE = Path(__file__).resolve().parent
RECORD = HERE / "instructions.json"
CHILD = HERE / "parse_once.py"
STAGE_CHILD = HERE / "one_stage.py"
HOUR = "node_order_statuses/hourly/20260505/9"  # same as in one_stage.py
ANY = "any"  # stands for the instruction set of code compiled once


class Stage(NamedTuple):
    function: str  # only what runs inside it is counted
    words: tuple[str, str]  # arguments of one_stage.py


_FILL = "ft_reader_fill*"  # matches any suffix that the compiler adds
_TOPICS = "*Router_route_batch"
STAGES = {
    "split 4 KiB": Stage(_FILL, ("split", "4096")),
    "split 1 MiB": Stage(_FILL, ("split", "1048576")),
    "encode ws": Stage(_TOPICS, ("encode", "ws")),
    "encode raw": Stage(_TOPICS, ("encode", "raw")),
    "encode orderUpdate": Stage(_TOPICS, ("encode", "orderUpdate")),
}
QUICK_SHAPES = ("plain",)
QUICK_SETS = ("avx2", "portable")
COMPARED = ("compiler", "libc")
"""Figures are comparable only if these equal the record's."""

ALLOWED = 1.05  # times the recorded figure, for --check

PerShape = dict[str, dict[str, float]]  # shape or stage -> instruction set -> instructions per order


@dataclass(frozen=True)
class Instructions:
    per_order: PerShape
    bytes_per_order: dict[str, float]
    sets: list[str]
    left_out: list[str]
    recorded: PerShape
    settings: dict[str, Any]
    tools: dict[str, str]
    recorded_tools: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        heads = "  ".join(f"{name:>18}" for name in self.sets)
        lines = [
            f"instructions per order by {self.tools['valgrind']}, built by {self.tools['compiler']}; "
            "in brackets the change from the record",
            f"{'':18}  {'bytes':>6}  {heads}",
        ]
        for shape, counts in self.per_order.items():
            cells = "  ".join(f"{self._cell(shape, name, count):>18}" for name, count in counts.items())
            size = self.bytes_per_order.get(shape)
            lines.append(f"{shape:18}  {'' if size is None else f'{size:.0f}':>6}  {cells}")
        if any(ANY in counts for counts in self.per_order.values()):
            lines.append("split and encode: one figure, for they are compiled once for all instruction sets")
        lines += [f"{name}: not counted, for valgrind does not have it" for name in self.left_out]
        return "\n".join(lines)

    def _cell(self, shape: str, name: str, count: float) -> str:
        before = self.recorded.get(shape, {}).get(name)
        return f"{count:.1f}" if before is None else f"{count:.1f} ({(count / before - 1) * 100:+.1f} %)"

    def incomparable(self) -> str | None:
        """Return why the record does not apply to this build, or None if it does."""
        ours, theirs = ("; ".join(tools.get(key, "unknown") for key in COMPARED)
                        for tools in (self.tools, self.recorded_tools))  # fmt: skip
        return None if ours == theirs else f"not checked: built with {ours}, the record with {theirs}"

    def over_budget(self) -> list[str]:
        """List what exceeds the record's allowance. Anything not recorded has no budget."""
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
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES), help="which shapes")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES), help="which stages")
    sets = list(isa.available())
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets, help="which instruction sets")
    parser.add_argument(
        "--quick", action="store_true", help="plain lines by AVX2 and portable code, and all stages; a minute"
    )
    parser.add_argument("--check", action="store_true", help="fail at over 5 %% more than on record")
    parser.add_argument("--record", action="store_true", help=f"write the figures to bench/{RECORD.name}")


def run(args: argparse.Namespace) -> Instructions:
    if shutil.which("valgrind") is None:
        raise CannotRun("valgrind is not installed: apt-get install valgrind")
    if not 0 < args.small < args.large:
        raise CannotRun("--large must be above --small")
    if args.quick:
        args.shapes = list(QUICK_SHAPES)
        args.sets = [name for name in args.sets if name in QUICK_SETS]
    if args.record and (set(args.shapes), set(args.stages)) != (set(SHAPES), set(STAGES)):
        raise CannotRun("--record needs all shapes and stages: it writes the file anew")
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
        if args.stages:
            files = [_folder(Path(folder, f"node-{n}"), n, args.seed) for n in (args.small, args.large)]
        for stage in args.stages:
            begin, end = (_count_stage(each, stage, Path(folder, "callgrind")) for each in files)
            print(f"{stage}: counted", file=sys.stderr)
            counts[stage] = {ANY: (end - begin) / (args.large - args.small)}
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    result = Instructions(
        per_order=counts,
        bytes_per_order=sizes,
        sets=[name for name in args.sets if name not in left_out],
        left_out=sorted(left_out),
        recorded=record.get("per_order", {}),
        recorded_tools=record.get("tools", {}),
        settings={"small": args.small, "large": args.large, "seed": args.seed},
        tools=tools(),
    )
    if args.check and (reason := result.incomparable()) is not None:
        print(reason, file=sys.stderr)
    elif args.check and (over := result.over_budget()):
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
    """Return the instructions of a whole process, or None if valgrind lacks this instruction set."""
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
    return _total(out)


def _total(out: Path) -> int:
    total = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.MULTILINE)
    assert total is not None, "a callgrind file has its total"
    return int(total[1])


def _run(before: list[str], path: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return _python(before, {"FASTTAIL_ISA": name}, CHILD, str(path), *options)


def _python(
    before: list[str], variables: dict[str, str], script: Path, *words: str
) -> subprocess.CompletedProcess[str]:
    # A fixed hash seed fills the interpreter's dictionaries the same way in every run.
    env = {**os.environ, **variables, "PYTHONHASHSEED": "0"}
    return subprocess.run(
        [*before, sys.executable, "-P", str(script), *words], env=env, capture_output=True, text=True
    )


@dataclass(frozen=True)
class _Folder:
    """A node folder with one file of plain lines."""

    path: Path
    orders: int
    old_orders: int  # carried by the old channels


def _folder(path: Path, orders: int, seed: int) -> _Folder:
    data = SHAPES["plain"](orders, seed)
    (path / HOUR).parent.mkdir(parents=True)
    (path / HOUR).write_bytes(data)
    old = sum(json.loads(line)["status"] in OLD_STATUSES for line in data.splitlines())
    return _Folder(path, orders, old)


def _count_stage(folder: _Folder, stage: str, out: Path) -> int:
    """Return the instructions of the stage's function."""
    function, words = STAGES[stage]
    expected = folder.old_orders if "orderUpdate" in words else folder.orders
    valgrind = [
        "valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--toggle-collect={function}"
    ]  # fmt: skip
    for before in ([], valgrind):
        answer = _answer(_python(before, {}, STAGE_CHILD, *words, str(folder.path)))
        if answer["orders"] != expected:
            raise WrongAnswer(f"{stage}: {answer['orders']} orders, expected {expected}")
    total = _total(out)
    if total == 0:
        raise CannotRun(f"{stage}: {function} is not to be seen in this build")
    return total


def _answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    if done.returncode:
        command = " ".join(map(str, done.args))
        raise WrongAnswer(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def tools() -> dict[str, str]:
    return {
        "valgrind": _version("valgrind"),
        "compiler": _compiler(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }


def _compiler() -> str:
    """Return the compilers that built the package, from the names they leave in the binary."""
    content = Path(pipeline.__file__).read_bytes()
    names = re.findall(rb"GCC: \([^\0]+|[ -~]*clang version [^\0]+", content)
    texts = {name.decode(errors="replace").replace("GCC: ", "gcc ") for name in names}
    return "; ".join(sorted(texts)) or "unknown"


def _version(program: str) -> str:
    if shutil.which(program) is None:
        return "unknown"
    return subprocess.run([program, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]


BENCHMARK = Benchmark("instructions", "instructions per order, counted by callgrind", add_arguments, run)
