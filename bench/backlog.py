"""Measures a backlog of many GB read for slow clients: no line is dropped on input, and memory stays flat.

Two files of simulated orders are hard-linked in turns under the names of many hours: the same file under the
next name would count as a rename of the current one. The server starts on an empty folder, so the clients are
subscribed before the first hour. Every order must be read, and each client must receive it or see it in a
gap.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import soak_clients, soak_node
from bench.inputs import write_lines
from bench.measure import Benchmark, WrongAnswer, load_text, machine, write_json
from bench.soak import Crowd, Sample, Server

LINE_BYTES = 560  # a streaming line, about
HELD_BYTES_A_CLIENT = 16 << 20
"""A client queue is 4 MiB plus one write; the allocator may hold more of it."""
FIXED_BYTES = 64 << 20
"""The ring's messages (32 MiB), blocks, rows and buffers. All are bounded and allocated on use."""
LEVEL_S = 10.0
"""Shorter runs end before memory levels off."""
PATIENCE_S = 580.0


@dataclass(frozen=True)
class Backlog:
    """One run. rss_*: bytes, before reading, medians of its first and last third, and the maximum."""

    bytes: int
    hours: int
    orders: int
    seconds: float
    clients: list[dict[str, Any]]
    rss_idle: int
    rss_first: float
    rss_last: float
    rss_most: int
    samples: list[Sample]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        rows = [
            f"backlog: {self.bytes / 1e9:.1f} GB in {self.hours} hours, {self.orders:,} orders, all read, in "
            f"{self.seconds:.1f} s: {self.bytes / self.seconds / 1e6:,.0f} MB/s, "
            f"{self.orders / self.seconds:,.0f} orders/s",
            f"{'client':8} {'received':>12} {'told in gaps':>12} {'gaps':>6} {'replays':>7}",
        ]
        rows += [
            f"{each['name']:8} {each['orders']:12,} {each['gap_orders']:12,} {each['gaps']:6,} "
            f"{each['replays']:7,}"
            for each in self.clients
        ]
        rows.append(
            f"RSS      {self.rss_idle / 2**20:.1f} MB before, {self.rss_first / 2**20:.1f} MB in the first "
            f"third, {self.rss_last / 2**20:.1f} MB in the last, {self.rss_most / 2**20:.1f} MB at most"
        )
        return "\n".join([*rows, load_text()])

    def write(self, folder: Path) -> Path:
        return write_json("backlog", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gb", type=float, default=20.0, help="size of the backlog")
    parser.add_argument("--hours", type=int, default=20, help="files it is in")
    parser.add_argument("--clients", type=int, default=4, help="that cannot keep up")
    parser.add_argument("--slow", type=float, default=2e6, help="bytes a second that a client reads")
    parser.add_argument("--workers", type=int, default=2, help="workers of the server")
    parser.add_argument("--folder", type=Path, help="for the files (default: the temporary folder)")


def _make(folder: Path, hours: int, orders: int) -> int:
    """Create `hours` files of `orders` orders each in `folder` and return their total bytes."""
    kept = [folder / f"orders.{seed}" for seed in range(2)]
    for seed, path in enumerate(kept):
        write_lines(path, orders, soak_node.LAYOUT, seed)
    size = 0
    for hour in range(hours):
        path = folder / soak_node.hour_name(hour)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(kept[hour % 2], path)
        size += path.stat().st_size
    return size


def run(args: argparse.Namespace) -> Backlog:
    each = int(args.gb * 1e9 / args.hours / LINE_BYTES)
    orders = each * args.hours
    with tempfile.TemporaryDirectory(prefix="fasttail-backlog-", dir=args.folder) as name:
        folder = Path(name)
        ready = folder / "ready"
        ready.mkdir()
        size = _make(ready, args.hours, each)
        hourly = folder / "data" / soak_node.HOURLY
        hourly.parent.mkdir(parents=True)
        server = Server(folder / "data", "--workers", str(args.workers))
        crowd = Crowd(server.port)
        samples: list[Sample] = []
        try:
            for index in range(args.clients):
                crowd.add(f"slow {index}", soak_clients.stay, bytes_per_s=args.slow, hurry=crowd.hurry)
            idle = server.sample(0.0, 0).rss
            begin = time.monotonic()
            ready.rename(hourly)
            while not samples or samples[-1].lines < orders:
                samples.append(server.sample(time.monotonic() - begin, orders))
                if samples[-1].at > PATIENCE_S:
                    raise WrongAnswer(f"{samples[-1].lines:,} lines read of {orders:,}")
                time.sleep(0.1)
            seconds = time.monotonic() - begin
            crowd.hurry.value = 1
            deadline = time.monotonic() + PATIENCE_S
            while any(count.value < orders for count in crowd.counts) and time.monotonic() < deadline:
                time.sleep(0.1)
            metrics = server.metrics()
            accounts = crowd.take()
        finally:
            crowd.stop()
            server.end()
    wrong = [f"{account.name}: {fault}" for account in accounts for fault in account.faults]
    wrong += [
        f"{account.name}: {missing:,} orders neither received nor in a gap"
        for account in accounts
        if (missing := orders - account.orders - account.gap_orders)
    ]
    if metrics["fasttail_lines_total"] != orders:
        wrong.append(f"{metrics['fasttail_lines_total']:,.0f} lines read of {orders:,}")
    third = max(1, len(samples) // 3)
    first = statistics.median(sample.rss for sample in samples[:third])
    last = statistics.median(sample.rss for sample in samples[-third:])
    most = max(sample.rss for sample in samples)
    bound = idle + args.clients * HELD_BYTES_A_CLIENT + FIXED_BYTES
    if most > bound or (seconds > LEVEL_S and last > first * 1.1 + (4 << 20)):
        wrong.append(f"memory: {idle:,} bytes before, {first:,.0f}, then {last:,.0f}, {most:,} at most")
    # The hours repeat the same two files, so block numbers do go backwards.
    wrong += [line for line in server.trouble if "block number regressions" not in line]
    if wrong:
        raise WrongAnswer("; ".join(wrong))
    clients = [
        {
            "name": one.name,
            "orders": one.orders,
            "gap_orders": one.gap_orders,
            "gaps": one.gaps,
            "replays": one.replays,
        }
        for one in accounts
    ]
    return Backlog(
        bytes=size,
        hours=args.hours,
        orders=orders,
        seconds=seconds,
        clients=clients,
        rss_idle=idle,
        rss_first=first,
        rss_last=last,
        rss_most=most,
        samples=samples,
        settings={key: str(value) for key, value in vars(args).items()},
    )


BENCHMARK = Benchmark("backlog", "many GB at once to clients that cannot keep up", add_arguments, run)
