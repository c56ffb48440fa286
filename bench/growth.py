"""Measures how cost grows with lines, line length, workers, clients, subscriptions and distinct filters.

A power law is fitted to a few points of each by least squares on both logarithms: exponent 1 is linear, 0 is
free. The 95 % interval covers the scatter of all rounds. Constant cost, such as reading the lines once for
all clients, keeps an exponent below 1 on short scales.

Lines, their length and workers are measured as seconds of `fasttail.parse` in memory; the others as CPU
seconds of `fasttail serve` for a file that appears as the next hour. Answers are checked: column sums, and
the orders and oids of every connection against what orjson finds in the file.

It does not show points beyond the last one, a network, or slow clients.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from os import sched_getaffinity
from pathlib import Path
from typing import Any

import orjson
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.acceptance import strict_json
from bench.measure import Answer, Benchmark, Engine, WrongAnswer, load_text, machine, take_turns, write_json
from bench.parse import parse_answer
from bench.readers import checked
from bench.service import serve
from fasttail.tools import exchange

FOLDER = "node_order_statuses_streaming/hourly/20260505"
PATIENCE_S = 60.0
QUIET_S = 0.1
"""Nothing may arrive within this time after the last order."""
PAD = b'"triggerCondition":"N/A'
Subscription = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """x: amount of what grows. seconds: one per round."""

    x: float
    seconds: list[float]


@dataclass(frozen=True)
class Curve:
    """exponent, low, high: the fit and its 95 % interval. last: exponent between the last two points."""

    name: str
    of: str
    cost: str
    points: list[Point]
    exponent: float
    low: float
    high: float
    last: float

    @classmethod
    def of_points(cls, name: str, of: str, cost: str, points: list[Point]) -> Curve:
        xs = [math.log(point.x) for point in points for _ in point.seconds]
        ys = [math.log(each) for point in points for each in point.seconds]
        before, end = points[-2:]
        grown = statistics.median(end.seconds) / statistics.median(before.seconds)
        last = math.log(grown) / math.log(end.x / before.x)
        return cls(name, of, cost, points, *exponent(xs, ys), last)


def exponent(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """Return the least-squares slope and its 95 % interval."""
    slope, intercept = statistics.linear_regression(xs, ys)
    free = len(xs) - 2
    middle = statistics.fmean(xs)
    rest = sum((y - slope * x - intercept) ** 2 for x, y in zip(xs, ys, strict=True))
    if free < 1:
        return slope, slope, slope
    error = math.sqrt(rest / free / sum((x - middle) ** 2 for x in xs))
    z = 1.959964
    # Student's t, approximated
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return slope, slope - t * error, slope + t * error


@dataclass(frozen=True)
class Growth:
    curves: list[Curve]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        heads = f"{'exponent':>8}  {'interval':>14}  {'last step':>9}  points: seconds in the median"
        rows = [f"{'growth with':26} {heads}"]
        for curve in self.curves:
            points = ", ".join(
                f"{each.x:,.0f}: {statistics.median(each.seconds):.4f}" for each in curve.points
            )
            interval = f"{curve.low:.2f} … {curve.high:.2f}"
            rows.append(f"{curve.name:26} {curve.exponent:8.2f}  {interval:>14}  {curve.last:9.2f}  {points}")
        return "\n".join([*rows, "answers checked", load_text()])

    def write(self, folder: Path) -> Path:
        return write_json("growth", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--of", nargs="+", choices=CURVES, default=list(CURVES), help="which")
    parser.add_argument("--points", type=int, default=5, help="of each, each twice or four times the last")
    parser.add_argument("--orders", type=int, default=40_000, help="that parser and server get at a point")
    parser.add_argument("--rounds", type=int, default=3, help="of each point")
    parser.add_argument("--seed", type=int, default=1, help="seed of the lines")


def run(args: argparse.Namespace) -> Growth:
    curves = [CURVES[name](args) for name in args.of]
    return Growth(curves, {name: getattr(args, name) for name in ("points", "orders", "rounds", "seed")})


# ---------------------------------------------------------------- the parser
def _parsed(
    args: argparse.Namespace, name: str, of: str, points: Iterable[tuple[float, bytes, int]]
) -> Curve:
    """Measure points of (x, lines, workers)."""
    found = []
    checked_data, expected = b"", Answer(0, {})
    for x, data, workers in points:
        if data is not checked_data:
            checked_data, expected = data, checked(strict_json, io.BytesIO(data))[0]
        engine = Engine(name, partial(parse_answer, data, workers))
        take_turns([engine], expected, 1)  # the first run includes building the table
        found.append(Point(x, take_turns([engine], expected, 2 * args.rounds)[name]))
    return Curve.of_points(name, of, "seconds", found)


def lines(args: argparse.Namespace) -> Curve:
    data = exchange.generate(args.orders << (args.points - 2), "plain", args.seed)
    ends = [0]
    while (end := data.find(b"\n", ends[-1])) >= 0:
        ends.append(end + 1)
    counts = [args.orders << index >> 1 for index in range(args.points)]
    return _parsed(
        args, "lines", "lines, in memory, 1 worker", ((count, data[: ends[count]], 1) for count in counts)
    )


def line_length(args: argparse.Namespace) -> Curve:
    """Lengthen one string in each line; the number of lines stays the same."""
    data = exchange.generate(args.orders // 2, "plain", args.seed)

    def points() -> Iterator[tuple[float, bytes, int]]:
        for index in range(args.points):
            more = (400 << index) - 400
            longer = data.replace(PAD, PAD + b"x" * more)
            yield len(longer) / longer.count(b"\n"), longer, 1

    return _parsed(args, "line length", "bytes of a line, one text of it made longer, 1 worker", points())


def workers(args: argparse.Namespace) -> Curve:
    """Measure 1 to `points` workers, at most one per usable core but at least 2; -1 would be ideal."""
    data = exchange.generate(args.orders * 8, "plain", args.seed)
    counts = range(1, max(2, min(len(sched_getaffinity(0)), args.points)) + 1)
    return _parsed(args, "workers", "workers of fasttail.parse", ((count, data, count) for count in counts))


# ---------------------------------------------------------------- the server
def clients(args: argparse.Namespace) -> Curve:
    everything = {"type": "orders", "format": "ws", "coins": ["HYPE", "xyz:GOLD"]}
    return _served(args, "clients", "clients, all with the same filter", lambda n: [[everything]] * n)


def subscriptions(args: argparse.Namespace) -> Curve:
    return _served(args, "subscriptions", "subscriptions of one connection", lambda n: [_filters(n)])


def distinct_filters(args: argparse.Namespace) -> Curve:
    return _served(
        args,
        "distinct filters",
        "clients, each with a filter of its own",
        lambda n: [[subscription] for subscription in _filters(n)],
    )


def _filters(count: int) -> list[Subscription]:
    """Return distinct filters that each select the same hundredth or so of the orders."""
    same = {"type": "orders", "format": "ws", "coins": ["xyz:GOLD"], "sides": ["A"]}
    return [{**same, "minNotional": 1 + each / 1e3} for each in range(count)]


def _served(
    args: argparse.Namespace, name: str, of: str, connections: Callable[[int], list[list[Subscription]]]
) -> Curve:
    data = exchange.generate(args.orders, "streaming", args.seed)
    events = [event for line in data.splitlines() for event in orjson.loads(line)["events"]]
    points = []
    for index in range(args.points):
        wanted = connections(count := 4**index)
        expected = _expected(events, wanted)
        points.append(Point(count, [_round(data, wanted, expected) for _ in range(args.rounds)]))
    return Curve.of_points(name, of, "seconds of the server's cores", points)


Tally = tuple[int, int]
"""Number of orders, and the sum of their oids."""


def _expected(events: list[dict[str, Any]], connections: list[list[Subscription]]) -> list[Tally]:
    known: dict[bytes, Tally] = {}

    def tally(subscription: Subscription) -> Tally:
        key = orjson.dumps(subscription)
        if key not in known:
            least, sides = subscription.get("minNotional", 0.0), subscription.get("sides", "AB")
            oids = [
                order["oid"]
                for order in (event["order"] for event in events)
                if order["coin"] in subscription["coins"]
                and order["side"] in sides
                and float(order["limitPx"]) * float(order["origSz"]) >= least
            ]
            known[key] = len(oids), sum(oids)
        return known[key]

    return [
        (sum(tally(each)[0] for each in connection), sum(tally(each)[1] for each in connection))
        for connection in connections
    ]


def _round(data: bytes, connections: list[list[Subscription]], expected: list[Tally]) -> float:
    """Return the server's CPU seconds until the clients have all their orders."""
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as name:
        folder = Path(name, FOLDER)
        folder.mkdir(parents=True)
        (folder / "9").touch()
        made = Path(name, "made")
        made.write_bytes(data)
        with serve(Path(name), "--workers", "1", "--client-queue", "1G") as server:
            used = 0.0

            async def main() -> None:
                nonlocal used
                counters = [
                    await Counter.connected(server.port, wanted, orders)
                    for wanted, (orders, _) in zip(connections, expected, strict=True)
                ]
                before = server.busy_s()
                made.rename(folder / "10")  # noqa: ASYNC240  (a rename does not wait)
                deadline = time.monotonic() + PATIENCE_S
                while any(each.missing > 0 for each in counters) and time.monotonic() < deadline:  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
                await asyncio.sleep(QUIET_S)
                used = server.busy_s() - before
                for counter, right in zip(counters, expected, strict=True):
                    if (got := counter.tally()) != right:
                        raise WrongAnswer(f"orders and sum of oids received {got}, expected {right}")

            uvloop.run(main())
    return used


class Counter(WSListener):
    """One connection with several subscriptions. It stores messages and parses them after the run."""

    def __init__(self, orders: int) -> None:
        self.missing = orders
        self._answers = 0
        self._subscribed = asyncio.Event()
        self._messages: list[bytes] = []

    @classmethod
    async def connected(cls, port: int, wanted: list[Subscription], orders: int) -> Counter:
        counter = cls(orders)
        counter._answers = len(wanted)
        transport, _ = await ws_connect(lambda: counter, f"ws://127.0.0.1:{port}/ws", max_frame_size=1 << 26)
        for subscription in wanted:
            request = {"method": "subscribe", "subscription": subscription}
            transport.send(WSMsgType.TEXT, orjson.dumps(request))
        await asyncio.wait_for(counter._subscribed.wait(), PATIENCE_S)
        return counter

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        text = frame.get_payload_as_bytes()
        if self._answers:
            self._answers -= 1
            if not self._answers:
                self._subscribed.set()
            return
        self._messages.append(text)
        self.missing -= text.count(b'"statusTimestamp":')

    def tally(self) -> Tally:
        oids = [
            event["order"]["oid"] for text in self._messages for event in orjson.loads(text).get("data", ())
        ]
        return len(oids), sum(oids)


CURVES: dict[str, Callable[[argparse.Namespace], Curve]] = {
    "lines": lines,
    "line-length": line_length,
    "workers": workers,
    "clients": clients,
    "subscriptions": subscriptions,
    "filters": distinct_filters,
}

BENCHMARK = Benchmark(
    "growth", "what more lines, clients, subscriptions, filters, workers cost", add_arguments, run
)
