"""Measures the delay from the write of a line to its receipt by WebSocket clients, at a steady rate.

A separate process writes lines made by `fasttail synth`, one `write` each, like a node that flushes each
line. `--writes ticks` writes the lines that are due every millisecond. `--writes blocks` writes a block every
65 ms, its lines one after another, as the `local_time` of genuine lines shows. `fasttail serve` follows, and
picows clients in processes of their own subscribe to everything on /ws. All clocks are this machine's
monotonic clock. Each client's orders are checked: each once, in order.

It does not show the network, a client slower than picows, or the node's own delay.
"""

from __future__ import annotations

import argparse
import bisect
import gc
import multiprocessing
import os
import tempfile
import time
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from bench.measure import Benchmark, WrongAnswer, load_text, machine, write_json
from bench.receiving import Message, clients, place, replaying
from bench.service import serve
from fasttail.tools import exchange

FOLDER = "node_order_statuses_streaming/hourly/20260505"
HOUR = 2026050509
BACKLOG = 500_000
TICK_S = 0.001
BLOCK_S = 0.065
LINE_S = 20e-6
"""Seconds between the lines of a block; less if a block would otherwise fill all of BLOCK_S."""
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0)
SUBSCRIPTION = {"type": "orders", "format": "ws"}


@dataclass(frozen=True)
class Delays:
    """One run. Delays in milliseconds, RSS in bytes; cpu: cores that the server kept busy."""

    rate: float
    seconds: float
    lines: int
    clients: int
    messages: int  # per client
    replays: int  # clients that resume over and over at the same time
    replayed: float  # bytes per second, to all of these
    p50: float
    p99: float
    p999: float
    most: float
    quantiles: list[float]  # at QUANTILES
    behind: float  # largest lag of the writer behind its schedule, ms
    rss_begin: int
    rss_end: int
    cpu: float
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        beside = ""
        if self.replays:
            beside = f"beside {self.replays} replays of {self.replayed / 1e6:.0f} MB/s together\n"
        return (
            f"delay: {self.lines} lines in {self.settings['writes']} at {self.rate:,.0f} lines/s for "
            f"{self.seconds:.1f} s to {self.clients} clients, each received every order once and in order\n"
            f"{beside}"
            f"write to receipt  p50 {self.p50:.3f} ms  p99 {self.p99:.3f} ms  p99.9 {self.p999:.3f} ms  "
            f"most {self.most:.3f} ms  (the writer was at most {self.behind:.1f} ms behind its plan)\n"
            f"server            {self.cpu:.3f} cores  RSS {self.rss_begin / 2**20:.1f} MB before, "
            f"{self.rss_end / 2**20:.1f} MB after\n{load_text()}"
        )

    def write(self, folder: Path) -> Path:
        return write_json("delay", asdict(self), folder)


@dataclass(frozen=True)
class SeveralRates:
    """One run per rate, one after the other."""

    runs: list[Delays]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        first = self.runs[0]
        rows = [
            f"delay: write (in {first.settings['writes']}) to receipt, ms, to {first.clients} clients, each "
            "received every order once and in order",
            f"{'lines/s':>9} {'lines':>9} {'p50':>8} {'p99':>8} {'p99.9':>8} {'most':>8} {'writer late':>11} "
            f"{'cores':>6} {'RSS MB':>7}",
        ]
        rows += [
            f"{each.rate:9,.0f} {each.lines:9,} {each.p50:8.3f} {each.p99:8.3f} {each.p999:8.3f} "
            f"{each.most:8.3f} {each.behind:11.1f} {each.cpu:6.3f} {each.rss_end / 2**20:7.1f}"
            for each in self.runs
        ]
        return "\n".join([*rows, load_text()])

    def write(self, folder: Path) -> Path:
        return write_json("delay", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=_rates, default="23500", help="lines a second; several: 1000,23500")
    parser.add_argument("--writes", choices=("ticks", "blocks"), default="ticks", help="their rhythm")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long")
    parser.add_argument("--clients", type=int, default=1, help="that receive everything")
    parser.add_argument("--replays", type=int, default=0, help="clients that resume, over and over")
    parser.add_argument("--workers", type=int, default=1, help="workers of the server")
    parser.add_argument("--queue", default="256M", help="client_queue of the server")
    parser.add_argument("--seed", type=int, default=1, help="seed of the lines")


def _rates(text: str) -> list[float]:
    return [float(each) for each in text.split(",")]


def write_lines(path: str, lines: list[bytes], rate: float, times: Any, behind: Any) -> None:
    """Run the writer's process. times[i]: monotonic ns at which line i was written."""
    gc.freeze()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    begin = time.monotonic()
    written = 0
    while written < len(lines):
        due = min(len(lines), int((time.monotonic() - begin) * rate) + 1)
        behind.value = max(behind.value, (due - written) / rate * 1e3)
        for index in range(written, due):
            times[index] = time.monotonic_ns()
            os.write(fd, lines[index])
        written = due
        time.sleep(max(0.0, begin + written / rate + TICK_S - time.monotonic()))
    os.close(fd)


def write_blocks(path: str, lines: list[bytes], rate: float, times: Any, behind: Any) -> None:
    """Do the same with the lines of a block in a row, then a pause; it spins between lines."""
    gc.freeze()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    begin = time.monotonic_ns()
    size = max(1, round(rate * BLOCK_S))
    step = int(min(LINE_S, 0.8 * BLOCK_S / size) * 1e9)
    for first in range(0, len(lines), size):
        due = begin + int(first / rate * 1e9)
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
        for index in range(first, min(first + size, len(lines))):
            while (now := time.monotonic_ns()) < due:
                pass
            behind.value = max(behind.value, (now - due) / 1e6)
            times[index] = now
            os.write(fd, lines[index])
            due += step
    os.close(fd)


def run(args: argparse.Namespace) -> Delays | SeveralRates:
    runs = [measure(args, rate) for rate in args.rate]
    return SeveralRates(runs) if len(runs) > 1 else runs[0]


def measure(args: argparse.Namespace, rate: float) -> Delays:
    """Run once at one rate, with a new server."""
    lines = exchange.generate(int(rate * args.seconds), "streaming", args.seed).splitlines(keepends=True)
    offsets = [0, *accumulate(len(line) for line in lines)][:-1]
    last = place(HOUR, offsets[-1])
    times = multiprocessing.RawArray("q", len(lines))
    behind = multiprocessing.RawValue("d", 0.0)
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as folder:
        hours = Path(folder, FOLDER)
        hours.mkdir(parents=True)
        if args.replays:
            (hours / "8").write_bytes(exchange.generate(BACKLOG, "streaming", args.seed + 1))
        path = hours / "9"
        path.touch()
        writer = multiprocessing.get_context("fork").Process(
            target=write_blocks if args.writes == "blocks" else write_lines,
            args=(str(path), lines, rate, times, behind),
        )
        with (
            serve(Path(folder), "--workers", str(args.workers), "--client-queue", args.queue) as server,
            clients(
                server.port, args.clients, SUBSCRIPTION, last, processes=2, counting=args.clients
            ) as running,
        ):
            first = {**SUBSCRIPTION, "cursor": f"s20260505{8:02d}-{0:013d}-{0:07d}"}
            with replaying(server.port, args.replays, first) as replayed:
                before = server.usage()
                writer.start()
                received = running.take()
                after = server.usage()
                writer.join()
                replay_rate = replayed()
    delays = sorted(delay for messages in received for delay in delays_of(messages, offsets, times))
    return Delays(
        rate=rate,
        seconds=after.at - before.at,
        lines=len(lines),
        clients=args.clients,
        messages=len(received[0]),
        replays=args.replays,
        replayed=replay_rate,
        p50=delays[len(delays) // 2],
        p99=delays[int(len(delays) * 0.99)],
        p999=delays[int(len(delays) * 0.999)],
        most=delays[-1],
        quantiles=[delays[min(int(len(delays) * at), len(delays) - 1)] for at in QUANTILES],
        behind=behind.value,
        rss_begin=before.rss,
        rss_end=after.rss,
        cpu=after.cores_since(before),
        settings={name: getattr(args, name) for name in ("writes", "workers", "queue", "seed")},
    )


def delays_of(messages: list[Message], offsets: list[int], times: Any) -> list[float]:
    """Return the ms from write to receipt of each order that one client received."""
    delays: list[float] = []
    first = 0
    for message in messages:
        beyond = bisect.bisect(offsets, message.line)
        if message.orders != beyond - first:
            raise WrongAnswer(f"{message.orders} orders in a message of the lines {first} to {beyond - 1}")
        delays += [(message.at - times[index]) / 1e6 for index in range(first, beyond)]
        first = beyond
    if first != len(offsets):
        raise WrongAnswer(f"{first} orders received, {len(offsets)} expected, each once, in order")
    return delays


BENCHMARK = Benchmark("delay", "from the write of a line to its receipt by clients", add_arguments, run)
