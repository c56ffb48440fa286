"""`python -m bench list` and `python -m bench run NAME`, in the root of a checkout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def leave_checkout() -> None:
    """`python -m` puts the current folder on sys.path, where the uncompiled package hides the installed."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]


def main() -> int:
    leave_checkout()
    try:
        from bench import (
            backlog,
            beside,
            catchup,
            delay,
            fanout,
            file,
            instead,
            instructions,
            parse,
            shapes,
            soak,
            sustained,
        )
        from bench.measure import CannotRun, OverBudget, WrongAnswer
    except ModuleNotFoundError as error:
        print(
            f"{error.name} is not installed for {sys.executable}: run scripts/test once, "
            "then .venv/bin/python -m bench",
            file=sys.stderr,
        )
        return 2
    modules = (
        parse, shapes, file, instructions, catchup, sustained, fanout, delay, beside, instead, soak, backlog
    )  # fmt: skip
    benchmarks = {module.BENCHMARK.name: module.BENCHMARK for module in modules}

    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is to run")
    names = commands.add_parser("run", help="run one").add_subparsers(dest="name", required=True)
    for benchmark in benchmarks.values():
        options = names.add_parser(
            benchmark.name,
            help=benchmark.summary,
            description=benchmark.summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        options.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
        benchmark.add_arguments(options)
    args = parser.parse_args()

    if args.command == "list":
        for benchmark in benchmarks.values():
            print(f"{benchmark.name:13} {benchmark.summary}")
        return 0
    try:
        report = benchmarks[args.name].run(args)
        print(report.table())
        print(f"written to {report.write(args.results)}")
    except WrongAnswer as error:
        print(f"WRONG ANSWER: {error}", file=sys.stderr)
        return 1
    except OverBudget as error:
        print(error, file=sys.stderr)
        return 1
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
