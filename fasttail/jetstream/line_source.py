"""Follows a stream's files from a position in a thread, and gives runs of lines to the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from fasttail.engine.block_lines import BlockLines, LineRun
from fasttail.jetstream.entry import Deflater
from fasttail.sources.cursor import BlockPosition
from fasttail.sources.follower import Follower
from fasttail.sources.layout import HourFile, parse_hour_path
from fasttail.sources.reader import FILL_EOF, FILL_ERROR, FILL_LINES, FILL_NO_FILE, Reader
from fasttail.sources.watcher import WAIT_DIRS, Watcher

WINDOW_BYTES = 1 << 20
MAX_WAITING = 32
"""Runs that wait to be taken. While there are so many, nothing more is read: the node's file is the queue."""


class SourceRun(NamedTuple):
    """A run of lines. hour: of its file. read_at: monotonic. body: compressed, if that is wanted."""

    run: LineRun
    layout: str
    hour: int
    read_at: float
    body: bytes | None


class LineSource(threading.Thread):
    """Reads until stopped.

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
        super().__init__(name=f"fasttail-nats-{stream}", daemon=True)
        self.compressing = False
        self._deflater: Deflater | None = None
        self._file: tuple[str, tuple[str, HourFile] | None] = "", None  # a path, and which hour's it is
        self._failure: BaseException | None = None
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
        self._loop = asyncio.get_running_loop()
        self._runs: asyncio.Queue[SourceRun | None] = asyncio.Queue()
        self._space = threading.Semaphore(MAX_WAITING)
        self._stopping = threading.Event()

    async def take(self) -> SourceRun:
        """Return the next run. Raises what ended the thread."""
        run = await self._runs.get()
        if run is None:
            assert self._failure is not None
            raise self._failure
        self._space.release()
        return run

    def stop(self) -> None:
        """Let the thread end, soon."""
        self._stopping.set()
        self._space.release()

    def run(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            self._failure = error
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._runs.put_nowait, None)
        finally:
            self._reader.close()

    def _follow(self) -> None:
        reader, follower = self._reader, self._make_follower()
        watcher = Watcher(use_inotify=self._use_inotify)
        watch = watcher.watch()
        at_end, due_at = True, 0.0
        try:
            while not self._stopping.is_set():
                follower.check(reader, watch, at_end)
                while (line := follower.take_final_line()) is not None:
                    file = self._hour_file(follower)
                    if file is not None and not follower.late:
                        self._put(self._final_runs(line, file), file)
                check_at = time.monotonic() + max(follower.next_check_s, 0.0)
                at_end = False
                while not self._stopping.is_set():
                    begun_at = time.monotonic()
                    code = reader.fill_once()
                    waits = at_end = code in (FILL_EOF, FILL_NO_FILE, FILL_ERROR)
                    if code == FILL_LINES:
                        self._take_lines(reader, follower)
                        due_at = begun_at + self._linger_s
                        waits = reader.last_read_short and not watch.polls_file
                    remaining_s = check_at - time.monotonic()
                    if remaining_s <= 0 or (at_end and reader.at_hole):
                        break
                    if waits:
                        woken = watcher.wait_once(int(min(remaining_s, 0.5) * 1e6) + 1)
                        if woken & WAIT_DIRS:
                            break  # a new hour
                        if woken:
                            time.sleep(max(0.0, due_at - time.monotonic()))
        finally:
            watcher.close()

    def _take_lines(self, reader: Reader, follower: Follower) -> None:
        """Give the reader's lines to the event loop."""
        file = self._hour_file(follower)
        if file is None or follower.late:  # they would not be in the order of the chain
            reader.take_lines()
        else:
            self._put(self._runs_of(reader, file), file)

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

    def _put(self, runs: list[LineRun], file: tuple[str, HourFile]) -> None:
        layout, hour = file
        for run in runs:
            body = None
            if self.compressing:
                self._deflater = self._deflater or Deflater()
                body = self._deflater.deflate(run.data)
            self._space.acquire()
            if self._stopping.is_set():
                return
            item = SourceRun(run, layout, hour.number, time.monotonic(), body)
            self._loop.call_soon_threadsafe(self._runs.put_nowait, item)


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
