"""Compares fasttail with what people would use instead, on the same lines: speed, delay and losses.

Each line has a unique number, and everything received is compared with what is expected, so losses are
counted. For orders over WebSocket the filter, the messages and the client are the same for all; a rival with
different messages fails the run. For lines (`tail -F`, rsyslog, `fasttail tail`) nothing is filtered, so more
is delivered.

*backlog*: all lines are appended at once to the followed file; timed until the last one arrives. *delay*: one
write per line at a steady rate, at most 0.7 of the backlog's. *change*: three hours one after the other, in
pieces that split lines; the last piece of an hour follows after the next hour has begun, as from a node that
flushes late.

It does not show many clients, more than one filter, hours of running, or whether a rival could be configured
better.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.delay import write_lines
from bench.measure import Benchmark, CannotRun, WrongAnswer, load_text, machine, write_json
from bench.rivals.client import Account, Collector, collecting
from bench.rivals.launch import HOURS, RIVALS, Place, Rival, Running, started
from bench.rivals.material import SYMBOLS, Material

WRITE = 1 << 20
OF_BACKLOG = 0.7
LATE_PIECE_LINES = 5
LATE_PIECE_S = 0.02


@dataclass(frozen=True)
class Phase:
    """One phase. rate: lines per second, processed in the backlog, written in the others.

    came: expected items received intact. cores, rss: of the rival, while running and at the end. Delays in
    ms.
    """

    rate: float
    lines: int
    expected: int
    came: int
    lost: int
    twice: int
    late: int
    broken: int
    cores: float
    rss: int
    p50: float = 0.0
    p99: float = 0.0
    behind: float = 0.0  # largest lag of the writer behind its schedule, ms

    @classmethod
    def of(cls, account: Account, **more: Any) -> Phase:
        return cls(
            expected=account.expected,
            came=account.came,
            lost=account.lost,
            twice=account.twice,
            late=account.late,
            broken=account.broken,
            **more,
        )

    def faults(self) -> str:
        return Account(self.expected, self.lost, self.twice, self.late, self.broken).faults()


@dataclass(frozen=True)
class Standing:
    """The results of one rival."""

    name: str
    delivers: str
    versions: str
    backlog: Phase
    delay: Phase
    change: Phase

    def text(self, width: int) -> str:
        what = "orders" if self.delivers == "orders" else "lines"
        return (
            f"{self.name:{width}} {what:6} {self.backlog.rate:9,.0f} {self.backlog.rss / 2**20:7.1f} "
            f"{self.delay.rate:8,.0f} {self.delay.p50:9.2f} {self.delay.p99:9.2f} {self.delay.cores:6.3f} "
            f"{self.delay.rss / 2**20:7.1f}  {self.change.faults() or 'nothing'}"
        )


@dataclass(frozen=True)
class Alternatives:
    """left_out: the reason, by rival."""

    lines: int
    standings: list[Standing]
    left_out: dict[str, str]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        width = max(len(each.name) for each in self.standings)
        rows = [
            f"instead of fasttail: {self.lines:,} lines; orders: those of {len(SYMBOLS)} coins with a least "
            "notional and the old channel's statuses, one message each; lines: all of them",
            f"{'':{width}} {'':6} {'backlog':>17} {'delay':>43}  change of the hour",
            f"{'':{width}} {'gives':6} {'lines/s':>9} {'RSS MB':>7} {'lines/s':>8} {'p50 ms':>9} "
            f"{'p99 ms':>9} {'cores':>6} {'RSS MB':>7}  of {self.settings['change_lines']:,} lines",
        ]
        rows += [each.text(width) for each in self.standings]
        for each in self.standings:
            for phase, what in ((each.backlog, "in the backlog"), (each.delay, "at a steady rate")):
                if phase.faults():
                    rows.append(f"{each.name}, {what}: {phase.faults()} of {phase.expected:,}")
        rows += [f"{name} left out: {why}" for name, why in self.left_out.items()]
        rows.append("what came was compared with what had to come, each line by its number")
        return "\n".join([*rows, load_text()])

    def write(self, folder: Path) -> Path:
        return write_json("alternatives", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(rival.name for rival in RIVALS)
    parser.add_argument("--lines", type=int, default=300_000, help="of the backlog")
    parser.add_argument("--rate", type=float, default=23_500, help="lines a second, for the delay")
    parser.add_argument("--seconds", type=float, default=10.0, help="of it")
    parser.add_argument("--change-lines", type=int, default=30_000, help="in three hours")
    parser.add_argument("--change-rate", type=float, default=5_000, help="lines a second in these hours")
    parser.add_argument("--only", help=f"these, separated by commas, of: {names}")
    parser.add_argument("--quiet", type=float, default=5.0, help="seconds without anything are the end")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for a backlog, at most")
    parser.add_argument("--seed", type=int, default=1, help="seed of the lines")
    parser.add_argument("--folder", type=Path, help="for the files (default: the temporary folder)")


def run(args: argparse.Namespace) -> Alternatives:
    chosen = args.only.split(",") if args.only else [rival.name for rival in RIVALS]
    if unknown := set(chosen) - {rival.name for rival in RIVALS}:
        raise CannotRun(f"no such rival: {', '.join(sorted(unknown))}")
    return compare(args, [rival for rival in RIVALS if rival.name in chosen])


def compare(args: argparse.Namespace, rivals: Sequence[Rival]) -> Alternatives:
    """Measure the installed ones of `rivals`, one after the other."""
    left_out = {rival.name: why for rival in rivals if (why := rival.missing())}
    standings = []
    for rival in rivals:
        if rival.name not in left_out:
            print(f"{rival.name} ...", file=sys.stderr)
            standings.append(_standing(args, rival))
    if not standings:
        raise CannotRun("; ".join(f"{name}: {why}" for name, why in left_out.items()))
    names = ("rate", "seconds", "change_lines", "change_rate", "quiet", "seed")
    settings = {name: getattr(args, name) for name in names}
    return Alternatives(args.lines, standings, left_out, {**settings, "symbols": SYMBOLS})


def _standing(args: argparse.Namespace, rival: Rival) -> Standing:
    backlog = _backlog(args, rival)
    most = backlog.rate * OF_BACKLOG
    delay = _delay(args, rival, min(args.rate, most))
    change = _change(args, rival, min(args.change_rate, most))
    for name, phase in (("backlog", backlog), ("delay", delay), ("change", change)):
        if rival.sound and phase.faults():
            raise WrongAnswer(f"{rival.name}, {name}: {phase.faults()} of {phase.expected:,}")
    return Standing(rival.name, rival.delivers, rival.versions(), backlog, delay, change)


@contextmanager
def _running(
    args: argparse.Namespace, rival: Rival, material: Material
) -> Iterator[tuple[Place, Running, Collector]]:
    """Start the rival and the collector; yield both and their place when ready."""
    expected = material.expected(rival.delivers)
    if not expected:
        raise CannotRun("too few lines: the filter takes none of them")
    with (
        tempfile.TemporaryDirectory(prefix="fasttail-bench-", dir=args.folder) as name,
        started(rival, Path(name)) as (place, running),
        collecting(running.source, rival.delivers, expected, args.quiet) as collector,
    ):
        yield place, running, collector


def _take(args: argparse.Namespace, rival: Rival, collector: Collector) -> Account:
    collector.close()
    account = collector.take(args.patience)
    if rival.delivers == "orders" and account.broken:
        raise WrongAnswer(f"{rival.name}: {account.broken} messages not as expected, one: {account.sample}")
    return account


def _backlog(args: argparse.Namespace, rival: Rival) -> Phase:
    material = Material.of(args.lines, args.seed)
    data = memoryview(b"".join(material.lines))
    with _running(args, rival, material) as (place, running, collector):
        before, begin = running.usage(), time.monotonic_ns()
        with place.hour(HOURS[0]).open("ab", buffering=0) as file:
            for at in range(0, len(data), WRITE):
                file.write(data[at : at + WRITE])
        account = _take(args, rival, collector)
        after = running.usage()
    if not account.came:
        raise WrongAnswer(f"{rival.name} delivered nothing")
    seconds = (account.at[-1] - begin) / 1e9
    return Phase.of(
        account,
        rate=args.lines * account.came / account.expected / seconds,
        lines=args.lines,
        cores=(after.cpu - before.cpu) / seconds,
        rss=after.rss,
    )


def _delay(args: argparse.Namespace, rival: Rival, rate: float) -> Phase:
    material = Material.of(int(rate * args.seconds), args.seed + 1)
    times = multiprocessing.RawArray("q", len(material.lines))
    behind = multiprocessing.RawValue("d", 0.0)
    with _running(args, rival, material) as (place, running, collector):
        path = str(place.hour(HOURS[0]))
        writer = multiprocessing.get_context("fork").Process(
            target=write_lines, args=(path, material.lines, rate, times, behind)
        )
        before = running.usage()
        writer.start()
        writer.join()
        after = running.usage()
        account = _take(args, rival, collector)
        rss = running.usage().rss
    if not account.came:
        raise WrongAnswer(f"{rival.name} delivered nothing")
    delays = sorted(
        (at - times[number]) / 1e6 for at, number in zip(account.at, account.numbers, strict=True)
    )
    return Phase.of(
        account,
        rate=rate,
        lines=len(material.lines),
        cores=after.cores_since(before),
        rss=rss,
        p50=delays[len(delays) // 2],
        p99=delays[int(len(delays) * 0.99)],
        behind=behind.value,
    )


def _change(args: argparse.Namespace, rival: Rival, rate: float) -> Phase:
    material = Material.of(args.change_lines, args.seed + 2)
    with _running(args, rival, material) as (place, running, collector):
        before = running.usage()
        write_hours(place, material.lines, rate, args.seed)
        after = running.usage()
        account = _take(args, rival, collector)
    return Phase.of(
        account, rate=rate, lines=args.change_lines, cores=after.cores_since(before), rss=after.rss
    )


def write_hours(place: Place, lines: Sequence[bytes], rate: float, seed: int) -> None:
    """Write three hours in pieces that split lines; an hour's last lines follow the next hour's first."""
    rng = random.Random(seed)
    share = -(-len(lines) // len(HOURS))
    fds: dict[str, int] = {}
    due = time.monotonic()
    late: tuple[str, bytes] | None = None

    def write(name: str, data: bytes) -> None:
        if name not in fds:
            fds[name] = os.open(place.hour(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(fds[name], data)

    for index, name in enumerate(HOURS):
        part = lines[index * share : (index + 1) * share]
        data = b"".join(part)
        end = len(data)
        if index < len(HOURS) - 1:
            end -= sum(len(line) for line in part[-LATE_PIECE_LINES:]) - len(part[-LATE_PIECE_LINES]) // 2
        at = 0
        while at < end:
            size = min(rng.randrange(200, 6000), end - at)
            time.sleep(max(0.0, due - time.monotonic()))
            write(name, data[at : at + size])
            at += size
            due += size / len(data) * len(part) / rate
            if late is not None:
                time.sleep(LATE_PIECE_S)
                write(*late)
                late = None
        late = (name, data[end:]) if end < len(data) else None
    for fd in fds.values():
        os.close(fd)


BENCHMARK = Benchmark(
    "alternatives", "what people would use instead: speed, delay, what is lost", add_arguments, run
)
