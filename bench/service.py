"""`fasttail serve` as a process of its own, for the benchmarks that measure it from outside."""

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


@dataclass(frozen=True)
class Usage:
    """What the process has used so far. cpu in seconds, rss in bytes, at: monotonic seconds."""

    cpu: float
    rss: int
    at: float

    def cores_since(self, before: Usage) -> float:
        """Cores kept busy since then."""
        return (self.cpu - before.cpu) / (self.at - before.at)


class Service:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.port = port
        self.pid = process.pid
        self._process = psutil.Process(process.pid)

    def pin(self, cores: set[int]) -> None:
        """Let all its threads run on these cores only."""
        for thread in self._process.threads():
            psutil.Process(thread.id).cpu_affinity(sorted(cores))

    def usage(self) -> Usage:
        times = self._process.cpu_times()
        return Usage(times.user + times.system, self._process.memory_info().rss, time.monotonic())

    def busy_s(self) -> float:
        """Seconds of cores that its threads have taken, exactly; `usage` counts in hundredths."""
        stats = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in stats) / 1e9

    def most_rss(self) -> int:
        """Bytes, the most since its start."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024


def read_metrics(port: int) -> dict[str, float]:
    """The numbers of a server's /metrics, by name with labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return endpoint.parse_metrics(answer.read())


@contextmanager
def serve(folder: Path, *options: str) -> Iterator[Service]:
    """Start it on a node's folder, on any free port of loopback; stopped at the end."""
    command = [sys.executable, "-P", "-m", "fasttail", "serve", str(folder), "--port", "0", *options]
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
