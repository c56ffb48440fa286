"""Runs a long test: a node with bursts and short hours, a real server, and clients on /ws and an old channel.

Two of the clients on /ws read slower than the node writes: one replays from the files until unread files are
deleted, the other gets gaps. One connects, disconnects and resumes by its cursor; the others keep up. The run
ends with a verdict, and with exit code 1 if it is bad. A good run means:

* every order written was read, and each client received it or saw it in a gap; the client that comes and goes
  got all of them, in order, byte for byte
* memory did not grow: Theil-Sen slope after a warm-up, with its 95 % interval, of RSS, of what malloc has
  allocated and of Python's blocks (in runs of at least ten minutes)
* as many open files and threads at the end as after the warm-up
* no error in the log

It also reports the delays from the write of a line to its receipt by clients that keep up.
"""

from __future__ import annotations

import argparse
import bisect
import math
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from bench import soak_clients, soak_node
from bench.measure import Benchmark, WrongAnswer, load_text, machine, write_json
from bench.service import FILE_CURSORS, read_metrics
from bench.soak_clients import Account
from bench.soak_node import Plan, Written

WARM_UP = 0.2
"""Share of the run excluded from the verdicts on memory, files and threads (at most WARM_UP_S)."""
WARM_UP_S = 300.0
LEAST_S = 600.0
"""Shorter runs say nothing about memory, which has not levelled off."""
SETTLED_S = 1800.0
"""In a shorter run, RSS alone cannot distinguish a heap that has not levelled off from a leak."""
STRETCH_S = 60.0
"""The minimum of each stretch is closest to what is really kept. At least a burst period and an hour long."""
GROWTH = 0.02
"""Growth over the rest of the run below this share of the memory counts as none."""
UNSETTLED = 0.1
"""The same for RSS in runs shorter than SETTLED_S."""
CATCH_UP_S = 120.0
"""Time for clients to receive the rest after the node has ended."""
TROUBLE = re.compile(r" (WARNING|ERROR) |❌|⏰|🚨")
POINTS = 400
"""Points on each line of the plot."""


@dataclass(frozen=True)
class Sample:
    """The server at one moment.

    at: seconds into the run. cpu: seconds since its start. rss, queued (for clients), used and free (by
    malloc; 0 if libc does not report it): bytes. blocks: Python's small blocks.
    """

    at: float
    rss: int
    fds: int
    threads: int
    cpu: float
    lines: int
    written: int
    queued: int
    used: int = 0
    free: int = 0
    blocks: int = 0


@dataclass(frozen=True)
class Slope:
    """Bytes or blocks per hour, with the 95 % interval."""

    per_hour: float
    low: float
    high: float

    def text(self, unit: str = "MB", size: int = 2**20) -> str:
        low, high = self.low / size, self.high / size
        return f"{self.per_hour / size:+.2f} {unit}/h (95 %: {low:+.2f} to {high:+.2f})"


@dataclass(frozen=True)
class Growth:
    """How a size developed after the warm-up.

    level: median of the stretches' minimums. grows: both the whole and the later half grow by more than
    `allowed`, because a heap that levels off rises by ever rarer steps, while a leak continues.
    """

    slope: Slope
    later: Slope
    level: float
    grows: bool

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]], stretch_s: float, allowed: float = GROWTH) -> Growth:
        """points: (seconds, size). allowed: tolerated growth, as a share of the size."""
        stretches: dict[int, list[tuple[float, float]]] = {}
        for at, size in points:
            stretches.setdefault(int((at - points[0][0]) / stretch_s), []).append((at, size))
        # The last stretch may be short, and its minimum too high.
        whole = list(stretches.values())[: max(1, int((points[-1][0] - points[0][0]) / stretch_s))]
        least = [(part[0][0], min(size for _, size in part)) for part in whole]
        slope, later = theil_sen(least), theil_sen(least[len(least) // 2 :])
        level = statistics.median(size for _, size in least)
        hours = (points[-1][0] - points[0][0]) / 3600
        grows = all(each.low > 0 and each.per_hour * hours > allowed * level for each in (slope, later))
        return cls(slope, later, level, grows)


def theil_sen(points: Sequence[tuple[float, float]]) -> Slope:
    """Return the median slope of all pairs, with the interval by Kendall's variance.

    points: (seconds, bytes).
    """
    slopes = sorted(
        (y - v) / (x - u) * 3600 for i, (x, y) in enumerate(points) for u, v in points[:i] if x != u
    )
    if not slopes:
        return Slope(0.0, -math.inf, math.inf)
    n = len(points)
    half = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18) / 2
    middle = len(slopes) / 2
    low, high = max(0, int(middle - half)), min(len(slopes) - 1, math.ceil(middle + half))
    return Slope(statistics.median(slopes), slopes[low], slopes[high])


def parts(delays: list[float]) -> dict[str, float]:
    """Return percentiles. Sorts the list."""
    delays.sort()
    if not delays:
        return {}
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    found = {name: delays[int(len(delays) * share)] for name, share in shares.items()}
    return {**found, "most": delays[-1]}


class Server:
    """`fasttail serve` as a process, with the lines of its log that report trouble."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-P", "-m", "fasttail", "serve", str(folder), "--port", "0", *FILE_CURSORS]
        command += options
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )
        self.port = 0
        self.trouble: list[str] = []
        self.last: deque[str] = deque(maxlen=20)
        self._status = psutil.Process(self.process.pid)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self.port:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise WrongAnswer("fasttail serve did not start:\n" + "\n".join(self.last))
            time.sleep(0.02)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.last.append(line.rstrip())
            if (found := re.search(r" http and ws on \S*:(\d+),", line)) is not None:
                self.port = int(found[1])
            if TROUBLE.search(line) and len(self.trouble) < 20:
                self.trouble.append(line.rstrip())

    def metrics(self) -> dict[str, float]:
        return read_metrics(self.port)

    def sample(self, at: float, written: int) -> Sample:
        if self.process.poll() is not None:
            raise WrongAnswer("the server has ended:\n" + "\n".join(self.last))
        with self._status.oneshot():
            rss, times = self._status.memory_info().rss, self._status.cpu_times()
            fds, threads = self._status.num_fds(), self._status.num_threads()
        metrics = self.metrics()
        lines, queued = metrics["fasttail_lines_total"], metrics["fasttail_client_queued_bytes"]
        used, free, blocks = (
            int(metrics.get(f"fasttail_{name}", 0))
            for name in ("malloc_used_bytes", "malloc_free_bytes", "python_blocks")
        )
        cpu = times.user + times.system
        return Sample(at, rss, fds, threads, cpu, int(lines), written, int(queued), used, free, blocks)

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join(timeout=5)


class Crowd:
    """The clients' processes. counts: orders that each has so far, shared with it."""

    def __init__(self, port: int) -> None:
        self.names: list[str] = []
        self.counts: list[Any] = []
        self._port = port
        self._ended = multiprocessing.RawValue("b", 0)
        self.hurry = multiprocessing.RawValue("b", 0)
        self._pipes: list[Connection] = []
        self._running: list[Any] = []

    def add(self, name: str, what: Callable[..., Any], **more: Any) -> None:
        ours, theirs = multiprocessing.Pipe()
        count = multiprocessing.RawValue("q", 0)
        process = multiprocessing.get_context("fork").Process(
            target=soak_clients.run,
            args=(what, self._port, name, count, self._ended, theirs),
            kwargs=more,
            daemon=True,
        )
        process.start()
        self.names.append(name)
        self.counts.append(count)
        self._pipes.append(ours)
        self._running.append(process)
        if not ours.poll(30):
            raise WrongAnswer(f"{name} did not connect")
        ours.recv()

    def take(self) -> list[Account]:
        """End all clients and return what each got."""
        self._ended.value = 1
        accounts = []
        for name, pipe in zip(self.names, self._pipes, strict=True):
            if not pipe.poll(60):
                raise WrongAnswer(f"{name} does not end")
            account = pipe.recv()
            assert isinstance(account, Account)
            accounts.append(account)
        return accounts

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.join()


@dataclass(frozen=True)
class Soak:
    """One run. Delays in milliseconds, memory in bytes."""

    seconds: float
    failures: list[str]
    orders: int
    old_orders: int
    bytes: int
    files: int
    fastest_burst: float
    node_behind_s: float
    clients: list[dict[str, Any]]
    rss_begin: float
    rss_end: float
    rss_most: int
    slope: Slope
    later_slope: Slope  # of the later half
    malloc: Growth  # allocated bytes
    blocks: Growth  # Python's small blocks
    fds: tuple[float, float]
    threads: tuple[float, float]
    cpu: float
    delays: dict[str, float]  # of all orders
    calm_delays: dict[str, float]  # of orders written outside bursts
    lag: list[tuple[float, float, float]]  # per second: at, median, maximum
    samples: list[Sample]
    trouble: list[str]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine)

    def table(self) -> str:
        verdict = "GOOD" if not self.failures else "BAD: " + "; ".join(self.failures)
        rows = [
            f"soak: {self.seconds:.0f} s, {self.orders:,} orders, {self.bytes / 1e9:.1f} GB in {self.files} "
            f"hours; quickest burst {self.fastest_burst:,.0f} lines/s",
            f"{'client':12} {'orders':>12} {'in gaps':>12} {'gaps':>6} {'replays':>7} {'conn.':>6}  missing",
        ]
        for each in self.clients:
            rows.append(
                f"{each['name']:12} {each['orders']:12,} {each['gap_orders']:12,} {each['gaps']:6,} "
                f"{each['replays']:7,} {each['connections']:6}  {each['missing']}"
            )
        rows += [
            f"memory   RSS {self.rss_begin / 2**20:.1f} MB after the warm-up, {self.rss_end / 2**20:.1f} MB "
            f"at the end, {self.rss_most / 2**20:.1f} MB at most; slope {self.slope.text()}, "
            f"of the later half {self.later_slope.text()}",
            f"malloc   {self.malloc.level / 2**20:.1f} MB given out, less what waits for clients; "
            f"slope {self.malloc.slope.text()}",
            f"python   {self.blocks.level / 1000:.1f} thousand blocks; "
            f"slope {self.blocks.slope.text('thousand', 1000)}",
            f"files    {self.fds[0]:g} open after the warm-up, {self.fds[1]:g} at the end; "
            f"threads {self.threads[0]:g}, {self.threads[1]:g}; {self.cpu:.2f} cores",
            "delay    " + _delay_text(self.delays),
            "  calm   " + _delay_text(self.calm_delays),
            load_text(),
            f"verdict  {verdict}",
        ]
        return "\n".join(rows)

    def write(self, folder: Path) -> Path:
        path = write_json("soak", asdict(self), folder)
        plot(self, path.with_suffix(".svg"))
        if self.failures:
            raise WrongAnswer("; ".join(self.failures))
        return path


def _delay_text(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} ms" for name, value in found.items()) or "none measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=60.0, help="how long")
    parser.add_argument("--rate", type=float, default=23_500, help="lines a second")
    parser.add_argument("--burst-rate", type=float, default=300_000, help="lines a second in a burst")
    parser.add_argument("--burst-every", type=float, default=45.0, help="seconds; 0: no bursts")
    parser.add_argument("--burst-seconds", type=float, default=1.0, help="how long a burst lasts")
    parser.add_argument("--hour-seconds", type=float, default=60.0, help="how long an hour lasts")
    parser.add_argument("--clients", type=int, default=10, help="on /ws: 2 slow, 1 that comes and goes")
    parser.add_argument("--slow", type=float, default=2e6, help="bytes a second that a slow one reads")
    parser.add_argument("--stay", type=float, default=20.0, help="seconds the one that comes and goes stays")
    parser.add_argument("--away", type=float, default=10.0, help="seconds that it is away, at most")
    parser.add_argument("--workers", type=int, default=1, help="workers of the server")
    parser.add_argument("--seed", type=int, default=1, help="seed of the orders")
    parser.add_argument("--folder", type=Path, help="where the node writes (default: the temporary folder)")


def run(args: argparse.Namespace) -> Soak:
    with tempfile.TemporaryDirectory(prefix="fasttail-soak-", dir=args.folder) as folder:
        plan = Plan(
            folder, args.minutes * 60, args.rate, args.burst_rate, args.burst_every, args.burst_seconds,
            args.hour_seconds, args.seed,
        )  # fmt: skip
        state = ("--state-dir", str(Path(folder, "state")), "--from", "oldest")
        server = Server(Path(folder), "--workers", str(args.workers), *state)
        crowd = Crowd(server.port)
        stop = multiprocessing.RawValue("b", 0)
        total = multiprocessing.RawValue("q", 0)
        ours, theirs = multiprocessing.Pipe()
        node = multiprocessing.get_context("fork").Process(
            target=soak_node.write, args=(plan, stop, total, theirs), daemon=True
        )
        try:
            for index in range(args.clients - 3):
                crowd.add(f"quick {index}", soak_clients.stay)
            for index, on_slow in enumerate(("replay", "gap")):
                crowd.add(
                    f"slow {index}", soak_clients.stay, bytes_per_s=args.slow, hurry=crowd.hurry,
                    on_slow=on_slow,
                )  # fmt: skip
            # All connect before the first order, so they can be checked against the node's own count.
            crowd.add(
                "comes, goes", soak_clients.come_and_go, hurry=crowd.hurry, seed=args.seed,
                stay_s=args.stay, away_s=args.away,
            )  # fmt: skip
            crowd.add("old channel", soak_clients.listen_old)
            begin = time.monotonic()
            node.start()
            samples: list[Sample] = []
            while not ours.poll(max(0.0, begin + len(samples) + 1 - time.monotonic())):
                if not node.is_alive():
                    raise WrongAnswer("the node has ended")
                samples.append(server.sample(time.monotonic() - begin, total.value))
            written = ours.recv()
            assert isinstance(written, Written)
            seconds = time.monotonic() - begin
            crowd.hurry.value = 1
            _wait_for_the_last(crowd, server, written)
            metrics = server.metrics()
            accounts = crowd.take()
        finally:
            stop.value = 1
            crowd.stop()
            if node.is_alive():
                node.kill()
            server.end()
    return judge(args, plan, seconds, begin, written, accounts, samples, metrics, server.trouble)


def _wait_for_the_last(crowd: Crowd, server: Server, written: Written) -> None:
    """Wait until all clients have everything, or CATCH_UP_S has passed."""
    deadline = time.monotonic() + CATCH_UP_S
    while time.monotonic() < deadline:
        due = [count.value >= written.orders for count in crowd.counts[:-1]]
        sent = server.metrics().get('fasttail_orders_sent_total{channel="orderUpdate"}')
        if all(due) and crowd.counts[-1].value == sent:
            return
        time.sleep(0.2)


def judge(
    args: argparse.Namespace,
    plan: Plan,
    seconds: float,
    begin: float,
    written: Written,
    accounts: list[Account],
    samples: list[Sample],
    metrics: dict[str, float],
    trouble: list[str],
) -> Soak:
    failures = []
    if metrics["fasttail_lines_total"] != written.orders:
        failures.append(f"{metrics['fasttail_lines_total']:,.0f} lines read of {written.orders:,}")
    clients = []
    for account in accounts:
        due = written.orders
        if account.name == "old channel":
            # Once closed for being too slow, it misses what comes until it is back; the old channel reports
            # no gaps.
            due = written.old_orders if not account.closed else account.orders
            if account.orders > written.old_orders:
                failures.append(f"{account.name}: more orders than there were")
        missing = due - account.orders
        if account.name.startswith(("quick", "slow")):
            missing -= account.gap_orders
        if account.name == "comes, goes" and account.crcs != written.crcs:
            wrong = [hour for hour, crc in written.crcs.items() if account.crcs.get(hour) != crc]
            failures.append(f"{account.name}: other bytes than the node's in the hours {wrong}")
        if missing and not account.lost:
            failures.append(f"{account.name}: {missing:,} orders neither received nor in a gap")
        failures += [f"{account.name}: {fault}" for fault in account.faults]
        clients.append(
            {
                "name": account.name, "orders": account.orders, "messages": account.messages,
                "gaps": account.gaps, "gap_orders": account.gap_orders, "connections": account.connections,
                "closed": account.closed, "replays": account.replays, "missing": missing,
            }
        )  # fmt: skip
    if trouble:
        failures.append(f"in the log: {trouble[0]}")

    warm_up = min(seconds * WARM_UP, WARM_UP_S)
    warm = [each for each in samples if each.at >= warm_up]
    third = max(1, len(warm) // 3)
    stretch_s = max(STRETCH_S, plan.hour_seconds, plan.burst_every_s)
    allowed = GROWTH if seconds >= SETTLED_S else UNSETTLED
    rss = Growth.of([(each.at, each.rss) for each in warm], stretch_s, allowed)
    # What is queued for slow clients is not kept, and varies by 4 MB.
    malloc = Growth.of([(each.at, each.used - each.queued) for each in warm], stretch_s)
    blocks = Growth.of([(each.at, each.blocks) for each in warm], stretch_s)
    if seconds >= LEAST_S:
        if rss.grows:
            failures.append(f"memory grew: {rss.slope.text()}")
        if malloc.grows:
            failures.append(f"what malloc has given out grew: {malloc.slope.text()}")
        if blocks.grows:
            failures.append(f"Python's blocks grew: {blocks.slope.text('thousand', 1000)}")
    # Medians, because the client that comes and goes, and its replays, change both numbers.
    first, last = warm[:third], warm[-third:]
    fds = (statistics.median(each.fds for each in first), statistics.median(each.fds for each in last))
    threads = (
        statistics.median(each.threads for each in first),
        statistics.median(each.threads for each in last),
    )
    if abs(fds[1] - fds[0]) > 1:
        failures.append(f"open files: {fds[0]:g}, then {fds[1]:g}")
    if abs(threads[1] - threads[0]) > 1:
        failures.append(f"threads: {threads[0]:g}, then {threads[1]:g}")

    quick = [account for account in accounts if account.name.startswith("quick")]
    delays = [each for account in quick for each in _delays(account, written, begin)]
    by_second: dict[int, list[float]] = {}
    for at, delay, _ in delays:
        by_second.setdefault(int(at), []).append(delay)
    return Soak(
        seconds=seconds,
        failures=failures,
        orders=written.orders,
        old_orders=written.old_orders,
        bytes=written.bytes,
        files=written.files,
        fastest_burst=written.fastest,
        node_behind_s=written.behind_s,
        clients=clients,
        rss_begin=statistics.median(each.rss for each in first),
        rss_end=statistics.median(each.rss for each in last),
        rss_most=max(each.rss for each in samples),
        slope=rss.slope,
        later_slope=rss.later,
        malloc=malloc,
        blocks=blocks,
        fds=fds,
        threads=threads,
        cpu=(samples[-1].cpu - samples[0].cpu) / (samples[-1].at - samples[0].at),
        delays=parts([delay for _, delay, _ in delays]),
        # Backlog from a burst is still being processed for three seconds afterwards.
        calm_delays=parts(
            [delay for _, delay, at in delays if all(plan.pace(at - x / 2) == plan.rate for x in range(7))]
        ),
        lag=[(at, statistics.median(some), max(some)) for at, some in sorted(by_second.items())],
        samples=samples,
        trouble=trouble,
        settings={key: str(value) for key, value in vars(args).items()},
    )


def _medians(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Reduce to at most `most` points by medians of neighbours."""
    size = math.ceil(len(points) / most)
    runs = [points[at : at + size] for at in range(0, len(points), size)]
    return [(statistics.median(x for x, _ in part), statistics.median(y for _, y in part)) for part in runs]


def _delays(account: Account, written: Written, begin: float) -> list[tuple[float, float, float]]:
    """Return per sampled message: second of receipt, delay of its last line in ms, second of the write."""
    starts: dict[int, int] = {}
    for place, hour in enumerate(written.hours):
        starts.setdefault(hour, place)
    found = []
    for hour, offset, at in zip(account.seen_hours, account.seen_offsets, account.seen_times, strict=True):
        piece = bisect.bisect_right(
            written.ends, offset, starts[hour], starts.get(hour + 1, len(written.ends))
        )
        wrote = written.times[piece]
        found.append((at / 1e9 - begin, (at - wrote) / 1e6, wrote / 1e9 - begin))
    return found


def plot(soak: Soak, path: Path) -> None:
    """Plot memory and delay over time as SVG; do nothing without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ModuleNotFoundError:
        print("no plot: matplotlib is not installed (pip install '.[bench]')", file=sys.stderr)
        return
    matplotlib.rcParams["svg.hashsalt"] = "soak"  # the same input gives the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text instead of paths: half the size
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 5), layout="constrained")
    memory = _medians([(each.at / 60, each.rss / 2**20) for each in soak.samples], POINTS)
    above.plot(*zip(*memory, strict=True), linewidth=1, label="RSS")
    queued = _medians([(each.at / 60, each.queued / 2**20) for each in soak.samples], POINTS)
    above.plot(*zip(*queued, strict=True), linewidth=0.6, label="waits for clients")
    above.set_ylabel("MB")
    above.set_ylim(bottom=0)
    above.legend(loc="lower right")
    lag = soak.lag or [(0.0, math.nan, math.nan)]  # empty if no client keeps up
    middle = _medians([(at / 60, value) for at, value, _ in lag], POINTS)
    size = math.ceil(len(lag) / POINTS)
    most = [(part[0][0] / 60, max(value for *_, value in part)) for part in
            (lag[at : at + size] for at in range(0, len(lag), size))]  # fmt: skip
    below.plot(*zip(*most, strict=True), linewidth=0.6, label="most")
    below.plot(*zip(*middle, strict=True), linewidth=1, label="median of a second")
    below.set_yscale("log")
    below.set_ylabel("write to receipt, ms")
    below.set_xlabel("minutes")
    below.legend(loc="upper right")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


BENCHMARK = Benchmark("soak", "a long run with bursts and slow clients: a verdict", add_arguments, run)
