"""Measures what the page costs the server: its CPU with ten pages open, and with none, in turn in one run.

`fasttail synth` writes orders and fills at a steady rate. A page is a client of `summary` and `tape`, as the
one in the browser. What the summaries count must be what the server has read meanwhile.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from websockets.sync.client import connect

from bench.measure import Benchmark, WrongAnswer, load_text, machine, write_json
from bench.service import serve, simulated_node

START_S = 3.0
"""Until the simulated node writes, and after a change of the number of pages."""
MAX_LATE_S = 2.0
"""Seconds of orders by which what summaries count may differ from what was read: it is of a moment ago."""


@dataclass(frozen=True)
class PageCost:
    """Cores kept busy in each round. bytes: that one page got in a second"""

    rate: float
    pages: int
    without: list[float]
    with_pages: list[float]
    bytes: float
    rss: list[int]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        more = median(self.with_pages) - median(self.without)
        return "\n".join([
            f"page: {self.rate:,.0f} orders/s, {self.pages} pages, {self.bytes / 1000:.1f} kB/s to each",
            f"{'':12} {'cores, median of ' + str(len(self.without)):>22} {'RSS, MB':>9}",
            f"{'no page':12} {median(self.without):22.3f} {self.rss[0] / 2**20:9.1f}",
            f"{str(self.pages) + ' pages':12} {median(self.with_pages):22.3f} {self.rss[1] / 2**20:9.1f}",
            f"{'difference':12} {more:22.3f}",
            load_text(),
        ])  # fmt: skip

    def write(self, folder: Path) -> Path:
        return write_json("page", asdict(self), folder)


class Page:
    """A client of both broadcasts, whose thread reads all that comes."""

    def __init__(self, port: int) -> None:
        self.bytes = 0
        self.summaries: list[dict[str, Any]] = []
        self._socket = connect(f"ws://127.0.0.1:{port}/ws", max_size=None, legacy=True)
        for kind in ("summary", "tape"):
            self._socket.send(json.dumps({"method": "subscribe", "subscription": {"type": kind}}))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for text in self._socket:
            self.bytes += len(text)
            message = json.loads(text)
            if message["channel"] == "summary":
                self.summaries.append(message["data"])

    def close(self, rate: float) -> None:
        """End it. Raises WrongAnswer if its summaries do not count what was read."""
        self._socket.close()
        self._thread.join()
        counted = sum(each["flow"]["orders"] for each in self.summaries[1:])
        first, last = (
            each["streams"]["orders"]["orders"] for each in (self.summaries[0], self.summaries[-1])
        )
        if not first < last or abs(counted - (last - first)) > MAX_LATE_S * rate:
            raise WrongAnswer(f"summaries count {counted} orders of {last - first}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=int, default=23_500, help="orders a second")
    parser.add_argument("--pages", type=int, default=10, help="pages that are open")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5, help="with pages, and as many without")


def run(args: argparse.Namespace) -> PageCost:
    with tempfile.TemporaryDirectory(prefix="fasttail-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(simulated_node(folder, args.rate))
        time.sleep(START_S)
        server = stack.enter_context(serve(folder, "--workers", "1"))
        without, with_pages, rss = [], [], [0, 0]
        received = 0.0
        for _ in range(args.rounds):
            time.sleep(START_S)
            without.append(server.busy_cores(args.seconds))
            rss[0] = server.usage().rss
            pages = [Page(server.port) for _ in range(args.pages)]
            time.sleep(START_S)
            before = pages[0].bytes
            with_pages.append(server.busy_cores(args.seconds))
            received += pages[0].bytes - before
            rss[1] = server.usage().rss
            for page in pages:
                page.close(args.rate)
    return PageCost(
        args.rate, args.pages, without, with_pages, received / args.seconds / args.rounds, rss,
        {"seconds": args.seconds, "rounds": args.rounds},
    )  # fmt: skip


BENCHMARK = Benchmark("page", "what the page costs the server", add_arguments, run)
