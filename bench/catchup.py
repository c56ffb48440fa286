"""Measures how fast one client whose filter selects a tenth of the orders gets through a backlog.

*Live*: the server follows, the client is subscribed, and the file appears as the node's next hour; the time
starts there. *Resumed*: the file exists when the server starts, and the client subscribes with a cursor at
its beginning; the time starts before it connects. The received orders are compared with those in the file:
each once, in order, with its values.

It does not show a file outside the page cache, the network, or a client slower than picows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bench.inputs import DATA, replay_file
from bench.measure import Benchmark, WrongAnswer, load_text, machine, write_json
from bench.receiving import Message, clients, place
from bench.replay import COINS, Replay, digest
from bench.service import Usage, serve

FOLDER = "node_order_statuses_streaming/hourly/20260505"
HOUR = 2026050510
TARGET = 2e6


@dataclass(frozen=True)
class Round:
    """cpu: seconds used by the server in this round. rss: its peak since start, in bytes."""

    way: str
    started: float  # seconds from the server's start to its first answer
    seconds: float
    cpu: float
    rss: int
    messages: int


@dataclass(frozen=True)
class CatchUp:
    """rates: lines per second in the median round, by way."""

    lines: int
    orders: int
    bytes: int
    coins: list[str]
    rates: dict[str, float]
    rounds: list[Round]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        rows = [
            f"catch-up: {self.lines:,} lines, {self.bytes / 1e6:,.0f} MB, to a client that takes "
            f"{', '.join(self.coins)}: {self.orders:,} orders ({self.orders / self.lines:.1%}), each "
            "received once, in order, compared with the file",
            f"{'way':8} {'M lines/s':>9} {'orders/s':>10} {'cores':>6} {'RSS MB':>7}  seconds of the rounds",
        ]
        for way, rate in self.rates.items():
            rounds = [each for each in self.rounds if each.way == way]
            times = ", ".join(f"{each.seconds:.3f}" for each in rounds)
            cores = statistics.median(each.cpu / each.seconds for each in rounds)
            rows.append(
                f"{way:8} {rate / 1e6:9.2f} {rate * self.orders / self.lines:10,.0f} {cores:6.2f} "
                f"{max(each.rss for each in rounds) / 2**20:7.1f}  {times}"
            )
        started = statistics.median(each.started for each in self.rounds)
        wanted = f"wanted: {TARGET / 1e6:.0f} M lines/s"
        rows.append(f"{wanted}. The server answers {started:.2f} s after its start")
        return "\n".join([*rows, load_text()])

    def write(self, folder: Path) -> Path:
        return write_json("catchup", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", type=int, default=2_000_000, help="of the backlog")
    parser.add_argument("--coins", default=COINS, help="the client's filter")
    parser.add_argument("--rounds", type=int, default=3, help="of each way, a server of its own each")
    parser.add_argument("--workers", type=int, default=0, help="workers of the server; 0: its own default")
    parser.add_argument("--queue", default="256M", help="client_queue of the server")
    parser.add_argument("--seed", type=int, default=1, help="seed of the lines")
    parser.add_argument("--data", type=Path, default=DATA, help="folder for the file, kept")


def run(args: argparse.Namespace) -> CatchUp:
    path = replay_file(args.data, args.lines, "streaming", args.seed)
    coins = args.coins.split(",")
    replay = Replay.of(path, coins)
    ways: dict[str, Callable[[argparse.Namespace, Replay, list[str]], Round]] = {
        "live": _live,
        "resumed": _resumed,
    }
    rounds = [way(args, replay, coins) for _ in range(args.rounds) for way in ways.values()]
    return CatchUp(
        lines=replay.lines,
        orders=len(replay.chosen),
        bytes=path.stat().st_size,
        coins=coins,
        rates={
            way: replay.lines / statistics.median(each.seconds for each in rounds if each.way == way)
            for way in ways
        },
        rounds=rounds,
        settings={name: getattr(args, name) for name in ("workers", "queue", "seed")},
    )


def _options(args: argparse.Namespace) -> list[str]:
    workers = ["--workers", str(args.workers)] if args.workers else []
    return ["--client-queue", args.queue, *workers]


def _live(args: argparse.Namespace, replay: Replay, coins: list[str]) -> Round:
    subscription = {"type": "orders", "format": "ws", "coins": coins}
    last = place(HOUR, replay.last())
    # On the same file system as the file, so that it can be hard-linked.
    with tempfile.TemporaryDirectory(prefix="catchup-", dir=replay.path.parent) as name:
        folder = Path(name, FOLDER)
        folder.mkdir(parents=True)
        (folder / "9").touch()
        started = time.monotonic()
        with serve(Path(name), *_options(args)) as server:
            started = time.monotonic() - started
            with clients(server.port, 1, subscription, last, processes=1, counting=0, keeps=True) as running:
                before, begin = server.usage(), time.monotonic_ns()
                os.link(replay.path, folder / "10")
                (messages,) = running.take()
                after, most = server.usage(), server.most_rss()
    return _round("live", started, begin, before, after, most, messages, replay)


def _resumed(args: argparse.Namespace, replay: Replay, coins: list[str]) -> Round:
    cursor = place(HOUR, 0) + "-0000000"
    subscription = {"type": "orders", "format": "ws", "coins": coins, "cursor": cursor}
    last = place(HOUR, replay.last())
    with tempfile.TemporaryDirectory(prefix="catchup-", dir=replay.path.parent) as name:
        folder = Path(name, FOLDER)
        folder.mkdir(parents=True)
        os.link(replay.path, folder / "10")
        started = time.monotonic()
        with serve(Path(name), *_options(args)) as server:
            started = time.monotonic() - started
            before, begin = server.usage(), time.monotonic_ns()
            with clients(server.port, 1, subscription, last, processes=1, counting=0, keeps=True) as running:
                (messages,) = running.take()
                after, most = server.usage(), server.most_rss()
    return _round("resumed", started, begin, before, after, most, messages, replay)


def _round(
    way: str,
    started: float,
    begin: int,
    before: Usage,
    after: Usage,
    most: int,
    messages: list[Message],
    replay: Replay,
) -> Round:
    check(way, messages, replay)
    return Round(
        way=way,
        started=started,
        seconds=(messages[-1].at - begin) / 1e9,
        cpu=after.cpu - before.cpu,
        rss=most,
        messages=len(messages),
    )


def check(way: str, messages: Iterable[Message], replay: Replay) -> None:
    """Check that the messages hold the orders selected from the file, each once and in order."""
    count = 0

    def events() -> Iterator[dict[str, Any]]:
        nonlocal count
        for message in messages:
            for event in orjson.loads(message.text)["data"]:
                count += 1
                yield event

    if digest(events()) != replay.digest or count != len(replay.chosen):
        right = len(replay.chosen)
        raise WrongAnswer(f"{way}: the {count} orders received are not the {right} of the file, in order")


BENCHMARK = Benchmark(
    "catchup", "a backlog, until a client with a filter has its last order", add_arguments, run
)
