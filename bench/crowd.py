"""Measures many clients that ask for too many subscriptions: what the server admits and what it costs.

All subscriptions are distinct. `--kind` selects them: `filters` on one coin that match nothing, so only the
filtering costs; `coins`, lists of a thousand coins; `everything`, all orders. Lines are then written at a
fixed rate, and one client that subscribed first, with its own filter, checks that it gets every order of its
coin and measures the delay.

It does not show a network or slow clients. Clients, writer and server share the machine, so the delay is
higher than that of a remote client.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.measure import Benchmark, WrongAnswer, load_text, machine, write_json
from bench.receiving import delays_since
from bench.service import Service, serve
from fasttail.tools import exchange

FOLDER = "node_order_statuses_streaming/hourly/20260505"
TICK_S = 0.002
PATIENCE_S = 60.0
MADE = 50_000
"""Distinct lines; they are written repeatedly."""
COIN = "HYPE"
SETTINGS = ("clients", "subscriptions", "kind", "rate", "seconds", "serve")
COINS = ("BTC", "ETH", "SOL", "HYPE", "xyz:GOLD")


@dataclass(frozen=True)
class Crowd:
    """asked, admitted: subscriptions.

    rss_*: bytes, before anyone asked, after admission, and the peak. cores: kept busy by the server. delay_*:
    milliseconds from a line's write to its receipt by the first client. gaps: reported to that client.
    alone_* and cores_alone: the same before the others asked.
    """

    asked: int
    admitted: int
    answers_s: float
    rss_before: int
    rss_after: int
    rss_most: int
    lines: int
    cores: float
    cores_alone: float
    delay_p50: float
    delay_p99: float
    alone_p50: float
    alone_p99: float
    orders: int
    gaps: int
    first_refusal: str
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        return "\n".join(
            [
                f"asked for {self.asked:,} subscriptions, {self.admitted:,} admitted; "
                f"answered in {self.answers_s:.1f} s",
                f"first refusal: {self.first_refusal or 'none'}",
                f"RSS: {self.rss_before / 2**20:.1f} MB before, {self.rss_after / 2**20:.1f} after, "
                f"{self.rss_most / 2**20:.1f} MB at the most",
                f"server's cores at {self.settings['rate']:,.0f} lines/s: {self.cores_alone:.2f} before, "
                f"{self.cores:.2f} after",
                f"delay of the one client, p50 and p99: {self.alone_p50:.2f} and {self.alone_p99:.2f} ms "
                f"then {self.delay_p50:.2f} and {self.delay_p99:.2f} ms",
                f"it got {self.orders:,} orders, all of its coin, and {self.gaps} gaps",
                load_text(),
            ]
        )

    def write(self, folder: Path) -> Path:
        return write_json("crowd", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--subscriptions", type=int, default=1000, help="that each client asks for")
    parser.add_argument("--kind", choices=KINDS, default="filters", help="what they ask for")
    parser.add_argument("--rate", type=float, default=23_500, help="lines a second")
    parser.add_argument(
        "--seconds", type=float, default=10, help="of lines, before they ask and again afterwards"
    )
    parser.add_argument(
        "--serve", nargs="*", default=[], metavar="OPTION=VALUE", help="more options of serve"
    )


def _filters(number: int) -> dict[str, Any]:
    return {"coins": [COINS[number % len(COINS)]], "minNotional": 1e15 + number}


def _coins(number: int) -> dict[str, Any]:
    return {"coins": [f"C{number}", *(f"COIN{each}" for each in range(999))]}


def _everything(number: int) -> dict[str, Any]:
    return {"minNotional": (number + 1) / 1e9, "format": "ws"}


KINDS = {"filters": _filters, "coins": _coins, "everything": _everything}


class Asker(WSListener):
    """One of the many clients. It counts answers and ignores everything else."""

    def __init__(self) -> None:
        self.admitted = 0
        self.answers = 0
        self.refusal = ""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        text = frame.get_payload_as_bytes()
        if text.startswith(b'{"channel":"subscriptionResponse"'):
            self.admitted += 1
            self.answers += 1
        elif text.startswith(b'{"channel":"error"'):
            self.answers += 1
            if not self.refusal:
                self.refusal = text.decode()[-120:]

    async def ask(self, transport: WSTransport, kind: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            subscription = {"type": "orders", **KINDS[kind](number)}
            transport.send(
                WSMsgType.TEXT, orjson.dumps({"method": "subscribe", "subscription": subscription})
            )
            if number % 16 == 15:
                await self._answered(number - first - 64)
        await self._answered(count)

    async def _answered(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.answers < count:
            if time.monotonic() > deadline:
                raise WrongAnswer(f"{self.answers} answers to {count} requests")
            await asyncio.sleep(0.001)


class Innocent(WSListener):
    """The client that came first. seen: (offset of the last order, time of receipt) per message."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self.orders = 0
        self.gaps = 0
        self.ready = asyncio.Event()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        now = time.monotonic()
        message = orjson.loads(frame.get_payload_as_bytes())
        if message["channel"] == "orders":
            self.orders += len(message["data"])
            self.seen.append((int(message["cursor"].split("-")[1]), now))
        elif message["channel"] == "gap":
            self.gaps += 1
        else:
            self.ready.set()


class Writer:
    """Appends lines to the hour's file at a rate and records the file size after each write."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._file = path.open("ab")
        self._lines = data.splitlines(keepends=True)
        events = [orjson.loads(line)["events"] for line in self._lines]
        self._wanted = [sum(each["order"]["coin"] == COIN for each in line) for line in events]
        self._next = 0
        self.lines = 0
        self.orders = 0  # of COIN
        self.marks: list[tuple[int, float]] = []  # (size of the file, when)

    def write(self, rate: float, seconds: float) -> None:
        begin, written = time.monotonic(), 0
        while (now := time.monotonic()) < begin + seconds:
            due = int((now - begin) * rate) - written
            numbers = [(self._next + each) % len(self._lines) for each in range(due)]
            chunk = [self._lines[number] for number in numbers]
            if chunk:
                text = b"".join(chunk)
                self._file.write(text)
                self._file.flush()
                self.marks.append((self._file.tell(), now))
                self.orders += sum(self._wanted[number] for number in numbers)
                self._next += due
                written += due
            time.sleep(TICK_S)
        self.lines += written


def run(args: argparse.Namespace) -> Crowd:
    data = exchange.generate(MADE, "streaming", 1)
    options = [
        "--max-clients", str(args.clients + 10), "--max-messages-per-minute", "0",
        *(f"--{each}" for each in args.serve),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as name:
        folder = Path(name, FOLDER)
        folder.mkdir(parents=True)
        path = folder / "9"
        path.touch()
        with serve(Path(name), *options) as server:
            return uvloop.run(_run(args, server, Writer(path, data)))


def _same(asker: Asker) -> Asker:
    return asker


async def _run(args: argparse.Namespace, server: Service, writer: Writer) -> Crowd:
    url = f"ws://127.0.0.1:{server.port}/ws"
    innocent = Innocent()
    transport, _ = await ws_connect(lambda: innocent, url, max_frame_size=1 << 26)
    wanted = {"type": "orders", "coins": [COIN], "format": "ws"}
    transport.send(WSMsgType.TEXT, orjson.dumps({"method": "subscribe", "subscription": wanted}))
    await asyncio.wait_for(innocent.ready.wait(), PATIENCE_S)

    alone, alone_cores = await _lines(args, server, writer, innocent)
    before = server.usage()
    askers: list[tuple[Asker, WSTransport]] = []
    for _ in range(args.clients):
        asker = Asker()
        askers.append((asker, (await ws_connect(partial(_same, asker), url, max_frame_size=1 << 26))[0]))
    began = time.monotonic()
    each = args.subscriptions
    for number, (asker, to) in enumerate(askers):
        await asker.ask(to, args.kind, number * each, each)
    answers_s = time.monotonic() - began
    after = server.usage()
    delays, cores = await _lines(args, server, writer, innocent)
    if innocent.orders != writer.orders and not innocent.gaps:
        raise WrongAnswer(f"{innocent.orders} orders of {writer.orders}, without a gap")
    for _, to in askers:
        to.disconnect()
    return Crowd(
        asked=args.clients * each,
        admitted=sum(asker.admitted for asker, _ in askers),
        answers_s=answers_s,
        rss_before=before.rss,
        rss_after=after.rss,
        rss_most=server.most_rss(),
        lines=writer.lines,
        cores=cores,
        cores_alone=alone_cores,
        delay_p50=statistics.median(delays),
        delay_p99=statistics.quantiles(delays, n=100)[98],
        alone_p50=statistics.median(alone),
        alone_p99=statistics.quantiles(alone, n=100)[98],
        orders=innocent.orders,
        gaps=innocent.gaps,
        first_refusal=next((asker.refusal for asker, _ in askers if asker.refusal), ""),
        settings={
            name: getattr(args, name)
            for name in ("clients", "subscriptions", "kind", "rate", "seconds", "serve")
        },
    )


async def _lines(
    args: argparse.Namespace, server: Service, writer: Writer, innocent: Innocent
) -> tuple[list[float], float]:
    """Return the delays of the first client's messages in ms, and the server's busy cores meanwhile."""
    first, busy, began = len(innocent.seen), server.busy_s(), time.monotonic()
    thread = threading.Thread(target=writer.write, args=(args.rate, args.seconds))
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    deadline = time.monotonic() + PATIENCE_S
    while innocent.orders < writer.orders and time.monotonic() < deadline and not innocent.gaps:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    cores = (server.busy_s() - busy) / (time.monotonic() - began)
    return delays_since(writer.marks, innocent.seen[first:]), cores


BENCHMARK = Benchmark("crowd", "many clients that ask for too many subscriptions", add_arguments, run)
