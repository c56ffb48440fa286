"""Replays: members of feeds that are behind read the node's files at their own pace, until they are live.

    behind ──its queue is below a quarter──► waits for its turn ──► in a reading ──► frontier ──► live
      ▲                                                                │
      └─────────────────── its queue is full, or the slice is over ────┘

A reading goes through the files once for many: all members whose places lie close together, equal
subscriptions as one topic, different ones evaluated as the pipeline does it. `limit` readings run at a time,
in threads that get only the time that nobody else wants. A reading waits for no member: one whose queue is
full leaves it, and costs nothing until it has read on.

No reading goes beyond the frontier: what lies behind it has not been handed out to live members, and will be
to these too. A place ahead of the frontier (the server reads once more what it had published before a
restart) is waited for.

Here is decided whose turn it is. Everything belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fasttail.observe.now_and_then import RateLimitedLog
from fasttail.publish.connection import Client
from fasttail.publish.cursor import Place
from fasttail.publish.feeds import Feeds
from fasttail.publish.public import Member
from fasttail.publish.subscriptions import Subscription
from fasttail.publish.topics import Topic
from fasttail.replay_members import LaggingMembers
from fasttail.replay_runner import ScanRunner
from fasttail.replay_scan import LaggingMember, SharedScan
from fasttail.replay_threads import ReplayThreads
from fasttail.reread import ReplayReader

WINDOW = 4 << 20
"""Bytes that a reading reads at once, for many users; with few topics it goes on in smaller steps."""

GATHER_S = 0.25
"""A reading goes on for so long before it ends for the sake of those who are not far behind it."""

POLL_S = 0.1
"""Between two looks at who is ready: most become so by an event, and these looks find the others."""

log = logging.getLogger(__name__)


class Replays:
    """All members that are behind. `limit` readings run at a time; the others wait for their turn.

    max_behind_s: a member that falls further behind is told a gap, and goes on at the newest place. ease: to
    be called when something has been handed out.
    """

    def __init__(
        self,
        feeds: Feeds,
        data_dir: str | os.PathLike[str],
        make_topic: Callable[[Subscription], Topic],
        *,
        limit: int,
        max_line: int,
        window: int = WINDOW,
        max_behind_s: float,
        ease: Callable[[], None],
    ) -> None:
        self._feeds = feeds
        self._data_dir = os.path.abspath(data_dir)
        self._limit = limit
        self._new_replay_reader = partial(ReplayReader, window=window, max_line=max_line)
        self._members = LaggingMembers(feeds, max_behind_s)
        self._threads = ReplayThreads(self._limit)
        self._runner = ScanRunner(self._members, feeds, self._threads, make_topic, ease)
        self._readings: dict[SharedScan, asyncio.Task[None]] = {}
        self._free: list[ReplayReader] = []
        self._timer: asyncio.TimerHandle | None = None
        self._looks = False
        self._closed = False
        self._failures = RateLimitedLog(
            log, logging.ERROR, "a reading for clients that are behind has failed"
        )

    # ---- what others want of it

    def admit(self, member: Member) -> None:
        """A member is behind: everything up to its cursor has been given to it, or is not wanted."""
        self._members.admit(member)
        self._look_soon()

    def drop(self, member: Member) -> None:
        """It wants no more."""
        self._members.discard(member)

    def drained(self) -> None:
        """A client has read on: members of it may be ready."""
        if self._members.waiting:
            self._look_soon()

    def report(self) -> dict[Client, list[dict[str, Any]]]:
        """For the `status` of each client that has members which are behind."""
        return self._members.lag_report()

    def tick(self) -> None:
        """Once a second: look for members that are too far behind."""
        if not self._members:
            self._free.clear()
        self._members.tick()

    def close(self) -> None:
        """No more; what runs ends with its step."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._readings.values():
            task.cancel()
        self._threads.close()

    @property
    def block_bytes(self) -> int:
        """What the blocks of the readings occupy."""
        replay_readers = [reading.replay_reader for reading in self._readings] + self._free
        return sum(replay_reader.reader.resident_bytes for replay_reader in replay_readers)

    def counts(self) -> dict[str, float]:
        """For the metrics."""
        return {
            **self._members.counters(),
            "replayed_orders": self._runner.replayed_orders,
            "replay_readings": len(self._readings),
        }

    # ---- whose turn it is

    def _look_soon(self) -> None:
        if not self._looks and not self._closed:
            self._looks = True
            asyncio.get_running_loop().call_soon(self._look)

    def _poll(self) -> None:
        self._timer = None
        self._look()

    def _look(self) -> None:
        """Begin readings for those who are ready, as many as may run; let go live who is at the frontier."""
        self._looks = False
        if self._closed:
            return
        members = self._members
        ready = [behind for behind in tuple(members.waiting) if members.is_ready(behind)]
        ready = [behind for behind in ready if not members.try_go_live(behind)]
        # Else its client has gone just now.
        ready = [behind for behind in ready if behind in members.waiting]
        for reading in self._readings if ready else ():
            ready = self._let_join(reading, ready)
        ready = [behind for behind in ready if not self._is_to_gather(behind)]
        while ready and len(self._readings) < self._limit:
            ready = self._begin(ready)
        if members and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL_S, self._poll)

    def _is_to_gather(self, behind: LaggingMember) -> bool:
        """Whether a reading that is not far ahead is to end soon, to begin again with this member, too."""
        if behind.owed:
            return False
        for reading in self._readings:
            if reading.late is None and self._members.is_near(behind.place, reading.place):
                reading.gathers = time.monotonic() - reading.began > GATHER_S
                return True
        return False

    def _begin(self, ready: list[LaggingMember]) -> list[LaggingMember]:
        """A reading for the one that has waited longest and all who are near it. Who is left over."""
        first = ready[0]
        if first.owed and first.place == self._feeds.frontier:
            late = first.owed[0]
            taken = [each for each in ready if each.owed[:1] == [late] and each.place == first.place]
            start = first.place
        else:
            late = None
            start = min(each.place for each in ready if self._members.is_near(each.place, first.place))
            taken = []
        replay_reader = self._free.pop() if self._free else self._new_replay_reader()
        reading = SharedScan(
            replay_reader,
            first.layout,
            Place(start.hour, start.offset),
            self._data_dir,
            self._members.known_hours,
        )
        reading.late = late
        for behind in taken:
            self._members.assign(behind, reading)
        rest = [each for each in ready if each.reading is None]
        rest = rest if late else self._let_join(reading, rest)
        self._readings[reading] = asyncio.get_running_loop().create_task(self._run(reading))
        return rest

    def _let_join(self, reading: SharedScan, ready: list[LaggingMember]) -> list[LaggingMember]:
        """Those near ahead join when the reading comes there. Who is left over."""
        if reading.late is not None:
            return ready
        rest = []
        for behind in ready:
            if self._members.is_near(reading.place, Place(behind.place.hour, behind.place.offset)):
                self._members.assign(behind, reading)
            else:
                rest.append(behind)
        return rest

    async def _run(self, reading: SharedScan) -> None:
        try:
            await self._runner.read(reading)
        except OSError as error:
            self._fail(reading, f"cannot read the node's files: {error.strerror}")
        except Exception:
            self._failures.emit(exc_info=True)
            self._fail(reading, "the server has failed to serve it")
        finally:
            for behind in [*reading.members, *reading.joiners]:
                self._members.requeue(behind)
            del self._readings[reading]
            if not self._closed:  # else a step may still be running
                reading.replay_reader.reset()
                self._free.append(reading.replay_reader)
            self._look_soon()

    def _fail(self, reading: SharedScan, text: str) -> None:
        for behind in reading.members:
            behind.member.fail(text)
