"""Run and compare benchmarks: `list`, `run [PATTERN...]`, `compare A.json B.json`, `report`.

Run it in the root of a checkout. `run NAME --help`, with the exact name of a module, lists that module's own
options.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.measure import Benchmark

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def leave_checkout() -> None:
    """Drop the checkout from sys.path: its uncompiled package would hide the installed one."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]


def modules() -> dict[str, Benchmark]:
    from bench import (
        alternatives,
        backlog,
        catchup,
        contention,
        crowd,
        delay,
        fanout,
        file,
        growth,
        instructions,
        layers,
        nats,
        page,
        parse,
        replays,
        shapes,
        soak,
        sustained,
    )

    found = (
        parse, layers, shapes, file, instructions, catchup, sustained, fanout, delay, contention,
        alternatives, growth, soak, backlog, crowd, replays, nats, page,
    )  # fmt: skip
    return {module.BENCHMARK.name: module.BENCHMARK for module in found}


def main() -> int:
    leave_checkout()
    try:
        benchmarks = modules()
    except ModuleNotFoundError as error:
        print(
            f"{error.name} is not installed for {sys.executable}: run scripts/test once, "
            "then .venv/bin/python -m bench",
            file=sys.stderr,
        )
        return 2
    from bench.measure import CannotRun, OverBudget, WrongAnswer

    try:
        if sys.argv[1:2] == ["run"] and sys.argv[2:3] and sys.argv[2] in benchmarks:
            return run_module(benchmarks[sys.argv[2]], sys.argv[3:])
        args = arguments()
        command = {"list": list_, "run": run, "compare": compare, "report": report}[args.command]
        return command(args, benchmarks)
    except WrongAnswer as error:
        print(f"WRONG ANSWER: {error}", file=sys.stderr)
        return 1
    except OverBudget as error:
        print(error, file=sys.stderr)
        return 1
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 2
    # `| head` closed the pipe. Point stdout elsewhere, so that Python's flush at exit does not fail.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is to run")
    options = commands.add_parser("run", help="run some, and write one file of what they gave")
    options.add_argument("pattern", nargs="*", help="beginning of a name, or a glob (default: all)")
    options.add_argument("--quick", action="store_true", help="small inputs: shows that it works")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = commands.add_parser("compare", help="what differs between two runs by more than noise")
    options.add_argument("one", type=Path)
    options.add_argument("other", type=Path)
    options.add_argument("--anyway", action="store_true", help="though the machines differ")
    options = commands.add_parser("report", help="docs/benchmarks.md of the latest results, which it records")
    options.add_argument("file", nargs="*", type=Path, help="results (default: the latest of each benchmark)")
    options.add_argument("--quick", action="store_true", help="of quick runs, to bench/results/quick")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder with the JSON")
    options.add_argument("--docs", type=Path, help="folder for the page (default: docs)")
    return parser.parse_args()


def run_module(benchmark: Benchmark, given: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m bench run {benchmark.name}",
        description=benchmark.summary,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    benchmark.add_arguments(parser)
    args = parser.parse_args(given)
    result = benchmark.run(args)
    print(result.table())
    print(f"written to {result.write(args.results)}")
    return 0


def list_(_: argparse.Namespace, benchmarks: Mapping[str, Benchmark]) -> int:
    from bench import definitions

    for entry in definitions.load().entries.values():
        print(f"{entry.name:30} {entry.layer:10}  {entry.shows}")
    print("\nmodules, each with options of its own (run NAME --help):")
    for benchmark in benchmarks.values():
        print(f"{benchmark.name:13} {benchmark.summary}")
    return 0


def run(args: argparse.Namespace, benchmarks: Mapping[str, Benchmark]) -> int:
    from bench import definitions, runner
    from bench.measure import CannotRun

    chosen = definitions.load().matching(args.pattern)
    if not chosen:
        raise CannotRun(f"nothing is named {' or '.join(args.pattern)}: python -m bench list")
    path, failed = runner.run(chosen, benchmarks, args.results, args.quick)
    print(f"written to {path}")
    for each in failed:
        print(f"FAILED {each}", file=sys.stderr)
    return 1 if failed else 0


def compare(args: argparse.Namespace, _: Mapping[str, Benchmark]) -> int:
    from bench.compare import compare

    print(compare(args.one, args.other, args.anyway))
    return 0


def report(args: argparse.Namespace, _: Mapping[str, Benchmark]) -> int:
    from bench import report

    docs = args.docs or (args.results / "quick" if args.quick else ROOT / "docs")
    print(f"written to {report.make(args.file, args.results, docs, args.quick)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
