"""Measures the server next to a busy node, and alone: CPU share, memory and delay.

Neighbour processes keep cores busy as a node does: each hashes memory, copies more of it than a cache holds
and writes it to a file, without pause. By default there is one fewer than there are cores, so writer, client
and server share the remaining core and compete for the others.

It does not show a node of higher priority or a disk saturated by the node's writes.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import delay
from bench.measure import Benchmark, load_text, machine, write_json

MOST_SHARE = 0.10
MOST_BYTES = 120e6
MEMORY = 64 << 20  # working set of each neighbour
PIECE = 1 << 20
FILE = 256 << 20  # each neighbour overwrites its file after this many bytes


@dataclass(frozen=True)
class Contention:
    """alone: measured first, without neighbours."""

    neighbours: int
    alone: delay.Delays
    busy: delay.Delays
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        rows = [
            f"beside a busy node: {self.busy.rate:,.0f} lines/s in {self.settings['writes']} to "
            f"{self.busy.clients} clients that take everything, each order received once and in order",
            f"{'neighbours':>10} {'share of a core':>15} {'RSS MB':>7} {'p50 ms':>8} {'p99 ms':>8} "
            f"{'p99.9 ms':>8} {'writer late ms':>14}",
        ]
        rows += [
            f"{count:10} {each.cpu:15.1%} {each.rss_end / 1e6:7.1f} {each.p50:8.3f} {each.p99:8.3f} "
            f"{each.p999:8.3f} {each.behind:14.1f}"
            for count, each in ((0, self.alone), (self.neighbours, self.busy))
        ]
        met = self.busy.cpu <= MOST_SHARE and self.busy.rss_end <= MOST_BYTES
        rows.append(
            f"wanted: at most {MOST_SHARE:.0%} of a core and {MOST_BYTES / 1e6:.0f} MB beside neighbours: "
            f"{'met' if met else 'not met'}"
        )
        return "\n".join([*rows, load_text()])

    def write(self, folder: Path) -> Path:
        return write_json("contention", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=23_500, help="lines a second")
    parser.add_argument("--writes", choices=("ticks", "blocks"), default="blocks", help="as in `delay`")
    parser.add_argument("--seconds", type=float, default=20.0, help="with neighbours, and as long without")
    parser.add_argument("--neighbours", type=int, help="busy processes (default: cores less one)")
    parser.add_argument("--clients", type=int, default=1, help="that receive everything")
    parser.add_argument("--workers", type=int, default=1, help="workers of the server")
    parser.add_argument("--queue", default="4M", help="client_queue of the server")
    parser.add_argument("--seed", type=int, default=1, help="seed of the lines")
    parser.add_argument("--folder", type=Path, help="for their files (default: the temporary folder)")


def run(args: argparse.Namespace) -> Contention:
    count = args.neighbours
    if count is None:
        count = max(1, len(os.sched_getaffinity(0)) - 1)
    args.replays = 0
    alone = delay.measure(args, args.rate)
    with neighbours(count, args.folder):
        busy = delay.measure(args, args.rate)
    return Contention(
        neighbours=count,
        alone=alone,
        busy=busy,
        settings={name: getattr(args, name) for name in ("writes", "workers", "queue", "seed")},
    )


@contextmanager
def neighbours(count: int, folder: Path | None) -> Iterator[None]:
    """Keep `count` neighbour processes busy; enter the block when all have started."""
    context = multiprocessing.get_context("fork")
    running = []
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-", dir=folder) as name:
        ready = [context.Event() for _ in range(count)]
        try:
            for index in range(count):
                path = str(Path(name, str(index)))
                process = context.Process(target=_be_busy, args=(path, ready[index]))
                process.start()
                running.append(process)
            for each in ready:
                each.wait()
            yield
        finally:
            for process in running:
                process.terminate()
                process.join()


def _be_busy(path: str, ready: Any) -> None:
    """Run one neighbour: about a third of its time each for hashing, copying and writing."""
    memory = memoryview(bytearray(os.urandom(PIECE) * (MEMORY // PIECE)))
    half = MEMORY // 2
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    at = 0
    ready.set()
    while True:
        for offset in range(0, half, PIECE):
            memory[offset : offset + 20] = hashlib.sha1(memory[offset : offset + PIECE]).digest()
            for _ in range(4):
                other = half + (offset * 7 + at) % half
                other = min(other, MEMORY - PIECE)
                memory[other : other + PIECE] = memory[offset : offset + PIECE]
            at += os.pwrite(fd, memory[offset : offset + PIECE], at % FILE)


BENCHMARK = Benchmark(
    "contention", "share of a core, memory and delay beside a busy node", add_arguments, run
)
