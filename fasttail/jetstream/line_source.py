"""Follows a stream's files from a position, and cuts its lines into runs."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from fasttail.engine.block_lines import BlockLines, LineRun
from fasttail.sources.cursor import BlockPosition
from fasttail.sources.follower import Follower
from fasttail.sources.layout import HourFile, parse_hour_path
from fasttail.sources.reader import FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NO_FILE, Reader
from fasttail.sources.watcher import WAIT_DIRS, WAIT_TIMER, StreamWatch, Watcher

WINDOW_BYTES = 1 << 20
MAX_WAIT_S = 0.5
"""Without events, until the next read: there are file systems where inotify reports nothing."""
POLL_S = 0.02
"""Between reads of a file that inotify does not cover."""


class SourceRun(NamedTuple):
    """A run of lines. hour: of its file. read_at: monotonic."""

    run: LineRun
    layout: str
    hour: int
    read_at: float


class LineSource:
    """Reads in the event loop, in steps of at most WINDOW_BYTES and one line.

    after: the position in the chain where reading begins, if known; in the plain layout not used
    linger_s: minimum time between two reads, in which lines gather, unless it is behind
    max_run: bytes of a run, but for a line that is longer
    """

    def __init__(
        self,
        make_follower: Callable[[], Follower],
        data_dir: str,
        stream: str,
        *,
        after: BlockPosition | None,
        linger_s: float,
        max_line: int,
        max_run: int,
        use_inotify: bool = True,
    ) -> None:
        self._file: tuple[str, tuple[str, HourFile] | None] = "", None  # a path, and which hour's it is
        self._make_follower = make_follower
        self._data_dir = data_dir
        self._stream = stream
        self._linger_s = linger_s
        self._use_inotify = use_inotify
        self._max_run = max_run
        self._plain_end = BlockPosition(0, 0)  # hour, and offset up to which it was read
        self._reader = Reader(window=WINDOW_BYTES, max_line=max_line)
        self._lines = BlockLines(stream, capacity=WINDOW_BYTES + max_line, max_bytes=max_run)
        if after is not None:
            self._lines.begin_after(after, after)

    async def runs(self) -> AsyncGenerator[SourceRun, None]:
        """Yield the runs without end. Raises OSError, what reading raises."""
        reader, follower = self._reader, self._make_follower()
        watcher = Watcher(use_inotify=self._use_inotify)
        watch = watcher.watch()
        at_end, due_at = True, 0.0
        try:
            while True:
                await asyncio.sleep(0)
                follower.check(reader, watch, at_end)
                while (line := follower.take_final_line()) is not None:
                    file = self._hour_file(follower)
                    if file is not None and not follower.late:
                        for run in self._final_runs(line, file):
                            yield _item(run, file)
                check_at = time.monotonic() + max(follower.next_check_s, 0.0)
                at_end = False
                while True:
                    begun_at = time.monotonic()
                    code = reader.fill_once()
                    waits = at_end = code in (FILL_EOF, FILL_NO_FILE, FILL_ERROR)
                    if code == FILL_LINES:
                        file = self._hour_file(follower)
                        if file is None or follower.late:  # they would not be in the order of the chain
                            reader.take_lines()
                        else:
                            for run in self._runs_of(reader, file):
                                yield _item(run, file)
                        due_at = begun_at + self._linger_s
                        waits = reader.last_read_short and not watch.polls_file
                    remaining_s = check_at - time.monotonic()
                    if remaining_s <= 0 or (at_end and reader.at_hole):
                        break
                    if not waits:
                        await asyncio.sleep(0)
                        continue
                    if await _wait(watcher, watch, min(remaining_s, MAX_WAIT_S)) & WAIT_DIRS:
                        break  # a new hour
                    await asyncio.sleep(due_at - time.monotonic())
        finally:
            watcher.close()
            reader.close()

    def _hour_file(self, follower: Follower) -> tuple[str, HourFile] | None:
        """Return the layout and the file that is followed, None if it is no hour's."""
        path = follower.path or ""
        if self._file[0] != path:
            self._file = path, parse_hour_path(self._data_dir, path, self._stream)
        return self._file[1]

    def _runs_of(self, reader: Reader, file: tuple[str, HourFile]) -> list[LineRun]:
        layout, hour = file
        if layout != "plain":
            return self._lines.take_lines(reader)
        data = reader.take_lines()
        self._plain_end = BlockPosition(hour.number, reader.tell())
        return list(_plain_runs(data, self._plain_end, self._max_run))

    def _final_runs(self, line: bytes, file: tuple[str, HourFile]) -> list[LineRun]:
        """Return the run of the last line of an hour, which lacks its newline."""
        if file[0] != "plain":
            return self._lines.take_data(line)
        end = BlockPosition(self._plain_end.height, self._plain_end.events + len(line) + 1)
        return list(_plain_runs(line + b"\n", end, self._max_run))


def _item(run: LineRun, file: tuple[str, HourFile]) -> SourceRun:
    layout, hour = file
    return SourceRun(run, layout, hour.number, time.monotonic())


async def _wait(watcher: Watcher, watch: StreamWatch, timeout_s: float) -> int:
    """Wait until the node has written or some time has passed. Return the watcher's flags."""
    if watch.polls_file:
        await asyncio.sleep(min(timeout_s, POLL_S))
        return watcher.wait_once(0)
    woken = watcher.wait_once(0)
    if woken != WAIT_TIMER:
        return woken
    loop, written, fd = asyncio.get_running_loop(), asyncio.Event(), watcher.fileno()
    loop.add_reader(fd, written.set)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await written.wait()
    finally:
        loop.remove_reader(fd)
    return watcher.wait_once(0)


def _plain_runs(data: bytes, end: BlockPosition, max_run: int) -> Iterator[LineRun]:
    """Cut lines without blocks. end: the hour and the offset behind them"""
    at = 0
    while at < len(data):
        newline = data.rfind(b"\n", at, at + max_run)
        to = (newline if newline >= 0 else data.index(b"\n", at)) + 1
        lines = data[at:to]
        after, last = (BlockPosition(end.height, end.events - len(data) + each) for each in (at, to))
        digest = int.from_bytes(hashlib.blake2b(lines, digest_size=8).digest(), "little")
        yield LineRun(lines, after, last, lines.count(b"\n"), digest, b"", [])
        at = to
