"""The threads that replays use. Those that run steps never hold the GIL (`step_threads`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fasttail.replay.replay_reader import ReplayReader
from fasttail.replay.scan import SharedScan
from fasttail.replay.step_threads import ReplayThreadPool
from fasttail.sources.cursor import CursorPosition

STARVED_STEP_S = 0.1
"""A step takes some milliseconds. One that takes longer than this found no idle core."""

URGENT_PERIOD_S = 10.0
"""How long steps are urgent after such a step, so that no replay starves."""


class ReplayThreads:
    """The threads that the scans of all streams share: `count` of them run steps, and one opens files.

    running_scans: scans that have begun; at most `count`
    waiting: for each stream whose members wait for a scan to end, what is called then
    """

    def __init__(self, count: int) -> None:
        self.running_scans = 0
        self.waiting: dict[str, Callable[[], None]] = {}
        self._count = count
        # Steps are urgent until then. After a start, many clients resume at once, and it is not known yet
        # whether a core is idle.
        self._urgent_until = time.monotonic() + URGENT_PERIOD_S
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="fasttail-replay-open")
        self._threads: ReplayThreadPool | None = None  # created for the first step
        self._step_futures: dict[ReplayReader, asyncio.Future[None]] = {}

    @property
    def can_start_scan(self) -> bool:
        """Whether another scan may begin."""
        return self.running_scans < self._count

    def end_scan(self) -> None:
        """Note that a scan has ended, and let the streams that wait begin one."""
        self.running_scans -= 1
        waiting, self.waiting = self.waiting, {}
        for schedule in waiting.values():
            schedule()

    async def open_file(self, scan: SharedScan, delivered_offsets: dict[int, int]) -> CursorPosition:
        """Run `SharedScan.open_next_file` in the opener's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._opener, scan.open_next_file, delivered_offsets, scan.fingerprints
        )

    async def run_step(self, scan: SharedScan, limit: int, exact: bool) -> bool:
        """Run `SharedScan.read_step` in the step threads, and its `check_end` in the opener's thread."""
        loop = asyncio.get_running_loop()
        if self._threads is None:
            self._threads = ReplayThreadPool(self._count)
            loop.add_reader(self._threads.fd, self._finish_steps)
        started_at = time.monotonic()
        replay_reader = scan.replay_reader
        replay_reader.begin_step(limit, exact)
        self._step_futures[replay_reader] = done = loop.create_future()
        self._threads.submit(replay_reader, urgent=started_at < self._urgent_until)
        await done
        now = time.monotonic()
        if now - started_at > STARVED_STEP_S and started_at >= self._urgent_until:
            self._urgent_until = now + URGENT_PERIOD_S
        if replay_reader.end_step():
            return True
        return await loop.run_in_executor(self._opener, scan.check_end, limit, exact)

    def _finish_steps(self) -> None:
        assert self._threads is not None
        for replay_reader in self._threads.take_finished():
            done = self._step_futures.pop(replay_reader)
            if not done.cancelled():
                done.set_result(None)

    def close(self) -> None:
        """Stop the threads. A running step still ends."""
        self._opener.shutdown(wait=False, cancel_futures=True)
        if self._threads is not None:
            asyncio.get_running_loop().remove_reader(self._threads.fd)
            self._threads.close()
