"""Measures orders delivered per second when many clients on /ws subscribe to everything in a file.

The file appears as the node's next hour and `fasttail serve` reads it as fast as it can; picows clients run
in processes of their own. The first client of each process counts the orders in its messages; all clients
must have received the same messages, and each checks that no `seq` is missing. `--stalled` clients subscribe
to the same and never read.

It does not show the network, clients with different subscriptions, or clients slower than picows.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bench.measure import Benchmark, WrongAnswer, load_text, machine, write_json
from bench.receiving import Message, clients, place
from bench.service import serve
from fasttail.tools import exchange

FOLDER = "node_order_statuses_streaming/hourly/20260505"
HOUR = 2026050510
PROCESSES = 2


@dataclass(frozen=True)
class Round:
    """cores: kept busy by the server. rss: of the server at the end, in bytes."""

    seconds: float
    bytes: int
    cores: float
    rss: int


@dataclass(frozen=True)
class FanOut:
    """delivered: orders per second over all clients, in the median round."""

    clients: int
    stalled: int
    orders: int
    delivered: float
    rounds: list[Round]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        last = self.rounds[-1]
        size = last.bytes / self.orders
        beside = f" beside {self.stalled} stalled" if self.stalled else ""
        times = ", ".join(f"{each.seconds:.2f}" for each in self.rounds)
        return (
            f"fan-out: {self.orders:,} orders of {size:.0f} bytes to {self.clients} clients{beside}, "
            "all received once and in order\n"
            f"delivered  {self.delivered / 1e6:.2f} M orders/s, {self.delivered * size / 1e9:.2f} GB/s "
            f"(median of {times} s)\n"
            f"server     {last.cores:.2f} cores  RSS {max(each.rss for each in self.rounds) / 2**20:.0f} MB\n"
            f"{load_text()}"
        )

    def write(self, folder: Path) -> Path:
        return write_json("fanout", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--orders", type=int, default=1_000_000, help="in the file")
    parser.add_argument("--clients", type=int, default=1, help="that read")
    parser.add_argument("--stalled", type=int, default=0, help="clients that do not")
    parser.add_argument("--format", default="ws", choices=("full", "ws", "raw"), help="of the subscription")
    parser.add_argument("--workers", type=int, default=1, help="workers of the server")
    parser.add_argument("--cores", type=int, default=1, help="cores that the server may use; 0: all")
    parser.add_argument("--queue", default="1G", help="client_queue of the server")
    parser.add_argument("--rounds", type=int, default=3, help="a server of its own each")
    parser.add_argument("--seed", type=int, default=1, help="seed of the lines")


def run(args: argparse.Namespace) -> FanOut:
    data = exchange.generate(args.orders, "streaming", args.seed)
    rounds = [_round(args, data) for _ in range(args.rounds)]
    return FanOut(
        clients=args.clients,
        stalled=args.stalled,
        orders=args.orders,
        delivered=args.orders * args.clients / statistics.median(each.seconds for each in rounds),
        rounds=rounds,
        settings={name: getattr(args, name) for name in ("format", "workers", "cores", "queue", "seed")},
    )


def _round(args: argparse.Namespace, data: bytes) -> Round:
    subscription = {"type": "orders", "format": args.format}
    last = place(HOUR, data.rindex(b"\n", 0, len(data) - 1) + 1)
    all_cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as name:
        folder = Path(name, FOLDER)
        folder.mkdir(parents=True)
        (folder / "9").touch()
        made = Path(name, "made")
        made.write_bytes(data)
        options = ("--workers", str(args.workers), "--client-queue", args.queue)
        with serve(Path(name), *options) as server:
            if args.cores:
                server.pin(set(all_cores[: args.cores]))
                os.sched_setaffinity(0, set(all_cores[args.cores :]) or set(all_cores))
            stalled = [_stall(server.port, subscription) for _ in range(args.stalled)]
            try:
                with clients(
                    server.port, args.clients, subscription, last, processes=PROCESSES, counting=1
                ) as running:
                    before, begin = server.usage(), time.monotonic_ns()
                    made.rename(folder / "10")
                    received = running.take()
                    after = server.usage()
            finally:
                os.sched_setaffinity(0, set(all_cores))
                for each in stalled:
                    each.close()
    check(received, args.orders)
    return Round(
        seconds=(max(messages[-1].at for messages in received) - begin) / 1e9,
        bytes=sum(message.size for message in received[0]),
        cores=after.cores_since(before),
        rss=after.rss,
    )


def check(received: list[list[Message]], orders: int) -> None:
    if (counted := sum(message.orders for message in received[0])) != orders:
        raise WrongAnswer(f"{counted} orders received, {orders} expected")
    if len({tuple((each.line, each.size) for each in messages) for messages in received}) > 1:
        raise WrongAnswer("the clients received different messages")


def _stall(port: int, subscription: dict[str, Any]) -> socket.socket:
    """Connect a client that subscribes and never reads."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    while not client.recv(1 << 12).endswith(b"\r\n\r\n"):
        pass
    payload = orjson.dumps({"method": "subscribe", "subscription": subscription})
    assert len(payload) < 126, "longer ones need another header"
    client.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
    return client


BENCHMARK = Benchmark("fanout", "orders delivered a second to many clients", add_arguments, run)
