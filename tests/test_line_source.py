"""What a publisher reads: runs of whole lines that are the file's bytes, not more often than asked for."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import aclosing
from pathlib import Path

import pytest

pytest.importorskip("nats", reason="the extra nats is not installed")

from fasttail.jetstream.line_source import LineSource
from fasttail.sources.follower import Follower

LINGER_S = 0.2
SECONDS = 1.5
PAUSE_S = 20e-6
LINE = b'{"oid":1}\n'


@pytest.mark.parametrize("use_inotify", [True, False])
def test_lines_gather_between_reads(tmp_path: Path, use_inotify: bool) -> None:
    """A file that grows all the time is read once in `linger_s`, and whole."""
    path = tmp_path / "node_order_statuses/hourly/20260505/9"
    path.parent.mkdir(parents=True)
    path.touch()
    written = threading.Event()

    def write() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        now = time.monotonic()
        until = now + SECONDS
        while now < until:
            os.write(fd, LINE)
            due = now + PAUSE_S  # so short that there is always more after a read
            while (now := time.monotonic()) < due:
                pass
        written.set()
        os.write(fd, LINE)
        os.close(fd)

    async def read() -> tuple[bytes, int, float]:
        source = LineSource(
            lambda: Follower(tmp_path, start="oldest", notice=lambda level, text: None),
            str(tmp_path),
            "orders",
            after=None,
            linger_s=LINGER_S,
            max_line=1 << 20,
            max_run=1 << 30,
            use_inotify=use_inotify,
        )
        data, runs, began = bytearray(), 0, time.monotonic()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            async with asyncio.timeout(60), aclosing(source.runs()) as items:
                async for item in items:
                    data += item.run.data
                    runs += 1
                    if written.is_set() and len(data) == path.stat().st_size:
                        break
        finally:
            writer.join()
        return bytes(data), runs, time.monotonic() - began

    data, runs, seconds = asyncio.run(read())
    assert data == path.read_bytes()
    assert len(data) > 1000 * len(LINE)
    if use_inotify:
        # A look at the folders, each second and when they change, is followed by a read.
        assert 2 <= runs <= seconds / LINGER_S + seconds + 3
