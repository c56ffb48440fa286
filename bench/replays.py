"""Measures clients that fall behind or come back behind: who gets everything, how soon, at what cost.

`--case` selects one:

sleeper:      one client with everything sleeps while 400,000 orders arrive at once, then reads on.
comeback:     990 clients with one user's orders each and 10 with everything come back 60 s behind, while the
              node keeps writing.
slow:         100 clients with everything, 90 of which (`--slow`) read at a tenth of the rate while the node
              writes, and at full speed afterwards. The delay of the 10 others is measured; `--slow 0` for
              comparison.

Every client checks that it gets each of its orders once and in order. Clients, writer and server share the
machine, unlike real clients.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import os
import re
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.measure import Benchmark, WrongAnswer, load_text, machine, write_json
from bench.receiving import delays_since, place
from bench.service import Service, read_metrics, serve
from fasttail.tools import exchange

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

FOLDER = "node_order_statuses_streaming/hourly/20260505"
HOUR = 2026050509
FIRST = 1_000_000_000
"""oid of the first order. All have ten digits and are consecutive."""
USERS = 990
SAMPLES = 2000
HEAD = 3000
"""Bytes: longer than any order here."""
TICK_S = 0.002
CHUNK = 50_000
OID = re.compile(rb'"oid":(\d{10})')
MARK = b'"statusTimestamp":'
PATIENCE_S = 400.0
SETTINGS = ("rate", "seconds", "slow", "behind", "serve")


@dataclass(frozen=True)
class Group:
    """The results of one kind of clients. seconds: until the last was live or had its last order.

    left: how often they left the live path. gaps: losses reported to them. delay_*: milliseconds.
    """

    name: str
    clients: int
    orders: int
    left: int
    gaps: int
    seconds: float
    delay_p50: float
    delay_p99: float


@dataclass(frozen=True)
class Outcome:
    """One case. lines, bytes: written. cpu: CPU seconds of the server."""

    case: str
    lines: int
    bytes: int
    groups: list[Group]
    rss_before: int
    rss_most: int
    cpu: float
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        rows = [f"{self.case}: {self.lines:,} lines, {self.bytes / 1e6:,.0f} MB"]
        for each in self.groups:
            rows.append(
                f"{each.name}: {each.clients} clients got {each.orders:,} orders, each once and in order; "
                f"{each.gaps} gaps; they left the live path {each.left:,} times; all had it after "
                f"{each.seconds:.1f} s"
            )
            if each.delay_p99:
                rows.append(f"  delay: p50 {each.delay_p50:.2f} ms, p99 {each.delay_p99:.2f} ms")
        rows.append(
            f"server: RSS {self.rss_before / 2**20:.1f} MB before, {self.rss_most / 2**20:.1f} MB at most, "
            f"{self.cpu:.1f} s of CPU time"
        )
        return "\n".join([*rows, load_text()])

    def write(self, folder: Path) -> Path:
        return write_json(f"replays-{self.case}", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", choices=CASES, default="sleeper")
    parser.add_argument("--rate", type=int, default=23_500, help="lines a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="of lines, in the case `slow`")
    parser.add_argument("--slow", type=int, default=90, help="slow clients, in the case `slow`")
    parser.add_argument("--behind", type=float, default=60.0, help="seconds of lines, in `comeback`")
    parser.add_argument(
        "--serve", nargs="*", default=[], metavar="OPTION=VALUE", help="more options of serve"
    )


class Lines:
    """Makes lines whose oids count up from FIRST and whose users take turns."""

    def __init__(self) -> None:
        made = exchange.generate(SAMPLES, "streaming", 1).splitlines()
        self._samples: list[bytes] = []
        for line in made:
            block = orjson.loads(line)
            (event,) = block["events"]
            event["order"]["children"] = []
            event["order"]["oid"] = FIRST
            event["user"] = user(0)
            text = orjson.dumps(block)
            if text.count(b"%") == 0 and text.count(b"%d" % FIRST) == 1:
                text = text.replace(b"%d" % FIRST, b"%d").replace(user(0).encode(), b"0x%040x")
                self._samples.append(text + b"\n")
        first = self._samples[0]
        self._user_first = first.index(b"0x%040x") < first.index(b":%d")
        self.count = 0

    def make(self, count: int) -> bytes:
        samples, size = self._samples, len(self._samples)
        numbers = range(self.count, self.count + count)
        self.count += count
        if self._user_first:
            return b"".join([samples[n % size] % (n % USERS, FIRST + n) for n in numbers])
        return b"".join([samples[n % size] % (FIRST + n, n % USERS) for n in numbers])


def user(number: int) -> str:
    return f"0x{number:040x}"


@dataclass(frozen=True)
class Plan:
    """What one client subscribes to and expects.

    every: distance between its oids, from `first` on. last: its last oid; None: it ends when live. pace:
    bytes per second that it reads until `hurry` is set. counts: it checks the whole content of each message.
    """

    subscription: dict[str, Any]
    first: int
    every: int
    last: int | None
    pace: float = 0.0
    sleep_s: float = 0.0
    counts: bool = True


class Reader(WSListener):
    """One client. seen: (offset of the last order's line, time of receipt) of each live message."""

    def __init__(self, plan: Plan, hurry: Any) -> None:
        self.plan = plan
        self.next = plan.first
        self.orders = self.gaps = self.left = 0
        self.fault = ""
        self.seen: list[tuple[int, float]] = []
        self.done_at = 0.0
        self.subscribed = asyncio.Event()
        self.done = asyncio.Event()
        self._hurry = hurry
        self._read = 0
        self._began = 0.0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT or self.done.is_set():
            return
        now = time.monotonic()
        payload = frame.get_payload_as_memoryview()
        size = len(payload)
        head = bytes(payload[:HEAD])
        if head.startswith(b'{"channel":"order'):
            # The other clients of a kind check only where each message begins and ends, because clients
            # on this machine take CPU time from the server.
            text = bytes(payload) if self.plan.counts else head + bytes(payload[-HEAD:])
            self._take(text)
            if self.plan.pace == 0.0 and self.plan.last is not None:
                self.seen.append((int(text[text.rindex(b'"cursor":"') :].split(b"-")[1]), now))
        else:
            self._told(orjson.loads(payload))
        if self.plan.last is not None and self.next > self.plan.last:
            self._end()
        elif self.plan.pace and not self._hurry.value:
            self._slow_down(transport, size, now)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.done.is_set():
            self.fault = self.fault or "the connection was closed"
            self._end()

    def _take(self, text: bytes) -> None:
        every = self.plan.every
        # Everything: checking each oid would take longer than the server needs.
        if every == 1:
            found = OID.search(text)
            count = text.count(MARK) or text.count(b'"oid":')
            assert found is not None
            first, last = int(found[1]), int(text[text.rindex(b'"oid":') + 6 :][:10])
            wrong = self.plan.counts and last - first + 1 != count
            count = last - first + 1
        else:
            oids = OID.findall(text)
            count, first = len(oids), int(oids[0])
            wrong = count > 1 and [int(each) for each in oids] != [
                *range(first, first + count * every, every)
            ]
        if wrong or first != self.next:
            self.fault = self.fault or f"{count} orders from {first} on came instead of {self.next}"
            self._end()
        self.next = first + count * every
        self.orders += count

    def _told(self, message: dict[str, Any]) -> None:
        channel = message["channel"]
        if channel == "subscriptionResponse":
            self.subscribed.set()
            self._began = time.monotonic()
        elif channel == "replay":
            self.left += 1
        elif channel == "live":
            if self.plan.last is None:
                self._end()
        else:
            self.gaps += channel == "gap"
            self.fault = self.fault or orjson.dumps(message).decode()[:300]
            self._end()

    def _end(self) -> None:
        self.done_at = self.done_at or time.monotonic()
        self.done.set()

    def _slow_down(self, transport: WSTransport, size: int, now: float) -> None:
        self._read += size
        if (rest := self._began + self._read / self.plan.pace - now) > 0.02:
            transport.underlying_transport.pause_reading()
            self._wait(transport, now + rest)

    def _wait(self, transport: WSTransport, until: float) -> None:
        if self.done.is_set():
            return
        if time.monotonic() < until and not self._hurry.value:
            asyncio.get_running_loop().call_later(0.05, self._wait, transport, until)
        else:
            transport.underlying_transport.resume_reading()


def read(port: int, plans: list[Plan], hurry: Any, pipe: Connection) -> None:
    """Run one process of clients; report when all are subscribed, and finally what each got."""
    gc.freeze()

    async def connect(reader: Reader) -> WSTransport:
        transport, _ = await ws_connect(lambda: reader, f"ws://127.0.0.1:{port}/ws", max_frame_size=1 << 26)
        request = {"method": "subscribe", "subscription": reader.plan.subscription}
        transport.send(WSMsgType.TEXT, orjson.dumps(request))
        if reader.plan.sleep_s:
            await reader.subscribed.wait()
            transport.underlying_transport.pause_reading()
            wake = transport.underlying_transport.resume_reading
            asyncio.get_running_loop().call_later(reader.plan.sleep_s, wake)
        return transport

    async def main() -> None:
        began = time.monotonic()
        readers = [Reader(plan, hurry) for plan in plans]
        kept = []
        for first in range(0, len(readers), 50):
            kept += await asyncio.gather(*map(connect, readers[first : first + 50]))
        for reader in readers:
            await reader.subscribed.wait()
        pipe.send(None)
        for reader in readers:
            await reader.done.wait()
        pipe.send(
            [
                (each.orders, each.gaps, each.left, each.fault, each.done_at - began, each.seen)
                for each in readers
            ]
        )

    uvloop.run(main())


def write(path: Path, count: int, rate: int, ready: Any, stop: Any, marks: Connection) -> None:
    """Keep writing in a process; finally send (size of the file, when) of each write."""
    lines = Lines()
    lines.count = count
    made = []
    with path.open("ab", buffering=0) as file:
        ready.set()
        size, begin, written = file.tell(), time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - begin) * rate) - written
            if due > 0:
                text = lines.make(due)
                made.append((size + len(text), time.monotonic()))
                file.write(text)
                size += len(text)
                written += due
            time.sleep(TICK_S)
    marks.send((made, count + written))


class Run:
    """A server on a folder with one hour's file, and its clients in processes."""

    def __init__(self, args: argparse.Namespace, folder: Path, server: Service, path: Path) -> None:
        self.args = args
        self.folder = folder
        self.server = server
        self.path = path
        self.context = multiprocessing.get_context("fork")
        self.hurry = self.context.RawValue("b", 0)
        self.groups: list[Group] = []
        self._running: list[tuple[str, int, Any, Connection]] = []

    def start(self, name: str, plans: list[Plan], *, wait: bool = True) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=read, args=(self.server.port, plans, self.hurry, theirs))
        process.start()
        self._running.append((name, len(plans), process, ours))
        if wait:
            self._heard(ours)

    def collect(self, marks: list[tuple[int, float]]) -> None:
        """Add the clients' results to `groups`. Raise WrongAnswer if any failed."""
        for name, count, process, pipe in self._running:
            answer = self._heard(pipe)
            while answer is None:
                answer = self._heard(pipe)
            process.join()
            faults = [fault for _, _, _, fault, _, _ in answer if fault]
            if faults:
                raise WrongAnswer(f"{name}: {len(faults)} of {count} clients failed; the first: {faults[0]}")
            delays = (
                sorted(delay for *_, seen in answer for delay in delays_since(marks, seen)) if marks else []
            )
            self.groups.append(
                Group(
                    name=name,
                    clients=count,
                    orders=sum(each[0] for each in answer),
                    gaps=sum(each[1] for each in answer),
                    left=sum(each[2] for each in answer),
                    seconds=max(each[4] for each in answer),
                    delay_p50=delays[len(delays) // 2] if delays else 0.0,
                    delay_p99=delays[int(len(delays) * 0.99)] if delays else 0.0,
                )
            )
        self._running = []

    def end(self) -> None:
        for _, _, process, _ in self._running:
            process.terminate()
            process.join()

    def _heard(self, pipe: Connection) -> Any:
        if not pipe.poll(PATIENCE_S):
            raise WrongAnswer("the clients wait for the last order")
        return pipe.recv()

    def wait_read(self, lines: int) -> None:
        """Wait until the server has read `lines` lines."""
        deadline = time.monotonic() + PATIENCE_S
        while read_metrics(self.server.port)["fasttail_lines_total"] < lines:
            if time.monotonic() > deadline:
                raise WrongAnswer(f"the server has not read {lines:,} lines")
            time.sleep(0.2)

    def begin_writing(self, count: int) -> Callable[[], tuple[list[tuple[int, float]], int]]:
        """Start writing at the rate.

        The returned function stops it and returns the writes and the line count.
        """
        ready, stop = self.context.Event(), self.context.Event()
        ours, theirs = self.context.Pipe()
        process = self.context.Process(
            target=write, args=(self.path, count, self.args.rate, ready, stop, theirs)
        )
        process.start()
        ready.wait()

        def finish() -> tuple[list[tuple[int, float]], int]:
            stop.set()
            found: tuple[list[tuple[int, float]], int] = ours.recv()
            process.join()
            return found

        return finish


EVERYTHING = {"type": "orders", "format": "raw"}


def sleeper(run: Run) -> int:
    lines = Lines()
    data = lines.make(400_000)
    plan = Plan(EVERYTHING, FIRST, 1, FIRST + lines.count - 1, sleep_s=5.0)
    run.start("sleeper", [plan])
    with run.path.open("ab", buffering=0) as file:
        for first in range(0, len(data), 1 << 20):
            file.write(data[first : first + (1 << 20)])
    run.collect([])
    return lines.count


def comeback(run: Run) -> int:
    lines = Lines()
    count = int(run.args.behind * run.args.rate)
    with run.path.open("ab") as file:
        for first in range(0, count, CHUNK):
            file.write(lines.make(min(CHUNK, count - first)))
    run.wait_read(count)
    finish = run.begin_writing(count)
    start = place(HOUR, 0) + "-0000000"
    users = [
        Plan({"type": "orderUpdates", "user": user(number), "cursor": start}, FIRST + number, USERS, None)
        for number in range(USERS)
    ]
    everything = [
        Plan({**EVERYTHING, "cursor": start}, FIRST, 1, None, counts=not each) for each in range(10)
    ]
    run.start("users", users, wait=False)
    run.start("everything", everything, wait=False)
    try:
        run.collect([])
    finally:
        _, count = finish()
    return count


def slow(run: Run) -> int:
    rate, seconds = run.args.rate, run.args.seconds
    last = FIRST + int(rate * seconds) - 1
    pace = rate * len(Lines().make(SAMPLES)) / SAMPLES / 10
    run.start("fast", [Plan(EVERYTHING, FIRST, 1, last, counts=not each) for each in range(10)])
    plans = [Plan(EVERYTHING, FIRST, 1, last, pace=pace, counts=not each) for each in range(run.args.slow)]
    if plans:
        run.start("slow", plans)
    finish = run.begin_writing(0)
    time.sleep(seconds + 1.0)
    marks, count = finish()
    run.hurry.value = 1
    run.collect(marks)
    return count


CASES = {"sleeper": sleeper, "comeback": comeback, "slow": slow}


def run(args: argparse.Namespace) -> Outcome:
    options = [
        "--max-clients", "1100", "--max-messages-per-minute", "0", "--max-clients-per-ip", "0",
        *(f"--{each}" for each in args.serve),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as name:
        folder = Path(name, FOLDER)
        folder.mkdir(parents=True)
        path = folder / "9"
        path.touch()
        with serve(Path(name), *options) as server:
            running = Run(args, Path(name), server, path)
            before, busy = server.usage(), server.busy_s()
            try:
                lines: int = CASES[args.case](running)
            finally:
                running.end()
            return Outcome(
                case=args.case,
                lines=lines,
                bytes=os.stat(path).st_size,
                groups=running.groups,
                rss_before=before.rss,
                rss_most=server.most_rss(),
                cpu=server.busy_s() - busy,
                settings={name: getattr(args, name) for name in SETTINGS},
            )


BENCHMARK = Benchmark("replays", "clients that fall behind, or come back behind", add_arguments, run)
