"""Runs definitions one after the other into one dated result file (`python -m bench run [PATTERN...]`)."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import psutil
from tqdm import tqdm

from bench.definitions import Definition
from bench.measure import Benchmark, CannotRun, OverBudget, WrongAnswer, machine, write_json

PACKAGES = (
    "orjson", "msgspec", "pysimdjson", "duckdb", "polars", "picows", "uvloop", "websockets", "fastapi",
    "uvicorn", "pydantic", "watchdog", "cython",
)  # fmt: skip
WATCH_S = 0.5
DIGITS = 6


def run(
    chosen: Sequence[Definition], benchmarks: Mapping[str, Benchmark], folder: Path, quick: bool
) -> tuple[Path, list[str]]:
    """Return the path of the written file, and what failed."""
    entries = []
    begin = time.monotonic()
    with tqdm(chosen, unit="benchmark", file=sys.stderr) as progress:
        for definition in progress:
            progress.set_description(definition.name)
            entry, text = run_one(definition, benchmarks[definition.module], quick)
            entries.append(entry)
            progress.write(f"\n{definition.name}\n{text}", file=sys.stdout)
    content = {
        "quick": quick,
        "seconds": round(time.monotonic() - begin, 1),
        "machine": machine(),
        "versions": versions(),
        "entries": entries,
    }
    failed = [f"{entry['name']}: {entry['failed']}" for entry in entries if entry["failed"]]
    return write_json("run", _rounded(content), folder), failed


def run_one(definition: Definition, benchmark: Benchmark, quick: bool) -> tuple[dict[str, Any], str]:
    """Return the entry for the file, and its tables as text."""
    given = definition.all_arguments(quick)
    failed = cannot_run = ""
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    before, taken, begin = load(), _taken(), time.monotonic()
    try:
        args = parsed(benchmark, given)
        for _ in range(1 if quick else definition.repeat):
            result = benchmark.run(args)
            content = asdict(cast(Any, result))
            texts.append(result.table())
            if wrong := definition.wrong(content, quick):
                raise WrongAnswer("; ".join(wrong))
            content.pop("machine", None)
            results.append(content)
    except (WrongAnswer, OverBudget) as error:
        failed = f"{type(error).__name__}: {error}"
    except CannotRun as error:
        cannot_run = str(error)
    seconds = time.monotonic() - begin
    during = (_taken() - taken) / seconds
    after = load()
    most = max(before["others"], during, after["others"])
    cores = len(os.sched_getaffinity(0))
    entry = {
        "name": definition.name,
        "module": definition.module,
        "arguments": given,
        "seconds": seconds,
        "load": {"before": before, "during": {"others": during}, "after": after},
        "busy": most > cores / 2,
        "left_out": left_out(definition, results),
        "failed": failed,
        "cannot_run": cannot_run,
        "results": [] if failed else results,
    }
    if entry["busy"]:
        texts.append(f"BUSY MACHINE: others kept {most:.1f} of {cores} cores busy")
    return entry, "\n".join([*texts, failed or cannot_run])


def parsed(benchmark: Benchmark, arguments: list[str]) -> argparse.Namespace:
    """Parse arguments. Raise CannotRun for those that the benchmark does not have."""
    parser = argparse.ArgumentParser(prog=benchmark.name, exit_on_error=False)
    benchmark.add_arguments(parser)
    try:
        args, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise CannotRun(f"{benchmark.name}: {error}") from error
    if unknown:
        raise CannotRun(f"{benchmark.name} has no {' '.join(unknown)}")
    return args


def left_out(definition: Definition, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return engines that the definition names and the result lacks because they are not installed."""
    if not results:
        return []
    names = {row["engine"] for table in results[0].get("tables", ()) for row in table["rows"]}
    return [engine for engine in definition.engines if names and engine not in names]


def load() -> dict[str, float]:
    """others: cores kept busy by other processes, measured while this one waits."""
    cores = os.sched_getaffinity(0)
    shares = psutil.cpu_percent(WATCH_S, percpu=True)
    others = sum(share for core, share in enumerate(shares) if core in cores or len(shares) <= len(cores))
    return {"others": others / 100, "average": os.getloadavg()[0]}


def _taken() -> float:
    """Return CPU seconds used by others so far, excluding this process and its finished children."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq + times.steal
    ours = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return float(busy - sum(each.ru_utime + each.ru_stime for each in ours))


def versions() -> dict[str, str]:
    """Return the versions of all installed engines."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {str(key): _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
