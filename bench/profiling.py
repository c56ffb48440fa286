"""Shows where the time goes: `python -m bench.profiling parse|serve`.

scripts/profile runs it on its own build. What a machine lacks (valgrind, perf, py-spy, or the right to use
them) is left out, and index.txt lists it. docs/profiling.md explains how to read the results.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import math
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from bench.__main__ import leave_checkout

    leave_checkout()

from bench import callgrind_file, delay
from bench.measure import CannotRun, machine
from bench.one_stage import HOUR
from bench.service import Service, serve
from bench.soak_node import HOURLY, hour_name
from fasttail.streams import isa
from fasttail.tools import exchange

ROOT = Path(__file__).resolve().parent.parent
HERTZ = 997
HOUR_ORDERS = 250_000  # in each file of the backlog
ORDERS_PER_S = 3_000_000  # more than one client is sent, so there is always more to read
STARTED_S = 1.0
SUBSCRIPTION = b'{"method":"subscribe","subscription":{"type":"orders","format":"ws"}}'

PARSE = "*Pool_parse_batch"
ENCODE = "*Router_route_batch"
HOT = (
    "fasttail/streams/order_status.pyx", "fasttail/streams/general.pyx", "fasttail/streams/json.pyx",
    "fasttail/streams/numbers.pyx", "fasttail/streams/intern.pyx", "fasttail/engine/pool.pyx",
    "fasttail/engine/encoders.pyx", "fasttail/engine/public_shapes.pyx", "fasttail/engine/topics.pyx",
    "fasttail/engine/router.pyx", "fasttail/sources/reader.pyx", "fasttail/engine/source.pyx",
    "fasttail/engine/pipeline.pyx", "fasttail/engine/ring.pyx",
)  # fmt: skip


@dataclass
class Output:
    """The results folder, and what index.txt says about each file in it."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def path(self, name: str, what: str) -> Path:
        self.said[name] = what
        return self.folder / name

    def text(self, name: str, what: str, content: str) -> None:
        self.path(name, what).write_text(content.rstrip() + "\n")

    def lack(self, what: str) -> None:
        print(f"left out: {what}", file=sys.stderr)
        self.missing.append(what)

    def close(self, title: str) -> None:
        for name in [name for name in self.said if not (self.folder / name).exists()]:
            self.lack(f"{name}: nothing was written")
            del self.said[name]
        width = max(map(len, self.said), default=0)
        rows = [title, ""] + [f"{name:{width}}  {what}" for name, what in self.said.items()]
        if self.missing:
            rows += ["", "left out:", *(f"  {what}" for what in self.missing)]
        rows += ["", *(f"{key}: {value}" for key, value in machine().items()), f"isa: {isa.name()}"]
        (self.folder / "index.txt").write_text("\n".join(rows) + "\n")


# ---------------------------------------------------------------- callgrind
def count(out: Output, name: str, orders: int, function: str, script: Path, *words: str) -> None:
    """Count instructions in `function`, per function and per line, into files that begin with `name`."""
    if shutil.which("valgrind") is None:
        out.lack(f"{name}-*.txt: valgrind is not installed (apt-get install valgrind)")
        return
    raw = out.path(f"{name}.callgrind", "what callgrind wrote, for callgrind_annotate and KCachegrind")
    # callgrind_file reads uncompressed names and positions.
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={raw}", "--compress-strings=no"]
    command += ["--compress-pos=no", f"--toggle-collect={function}"]
    command += [sys.executable, "-P", str(script), *words]
    done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"valgrind ended with {done.returncode}: {done.stderr[-2000:]}")
    costs = callgrind_file.read(raw)
    out.text(
        f"{name}-functions.txt",
        "instructions per order by function; inlined ones too, by their lines",
        callgrind_file.functions(costs, orders),
    )
    out.text(
        f"{name}-lines.txt",
        "instructions per order of the lines that cost most, beside their source",
        callgrind_file.lines(costs, orders),
    )
    done = subprocess.run(["callgrind_annotate", str(raw)], capture_output=True, text=True)
    out.text(
        f"{name}-annotate.txt",
        "callgrind_annotate's own list of functions as the compiler left them",
        done.stdout.partition("-- Auto-annotated source")[0],
    )


# ---------------------------------------------------------------- sampling
def perf_missing() -> str | None:
    """Return why perf cannot be used here, or None."""
    if shutil.which("perf") is None:
        return "perf is not installed (apt-get install linux-perf)"
    with tempfile.TemporaryDirectory() as folder:
        command = ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-o", f"{folder}/data", "true"]
        done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else "perf is not permitted (kernel.perf_event_paranoid)"


def py_spy() -> str | None:
    """Return the path of py-spy, next to this Python or on PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def flame(out: Output, name: str, what: str, seconds: float, *of: str) -> None:
    """Record a flame graph of a process (`--pid`) or a command (`--`)."""
    program = py_spy()
    if program is None:
        out.lack(f"{name}: py-spy is not installed (pip install py-spy)")
        return
    path = out.path(name, what)
    command = [program, "record", "--native", "--format", "flamegraph", "--rate", "200", "-o", str(path)]
    if of[0] == "--pid":
        command += ["--duration", str(math.ceil(seconds))]
    done = subprocess.run([*command, *of], capture_output=True, text=True)
    if not path.exists():
        del out.said[name]
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        out.lack(f"{name}: py-spy: {said[-1] if said else done.returncode}")


class Samples:
    """perf samples: (thread, symbol, library, system call) -> CPU seconds."""

    def __init__(self, data: Path) -> None:
        self.seconds: dict[tuple[str, str, str, str], float] = collections.defaultdict(float)
        command = ["perf", "script", "-i", str(data), "-F", "comm,ip,sym,dso"]
        text = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
        for sample in text.split("\n\n"):
            rows = sample.strip("\n").splitlines()
            frames = [match for row in rows[1:] if (match := re.match(r"\s*\w+ (.*) \(([^()]*)\)", row))]
            if not frames:
                continue
            symbol = frames[0][1].split("+")[0]
            library = "kernel" if is_kernel(frames[0][2]) else Path(frames[0][2]).name
            call = call_of([each[1].split("+")[0] for each in frames]) if library == "kernel" else ""
            self.seconds[rows[0].strip(), symbol, library, call] += 1 / HERTZ

    def stages(self) -> dict[str, float]:
        found: dict[str, float] = collections.defaultdict(float)
        for key, seconds in self.seconds.items():
            found[stage_of(*key)] += seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def functions(self) -> str:
        total = sum(self.seconds.values()) or 1.0
        rows = [f"{'share':>7}  {'thread':15}  {'library':32}  symbol (system call)"]
        for (thread, symbol, library, call), seconds in sorted(
            self.seconds.items(), key=lambda each: -each[1]
        ):
            if seconds / total >= 0.002:
                more = f" ({call})" if call else ""
                short = library.partition(".cpython")[0]
                rows.append(f"{seconds / total * 100:6.1f} %  {thread:15}  {short:32}  {symbol}{more}")
        return "\n".join(rows)


CALLS = (
    (re.compile(r"^(?:tcp_sendmsg|sock_sendmsg|sock_write_iter|__napi_poll)$"), "send"),
    (re.compile(r"^eventfd_(?:read|write)$"), "eventfd"),
    (re.compile(r"^(?:__(?:x64|arm64)_sys_|ksys_)(\w+)$"), ""),
)
LIBRARIES = (
    (r"^(router|topics|quotas|encoders|public_shapes|legacy_encoder|buffer|filters)\b", "filter and encode"),
    (r"^reader\b", "read and split"),
    (r"^(order_status_\w+|general|json|numbers|intern|pool|lines|table|registry|vocabulary)\b", "parse"),
    (r"^(spec|orders|fills)\b", "parse"),
    (r"^(pipeline|ring|watcher|histogram)\b", "pipeline's loop and ring"),
)
MAIN_LIBRARIES = (
    (r"^(pipeline|ring|topics|buffer)\b", "main: drain"),
    (r"^picows\b", "main: picows"),
    (r"^(loop)\b", "main: uvloop"),
)


def call_of(symbols: list[str]) -> str:
    """Return the system call, or what it does, from kernel frames (innermost first), or "" if none shows."""
    for pattern, name in CALLS:
        for symbol in symbols:
            if match := pattern.match(symbol):
                return name or str(match[1])
    return ""


def is_kernel(library: str) -> bool:
    return library.startswith("[kernel") or library in {"[unknown]", "[guest.kernel.kallsyms]"}


def stage_of(thread: str, symbol: str, library: str, call: str) -> str:
    """Return the stage of the data flow that a sample belongs to."""
    worker = thread.startswith("fasttail-w")
    if library == "kernel":
        if worker:
            return (
                "kernel: reading the file" if call == "pread64" else "kernel: pipeline's waiting and waking"
            )
        return "kernel: sending" if call == "send" else "kernel: main thread's waiting and waking"
    for pattern, stage in LIBRARIES if worker else MAIN_LIBRARIES:
        if re.match(pattern, library):
            return stage
    if library.startswith(("libc.", "ld-")):
        return "libc in the pipeline's thread: copies" if worker else "main: libc (copies, malloc)"
    if library == "[vdso]":
        return "clock"
    return "pipeline's Python (follower)" if worker else "main: Python and the rest"


@contextmanager
def recording(data: Path, pid: int, seconds: float) -> Iterator[None]:
    command = ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", str(HERTZ), "-o", str(data)]
    process = subprocess.Popen([*command, "-p", str(pid), "--", "sleep", str(seconds)])
    try:
        yield
    finally:
        process.wait()


def annotated(out: Output) -> None:
    """Write the C of the hot modules next to their .pyx, as annotated by Cython."""
    if importlib.util.find_spec("Cython") is None:
        out.lack("annotated/: Cython is not installed")
        return
    folder = out.path("annotated", "the C that Cython makes of each line of the hot modules (HTML)")
    folder.mkdir()
    # The same directives as in setup.py.
    said = ["boundscheck=False", "initializedcheck=False", "wraparound=False", "cdivision=True"]
    for name in HOT:
        module = name.removesuffix(".pyx").replace("/", ".")
        command = [sys.executable, "-P", "-m", "cython", "-3", "-a", "-X", ",".join(said), "-I", str(ROOT)]
        target = folder / f"{module.removeprefix('fasttail.')}.c"
        command += ["--module-name", module, "-o", str(target), name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        for path in (target, target.with_name(f"{target.stem}_api.h"), target.with_suffix(".h")):
            path.unlink(missing_ok=True)
        if done.returncode:
            out.lack(f"annotated/{target.stem}.html: {done.stderr.strip().splitlines()[-1]}")


# ---------------------------------------------------------------- parse
def profile_parse(args: argparse.Namespace, out: Output) -> None:
    with tempfile.TemporaryDirectory(prefix="fasttail-profile-") as name:
        folder = Path(name)
        small = folder / HOUR
        small.parent.mkdir(parents=True)
        small.write_bytes(exchange.generate(args.counted, "plain", args.seed))
        count(out, "parse", args.counted, PARSE, ROOT / "bench/parse_once.py", str(small))
        child = ROOT / "bench/one_stage.py"
        count(out, "encode-ws", args.counted, ENCODE, child, "encode", "ws", name)

        large = folder / "large.jsonl"
        large.write_bytes(exchange.generate(args.orders, "plain", args.seed))
        times = max(1, round(args.seconds * 4e6 / args.orders))
        command = [sys.executable, "-P", "-m", "fasttail", "parse", *[str(large)] * times]
        command += ["--format", "none", "--workers", "1"]
        what = f"flame graph of fasttail parse, {times} × {args.orders} orders"
        flame(out, "parse.svg", what, 0, "--", *command)
        if (reason := perf_missing()) is not None:
            out.lack(f"parse-perf.txt: {reason}")
        else:
            data = folder / "perf"
            record = ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", str(HERTZ), "-o", str(data)]
            subprocess.run([*record, "--", *command], check=True, stdout=subprocess.DEVNULL)
            out.text("parse-perf.txt", "where perf saw that process, by function", Samples(data).functions())
    annotated(out)


# ---------------------------------------------------------------- serve
def _client(port: int, ready: Any, total: Any) -> None:
    """Count bytes and answer nothing, the least work that a client can do."""
    import asyncio

    import uvloop
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    class Client(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            total.value += frame.payload_size
            ready.set()

    async def main() -> None:
        url = f"ws://127.0.0.1:{port}/ws"
        transport, _ = await ws_connect(Client, url, max_frame_size=1 << 26)
        transport.send(WSMsgType.TEXT, SUBSCRIPTION)
        await asyncio.sleep(3600)

    uvloop.run(main())


@dataclass(frozen=True)
class Used:
    """What a server did while it was watched. threads: name -> (user seconds, kernel seconds)."""

    seconds: float
    lines: int
    batches: int
    sent: int
    threads: dict[str, tuple[float, float]]


def _threads(pid: int) -> dict[str, tuple[float, float]]:
    ticks = os.sysconf("SC_CLK_TCK")
    found: dict[str, tuple[float, float]] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        user, system = (int(word) / ticks for word in rest.split()[11:13])
        before = found.get(name, (0.0, 0.0))
        found[name] = before[0] + user, before[1] + system
    return found


def _counters(server: Service) -> list[int]:
    """Return the lines and batches so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found = [re.search(rf"^fasttail_{name}_total (\S+)", text, re.MULTILINE) for name in ("lines", "batches")]
    return [int(float(each[1])) for each in found if each is not None]


def _served(args: argparse.Namespace, data: bytes, watch: Callable[[int], None]) -> Used:
    """Run a server with a client and a node that writes, or has written, and call `watch` for `seconds`."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="fasttail-profile-") as name:
        base, ready = Path(name, "data"), Path(name, "ready")
        hours = base / HOURLY
        node = None
        if args.mode == "catch-up":
            one = Path(name, "one")
            one.write_bytes(data)
            two = Path(name, "two")  # the same file under the next name would count as a rename
            two.write_bytes(data)
            for hour in range(math.ceil(args.seconds * ORDERS_PER_S / HOUR_ORDERS) + 2):
                path = ready / hour_name(hour)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link((one, two)[hour % 2], path)
            hours.parent.mkdir(parents=True)
        else:
            lines = data.splitlines(keepends=True)
            path = hours / hour_name(0)
            path.parent.mkdir(parents=True)
            path.touch()
            times, behind = multiprocessing.RawArray("q", len(lines)), multiprocessing.RawValue("d", 0.0)
            node = context.Process(
                target=delay.write_lines, args=(str(path), lines, args.rate, times, behind)
            )
        options = ["--workers", str(args.workers), "--client-queue", "256M", *shlex.split(args.server)]
        with serve(base, *options) as server:
            subscribed, total = context.Event(), context.RawValue("Q", 0)
            client = context.Process(target=_client, args=(server.port, subscribed, total))
            client.start()
            try:
                if not subscribed.wait(30):
                    raise CannotRun("the client was not answered")
                if node is not None:
                    node.start()
                    time.sleep(STARTED_S)
                else:
                    ready.rename(hours)
                    time.sleep(min(STARTED_S, args.seconds / 10))
                pid = server.pid
                (lines_before, batches_before), sent = _counters(server), total.value
                before, at = _threads(pid), time.monotonic()
                watch(pid)
                after, seconds = _threads(pid), time.monotonic() - at
                lines_after, batches_after = _counters(server)
                sent = total.value - sent
            finally:
                for process in (client, node):
                    if process is not None and process.is_alive():
                        process.terminate()
                        process.join()
    used = {
        name: (user - before.get(name, (0.0, 0.0))[0], system - before.get(name, (0.0, 0.0))[1])
        for name, (user, system) in after.items()
    }
    read, batches = lines_after - lines_before, batches_after - batches_before
    return Used(
        seconds, read, batches, sent, {key: value for key, value in used.items() if sum(value) >= 0.005}
    )


def _usage(used: Used) -> str:
    rows = [
        f"{used.lines:,} lines in {used.seconds:.2f} s ({used.lines / used.seconds:,.0f}/s), "
        f"{used.batches:,} batches ({used.batches / used.seconds:,.0f}/s), "
        f"{used.sent / 1e6:,.1f} MB to the client",
        "",
        f"{'thread':16}  {'user s':>8}  {'kernel s':>8}  {'ns an order':>11}",
    ]
    for name, (user, system) in sorted(used.threads.items(), key=lambda item: -sum(item[1])):
        each = (user + system) / max(1, used.lines) * 1e9
        rows.append(f"{name:16}  {user:8.2f}  {system:8.2f}  {each:11.0f}")
    return "\n".join(rows)


def _stages(samples: Samples, used: Used) -> str:
    stages = samples.stages()
    total = sum(stages.values()) or 1.0
    # perf's shares of the kernel's CPU account, which also covers the start and end of perf itself.
    spent = sum(map(sum, used.threads.values()))
    rows = [f"{'share':>7}  {'ns an order':>11}  {'cores':>6}  stage"]
    for stage, seconds in stages.items():
        share = seconds / total
        each, cores = share * spent / max(1, used.lines) * 1e9, share * spent / used.seconds
        rows.append(f"{share * 100:6.1f} %  {each:11.0f}  {cores:6.3f}  {stage}")
    each, rate = spent / max(1, used.lines) * 1e9, used.lines / used.seconds
    rows.append(f"{100:6.1f} %  {each:11.0f}  {spent / used.seconds:6.3f}  all, {rate:,.0f} lines/s")
    return "\n".join(rows)


def profile_serve(args: argparse.Namespace, out: Output) -> None:
    orders = HOUR_ORDERS if args.mode == "catch-up" else int(args.rate * (args.seconds + STARTED_S + 2))
    orders = min(orders, args.orders) if args.mode == "catch-up" else orders
    data = exchange.generate(orders, "streaming", args.seed)
    if (reason := perf_missing()) is not None:
        out.lack(f"serve-stages.txt, serve-perf.txt: {reason}")
        used = _served(args, data, lambda pid: time.sleep(args.seconds))
    else:
        with tempfile.TemporaryDirectory(prefix="fasttail-profile-") as name:
            file = Path(name, "perf")

            def watch(pid: int) -> None:
                with recording(file, pid, args.seconds):
                    pass

            used = _served(args, data, watch)
            samples = Samples(file)
        stages = _stages(samples, used)
        out.text("serve-stages.txt", "the server's time on processors by stage (perf)", stages)
        out.text("serve-perf.txt", "the same by function", samples.functions())
    out.text("serve-threads.txt", "what each of its threads used, by the kernel's account", _usage(used))
    if py_spy() is None:
        out.lack("serve.svg: py-spy is not installed (pip install py-spy)")
        return

    def look(pid: int) -> None:
        what = "flame graph of the server; from a run of its own: py-spy stops it for each sample"
        flame(out, "serve.svg", what, args.seconds, "--pid", str(pid))

    _served(args, data, look)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/profile", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("what", choices=("parse", "serve"))
    parser.add_argument("--seconds", type=float, default=10.0, help="of sampling")
    parser.add_argument("--seed", type=int, default=1, help="seed of the orders")
    parser.add_argument("--orders", type=int, default=HOUR_ORDERS, help="in each file that is sampled")
    parser.add_argument("--counted", type=int, default=20_000, help="parse: orders under callgrind")
    parser.add_argument(
        "--mode", choices=("live", "catch-up"), default="live", help="serve: what the node does"
    )
    parser.add_argument("--rate", type=float, default=23_500, help="serve, live: lines a second")
    parser.add_argument("--workers", type=int, default=1, help="serve: workers")
    parser.add_argument("--server", default="", help="serve: more options of fasttail serve, as one text")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "bench" / "results", help="folder for the results"
    )
    args = parser.parse_args()
    folder = args.results / f"profile-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    while folder.exists():
        folder = folder.with_name(folder.name + "x")
    folder.mkdir(parents=True)
    out = Output(folder)
    words = " ".join(sys.argv[1:])
    try:
        (profile_parse if args.what == "parse" else profile_serve)(args, out)
    except CannotRun as error:
        out.lack(str(error))
        out.close(f"scripts/profile {words}")
        return 2
    out.close(f"scripts/profile {words}")
    for name in ("parse-functions.txt", "serve-stages.txt", "serve-threads.txt"):
        if name in out.said:
            print((folder / name).read_text())
    print(f"written to {folder}, see index.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
