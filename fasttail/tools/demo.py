"""`fasttail demo`: runs a simulated node, a real server and a real client together.

The server is a child process, the node a thread that writes files, and the client a WebSocket in this
process. The delay of an order is the time from the node's write until its receipt here.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import orjson
import psutil
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from fasttail.config import ConfigError, DemoSettings
from fasttail.tools import exchange
from fasttail.tools.endpoint import Endpoint, EndpointError, parse_metrics

SHOWN_PER_S = 2
"""Orders printed per second."""
SAMPLED_PER_WRITE = 32
"""Orders of each write whose delay is measured."""
START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 10.0

_OID = re.compile(r'"oid":(\d+)')


class DemoError(Exception):
    """The demo cannot continue; the message explains why."""


def run(settings: DemoSettings) -> int:
    """Run for `seconds`, or until Ctrl-C. Return 0 if every order that was due has arrived, else 1."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # like Ctrl-C, so that nothing is left behind
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="fasttail-demo-") as folder:
        try:
            return uvloop.run(_Demo(settings, Path(folder)).run())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except _ServerRefused as error:
            raise ConfigError(str(error)) from None
        except DemoError as error:
            print(f"fasttail demo: {error}", file=sys.stderr)
            return 1


class _ServerRefused(DemoError):
    """The server did not start because of its settings or environment."""


class _Server:
    """`fasttail serve` as a child process, with the last lines of its log."""

    def __init__(self, settings: DemoSettings, folder: Path) -> None:
        args: list[object] = ["serve", folder, "--host", settings.host, "--port", settings.port]
        args += ["--workers", settings.workers]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fasttail", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            process_group=0,  # Ctrl-C is for the demo, which ends the server after the last order
        )
        self.log: collections.deque[str] = collections.deque(maxlen=20)
        self.port: int | None = None
        self.peak_rss = self._rss = 0
        self._process_info = psutil.Process(self.process.pid)
        self._log_reader = threading.Thread(target=self._read_log, daemon=True)
        self._log_reader.start()

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line.rstrip())
            found = re.search(r" http and ws on \S*:(\d+),", line)
            if found is not None:
                self.port = int(found[1])

    async def wait_port(self) -> int:
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.port is None:
            code = self.process.poll()
            if code == 2:
                self._log_reader.join(END_TIMEOUT_S)
                raise _ServerRefused(
                    self.log[-1].removeprefix("fasttail serve: ") if self.log else "no server"
                )
            if code is not None or time.monotonic() > deadline:
                raise DemoError("the server did not start:\n" + "\n".join(self.log))
            await asyncio.sleep(0.02)
        return self.port

    def sample_rss(self) -> int:
        """Measure the resident memory in bytes, and update the peak."""
        with contextlib.suppress(psutil.Error):  # the process has just ended
            self._rss = int(self._process_info.memory_info().rss)
        self.peak_rss = max(self.peak_rss, self._rss)
        return self._rss

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Node(threading.Thread):
    """Runs a simulated node on a thread. `write_times`: sampled order ids to write times (monotonic ns)."""

    def __init__(self, settings: DemoSettings, folder: Path) -> None:
        super().__init__(daemon=True)
        self.write_times: dict[str, int] = {}
        self.summary = exchange.Summary()
        self.failure: Exception | None = None
        self.begun = threading.Event()  # or ended
        self._settings = settings
        self._folder = folder
        self._stopped = threading.Event()

    def run(self) -> None:
        s = self._settings
        try:
            self.summary = exchange.run(
                self._folder,
                exchange.NodeOptions(
                    rate=s.rate,
                    layout=s.layout,
                    hour_seconds=s.hour_seconds,
                    live=True,
                    market=exchange.ExchangeOptions(seed=s.seed),
                ),
                stop=self._stopped.is_set,
                progress=self._progress,
                on_write=self._on_write,
            )
        except Exception as error:
            self.failure = error
        finally:
            self.begun.set()

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=END_TIMEOUT_S)

    def _progress(self, summary: exchange.Summary) -> None:
        self.summary = summary
        if len(self.write_times) > 1_000_000:  # entries of orders that the channel does not carry
            self.write_times.clear()

    def _on_write(self, block: exchange.Block) -> None:
        now = time.monotonic_ns()
        self.begun.set()
        for event in block.events["orders"][-SAMPLED_PER_WRITE:]:
            found = _OID.search(event)
            if found is not None:
                self.write_times[found[1]] = now


class _Client(WSListener):
    """Counts the orders received, and measures the delay of the sampled ones."""

    def __init__(self, write_times: dict[str, int]) -> None:
        self.orders = 0
        self.delays: list[float] = []
        self.latest_orders: collections.deque[dict[str, object]] = collections.deque(maxlen=SHOWN_PER_S)
        self._write_times = write_times

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        message = orjson.loads(frame.get_payload_as_memoryview())
        if message["type"] != "orderUpdate":
            return
        now = time.monotonic_ns()
        self.orders += 1
        order = message["data"]
        written = self._write_times.pop(order["id"], None)
        if written is not None:
            self.delays.append((now - written) / 1e6)
        self.latest_orders.append(order)


class _Demo:
    def __init__(self, settings: DemoSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._started_at = time.monotonic()

    async def run(self) -> int:
        s = self._settings
        task = asyncio.current_task()
        assert task is not None
        # Handle these like Ctrl-C, but not through SIGINT, which a shell script's background job may ignore.
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        server = _Server(s, self._folder)
        node = _Node(s, self._folder)
        try:
            port = await server.wait_port()
            client = _Client(node.write_times)
            await ws_connect(lambda: client, f"ws://{_client_address(s.host, port)}/ws/orderUpdate")
            rate = "as fast as possible" if s.rate is None else f"{s.rate:,.0f} lines/s"
            print(f"a simulated node writes {rate} ({s.layout}) to {self._folder}")
            url = f"http://{_client_address(s.host, port)}"
            print(f"fasttail serves it on {url} (try /health, /metrics), one client listens")
            node.start()
            with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
                await asyncio.to_thread(node.begun.wait)  # it makes its books first
                self._started_at = time.monotonic()
                await self._watch(server, node, client)
            node.stop()
            if node.failure is not None:
                raise DemoError(str(node.failure))
            return await self._summary(server, node, client, port)
        finally:
            if node.is_alive():
                node.stop()
            server.end()

    async def _watch(self, server: _Server, node: _Node, client: _Client) -> None:
        """Print a line per second until the time is over."""
        end = self._started_at + (
            self._settings.seconds if self._settings.seconds is not None else float("inf")
        )
        lines = orders = 0
        while (remaining_s := end - time.monotonic()) > 0:
            await asyncio.sleep(min(1.0, remaining_s))
            if server.process.poll() is not None:
                raise DemoError("the server has ended:\n" + "\n".join(server.log))
            if node.failure is not None:
                return
            recent = sorted(client.delays[-5000:])
            print(
                f"{time.monotonic() - self._started_at:5.0f} s  {node.summary.lines - lines:8,} lines/s  "
                f"{client.orders - orders:8,} orders/s  delay p50 {_percentile(recent, 0.5):.2f} ms, "
                f"p99 {_percentile(recent, 0.99):.2f} ms  RSS {server.sample_rss() / 2**20:.0f} MB",
                flush=True,
            )
            for order in client.latest_orders:
                print("         {symbol:>12} {side} {size} @ {price} {status}".format(**order))
            client.latest_orders.clear()
            lines, orders = node.summary.lines, client.orders

    async def _summary(self, server: _Server, node: _Node, client: _Client, port: int) -> int:
        """Wait for the last order, then print the totals and return the exit code."""
        written, deadline = node.summary, time.monotonic() + END_TIMEOUT_S
        lines_read = orders_due = -1
        while time.monotonic() < deadline and not (
            lines_read == written.lines and client.orders == orders_due
        ):
            await asyncio.sleep(0.1)
            lines_read, orders_due = await asyncio.to_thread(_server_totals, self._settings.host, port)
        delays = sorted(client.delays)
        print(
            f"\nwritten  {written.lines:,} lines ({written.orders:,} orders) in {written.files} files, "
            f"{written.bytes / 2**20:.1f} MB, {written.seconds:.1f} s\n"
            f"read     {lines_read:,} lines\n"
            f"sent     {orders_due:,} orders (of the old channels' statuses) to one client, "
            f"{client.orders:,} got\n"
            f"delay    p50 {_percentile(delays, 0.5):.2f} ms, p99 {_percentile(delays, 0.99):.2f} ms, "
            f"most {_percentile(delays, 1.0):.2f} ms, from write to receipt, of {len(delays):,} orders\n"
            f"memory   {server.sample_rss() / 2**20:.1f} MB now, {server.peak_rss / 2**20:.1f} MB at most"
        )
        if lines_read == written.lines and client.orders == orders_due > 0:
            print("every line was read and every order arrived")
            return 0
        print("NOT every order arrived", file=sys.stderr)
        return 1


def _client_address(host: str, port: int) -> str:
    """Return host and port at which a server that listens on `host` is reachable from here."""
    here = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"[{here}]:{port}" if ":" in here else f"{here}:{port}"


def _server_totals(host: str, port: int) -> tuple[int, int]:
    """Return the lines read and the orders sent so far, from the server's metrics."""
    try:
        numbers = parse_metrics(Endpoint(f"http://{_client_address(host, port)}").get("/metrics")[1])
    except EndpointError as error:
        raise DemoError(str(error)) from None
    sent = numbers['fasttail_orders_sent_total{channel="orderUpdate"}']
    return int(numbers["fasttail_lines_total"]), int(sent)


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
