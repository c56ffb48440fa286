"""Measures what publishing to NATS JetStream and relaying from it cost, and the delay from a node to an edge.

Cost: `fasttail synth` writes orders and fills at a steady rate. A server follows them and publishes to a NATS
server of Debian's, and one without NATS does the same, in turn. What was published must be what was read.

Delay: a writer appends lines of orders to an hour's file, one `write` each. A server publishes them; another
one relays them and serves a client that takes everything. Without NATS, the server serves the same client
beside the node, in the same run. The client's orders are checked: each once, in order. Then an empty edge
catches up with what the stream holds; its file must equal the node's.

It does not show the network, or a NATS server that has other work.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

from bench.delay import FOLDER, HOUR, SUBSCRIPTION, delays_of, write_lines
from bench.measure import Benchmark, CannotRun, WrongAnswer, load_text, machine, write_json
from bench.receiving import clients, place
from bench.service import Service, read_metrics, serve, simulated_node
from fasttail.tools import exchange

LINGERS_MS = (5.0, 1.0)
PATIENCE_S = 120.0
STREAMS = ("--streams", "orders")
START_S = 3.0
"""Until a server in a round of `Cost` has caught up."""
MAX_LATE_S = 2.0
"""Seconds of orders by which what was published may differ from what was read: both grow meanwhile."""


@dataclass(frozen=True)
class Cost:
    """Cores that a server without clients kept busy in each round. rss: bytes.

    wire: bytes a second to NATS. entries: a second, of both streams
    """

    without: list[float]
    publishing: list[float]
    rss: list[int]
    wire: float
    entries: float

    def table(self) -> list[str]:
        more = median(self.publishing) - median(self.without)
        return [
            f"cost: orders and fills, no client, medians of {len(self.without)}",
            f"{'':22} {'cores':>7} {'RSS, MB':>8}",
            f"{'no NATS':22} {median(self.without):7.3f} {self.rss[0] / 2**20:8.1f}",
            f"{'publishing':22} {median(self.publishing):7.3f} {self.rss[1] / 2**20:8.1f}",
            f"{'difference':22} {more:7.3f}          "
            f"{self.wire / 1e6:.2f} MB/s in {self.entries:.0f} entries/s",
        ]


@dataclass(frozen=True)
class Way:
    """One way from the node's file to a client. Delays in milliseconds, RSS in bytes, cores kept busy."""

    name: str
    p50: float
    p99: float
    node_cores: float  # of the server beside the node
    edge_cores: float  # of the server at the edge; 0: there is none
    node_rss: int
    edge_rss: int
    wire: float  # bytes a second to NATS
    entries: float  # a second


@dataclass(frozen=True)
class Nats:
    """catch_up: lines a second of an edge that begins with an empty folder, from its first line on."""

    rate: float
    lines: int
    cost: Cost
    ways: list[Way]
    catch_up: float
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        rows = [
            *self.cost.table(),
            f"nats: {self.lines:,} lines at {self.rate:,.0f} lines/s to a client that received every order "
            "once, in order",
            f"{'way':22} {'p50 ms':>7} {'p99 ms':>7} {'node cores':>10} {'edge cores':>10} {'node MB':>8} "
            f"{'edge MB':>8} {'MB/s':>6} {'entries/s':>9}",
        ]
        rows += [
            f"{each.name:22} {each.p50:7.2f} {each.p99:7.2f} {each.node_cores:10.3f} {each.edge_cores:10.3f} "
            f"{each.node_rss / 2**20:8.1f} {each.edge_rss / 2**20:8.1f} {each.wire / 1e6:6.2f} "
            f"{each.entries:9.0f}"
            for each in self.ways
        ]
        rows.append(f"an empty edge catches up at {self.catch_up:,.0f} lines/s")
        return "\n".join([*rows, load_text()])

    def write(self, folder: Path) -> Path:
        return write_json("nats", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=23_500, help="lines a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each way, and each round")
    parser.add_argument("--rounds", type=int, default=3, help="with publishing, and as many without")
    parser.add_argument("--seed", type=int, default=1, help="seed of the lines")


def run(args: argparse.Namespace) -> Nats:
    server = os.environ.get("NATS_SERVER") or shutil.which("nats-server")
    if server is None:
        raise CannotRun("there is no nats-server (Debian: apt-get install nats-server)")
    lines = exchange.generate(int(args.rate * args.seconds), "streaming", args.seed).splitlines(keepends=True)
    cost = _cost(args, server)
    ways = [_without(args, lines)]
    catch_up = 0.0
    for linger_ms in LINGERS_MS:
        with (
            tempfile.TemporaryDirectory(prefix="fasttail-bench-") as folder,
            _nats_server(server, Path(folder)) as url,
        ):
            ways.append(_through(args, lines, Path(folder), url, linger_ms))
            if linger_ms == LINGERS_MS[0]:
                catch_up = _catch_up(lines, Path(folder), url)
    settings = {"seed": args.seed, "seconds": args.seconds, "rounds": args.rounds}
    return Nats(args.rate, len(lines), cost, ways, catch_up, settings)


def _cost(args: argparse.Namespace, program: str) -> Cost:
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        url = stack.enter_context(_nats_server(program, folder))
        stack.enter_context(simulated_node(folder / "node", args.rate, "--seed", str(args.seed)))
        time.sleep(START_S)
        cores: tuple[list[float], list[float]] = [], []
        rss, wire, entries = [0, 0], 0.0, 0.0
        for each in [0, 1] * args.rounds:
            publishing = ("--nats-url", url, "--nats-max-bytes", "2G") if each else ()
            with serve(folder / "node", "--workers", "1", *publishing) as server:
                time.sleep(START_S)
                before = read_metrics(server.port)
                cores[each].append(server.busy_cores(args.seconds))
                more = {key: value - before.get(key, 0.0) for key, value in read_metrics(server.port).items()}
                rss[each] = server.usage().rss
            if not publishing:
                continue
            read, (orders, fills) = more["fasttail_lines_total"], _of_streams(more, "events")
            if abs(read - orders) > MAX_LATE_S * args.rate or not fills:
                raise WrongAnswer(
                    f"{read:.0f} orders were read; {orders:.0f}, and {fills:.0f} fills, published"
                )
            wire += sum(_of_streams(more, "bytes"))
            entries += sum(_of_streams(more, "entries"))
        return Cost(*cores, rss, wire / args.seconds / args.rounds, entries / args.seconds / args.rounds)


def _of_streams(metrics: dict[str, float], what: str) -> list[float]:
    """Return what was published of orders, and of fills."""
    return [metrics[f'fasttail_nats_{what}_total{{stream="{stream}"}}'] for stream in ("orders", "fills")]


def _writer(args: argparse.Namespace, lines: list[bytes], path: Path, times: Any) -> Any:
    """Start the process that writes the lines."""
    writer = multiprocessing.get_context("fork").Process(
        target=write_lines,
        args=(str(path), lines, args.rate, times, multiprocessing.RawValue("d", 0.0)),
    )
    writer.start()
    return writer


def _without(args: argparse.Namespace, lines: list[bytes]) -> Way:
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as folder:
        path = _hour(Path(folder))
        with serve(Path(folder), "--workers", "1", *STREAMS) as server:
            p50, p99, cores = _measure(args, lines, path, server, [server])
            return Way("beside the node", p50, p99, cores[0], 0.0, server.usage().rss, 0, 0.0, 0.0)


def _through(args: argparse.Namespace, lines: list[bytes], folder: Path, url: str, linger_ms: float) -> Way:
    path = _hour(folder / "node")
    publishing = ("--nats-url", url, "--nats-linger-ms", str(linger_ms), "--nats-max-bytes", "1G")
    with (
        serve(folder / "node", "--workers", "1", *STREAMS, *publishing) as node,
        serve(folder / "edge", "--workers", "1", *STREAMS, "--from-nats", url) as edge,
    ):
        _wait_connected(edge)
        p50, p99, cores = _measure(args, lines, path, edge, [node, edge])
        metrics = read_metrics(node.port)
        sent = metrics['fasttail_nats_bytes_total{stream="orders"}']
        entries = metrics['fasttail_nats_entries_total{stream="orders"}']
        return Way(
            f"NATS, {linger_ms:g} ms entries", p50, p99, cores[0], cores[1],
            node.usage().rss, edge.usage().rss, sent / args.seconds, entries / args.seconds,
        )  # fmt: skip


def _measure(
    args: argparse.Namespace, lines: list[bytes], path: Path, served: Service, watched: list[Service]
) -> tuple[float, float, list[float]]:
    """Write the lines while a client receives them. Return the delays, p50 and p99, and the cores used."""
    offsets = [0, *accumulate(len(line) for line in lines)][:-1]
    times = multiprocessing.RawArray("q", len(lines))
    with clients(served.port, 1, SUBSCRIPTION, place(HOUR, offsets[-1]), processes=1, counting=1) as running:
        before = [each.usage() for each in watched]
        writer = _writer(args, lines, path, times)
        received = running.take()
        cores = [each.usage().cores_since(begin) for each, begin in zip(watched, before, strict=True)]
        writer.join()
    delays = sorted(delays_of(received[0], offsets, times))
    return delays[len(delays) // 2], delays[int(len(delays) * 0.99)], cores


def _catch_up(lines: list[bytes], folder: Path, url: str) -> float:
    """Return the lines a second that a relay with an empty folder writes, from its first one on.

    Raises WrongAnswer.
    """
    expected = b"".join(lines)
    path = folder / "late" / FOLDER / "9"
    first, first_at = 0, 0.0
    deadline = time.monotonic() + PATIENCE_S
    relay = subprocess.Popen([sys.executable, "-P", "-m", "fasttail", "relay", url, folder / "late"])
    try:
        while (size := path.stat().st_size if path.exists() else 0) < len(expected):
            if not first and size:
                first, first_at = size, time.monotonic()
            if time.monotonic() > deadline:
                raise WrongAnswer("the relay does not come to the end")
            time.sleep(0.002)
        seconds = time.monotonic() - first_at
    finally:
        relay.terminate()
        relay.wait()
    if path.read_bytes() != expected:
        raise WrongAnswer("the relay's file is not the node's")
    return len(lines) * (1 - first / len(expected)) / seconds


def _hour(folder: Path) -> Path:
    path = folder / FOLDER / "9"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def _wait_connected(edge: Service) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while read_metrics(edge.port)['fasttail_relay_connected{stream="orders"}'] != 1:
        if time.monotonic() > deadline:
            raise WrongAnswer("the edge does not connect")
        time.sleep(0.05)


@contextmanager
def _nats_server(program: str, folder: Path) -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = folder / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/js", max_file_store: 10GB }}\n'
    )
    with (folder / "nats.log").open("wb") as log:
        server = subprocess.Popen([program, "-c", config], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while b"Server is ready" not in (folder / "nats.log").read_bytes():
            if server.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"nats-server did not start: {(folder / 'nats.log').read_text()[-300:]}")
            time.sleep(0.02)
        yield f"nats://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


BENCHMARK = Benchmark("nats", "publishing to NATS JetStream, and edges", add_arguments, run)
