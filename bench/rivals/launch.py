"""Defines the rivals (command and requirements) and starts one of them."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from bench.measure import WrongAnswer
from bench.rivals.material import SYMBOLS
from bench.service import Usage

DATE = "20260602"
HOURS = ("8", "9", "10")
HERE = Path(__file__).resolve().parent
SETTLE_S = 0.7
"""For rivals that do not report when they watch. All of them read what was written before."""
START_S = 30.0


@dataclass(frozen=True)
class Place:
    """data: the node's folder. symbols: the filter. scratch: for a rival's own files. sink: a TCP port."""

    data: Path
    symbols: Path
    scratch: Path
    sink: int = 0

    @property
    def hourly(self) -> Path:
        return self.data / "node_order_statuses_streaming" / "hourly"

    def hour(self, name: str) -> Path:
        return self.hourly / DATE / name

    @classmethod
    def make(cls, folder: Path) -> Place:
        """Create a place with an empty first hour."""
        place = cls(folder / "data", folder / "symbols.json", folder / "scratch")
        place.scratch.mkdir()
        place.symbols.write_text(json.dumps({"symbols_config": SYMBOLS}))
        first = place.hour(HOURS[0])
        first.parent.mkdir(parents=True)
        first.touch()
        return place


@dataclass(frozen=True)
class Rival:
    """delivers: "orders" over WebSocket; "lines" or "events" to standard output, or over TCP to a `sink`.

    needs: required packages. program: required on PATH. sound: any loss fails the run.
    """

    name: str
    delivers: str
    command: Callable[[Place], list[str]]
    needs: tuple[str, ...] = ()
    program: str = ""
    sink: bool = False
    sound: bool = False

    def missing(self) -> str:
        """Return what it needs and is missing, or ""."""
        for package in self.needs:
            try:
                version(package)
            except PackageNotFoundError:
                return f"{package} is not installed"
        if self.program and find(self.program) is None:
            return f"{self.program} is not installed"
        return ""

    def versions(self) -> str:
        """Return the versions of its packages and program."""
        texts = [f"{package} {version(package)}" for package in self.needs]
        if self.program:
            option = "-v" if self.program == "rsyslogd" else "--version"
            result = subprocess.run([find(self.program) or "", option], capture_output=True, text=True)
            texts += result.stdout.splitlines()[:1]
        return ", ".join(texts)


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _python(*args: str) -> list[str]:
    return [sys.executable, "-P", *args]


def _serve(place: Place) -> list[str]:
    command = _python("-m", "fasttail", "serve", str(place.data), "--port", "0")
    return [*command, "--config", str(place.symbols), "--client-queue", "1G"]


def _tail_command(place: Place) -> list[str]:
    return _python("-m", "fasttail", "tail", str(place.data), "--format", "raw", "--from", "oldest")


def _legacy_service(place: Place) -> list[str]:
    return _python(str(HERE / "legacy_service.py"), str(place.hourly), "--symbols", str(place.symbols))


def _mended(place: Place) -> list[str]:
    return [*_legacy_service(place), "--mended"]


def _plain_asyncio(place: Place) -> list[str]:
    return _python(str(HERE / "plain_asyncio.py"), str(place.hourly), "--symbols", str(place.symbols))


def _coreutils_tail(place: Place) -> list[str]:
    """tail takes no pattern, so its users name the coming hours."""
    return ["tail", "-q", "-n", "+1", "-F", *(str(place.hour(name)) for name in HOURS)]


def _rsyslog(place: Place) -> list[str]:
    """Run rsyslog with its defaults, except for what forwards the lines unchanged."""
    path = place.scratch / "rsyslog.conf"
    path.write_text(
        f'global(workDirectory="{place.scratch}" maxMessageSize="64k")\n'
        'module(load="imfile" mode="inotify")\n'
        'template(name="line" type="string" string="%msg%\\n")\n'
        f'input(type="imfile" file="{place.hourly}/{DATE}/*" tag="node" ruleset="on")\n'
        'ruleset(name="on") { action(type="omfwd" target="127.0.0.1" protocol="tcp" '
        f'port="{place.sink}" template="line") }}\n'
    )
    return [find("rsyslogd") or "rsyslogd", "-n", "-i", str(place.scratch / "pid"), "-f", str(path)]


OLD_NEEDS = ("watchdog", "pydantic", "fastapi", "uvicorn", "websockets")
RIVALS = (
    Rival("fasttail serve", "orders", _serve, ("fasttail",), sound=True),
    Rival("old way", "orders", _legacy_service, OLD_NEEDS),
    Rival("old way mended", "orders", _mended, OLD_NEEDS),
    Rival("plain asyncio", "orders", _plain_asyncio, ("orjson", "websockets")),
    Rival("fasttail tail", "events", _tail_command, ("fasttail",), sound=True),
    Rival("rsyslog imfile", "lines", _rsyslog, program="rsyslogd", sink=True),
    Rival("tail -F", "lines", _coreutils_tail, program="tail"),
)


class Running:
    """A started rival. source: see `collecting`."""

    def __init__(self, process: subprocess.Popen[bytes], source: int | socket.socket) -> None:
        self.source = source
        self._process = psutil.Process(process.pid)

    def usage(self) -> Usage:
        """Return its usage, including child processes."""
        cpu, rss = 0.0, 0
        for each in [self._process, *self._process.children(recursive=True)]:
            times = each.cpu_times()
            cpu += times.user + times.system
            rss += each.memory_info().rss
        return Usage(cpu, rss, time.monotonic())


@contextmanager
def started(rival: Rival, folder: Path) -> Iterator[tuple[Place, Running]]:
    """Run a rival on a node folder of its own; enter the block once it watches."""
    place = Place.make(folder)
    listener = None
    if rival.sink:
        listener = socket.create_server(("127.0.0.1", 0))
        place = Place(place.data, place.symbols, place.scratch, listener.getsockname()[1])
    process = subprocess.Popen(
        rival.command(place),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(place.scratch / "stderr").open("wb"),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        if rival.delivers == "orders":
            yield place, Running(process, _port(rival, process, place))
        else:
            time.sleep(SETTLE_S)
            if process.poll() is not None:
                raise WrongAnswer(f"{rival.name} did not start: {_words(place)}")
            yield place, Running(process, listener or process.stdout.fileno())
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if listener is not None:
            listener.close()


def _port(rival: Rival, process: subprocess.Popen[bytes], place: Place) -> int:
    """Return the port it announces. Everything it prints afterwards is discarded."""
    assert process.stdout is not None
    text = b""
    deadline = time.monotonic() + START_S
    while (match := re.search(rb"(?: ws on \S*:|listening on port )(\d+)[,\n]", text)) is None:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready or not (data := os.read(process.stdout.fileno(), 4096)):
            raise WrongAnswer(f"{rival.name} did not start: {_words(place)}")
        text += data
    threading.Thread(target=process.stdout.read, daemon=True).start()
    return int(match[1])


def _words(place: Place) -> str:
    return (place.scratch / "stderr").read_text(errors="replace")[-800:]
