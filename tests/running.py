"""Runs a real `fasttail serve` in a process and a real client, and locates node files and commands."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

PATIENCE_S = 120.0
"""How long tests wait for what must happen; only a failing test waits that long."""


def command(*words: object) -> list[str]:
    """Return the command of the installed `fasttail`, from any folder."""
    return [sys.executable, "-P", "-m", "fasttail", *map(str, words)]


def program(name: str) -> list[str]:
    """Return the command that runs programs/NAME.py."""
    return [sys.executable, str(Path(__file__).parent / "programs" / f"{name}.py")]


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    """Return the first true value of `condition`; fail after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody uses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


class Serve:
    """`fasttail serve FOLDER …` on a free port, with its log collected line by line.

    wrap: a command that executes it, such as unshare with options. stdin: a descriptor.
    """

    def __init__(
        self,
        folder: Path,
        *options: object,
        env: dict[str, str] | None = None,
        wrap: Sequence[str] = (),
        stdin: int | None = None,
    ) -> None:
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [*wrap, *command("serve", folder, *(() if "--port" in options else ("--port", 0)), *options)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(wait_for("the port", self._begun)[1])

    def _begun(self) -> re.Match[str] | None:
        ended = self.process.poll() is not None
        if ended:
            self._reader.join(PATIENCE_S)
        found = self.find(r"on 127\.0\.0\.1:(\d+)")
        assert found or not ended, "it has ended:\n" + "\n".join(self.log)
        return found

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line.rstrip("\n"))

    def find(self, pattern: str) -> re.Match[str] | None:
        """Return the first match in the log."""
        return next((found for line in list(self.log) if (found := re.search(pattern, line))), None)

    def wait_log(self, pattern: str) -> re.Match[str]:
        """Wait for the first line that matches, and return its match."""
        found: re.Match[str] = wait_for(f"{pattern} in the log", lambda: self.find(pattern))
        return found

    def wait_metric(self, name: str, value: float) -> None:
        wait_for(f"{name} {value} (is {self.metric(name)})", lambda: self.metric(name) == value)

    def count(self, text: str) -> int:
        return sum(text in line for line in list(self.log))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """Return an unlabelled value from /metrics."""
        for line in self.get("/metrics")[1].splitlines():
            if line.split(" ")[0] == name:
                return float(line.split(" ")[1])
        raise AssertionError(f"no metric {name}")

    def metric_of(self, name: str, stream: str) -> float:
        """Return a value of a stream from /metrics."""
        return self.metric(f'fasttail_{name}{{stream="{stream}"}}')

    def wait_metric_of(self, name: str, stream: str, value: float) -> None:
        wait_for(f"{name} {value} of {stream}", lambda: self.metric_of(name, stream) == value)

    def open_files(self) -> list[str]:
        """Return the names of its open files, without those that it closes meanwhile."""
        names = []
        for fd in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                names.append(os.readlink(fd))
        return names

    def client(self, channel: str = "orderUpdate") -> Client:
        return Client(self.port, channel)

    def pause(self) -> None:
        """Send SIGSTOP and wait until no thread runs; one may be in a system call when the signal arrives."""
        self.process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")
        wait_for(
            "all threads to stop",
            lambda: all(
                (each / "stat").read_text().rpartition(") ")[2].startswith("T") for each in threads.iterdir()
            ),
        )

    def end(self, how: int = signal.SIGTERM) -> int:
        """Stop the server, wait for the rest of its log and return the exit code."""
        self.process.send_signal(how)
        code = self.process.wait(timeout=PATIENCE_S)
        self._reader.join(timeout=PATIENCE_S)
        return code


@contextlib.contextmanager
def serve(
    folder: Path, *options: object, env: dict[str, str] | None = None, wrap: Sequence[str] = ()
) -> Iterator[Serve]:
    """Run a server and end it afterwards; if the test fails, its log is shown.

    wrap: a command that executes the server, such as one that gives it its own namespace.
    """
    running = Serve(folder, *options, env=env, wrap=wrap)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        print("\n".join(running.log[-60:]))


class Client:
    """A client of an old channel, by the `websockets` package. A thread collects the Orders."""

    def __init__(self, port: int, channel: str = "orderUpdate") -> None:
        self.orders: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.socket: ClientConnection = connect(
            f"ws://127.0.0.1:{port}/ws/{channel}", max_size=None, legacy=True
        )
        self.greeting = json.loads(self.socket.recv(timeout=PATIENCE_S))
        self._thread = threading.Thread(target=self._gather, daemon=True)
        self._thread.start()

    def _gather(self) -> None:
        try:
            for text in self.socket:
                message = json.loads(text)
                self.messages.append(message)
                if message["type"] == "orderUpdate":
                    self.orders.append(message["data"])
                elif message["type"] == "orderBatch":
                    assert message["data"]["count"] == len(message["data"]["orders"])
                    self.orders += message["data"]["orders"]
        except ConnectionClosed:
            pass
        self.close_code = self.socket.close_code

    def wait_orders(self, count: int) -> list[dict[str, Any]]:
        """Wait for `count` orders, and briefly for any surplus."""
        wait_for(f"{count} orders (have {len(self.orders)})", lambda: len(self.orders) >= count)
        time.sleep(0.2)
        return self.orders

    def wait_closed(self) -> int | None:
        self._thread.join(timeout=PATIENCE_S)
        assert not self._thread.is_alive(), "the connection is still open"
        return self.close_code


def order(event: dict[str, Any]) -> dict[str, Any]:
    """Return the old service's Order for a node event, according to the operators' page."""
    data = event["order"]
    second, _, fraction = event["time"].partition(".")
    return {
        "id": str(data["oid"]),
        "symbol": data["coin"],
        "side": "Bid" if data["side"] == "B" else "Ask",
        "price": float(data["limitPx"]),
        "size": float(data["origSz"]),
        "owner": event["user"],
        "timestamp": f"{second}.{fraction.ljust(6, '0')[:6]}",
        "status": "canceled"
        if event["status"] in ("cancelled", "vaultWithdrawalCanceled")
        else event["status"],
    }


def hour_file(
    folder: Path,
    layout: str,
    date: str,
    hour: int,
    *,
    stream: str = "node_order_statuses",
    make: bool = True,
) -> Path:
    """Return the path of the node's file of that hour, by default creating its folders."""
    suffix = {"plain": "", "by_block": "_by_block", "streaming": "_streaming"}[layout]
    path = folder / f"{stream}{suffix}" / "hourly" / date / str(hour)
    if make:
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def docker_in(folder: Path) -> None:
    """Create a `docker` command in the folder that prints the folder's files: see programs/docker.py."""
    python, file = program("docker")
    (folder / "docker").write_text(f'#!/bin/sh\nexec {python} -I -S {file} {folder} "$@"\n')
    (folder / "docker").chmod(0o755)
