"""Runs `fasttail serve` as a process, for benchmarks that measure it from outside."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.measure import WrongAnswer
from fasttail.tools import endpoint

FILE_CURSORS = ("--replayed-blocks", "deliver")
"""With it, a cursor is a place in the files, and equal hours are not taken for blocks written again."""


@dataclass(frozen=True)
class Usage:
    """What the process has used so far. cpu: seconds. rss: bytes. at: monotonic seconds."""

    cpu: float
    rss: int
    at: float

    def cores_since(self, before: Usage) -> float:
        """Return the mean number of cores kept busy since then."""
        return (self.cpu - before.cpu) / (self.at - before.at)


class Service:
    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.port = port
        self.pid = process.pid
        self._process = psutil.Process(process.pid)

    def pin(self, cores: set[int]) -> None:
        """Restrict all its threads to these cores."""
        for thread in self._process.threads():
            psutil.Process(thread.id).cpu_affinity(sorted(cores))

    def usage(self) -> Usage:
        times = self._process.cpu_times()
        return Usage(times.user + times.system, self._process.memory_info().rss, time.monotonic())

    def busy_s(self) -> float:
        """Return the exact CPU seconds of its threads; `usage` has a resolution of 0.01 s."""
        stats = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in stats) / 1e9

    def busy_cores(self, seconds: float) -> float:
        """Wait for some seconds. Return the mean number of cores kept busy in them."""
        before, begun = self.busy_s(), time.monotonic()
        time.sleep(seconds)
        return (self.busy_s() - before) / (time.monotonic() - begun)

    def most_rss(self) -> int:
        """Return the peak RSS since start, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024


def read_metrics(port: int) -> dict[str, float]:
    """Return the values of a server's /metrics, by name with labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return endpoint.parse_metrics(answer.read())


@contextmanager
def serve(folder: Path, *options: str) -> Iterator[Service]:
    """Run the server on a node folder and a free loopback port; stop it on exit.

    Its cursors name places in the files, by which the clients tell lines apart.
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "fasttail",
        "serve",
        str(folder),
        "--port",
        "0",
        *FILE_CURSORS,
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        match = None
        while match is None:
            line = process.stdout.readline()
            if not line:
                raise WrongAnswer("fasttail serve did not start")
            match = re.search(r" http and ws on \S*:(\d+),", line)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield Service(process, int(match[1]))
    finally:
        process.terminate()
        process.wait()


@contextmanager
def simulated_node(folder: Path, rate: float, *options: str) -> Iterator[None]:
    """Run `fasttail synth`, which writes orders and fills at a steady rate; kill it on exit."""
    writing = (str(folder), "--rate", f"{rate:g}", "--streams", "orders,fills", *options)
    writer = subprocess.Popen(
        [sys.executable, "-P", "-m", "fasttail", "synth", *writing],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        writer.kill()
        writer.wait()
