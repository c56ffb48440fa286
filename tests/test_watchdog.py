"""The watchdog in a real process: a leak, slow clients and a stall, as seen by clients and operators."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lines import event, plain
from running import PATIENCE_S, Serve, hour_file, serve, wait_for
from shims import preload
from test_resume import numbered, oids
from test_webhook import Receiver
from test_ws import Bot, append
from websockets.exceptions import ConnectionClosed

START = "p2026050517-0000000000000-0000000"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = hour_file(tmp_path / "data", "plain", "20260505", 17)
    path.touch()
    return path


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.free.set()
    server.shutdown()
    server.server_close()


class Resuming:
    """A client of /ws that starts at the file's beginning and resumes at its cursor."""

    def __init__(self, server: Serve) -> None:
        self.oids: list[int] = []
        self.alerts: list[dict[str, Any]] = []
        self.closes: list[int | None] = []
        self.epochs: set[str] = set()
        self._server = server
        self._cursor = START
        self._end = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end:
            try:
                with Bot(self._server) as bot:
                    self._listen(bot)
                    self.closes.append(None)
            except ConnectionClosed as closed:
                self.closes.append(closed.rcvd.code if closed.rcvd else None)
            except (OSError, TimeoutError):
                if not self._end:
                    raise

    def _listen(self, bot: Bot) -> None:
        bot.send({"method": "subscribe", "subscription": {"type": "status"}})
        wanted = {"type": "orders", "format": "raw", "cursor": self._cursor}
        bot.send({"method": "subscribe", "subscription": wanted})
        while not self._end:
            try:
                message = json.loads(bot.socket.recv(timeout=0.1))
            except TimeoutError:
                continue
            if message["channel"] == "orders":
                self.oids += oids(message)
                self._cursor = message["cursor"]
            elif message["channel"] == "live":
                self.epochs.add(message["epoch"])
            elif message["channel"] == "status" and "alert" in message["data"]:
                self.alerts.append(message["data"]["alert"])
            else:
                assert message["channel"] in ("status", "subscriptionResponse"), message

    def wait(self, count: int) -> None:
        """Wait for `count` orders, which must have come once each, in order, and no others."""
        wait_for(f"{count} orders", lambda: len(self.oids) >= count or not self._thread.is_alive())
        assert self.oids == list(range(count))

    def end(self) -> None:
        self._end = True
        self._thread.join()


class Writer:
    """Appends some numbered orders every 10 ms until it is stopped."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.01):
            append(self._path, plain(*numbered(self.count, self.count + 20)))
            self.count += 20

    def end(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.mark.fault(38)
@pytest.mark.plain_build
@pytest.mark.parametrize("kind", ["--debug-leak", "--debug-leak-c"])
def test_a_leak(tmp_path: Path, path: Path, receiver: Receiver, kind: str) -> None:
    """A leak is reported, memory is shed, and after two restarts it is only reported. A client that resumes
    gets every order once.
    """
    with serve(
        tmp_path / "data", kind, 25, "--memory-limit-mb", 130, "--memory-warmup-s", 0, "--memory-window-s", 2,
        "--max-restarts-per-hour", 2, "--alert-webhook", receiver.url("/s3cret"),
    ) as server:  # fmt: skip
        pid = server.process.pid
        client, writer = Resuming(server), Writer(path)
        server.wait_log("🚨 memory: no restart: 2 restarts within the last hour, the maximum")
        health = json.loads(server.get("/health")[1])["memory"]
        assert server.metric("fasttail_alerts_total" + '{kind="memory"}') >= 2
        writer.end()
        client.wait(writer.count)
        alerts = list(client.alerts)
        client.end()
        assert server.process.pid == pid
        assert server.process.poll() is None
        assert server.metric("fasttail_restarts_total") == 2
        assert server.metric("fasttail_memory_limit_bytes") == 130 * 1024 * 1024
        assert health["rss_bytes"] > health["limit_bytes"]
        assert health["left_seconds"] in (0, None)
        assert server.end() == 0
        log = "\n".join(server.log)
    assert client.closes[:2] == [1012, 1012]
    assert len(client.epochs) == 3
    # In each life, growth is reported before the limit with its cause, and memory is shed before a restart.
    lives = log.split("restarting in place")
    assert len(lives) == 3
    assert "🚨 memory: linear growth: RSS " in log
    for life in lives:
        shed = life.index("🚨 memory: shed 0 slow clients")
        growth = life.find("🚨 memory: linear growth: RSS ", 0, shed)
        if growth >= 0:  # else the process had no time for samples before it reached the limit
            assert "the limit of 130.0 MB is" in life[growth:].splitlines()[0]
            grew = life[growth:].splitlines()[0].partition("grew most: ")[2]
            assert grew.startswith("malloc in use +"), "both kinds of leaks are blocks of malloc"
        assert "exceeds the limit of 130.0 MB; grew most: malloc in use" in life
        assert shed < life.index("exceeds the limit of 130.0 MB; ", shed)
    # The other alert channels report the same.
    assert {alert["kind"] for alert in alerts} == {"memory"}
    assert {"shed", "restart"} <= {alert["action"] for alert in alerts}
    posted = [each for each in receiver.got if each["action"] == "restart"]
    assert [each["restarts"] for each in posted][:3] == [0, 1, 2]
    assert {each["restarts"] for each in posted[3:]} <= {2}, "told again as long as it lasts"
    assert all(each["pid"] == pid and each["service"] == "fasttail" for each in posted)
    assert "s3cret" not in log


def reading_on(port: int, end: threading.Event) -> threading.Thread:
    """Start a client that reads as fast as it can and ignores the content."""
    client = old_client(port)
    client.settimeout(0.1)

    def read() -> None:
        while not end.is_set():
            try:
                if not client.recv(1 << 20):
                    return
            except TimeoutError:
                continue
        client.close()

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def old_client(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(
        b"GET /ws/orderUpdate HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert b"101 Switching Protocols" in client.recv(1000)
    return client


@pytest.mark.fault(38)
@pytest.mark.plain_build
def test_slow_clients_are_shed_before_anything_else(tmp_path: Path, path: Path) -> None:
    """If queues push memory past the limit, the client with the longest queue is closed, which frees half of
    all queued bytes. A client that became slow later and one that reads continue, and no restart follows.
    """
    lines = plain(*numbered(0, 20_000))
    end = threading.Event()
    with serve(
        tmp_path / "data", "--client-queue", "1G", "--memory-limit-mb", 160, "--memory-window-s", 6
    ) as server:
        reader = reading_on(server.port, end)
        slow = old_client(server.port)
        written, later = 0, slow
        while not server.count("🚨 memory: shed"):
            append(path, lines)
            written += 20_000
            if written == 200_000:
                later = old_client(server.port)
            server.wait_metric("fasttail_lines_total", written)
            assert written < 2_000_000
        server.wait_log(r"🚨 memory: RSS .* exceeds the limit of 160\.0 MB; grew most: .*client queues \+")
        server.wait_log(r"🚨 memory: shed 1 slow clients with \d+ queued bytes, and caches")
        wait_for("memory", lambda: server.metric("fasttail_rss_bytes") < 145 * 1024 * 1024)
        assert server.metric("fasttail_client_shed_total") == 1
        assert server.metric('fasttail_clients{channel="orderUpdate"}') == 2
        append(path, lines)
        server.wait_metric("fasttail_lines_total", written + 20_000)
        time.sleep(0.5)  # a few more samples
        end.set()
        reader.join()
        with contextlib.suppress(ConnectionResetError):  # closed in the middle of a message
            while slow.recv(1 << 20):
                pass
        slow.close()
        assert later is not slow
        later.settimeout(PATIENCE_S)
        assert later.recv(1000), "still connected"
        later.close()
        assert server.metric("fasttail_restarts_total") == 0
        assert server.end() == 0
        assert not server.count("restarting in place")


@pytest.mark.plain_build
@pytest.mark.parametrize("where", ["batch", "hang", "blind"])
def test_a_stall(tmp_path: Path, path: Path, receiver: Receiver, where: str) -> None:
    """A stall in a batch, in a read, or without reads leads to an alert and a restart without loss."""
    env: dict[str, str] = {}
    options: list[object] = ["--debug-stall", 600] if where == "batch" else []
    trigger = tmp_path / "trigger"
    if where != "batch":
        env = preload(tmp_path, "faulty_reads", FAULT=where, FAULT_TRIGGER=trigger)
    with serve(
        tmp_path / "data", "--workers", 2, "--stall-after-s", 1, "--batch-timeout-s", 1,
        "--memory-window-s", 6, "--alert-webhook", receiver.url(), *options, env=env,
    ) as server:  # fmt: skip
        old = server.client()
        with Bot(server) as bot:  # there is no position to resume from yet
            bot.subscribe(type="status")
            written = 0
            if where != "batch":
                append(path, plain(*numbered(0, 200)))
                written = 200
                assert len(old.wait_orders(200)) == 200
                trigger.touch()
            append(path, plain(*numbered(written, written + 100)))
            found = server.wait_log(r"⏰ pipeline: stalled: (.*)")
            append(path, plain(*numbered(written + 100, written + 200)))
            alert: dict[str, Any] = {}
            while not alert:
                alert = bot.next()["data"].get("alert", {})
            assert (alert["kind"], alert["action"], alert["text"]) == ("stall", "restart", found[1])
        expected = {
            "batch": "a batch has run for 1",
            "hang": "the pipeline has made no progress for 1",
            "blind": "bytes of complete lines have been unread for ",
        }[where]
        assert expected in found[1]
        server.wait_log("restart 1 in place, running since")
        assert old.wait_closed() == 1012
        client = Resuming(server)
        append(path, plain(*numbered(written + 200, written + 300)))
        client.wait(written + 300)
        client.end()
        # Reading resumes after the last delivered batch, so nothing is read again.
        assert server.metric("fasttail_lines_total") == 300
        assert server.metric("fasttail_restarts_total") == 1
        assert [int(each["id"]) for each in old.orders] == list(range(written))
        assert server.end() == 0
        log = "\n".join(server.log)
    stacks = log.partition("thread stacks:")[2].partition("restarting in place")[0]
    assert "[fasttail-pipeline]" in stacks
    assert "[MainThread]" in stacks
    assert re.search(r"fasttail-w0: [A-Z], \d+ ticks of CPU", stacks)
    (posted,) = receiver.got
    assert (posted["kind"], posted["text"], posted["restarts"]) == ("stall", found[1], 0)


def test_a_batch_that_takes_its_time_is_no_stall(tmp_path: Path, path: Path) -> None:
    with serve(
        tmp_path / "data", "--debug-stall", 2.5, "--stall-after-s", 1, "--memory-window-s", 6
    ) as server:
        append(path, plain(*numbered(0, 100)))
        server.wait_metric("fasttail_lines_total", 100)
        assert server.count("⏰") == 0


def test_a_stall_that_may_not_be_ended_is_told_once(tmp_path: Path, path: Path) -> None:
    with serve(
        tmp_path / "data", "--debug-stall", 5, "--stall-after-s", 1, "--batch-timeout-s", 1,
        "--memory-window-s", 6, "--max-restarts-per-hour", 0,
    ) as server:  # fmt: skip
        append(path, plain(*numbered(0, 100)))
        server.wait_log("⏰ pipeline: no restart: 0 restarts within the last hour, the maximum")
        server.wait_metric("fasttail_lines_total", 100)
        assert server.count("⏰ pipeline: stalled") == 1
        assert server.count("⏰ pipeline: no restart") == 1
        assert server.metric('fasttail_alerts_total{kind="stall"}') == 1
        assert server.metric("fasttail_restarts_total") == 0


def test_a_process_that_was_paused_is_not_stalled(tmp_path: Path, path: Path) -> None:
    with serve(
        tmp_path / "data", "--stall-after-s", 5, "--batch-timeout-s", 5, "--memory-window-s", 60
    ) as server:
        for i in range(2):
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(6)
            append(path, plain(event(oid=i)))
            server.process.send_signal(signal.SIGCONT)
            server.wait_metric("fasttail_lines_total", i + 1)
            time.sleep(1.2)  # one more sample
        assert server.metric("fasttail_restarts_total") == 0
        assert server.count("stalled") == 0


def test_alerts_for_nobody_cost_nothing(tmp_path: Path, path: Path) -> None:
    """A webhook without answers, no memory limit, and a leak do not delay orders."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/s3cret"
        with serve(
            tmp_path / "data", "--debug-leak-c", 20, "--memory-limit-mb", 0, "--memory-warmup-s", 0,
            "--memory-window-s", 1, "--alert-webhook", url,
        ) as server:  # fmt: skip
            client = server.client()
            server.wait_log("🚨 memory: linear growth: ")
            append(path, plain(*(event(oid=i) for i in range(100))))
            assert len(client.wait_orders(100)) == 100
            assert server.metric("fasttail_rss_growing") == 1
            assert server.end() == 0
            assert not server.count("s3cret")
            assert not server.count("shed")


STALL = ("--debug-stall", 60, "--stall-after-s", 1, "--batch-timeout-s", 1, "--memory-window-s", 6)


def test_a_sigterm_during_a_restart_ends_the_process(tmp_path: Path, path: Path) -> None:
    append(path, plain(*numbered(0, 100)))
    with serve(tmp_path / "data", "--from", "oldest", *STALL) as server:
        server.wait_log("restarting in place")
        time.sleep(0.3)  # it waits for the hung batch
        assert server.end() == 0
        assert not server.find("restart 1 in place, running")


def test_a_sighup_during_a_restart_does_no_harm(tmp_path: Path, path: Path) -> None:
    options = ("--debug-leak-c", 25, "--memory-limit-mb", 100, "--memory-warmup-s", 0, "--memory-window-s", 2)
    with serve(tmp_path / "data", *options) as server:
        server.wait_log("stopped: ")
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not server.find("restart 1 in place, running"):
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.005)
        server.wait_log("restart 1 in place, running")
        assert server.end() == 0


def test_no_restart_into_settings_that_cannot_be_used(tmp_path: Path, path: Path) -> None:
    config = tmp_path / "fasttail.toml"
    config.write_text("")
    options = ("--debug-leak-c", 25, "--memory-limit-mb", 100, "--memory-warmup-s", 0, "--memory-window-s", 2)
    with serve(tmp_path / "data", "--config", config, *options) as server:
        config.write_text("port = ")
        server.wait_log("🚨 memory: no restart: its settings are invalid: .*not valid TOML")
        assert server.get("/health/live")[0] == 200
        config.write_text("")
        server.wait_log("restart 1 in place, running")
