"""The model test (model.py) with its own seeds; and a real server, killed while a client resumes."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import pytest
from lines import event
from model import Counts, try_seed
from running import Serve, hour_file
from test_ws import by_layout
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

STEPS = 150

KEPT = [2007, 2204]
"""Seeds that alone found a fault, even an injected one. Add those that scripts/soak --model finds."""


@pytest.mark.parametrize("first", range(1000, 1040, 20))
def test_model(first: int) -> None:
    total = Counts()
    for seed in range(first, first + 20):
        total.add(try_seed(seed, STEPS))
    assert total.steps == 20 * STEPS
    # The test is meaningful: every kind of fault occurred, and most lines arrived.
    assert min(total.again, total.late, total.torn, total.restarts, total.kills, total.lost) > 0
    assert min(total.copies, total.holes, total.layouts) > 0
    assert total.lost < total.lines / 2


@pytest.mark.parametrize("seed", KEPT)
def test_kept_seeds(seed: int) -> None:
    try_seed(seed, STEPS)


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("how", ["inotify", "no-inotify"])
def test_killed_servers(tmp_path: Path, seed: int, how: str) -> None:
    """While the node writes partial lines across hours and dates, a client that resumes gets each order once.

    Orders in a gap are retrieved with the cursor from before it.
    """
    chance = random.Random(seed)
    folder = tmp_path / "data"
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        hour, rest = 20, b""
        path = hour_file(folder, "streaming", "20260505", hour)
        while not stop.is_set():
            count = chance.randrange(1, 200)
            data = rest + by_layout("streaming", [event(oid=written + i) for i in range(count)])
            cut = chance.randrange(len(data)) if chance.random() < 0.3 else len(data)
            with path.open("ab", buffering=0) as file:
                file.write(data[:cut])
            written += count
            rest = data[cut:]
            if chance.random() < 0.05:
                with path.open("ab", buffering=0) as file:
                    file.write(rest)
                rest = b""
                hour += 1
                day = date(2026, 5, 5) + timedelta(days=hour // 24)
                path = hour_file(folder, "streaming", f"{day:%Y%m%d}", hour % 24)
            time.sleep(0.005)
        with path.open("ab", buffering=0) as file:
            file.write(rest)

    got: list[int] = []
    cursor = "s2026050520-0000000000000-0000000"
    writer = threading.Thread(target=write)
    writer.start()
    kills = 0
    progress, deadline = 0, time.monotonic() + 300
    try:
        while not (stop.is_set() and got and got[-1] == written - 1):
            if len(got) > progress:
                progress, deadline = len(got), time.monotonic() + 300
            assert time.monotonic() < deadline, (len(got), written)
            server = Serve(folder, "--from", "oldest", f"--{how}", "--workers", 2)
            doomed = kills < 4
            if doomed:
                kills += 1
                how_it_ends = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
                threading.Timer(chance.uniform(0.05, 0.8), os.kill, (server.process.pid, how_it_ends)).start()
            else:
                stop.set()
                writer.join()
            with (
                suppress(ConnectionClosed, InvalidHandshake, OSError, EOFError, TimeoutError),
                connect(
                    f"ws://127.0.0.1:{server.port}/ws", max_size=None, legacy=True, ping_interval=None
                ) as bot,
            ):
                wanted = {"type": "orders", "format": "raw", "cursor": cursor}
                bot.send(json.dumps({"method": "subscribe", "subscription": wanted}))
                while doomed or not (got and got[-1] == written - 1):
                    message = json.loads(bot.recv(timeout=120))
                    if message["channel"] == "orders":
                        got += [each["order"]["oid"] for each in message["data"]]
                        cursor = message["cursor"]
                    elif message["channel"] in ("error", "gap"):
                        break  # the server has just started and read nothing yet, or the client was too slow
            if not doomed and server.process.poll() is None:
                server.process.terminate()
            server.process.wait(timeout=120)
    finally:
        stop.set()
        writer.join()
    assert kills == 4
    assert got == list(range(written))
