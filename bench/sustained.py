"""Finds the highest line rate at which the delay stays bounded, with server, writer and client on two cores.

A separate writer process copies prepared lines into the node's hours: every two milliseconds those that are
due, in writes of at most about 256 KB. A thread next to it deletes hours that the client has passed, as a
node's pruning does. The server follows, and one client's filter selects a tenth of the orders. The position
of every order it receives is checked, and its delay counts from the write of its line. Rates double until one
is too high, then the step is halved a few times; the remaining rate is held for longer.

A rate is held if p99 is below `--bound`, if the median delay of the last third exceeds that of the first by
at most a tenth of the bound, and if the writer kept its schedule: at its end, and in between except for
moments of some tenths of a second, which are shown. One of three tries must hold, since a shared machine
stalls now and then, more likely in a longer try. All tries are shown. A million lines are 600 MB; a slower
disk would block the writer in the kernel, so the hours are kept in memory if they fit. `--folder` on a disk
measures the disk.

It does not show a filter that selects everything, many clients, the network, or the node's own time.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from array import array
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.inputs import DATA, replay_file
from bench.measure import Benchmark, CannotRun, WrongAnswer, load_text, machine, write_json
from bench.receiving import Message, clients, place
from bench.replay import COINS, Replay
from bench.service import serve
from bench.soak_node import FIRST_HOUR, HOURLY, hour_name

TICK_S = 0.002
WRITTEN = 256_000
"""Largest write, in bytes: overdue lines are timed from their own write, not from the first of them."""
LATE_S = 0.1
"""The writer may lag this far behind its schedule at the end."""
BEHIND_S = 0.5
"""The writer may lag this far behind its schedule at any moment."""
TRIES = 3
MOST_HOURS = 4
"""Hours on disk. The writer waits, and is then late, if the client has not passed the oldest."""
MEMORY = Path("/dev/shm")
TARGET = 1e6
LEAST = 1000.0


@dataclass(frozen=True)
class Probe:
    """One try of a rate. Delays in ms; first, last: medians of the first and last third of the orders."""

    rate: float
    seconds: float
    lines: int
    orders: int
    p50: float
    p99: float
    p999: float
    most: float
    first: float
    last: float
    late: float  # seconds behind schedule at the end
    behind: float  # largest lag at any moment, seconds
    cores: float  # kept busy by the server
    rss: int  # peak, bytes
    held: bool

    def text(self) -> str:
        return (
            f"{self.rate:11,.0f} {self.seconds:5.1f} {self.p50:8.2f} {self.p99:8.2f} {self.p999:8.2f} "
            f"{self.most:8.2f} {self.first:8.2f} {self.last:8.2f} {self.late:6.2f} {self.behind:6.2f} "
            f"{self.cores:6.2f} "
            f"{self.rss / 2**20:7.1f}  {'held' if self.held else 'not held'}"
        )


HEADS = (
    f"{'lines/s':>11} {'s':>5} {'p50 ms':>8} {'p99':>8} {'p99.9':>8} {'most':>8} {'early':>8} {'later':>8} "
    f"{'late s':>6} {'most':>6} {'cores':>6} {'RSS MB':>7}"
)


@dataclass(frozen=True)
class Sustained:
    """held: highest rate held for `seconds`, in lines per second; 0: none."""

    held: float
    seconds: float
    probes: list[Probe]
    coins: list[str]
    share: float
    cores: list[int]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        best = "no rate held"
        if self.held:
            best = f"{self.held / 1e6:.3f} M lines/s held for {self.seconds:.0f} s"
        return "\n".join(
            [
                f"sustained: {best}, on {len(self.cores)} cores with writer and client (wanted: "
                f"{TARGET / 1e6:.0f} M); the client takes {', '.join(self.coins)}: {self.share:.1%} of the "
                f"orders, each received once and in order; the files lie {self.settings['files']}",
                HEADS,
                *(probe.text() for probe in self.probes),
                load_text(),
            ]
        )

    def write(self, folder: Path) -> Path:
        return write_json("sustained", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from-rate", type=float, default=250_000, help="lines a second, where to begin")
    parser.add_argument("--rate-limit", type=float, default=8e6, help="lines a second, not more")
    parser.add_argument("--probe-seconds", type=float, default=5.0, help="of each try")
    parser.add_argument("--seconds", type=float, default=30.0, help="for which the rate must be held")
    parser.add_argument("--halvings", type=int, default=4, help="of the step, between held and not held")
    parser.add_argument("--bound", type=float, default=100.0, help="milliseconds, of the delay's p99")
    parser.add_argument("--cores", type=int, default=2, help="for everything together; 0: all")
    parser.add_argument("--coins", default=COINS, help="the client's filter")
    parser.add_argument("--hour-lines", type=int, default=2_000_000, help="lines of each hour")
    parser.add_argument("--workers", type=int, default=0, help="workers of the server; 0: its own default")
    parser.add_argument("--queue", default="1G", help="client_queue of the server")
    parser.add_argument("--seed", type=int, default=1, help="seed of the lines")
    parser.add_argument(
        "--folder",
        type=Path,
        help=f"for the hours (default: {MEMORY} if it has room for them, else the temporary folder)",
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder for the lines made before, kept")


def run(args: argparse.Namespace) -> Sustained:
    coins = args.coins.split(",")
    replay = Replay.of(replay_file(args.data, args.hour_lines, "streaming", args.seed), coins)
    all_cores = os.sched_getaffinity(0)
    cores = sorted(all_cores)[: args.cores or None]
    if len(cores) < args.cores:
        raise CannotRun(f"{len(cores)} cores here, {args.cores} are wanted")
    if args.folder is None:
        args.folder = memory_for((MOST_HOURS + 1) * replay.starts[-1])
    os.sched_setaffinity(0, cores)  # inherited by server, writer and client
    try:
        held, probes = _search(args, replay, coins)
    finally:
        os.sched_setaffinity(0, all_cores)
    return Sustained(
        held=held,
        seconds=args.seconds,
        probes=probes,
        coins=coins,
        share=len(replay.chosen) / replay.lines,
        cores=cores,
        settings={name: getattr(args, name) for name in ("bound", "hour_lines", "workers", "queue", "seed")}
        | {"files": "in memory" if args.folder == MEMORY else "in a folder"},
    )


def memory_for(size: int) -> Path | None:
    """Return MEMORY if it has room for `size` bytes and twice that is available in RAM, else None."""
    with open("/proc/meminfo") as file:
        left = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
    try:
        room = shutil.disk_usage(MEMORY).free if os.access(MEMORY, os.W_OK) else 0
    except OSError:
        room = 0
    return MEMORY if min(room, left // 2) > size else None


def _search(args: argparse.Namespace, replay: Replay, coins: list[str]) -> tuple[float, list[Probe]]:
    probes: list[Probe] = []

    def holds(rate: float, seconds: float) -> bool:
        for _ in range(TRIES):
            probes.append(_probe(args, replay, coins, rate, seconds))
            print(probes[-1].text(), file=sys.stderr)
            if probes[-1].held:
                return True
        return False

    print(HEADS, file=sys.stderr)
    low, high = 0.0, args.from_rate
    while high <= args.rate_limit and holds(high, args.probe_seconds):
        low, high = high, high * 2
    while not low and high > LEAST:
        high /= 2
        if holds(high, args.probe_seconds):
            low, high = high, high * 2
    if high <= args.rate_limit:
        for _ in range(args.halvings if low else 0):
            middle = (low + high) / 2
            if holds(middle, args.probe_seconds):
                low = middle
            else:
                high = middle
    while low > LEAST and not holds(low, args.seconds):
        low *= 0.9
    return (low if low > LEAST else 0.0), probes


def _probe(args: argparse.Namespace, replay: Replay, coins: list[str], rate: float, seconds: float) -> Probe:
    # At least one order must be selected; a whole hour has some.
    lines = max(int(rate * seconds), replay.chosen[0] + 1)
    orders = _chosen_before(replay, lines)
    last = _place(replay, orders - 1)
    subscription = {"type": "orders", "format": "ws", "coins": coins}
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    progress = context.RawValue("q", 0)
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-", dir=args.folder) as name:
        first = Path(name, HOURLY, hour_name(0))
        first.parent.mkdir(parents=True)
        first.touch()
        options = ["--client-queue", args.queue, "--grace-s", "1"]
        if args.workers:
            options += ["--workers", str(args.workers)]
        with (
            serve(Path(name), *options) as server,
            clients(
                server.port, 1, subscription, last, processes=1, counting=1, progress=progress
            ) as running,
        ):
            writer = context.Process(target=write_hours, args=(replay, name, lines, rate, progress, theirs))
            before = server.usage()
            writer.start()
            try:
                (messages,) = running.take()
                pieces: Pieces = ours.recv()
            finally:
                writer.terminate()
                writer.join()
            after, most = server.usage(), server.most_rss()
    waits = delays(replay, messages, pieces, orders)
    third = max(1, len(waits) // 3)
    early, later = sorted(waits[:third]), sorted(waits[-third:])
    ranked = sorted(waits)
    p99 = ranked[int(len(ranked) * 0.99)] / 1e6
    medians = early[third // 2] / 1e6, later[third // 2] / 1e6
    steady = medians[1] <= medians[0] + args.bound / 10
    return Probe(
        rate=rate,
        seconds=pieces.seconds,
        lines=lines,
        orders=orders,
        p50=ranked[len(ranked) // 2] / 1e6,
        p99=p99,
        p999=ranked[int(len(ranked) * 0.999)] / 1e6,
        most=ranked[-1] / 1e6,
        first=medians[0],
        last=medians[1],
        late=pieces.late,
        behind=pieces.behind,
        cores=after.cores_since(before),
        rss=most,
        held=p99 < args.bound and steady and pieces.late < LATE_S and pieces.behind < BEHIND_S,
    )


@dataclass
class Pieces:
    """What the writer wrote. ends: total lines after each piece. times: when its write began."""

    ends: array[int] = field(default_factory=lambda: array("Q"))
    times: array[int] = field(default_factory=lambda: array("Q"))
    seconds: float = 0.0
    late: float = 0.0
    behind: float = 0.0


class Pruner(threading.Thread):
    """Deletes hours that the client has passed. oldest: the first remaining hour."""

    def __init__(self, hourly: Path, progress: Any) -> None:
        super().__init__(daemon=True)
        self.oldest = 0
        self._hourly = hourly
        self._progress = progress

    def run(self) -> None:
        while True:
            while _code(self.oldest) < self._progress.value:
                (self._hourly / hour_name(self.oldest)).unlink()
                self.oldest += 1
            time.sleep(10 * TICK_S)


def write_hours(
    replay: Replay, folder: str, lines: int, rate: float, progress: Any, answer: Connection
) -> None:
    """Run the writer's process: repeat the file's lines, each time as another hour, for `lines` lines.

    progress: hour that the client has reached.
    """
    answer.send(_write_hours(replay, Path(folder, HOURLY), lines, rate, progress))


def _write_hours(replay: Replay, hourly: Path, lines: int, rate: float, progress: Any) -> Pieces:
    done = Pieces()
    pruner = Pruner(hourly, progress)
    pruner.start()
    data = replay.mapped()
    data.madvise(mmap.MADV_WILLNEED)
    view = memoryview(data)
    fd, hour, written = -1, -1, 0
    most = max(1, WRITTEN * replay.lines // replay.starts[-1])
    begin = time.monotonic()
    while written < lines:
        now = time.monotonic() - begin
        due = min(lines, int(now * rate) + 1)
        done.behind = max(done.behind, now - written / rate)
        while written < due:
            if written // replay.lines != hour:
                if fd >= 0:
                    os.close(fd)
                hour = written // replay.lines
                path = hourly / hour_name(hour)
                path.parent.mkdir(exist_ok=True)
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                while hour - pruner.oldest >= MOST_HOURS:
                    time.sleep(TICK_S)
            before = hour * replay.lines
            upto = min(due, before + replay.lines, written + most)
            piece = view[replay.starts[written - before] : replay.starts[upto - before]]
            done.ends.append(upto)
            done.times.append(time.monotonic_ns())
            while piece:
                piece = piece[os.write(fd, piece) :]
            written = upto
        time.sleep(max(0.0, min(TICK_S, begin + written / rate + TICK_S - time.monotonic())))
    os.close(fd)
    done.seconds = time.monotonic() - begin
    done.late = done.seconds - lines / rate
    return done


def _chosen_before(replay: Replay, lines: int) -> int:
    """Return how many of the first `lines` lines, counted over all hours, the filter selects."""
    hours, rest = divmod(lines, replay.lines)
    return hours * len(replay.chosen) + sum(1 for number in replay.chosen if number < rest)


def _place(replay: Replay, order: int) -> str:
    """Return the cursor of the selected order with this number."""
    hour, number = divmod(order, len(replay.chosen))
    return place(_code(hour), replay.starts[replay.chosen[number]])


@cache
def _code(hour: int) -> int:
    """Return YYYYMMDDHH of a written hour."""
    return int(f"{FIRST_HOUR + timedelta(hours=hour):%Y%m%d%H}")


def delays(replay: Replay, messages: list[Message], pieces: Pieces, orders: int) -> array[int]:
    """Return the ns from the write of each selected line to its receipt, in order."""
    waits = array("Q")
    piece = done = 0
    for message in messages:
        beyond = done + message.orders
        if beyond > orders or place(message.hour, message.line) != _place(replay, beyond - 1):
            raise WrongAnswer(f"the {message.orders} orders behind order {done} are not those of the files")
        for order in range(done, beyond):
            hour, number = divmod(order, len(replay.chosen))
            line = hour * replay.lines + replay.chosen[number]
            while pieces.ends[piece] <= line:
                piece += 1
            waits.append(message.at - pieces.times[piece])
        done = beyond
    if done != orders:
        raise WrongAnswer(f"{done} orders received, {orders} expected, each once, in order")
    return waits


BENCHMARK = Benchmark(
    "sustained", "the highest rate at which the delay stays bounded, on two cores", add_arguments, run
)
