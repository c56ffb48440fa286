"""What the service manager receives from a real server, on a real datagram socket."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lines import event, plain
from running import PATIENCE_S, Serve, hour_file, serve, wait_for

from fasttail.monitoring.sd_notify import Notifier

WATCHDOG_S = 0.4


class Manager:
    """The manager's side: binds `address` and collects messages. `env` names the socket as systemd would."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.heard: list[dict[str, str]] = []
        self.env = {"NOTIFY_SOCKET": address}

    def listen(self, wait_s: float = 0.0) -> None:
        """Receive what is pending and what arrives within `wait_s`."""
        deadline = time.monotonic() + wait_s
        while True:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                text = self.socket.recv(4096).decode()
            except TimeoutError:
                return
            self.heard.append(dict(line.split("=", 1) for line in text.split("\n")))

    def said(self, key: str) -> list[str]:
        self.listen()
        return [message[key] for message in self.heard if key in message]

    def wait(self, key: str, count: int) -> None:
        wait_for(f"{count} times {key}", lambda: len(self.said(key)) >= count)


@contextlib.contextmanager
def managing(address: str) -> Iterator[Manager]:
    manager = Manager(address)
    try:
        yield manager
    finally:
        manager.socket.close()


def watched(manager: Manager) -> tuple[dict[str, str], list[str]]:
    """Return the environment and command prefix of a server under systemd's watchdog."""
    env = {**manager.env, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
    return env, ["sh", "-c", 'WATCHDOG_PID=$$ exec "$@"', "sh"]


@pytest.mark.parametrize("abstract", [False, True])
def test_each_message_arrives(abstract: bool, tmp_path: Path) -> None:
    address = f"@fasttail-test-{os.getpid()}" if abstract else str(tmp_path / "n")
    with managing(address) as manager:
        notifier = Notifier({**manager.env, "WATCHDOG_USEC": "1000000"})
        before = time.monotonic_ns() // 1000
        notifier.ready("on port 1")
        notifier.reloading()
        notifier.ping_watchdog()
        notifier.restarting()
        notifier.stopping()
        manager.listen()
    ready, reloading, alive, restarting, stopping = manager.heard
    assert ready == {"READY": "1", "WATCHDOG": "1", "STATUS": "on port 1"}
    assert reloading["RELOADING"] == "1"
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert alive == {"WATCHDOG": "1"}
    assert "STOPPING" not in restarting
    assert stopping["STOPPING"] == "1"


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({}, None),
    ],
)
def test_how_often_the_manager_wants_to_hear(env: dict[str, str], seconds: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/run/n", **env}).watchdog_s == seconds
    assert Notifier(env).watchdog_s is None


@pytest.mark.parametrize(
    "address", ["", "vsock:2:1", "relative", "/nowhere/at/all", "@nobody-has-this", "/" + "x" * 200]
)
def test_without_a_manager_nothing_happens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Notifier({"NOTIFY_SOCKET": address}).ready("x")
    Notifier({}).ready("x")
    if not address.startswith(("/", "@")):
        monkeypatch.setattr(socket, "socket", None)  # not even a socket is created
        Notifier({"NOTIFY_SOCKET": address}).ready("x")


def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with managing(str(tmp_path / "n")) as manager:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"x=y", manager.env["NOTIFY_SOCKET"])
        Notifier(manager.env).ready("x")
        manager.listen()
        assert manager.said("READY") == []


def test_a_server_from_start_to_stop(tmp_path: Path) -> None:
    config = tmp_path / "fasttail.toml"
    config.write_text("max_clients = 10\n")
    with managing(str(tmp_path / "n")) as manager:
        env, wrap = watched(manager)
        with serve(tmp_path / "data", "--config", config, env=env, wrap=wrap) as server:
            manager.wait("READY", 1)
            assert server.get("/health/live")[0] == 200
            assert manager.said("STATUS")[0].startswith(f"listening on port {server.port},")
            count = len(manager.said("WATCHDOG"))
            manager.listen(WATCHDOG_S * 4)
            assert len(manager.said("WATCHDOG")) >= count + 8, "less than twice in its time"

            server.process.send_signal(signal.SIGSTOP)  # the main loop is stopped
            manager.listen(WATCHDOG_S)
            count = len(manager.said("WATCHDOG"))
            manager.listen(WATCHDOG_S * 2)
            assert len(manager.said("WATCHDOG")) == count
            server.process.send_signal(signal.SIGCONT)

            for number, text in enumerate(("max_clients = 10\n", "nonsense = 1\n"), 1):
                config.write_text(text)
                server.process.send_signal(signal.SIGHUP)
                manager.wait("RELOADING", number)
                manager.wait("READY", number + 1)
            assert manager.said("STOPPING") == []
            assert server.end() == 0
            manager.wait("STOPPING", 1)
            states = ("READY", "RELOADING", "STOPPING")
            order = [key for message in manager.heard for key in message if key in states]
            assert order == ["READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING"]


@pytest.mark.plain_build
def test_a_restart_in_place_is_the_same_service(tmp_path: Path) -> None:
    """After a restart, READY is sent again, the watchdog continues, and the manager never sees a stop."""
    path = hour_file(tmp_path / "data", "plain", "20260505", 9)
    path.write_bytes(plain(event()))
    options = ["--from", "oldest", "--debug-stall", 60, "--stall-after-s", 1, "--batch-timeout-s", 1]
    options += ["--memory-window-s", 6]  # the watchdog checks every 0.1 s
    with managing(str(tmp_path / "n")) as manager:
        env, wrap = watched(manager)
        with serve(tmp_path / "data", *options, env=env, wrap=wrap) as server:
            manager.wait("READY", 1)
            manager.wait("READY", 2)
            statuses = [message.get("STATUS") for message in manager.heard]
            began = statuses.index("restarting in place")
            after = manager.heard[began:]
            meanwhile = itertools.takewhile(lambda message: "READY" not in message, after)
            # The hung batch is awaited for some seconds, during which the main loop runs.
            assert len([message for message in meanwhile if "WATCHDOG" in message]) > 20
            count = len(manager.said("WATCHDOG"))
            manager.wait("WATCHDOG", count + 3)
            assert server.metric("fasttail_restarts_total") == 1
            assert manager.said("STOPPING") == []
            assert server.end() == 0
            manager.wait("STOPPING", 1)


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(100)
    return sock


def activated(listener: socket.socket, folder: Path, pid: str = "$$") -> Serve:
    """Start a server that gets the socket as systemd passes it: descriptor 3, named in the environment.

    Popen passes only 0 to 2 under their own number, so stdin carries the descriptor to the shell.
    """
    wrap = ["sh", "-c", f'LISTEN_PID={pid} LISTEN_FDS=1 exec "$@" 3<&0 0</dev/null', "sh"]
    return Serve(folder, env={}, wrap=wrap, stdin=listener.fileno())


def test_the_managers_socket_stays_open_between_two_lives(tmp_path: Path) -> None:
    listener = listening()
    port = listener.getsockname()[1]
    server = activated(listener, tmp_path)
    try:
        assert server.port == port
        assert server.get("/health")[0] == 200
        assert server.end() == 0
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as early:
            early.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            server = activated(listener, tmp_path)
            assert early.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert server.end() == 0
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        listener.close()


def test_sockets_of_another_process_are_not_taken(tmp_path: Path) -> None:
    listener = listening()
    server = activated(listener, tmp_path, pid="1")
    try:
        assert server.port != listener.getsockname()[1]
        assert server.get("/health")[0] == 200
    finally:
        server.process.kill()
        server.process.wait()
        listener.close()
