"""From the write of a line to its receipt by a WebSocket client, at a steady rate.

A process of its own writes lines that `fasttail synth` made, each with one `write`, as a node does that
flushes each line; every millisecond the lines that are due. `fasttail serve` follows, a picows client
here receives `orderUpdate`. All clocks are this machine's monotonic one. Only orders of the statuses that the
channel carries are measured; that each of them arrived once and in order is checked.

What it does not show: the network, a client slower than picows, the time that the node itself takes.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.measure import Benchmark, WrongAnswer, machine, write_json
from fasttail import synth

CARRIED = (b"open", b"filled", b"canceled", b"triggered", b"vaultWithdrawalCanceled")
STATUS = re.compile(rb'"status":"([^"]*)"')
OID = re.compile(rb'"oid":(\d+)')
HOUR = "node_order_statuses_streaming/hourly/20260505/9"
TICK_S = 0.001
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Delays:
    """One run. Delays in milliseconds; RSS in bytes; cpu: cores that the server kept busy."""

    rate: float
    seconds: float
    lines: int
    measured: int
    p50: float
    p99: float
    p999: float
    most: float
    behind: float  # most milliseconds that the writer was behind its own plan
    rss_begin: int
    rss_end: int
    cpu: float
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        return (
            f"delay: {self.lines} lines at {self.rate:,.0f} lines/s for {self.seconds:.1f} s, "
            f"{self.measured} orders measured, all received once and in order\n"
            f"write to receipt  p50 {self.p50:.3f} ms  p99 {self.p99:.3f} ms  p99.9 {self.p999:.3f} ms  "
            f"most {self.most:.3f} ms  (the writer was at most {self.behind:.1f} ms behind its plan)\n"
            f"server            {self.cpu:.3f} cores  RSS {self.rss_begin / 2**20:.1f} MB before, "
            f"{self.rss_end / 2**20:.1f} MB after"
        )

    def write(self, folder: Path) -> Path:
        return write_json("delay", asdict(self), folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=23_500, help="lines a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long")
    parser.add_argument("--workers", type=int, default=1, help="workers of the server")
    parser.add_argument("--seed", type=int, default=1, help="seed of the lines")


def write_lines(path: str, lines: list[bytes], rate: float, times: Any, behind: Any) -> None:
    """The writer's process: times[i] is when line i was written, monotonic ns."""
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


class Receiver(WSListener):
    """Notes the oid and the time of each order."""

    def __init__(self) -> None:
        self.oids = array.array("Q")
        self.times = array.array("q")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        text = frame.get_payload_as_bytes()
        begin = text.find(b'"id":"')
        if begin > 0:
            self.times.append(time.monotonic_ns())
            self.oids.append(int(text[begin + 6 : text.index(b'"', begin + 6)]))


def run(args: argparse.Namespace) -> Delays:
    lines = synth.generate(int(args.rate * args.seconds), "streaming", args.seed).splitlines(keepends=True)
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as folder:
        path = Path(folder, HOUR)
        path.parent.mkdir(parents=True)
        path.touch()
        server = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "fasttail",
                "serve",
                folder,
                "--port",
                "0",
                "--workers",
                str(args.workers),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            return uvloop.run(_measure(args, lines, path, server))
        finally:
            server.terminate()
            server.wait()


async def _measure(
    args: argparse.Namespace, lines: list[bytes], path: Path, server: subprocess.Popen[str]
) -> Delays:
    expected = [
        (int(OID.search(line)[1]), index)  # type: ignore[index]
        for index, line in enumerate(lines)
        if STATUS.search(line)[1] in CARRIED  # type: ignore[index]
    ]
    assert server.stdout is not None
    match = None
    while match is None:
        line = server.stdout.readline()
        if not line:
            raise WrongAnswer("fasttail serve did not start")
        match = re.search(r" http and ws on \S*:(\d+),", line)
    threading.Thread(target=server.stdout.read, daemon=True).start()
    receiver = Receiver()
    await ws_connect(lambda: receiver, f"ws://127.0.0.1:{match[1]}/ws/orderUpdate")
    await asyncio.sleep(0.5)
    status = psutil.Process(server.pid)
    rss_begin, cpu_begin, begin = status.memory_info().rss, status.cpu_times(), time.monotonic()

    times = multiprocessing.RawArray("q", len(lines))
    behind = multiprocessing.RawValue("d", 0.0)
    writer = multiprocessing.get_context("fork").Process(
        target=write_lines, args=(str(path), lines, args.rate, times, behind)
    )
    writer.start()
    deadline = time.monotonic() + args.seconds + PATIENCE_S
    while time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        if not writer.is_alive() and len(receiver.oids) >= len(expected):
            break
    seconds = time.monotonic() - begin
    cpu_end = status.cpu_times()
    if receiver.oids.tolist() != [oid for oid, _ in expected]:
        raise WrongAnswer(
            f"{len(receiver.oids)} orders received, {len(expected)} expected, each once, in order"
        )
    delays = sorted(
        (received - times[index]) / 1e6 for received, (_, index) in zip(receiver.times, expected, strict=True)
    )
    return Delays(
        rate=args.rate,
        seconds=args.seconds,
        lines=len(lines),
        measured=len(delays),
        p50=delays[len(delays) // 2],
        p99=delays[int(len(delays) * 0.99)],
        p999=delays[int(len(delays) * 0.999)],
        most=delays[-1],
        behind=behind.value,
        rss_begin=rss_begin,
        rss_end=status.memory_info().rss,
        cpu=(cpu_end.user + cpu_end.system - cpu_begin.user - cpu_begin.system) / seconds,
        settings={"workers": args.workers, "seed": args.seed},
    )


BENCHMARK = Benchmark("delay", "from the write of a line to its receipt by a client", add_arguments, run)
