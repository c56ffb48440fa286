"""From a file that a real process writes to a real WebSocket client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from lines import envelope, event, plain
from running import PATIENCE_S, Client, command, hour_file, order, serve, wait_for
from shims import preload

WRITER = Path(__file__).with_name("writer.py")
LAYOUTS = ("plain", "streaming", "by_block")


def render(events: list[dict[str, Any]], layout: str) -> bytes:
    if layout == "plain":
        return plain(*events)
    if layout == "streaming":
        return b"".join(envelope([each], 985148182 + each["order"]["oid"]) for each in events)
    parts = (events[i : i + 7] for i in range(0, len(events), 7))
    return b"".join(envelope(part, 985148182 + part[0]["order"]["oid"]) for part in parts) + envelope([], 99)


def numbered(first: int, count: int) -> list[dict[str, Any]]:
    statuses = [
        "open",
        "canceled",
        "filled",
        "triggered",
        "vaultWithdrawalCanceled",
        "badAloPxRejected",
        "marginCanceled",
    ]
    return [
        event(oid=10**11 + i, status=statuses[i % 7], side="AB"[i % 2], sz=f"{i}.25")
        for i in range(first, first + count)
    ]


def expected(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    dropped = ("badAloPxRejected", "marginCanceled")
    return [order(each) for each in events if each["status"] not in dropped]


def write(tasks: list[dict[str, Any]]) -> subprocess.Popen[str]:
    """Let a separate process do the writing."""
    process = subprocess.Popen([sys.executable, WRITER], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    for task in tasks:
        process.stdin.write(json.dumps(task) + "\n")
    process.stdin.close()
    return process


@pytest.mark.fault(1, 2, 3, 7, 9, 10, 39)
@pytest.mark.parametrize("inotify", [True, False], ids=["inotify", "polling"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_order_once_and_in_order(tmp_path: Path, layout: str, inotify: bool) -> None:
    """Every line arrives, written whole, in halves or bytewise, across hours, from a folder created later."""
    folder = tmp_path / "data"
    parts = [numbered(0, 500), numbered(500, 30), numbered(530, 300), numbered(830, 700), numbered(1530, 100)]
    texts = [render(part, layout).decode() for part in parts]
    files = [
        hour_file(folder, layout, date, hour, make=False)
        for date, hour in (
            ("20260505", 9),
            ("20260505", 9),
            ("20260505", 10),
            ("20260505", 23),
            ("20260506", 0),
        )
    ]
    with serve(folder, *([] if inotify else ["--no-inotify"])) as running:
        assert json.loads(running.get("/health")[1])["state"] == "waiting"
        assert running.get("/health")[0] == 200
        client, batches = running.client(), running.client("orderBatch")
        assert client.greeting["type"] == "connected"
        assert client.greeting["channel"] == "orderUpdate"
        writer = write(
            [
                {"path": str(files[0]), "text": texts[0]},
                {"path": str(files[1]), "text": texts[1][:4000], "cut": 1},
                {"path": str(files[1]), "text": texts[1][4000:], "cut": 97, "pause": 0.002},
                {"path": str(files[2]), "text": texts[2], "cut": 1000, "pause": 0.001},
                {"path": str(files[3]), "text": texts[3], "cut": 20_001},
                {"path": str(files[4]), "text": texts[4]},
            ]
        )
        want = expected([each for part in parts for each in part])
        assert client.wait_orders(len(want)) == want
        assert batches.wait_orders(len(want)) == want
        assert writer.wait(timeout=PATIENCE_S) == 0
        status, health = running.get("/health")
        assert (status, json.loads(health)["state"]) == (200, "live")
        assert running.get("/health/live")[0] == 200
        assert json.loads(running.get("/ws/status")[1]) == {
            "channels": {"orderUpdate": 1, "orderBatch": 1},
            "pending_orders": 0,
            "is_running": True,
        }
        assert running.metric("fasttail_orders_total") == 1630
        assert running.metric("fasttail_rejected_lines_total") == 0
        assert running.end() == 0
        assert client.wait_closed() == 1001
        assert batches.wait_closed() == 1001


def test_what_is_seen_from_outside(tmp_path: Path) -> None:
    """inotify watches are held, one thread per worker exists, and waiting needs almost no CPU."""
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.write_bytes(plain(event()))
    with serve(tmp_path, "--workers", 3) as running:
        running.wait_log(r"following .*/9 ")
        pid = running.process.pid
        infos = [info.read_text() for info in Path(f"/proc/{pid}/fdinfo").iterdir()]
        watches = sum(info.count("inotify wd:") for info in infos)
        assert watches >= 3, "the file, its date's folder, and the folders above"
        names = sorted((task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir())
        assert [name for name in names if name.startswith("fasttail-w")] == [
            f"fasttail-w{k}" for k in range(3)
        ]
        process = psutil.Process(pid)
        before, began = process.cpu_times(), time.monotonic()
        time.sleep(3)
        after, ended = process.cpu_times(), time.monotonic()
        used = after.user + after.system - before.user - before.system
        assert used / (ended - began) < 0.05


def test_start_end_hour_oldest(tmp_path: Path) -> None:
    """`end` starts at the line that is being written, and hours are compared as numbers."""
    parts = [numbered(0, 7), numbered(7, 7), numbered(14, 7)]
    for hour, part in zip((8, 9, 10), parts, strict=True):
        hour_file(tmp_path, "plain", "20260505", hour).write_bytes(plain(*part))
    path = hour_file(tmp_path, "plain", "20260505", 10)
    late = plain(*numbered(21, 7))
    with path.open("ab") as file:
        file.write(late[:100])
    every = [each for part in parts for each in part] + numbered(21, 7)
    for start, first in (("end", 21), ("hour", 14), ("oldest", 0)):
        with serve(tmp_path, "--from", start) as running:
            running.wait_log(r"following .*/10 ")
            if start != "end":
                running.wait_metric("fasttail_lines_total", {"hour": 7, "oldest": 21}[start])
            client = running.client()
            with path.open("ab") as file:
                file.write(late[100:])
            want = expected(every[21:])
            assert client.wait_orders(len(want)) == want
            assert running.metric("fasttail_lines_total") == len(every) - first
        path.write_bytes(path.read_bytes()[: -len(late) + 100])


def test_layout_is_chosen_and_said(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        hour_file(tmp_path, layout, "20260505", 9).write_bytes(render(numbered(0, 7), layout))
    with serve(tmp_path, "--from", "oldest") as running:
        running.wait_log(r"following .*node_order_statuses_streaming/hourly/20260505/9 ")
        assert running.find(r"layout streaming.*by_block.*plain")
    with serve(tmp_path, "--from", "oldest", "--layout", "by_block") as running:
        running.wait_log(r"following .*node_order_statuses_by_block/")


def test_filter_of_the_old_settings_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        'symbols_config: [{"symbol":"BTC","min_liquidity":10000,"price_deviation":0.05}, '
        '{"symbol":"xyz:XYZ100","min_liquidity":0}]\n'
    )
    data = tmp_path / "data"
    events = [
        event(oid=1, coin="BTC", limitPx="100000.0", origSz="0.1"),
        event(oid=2, coin="BTC", limitPx="100000.0", origSz="0.0999"),
        event(oid=3, coin="ETH", limitPx="100000.0", origSz="5.0"),
        event(oid=4, coin="xyz:XYZ100", limitPx="0.1", origSz="0.1"),
        event(oid=5, coin="BTC", limitPx="1.0", sz="99999.0", origSz="1.0"),
    ]
    path = hour_file(data, "plain", "20260505", 9)
    path.touch()
    with serve(data, "--config", config) as running:
        client = running.client()
        path.write_bytes(plain(*events))
        assert [each["id"] for each in client.wait_orders(2)] == ["1", "4"]
        running.wait_log(r"📡 WebSocket: 2/2 orders → 1 clients")
        assert running.find(r"✅ Parallel COMPLETED: 5 lines → 2 orders")


def test_the_markers_tell_the_whole_way(tmp_path: Path) -> None:
    """Every grep of the operators' page gives the stated answer, logging every batch or one per second."""
    for mode in ("all", "second"):
        path = hour_file(tmp_path / mode, "plain", "20260505", 9)
        path.touch()
        with serve(tmp_path / mode, "--workers", 2, "--log-batches", mode) as running:
            for i in range(30):
                with path.open("ab") as file:
                    file.write(plain(*numbered(i * 40, 40)))
                time.sleep(0.1)
            running.wait_metric("fasttail_lines_total", 1200)
            batches = running.metric("fasttail_batches_total")
            assert running.end() == 0
        markers = ("📦 Processing", "🔄", "📊", "🚀", "⏳", "✅ All", "📦 Combining", "✅ Parallel", "📡")
        way = [
            next(marker for marker in markers if marker in line)
            for line in running.log
            if any(marker in line for marker in markers)
        ]
        groups = len(way) // 9
        assert way == list(markers) * groups
        assert groups == batches if mode == "all" else 2 <= groups <= 6
        assert running.count("📦 Processing batch snapshot") == running.count(
            "✅ All parallel tasks completed"
        )
        assert not any(word in line for line in running.log for word in ("ERROR", "⏰", "❌", "🚨"))
        sizes = [
            int(line.split("snapshot: ")[1].split(" ")[0]) for line in running.log if "📦 Processing" in line
        ]
        if mode == "all":
            assert sum(sizes) == 1200


def test_a_batch_that_hangs_shows_its_beginning(tmp_path: Path) -> None:
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.touch()
    with serve(tmp_path, "--workers", 2, "--debug-stall", 4, "--batch-timeout-s", 1) as running:
        path.write_bytes(plain(*numbered(0, 50)))
        running.wait_log(r"⏰ Parallel batch timed out after 1 seconds")
        wait_for("the workers", lambda: running.count("🔧 Worker START") == 2)
        assert running.count("✅ Worker COMPLETED") == 1, "the log shows which one hangs"
        assert running.count("⏳ Waiting for all 2 tasks to complete...") == 1
        assert running.count("✅ All parallel tasks completed") == 0
        status, text = running.get("/health/live")
        assert status == 503
        assert "a batch has run for" in json.loads(text)["reason"]
        # Lines read before all of them were written form a batch of their own.
        running.wait_metric("fasttail_lines_total", 50)
        wait_for("the log", lambda: running.count("✅ All parallel tasks completed") >= 1)
        wait_for("health", lambda: running.get("/health/live")[0] == 200)


@pytest.mark.fault(16)
def test_rejected_lines_are_counted_with_file_and_offset(tmp_path: Path) -> None:
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.touch()
    good = plain(*numbered(0, 7))
    with serve(tmp_path) as running:
        client = running.client()
        with path.open("ab") as file:
            file.write(good + b"{broken\n" + plain(event(coin=5)) + good)
        assert len(client.wait_orders(10)) == 10
        running.wait_log(r"2 lines rejected; the first in .*/9 at byte (\d+): not valid JSON")
        found = running.find(r"at byte (\d+): not valid JSON")
        assert found is not None
        assert int(found[1]) == len(good)
        assert running.metric("fasttail_rejected_lines_total") == 2


@pytest.mark.fault(34)
@pytest.mark.parametrize("output", ["a pipe that nobody reads", "a full disk"])
def test_orders_flow_whatever_becomes_of_the_log(tmp_path: Path, output: str) -> None:
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.touch()
    end, pipe = os.pipe() if output.startswith("a pipe") else (None, os.open("/dev/full", os.O_WRONLY))
    port = 20_000 + os.getpid() % 20_000
    words = command("serve", tmp_path, "--port", port, "--log-batches", "all", "--log-level", "debug")
    process = subprocess.Popen(words, stdout=pipe, stderr=subprocess.DEVNULL)
    try:
        client: Client = wait_for("the server", lambda: _try_client(port))
        for i in range(300):
            with path.open("ab") as file:
                file.write(plain(*numbered(i * 7, 7)))
            time.sleep(0.002)
        want = expected(numbered(0, 2100))
        assert client.wait_orders(len(want)) == want
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0
    finally:
        process.kill()
        os.close(pipe)
        if end is not None:
            os.close(end)


def test_what_is_written_after_the_greeting_arrives(tmp_path: Path) -> None:
    """The start of reading is fixed before the first client can connect."""
    for date in range(20200101, 20200101 + 400):
        hour_file(tmp_path, "plain", str(date), 9).touch()  # scanning them takes a while
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.touch()
    port = 20_000 + os.getpid() % 20_000
    with subprocess.Popen(command("serve", tmp_path, "--port", port), stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while (client := _try_client(port)) is None and time.monotonic() < deadline:
                pass
            assert client is not None
            with path.open("ab") as file:
                file.write(plain(*numbered(0, 7)))
            assert client.wait_orders(5) == expected(numbered(0, 7))
        finally:
            process.kill()


def _try_client(port: int) -> Client | None:
    try:
        return Client(port)
    except OSError:
        return None


@pytest.mark.plain_build
def test_a_leak_is_told_and_ends_in_a_restart_that_loses_nothing(tmp_path: Path) -> None:
    """A leak leads to a restart with the same pid and port; every line is processed once."""
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.touch()
    options = ["--debug-leak", 25, "--memory-limit-mb", 130, "--memory-warmup-s", 0, "--memory-window-s", 2]
    with serve(tmp_path, *options) as running:
        pid = running.process.pid
        client = running.client()
        sent, received = 0, []
        while running.count("🚨 memory: restarting in place") < 2:
            with path.open("ab") as file:
                file.write(plain(*[event(oid=sent + i) for i in range(20)]))
            sent += 20
            time.sleep(0.01)
            assert running.process.poll() is None
            assert sent < 100_000
            if client.close_code is not None:
                received.append((client.close_code, [int(each["id"]) for each in client.orders]))
                client = running.client()
        wait_for("the second restart", lambda: running.count("restart 2 in place") == 1)
        with path.open("ab") as file:
            file.write(plain(event(oid=sent)))
        wait_for("the last line", lambda: _reached(running, path))
        assert running.process.pid == pid
        assert running.count("🚨 memory: linear growth") >= 1
        assert running.metric("fasttail_restarts_total") == 2
        assert running.end() == 0
        lines = [int(line.split("stopped: ")[1].split(" ")[0]) for line in running.log if "stopped: " in line]
        assert len(lines) == 3
        assert sum(lines) == sent + 1, "each line was processed once, over all three lives"
        assert [code for code, _ in received][:1] == [1012]
        ids = [number for _, numbers in received for number in numbers]
        assert ids == sorted(set(ids))


def _reached(running: Any, path: Path) -> bool:
    health = json.loads(running.get("/health")[1])
    return (
        bool(health["state"] == "live")
        and running.metric("fasttail_file_offset_bytes") == path.stat().st_size
    )


@pytest.mark.plain_build
def test_what_is_written_after_the_greeting_comes_though_the_thread_was_about_to_read(tmp_path: Path) -> None:
    """Each read starts 30 ms late, so most clients connect between the check for clients and the read."""
    path = hour_file(tmp_path / "data", "plain", "20260505", 17)
    path.touch()
    with serve(tmp_path / "data", env=preload(tmp_path, "slow_reads")) as server:
        for i in range(8):
            with path.open("ab") as file:
                file.write(plain(event(oid=1000 + i)))
            time.sleep(0.004 * i)
            client = server.client()
            with path.open("ab") as file:
                file.write(plain(event(oid=i)))
            wait_for(f"order {i}", partial(has_order, client, i))
            client.socket.close()


def has_order(client: Client, oid: int) -> bool:
    return str(oid) in [each["id"] for each in client.orders]
