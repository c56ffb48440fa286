"""Replays: members of feeds that are behind read the node's files at their own pace, until they are live.

    behind ──its queue is below a quarter──► waits for its turn ──► in a reading ──► frontier ──► live
      ▲                                                                │
      └─────────────────── its queue is full, or the slice is over ────┘

A reading goes through the files once for many: all members whose places lie close together, equal
subscriptions as one topic, different ones evaluated as the pipeline does it. `max_scans` readings run at a
time, in threads that get only the time that nobody else wants. A reading waits for no member: one whose queue
is full leaves it, and costs nothing until it has read on.

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

from fasttail.connection.connection import Client
from fasttail.engine.topics import Topic
from fasttail.monitoring.rate_limited import RateLimitedLog
from fasttail.publish.feeds import Feeds
from fasttail.publish.public_api import Member
from fasttail.publish.subscriptions import Subscription
from fasttail.replay.members import LaggingMembers
from fasttail.replay.replay_reader import ReplayReader
from fasttail.replay.runner import ScanRunner
from fasttail.replay.scan import LaggingMember, SharedScan
from fasttail.replay.threads import ReplayThreads
from fasttail.sources.cursor import CursorPosition

READ_WINDOW_BYTES = 4 << 20
"""Bytes that a reading reads at once, for many users; with few topics it goes on in smaller steps."""

MERGE_AFTER_S = 0.25
"""A reading goes on for so long before it ends for the sake of those who are not far behind it."""

POLL_INTERVAL_S = 0.1
"""Between two looks at who is ready: most become so by an event, and these looks find the others."""

log = logging.getLogger(__name__)


class ReplayManager:
    """All members that are behind. `max_scans` readings run at a time; the others wait for their turn.

    max_behind_s: a member that falls further behind is told a gap, and goes on at the newest place. ease: to
    be called when something has been handed out.
    """

    def __init__(
        self,
        feeds: Feeds,
        data_dir: str | os.PathLike[str],
        make_topic: Callable[[Subscription], Topic],
        *,
        max_scans: int,
        max_line: int,
        window: int = READ_WINDOW_BYTES,
        max_behind_s: float,
        on_delivered: Callable[[], None],
    ) -> None:
        self._feeds = feeds
        self._data_dir = os.path.abspath(data_dir)
        self._max_scans = max_scans
        self._new_replay_reader = partial(ReplayReader, window=window, max_line=max_line)
        self._members = LaggingMembers(feeds, max_behind_s)
        self._threads = ReplayThreads(self._max_scans)
        self._runner = ScanRunner(self._members, feeds, self._threads, make_topic, on_delivered)
        self._scans: dict[SharedScan, asyncio.Task[None]] = {}
        self._idle_readers: list[ReplayReader] = []
        self._timer: asyncio.TimerHandle | None = None
        self._schedule_requested = False
        self._closed = False
        self._failures = RateLimitedLog(log, logging.ERROR, "a replay read has failed")

    # ---- what others want of it

    def start_replay(self, member: Member) -> None:
        """A member is behind: everything up to its cursor has been given to it, or is not wanted."""
        self._members.start_replay(member)
        self._request_schedule()

    def cancel_replay(self, member: Member) -> None:
        """It wants no more."""
        self._members.discard(member)

    def on_client_writable(self) -> None:
        """A client has read on: members of it may be ready."""
        if self._members.waiting:
            self._request_schedule()

    def lag_report(self) -> dict[Client, list[dict[str, Any]]]:
        """For the `status` of each client that has members which are behind."""
        return self._members.lag_report()

    def tick(self) -> None:
        """Once a second: look for members that are too far behind."""
        if not self._members:
            self._idle_readers.clear()
        self._members.tick()

    def close(self) -> None:
        """No more; what runs ends with its step."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._scans.values():
            task.cancel()
        self._threads.close()

    @property
    def reader_bytes(self) -> int:
        """What the blocks of the readings occupy."""
        replay_readers = [scan.replay_reader for scan in self._scans] + self._idle_readers
        return sum(replay_reader.reader.resident_bytes for replay_reader in replay_readers)

    def replay_counters(self) -> dict[str, float]:
        """For the metrics."""
        return {
            **self._members.counters(),
            "replayed_orders": self._runner.replayed_orders,
            "replay_readings": len(self._scans),
        }

    # ---- whose turn it is

    def _request_schedule(self) -> None:
        if not self._schedule_requested and not self._closed:
            self._schedule_requested = True
            asyncio.get_running_loop().call_soon(self._schedule)

    def _poll(self) -> None:
        self._timer = None
        self._schedule()

    def _schedule(self) -> None:
        """Begin readings for those who are ready, as many as may run; let go live who is at the frontier."""
        self._schedule_requested = False
        if self._closed:
            return
        members = self._members
        ready = [lagging for lagging in tuple(members.waiting) if members.is_ready(lagging)]
        ready = [lagging for lagging in ready if not members.try_go_live(lagging)]
        # Else its client has gone just now.
        ready = [lagging for lagging in ready if lagging in members.waiting]
        for scan in self._scans if ready else ():
            ready = self._assign_nearby(scan, ready)
        ready = [lagging for lagging in ready if not self._awaits_merge(lagging)]
        while ready and len(self._scans) < self._max_scans:
            ready = self._start_scan(ready)
        if members and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL_INTERVAL_S, self._poll)

    def _awaits_merge(self, lagging: LaggingMember) -> bool:
        """Whether a reading that is not far ahead is to end soon, to begin again with this member, too."""
        if lagging.late_ranges_owed:
            return False
        for scan in self._scans:
            if scan.late_range is None and self._members.is_near(lagging.position, scan.position):
                scan.ends_to_merge = time.monotonic() - scan.started_at > MERGE_AFTER_S
                return True
        return False

    def _start_scan(self, ready: list[LaggingMember]) -> list[LaggingMember]:
        """A reading for the one that has waited longest and all who are near it. Who is left over."""
        first = ready[0]
        if first.late_ranges_owed and first.position == self._feeds.high_watermark:
            late_range = first.late_ranges_owed[0]
            assigned = [
                each
                for each in ready
                if each.late_ranges_owed[:1] == [late_range] and each.position == first.position
            ]
            start = first.position
        else:
            late_range = None
            start = min(
                each.position for each in ready if self._members.is_near(each.position, first.position)
            )
            assigned = []
        replay_reader = self._idle_readers.pop() if self._idle_readers else self._new_replay_reader()
        scan = SharedScan(
            replay_reader,
            first.layout,
            CursorPosition(start.hour, start.offset),
            self._data_dir,
            self._members.known_hours,
        )
        scan.late_range = late_range
        for lagging in assigned:
            self._members.assign(lagging, scan)
        remaining = [each for each in ready if each.scan is None]
        remaining = remaining if late_range else self._assign_nearby(scan, remaining)
        self._scans[scan] = asyncio.get_running_loop().create_task(self._run_scan(scan))
        return remaining

    def _assign_nearby(self, scan: SharedScan, ready: list[LaggingMember]) -> list[LaggingMember]:
        """Those near ahead join when the reading comes there. Who is left over."""
        if scan.late_range is not None:
            return ready
        remaining = []
        for lagging in ready:
            if self._members.is_near(
                scan.position, CursorPosition(lagging.position.hour, lagging.position.offset)
            ):
                self._members.assign(lagging, scan)
            else:
                remaining.append(lagging)
        return remaining

    async def _run_scan(self, scan: SharedScan) -> None:
        try:
            await self._runner.read(scan)
        except OSError as error:
            self._fail_scan(scan, f"cannot read the node's files: {error.strerror}")
        except Exception:
            self._failures.emit(exc_info=True)
            self._fail_scan(scan, "internal server error")
        finally:
            for lagging in [*scan.members, *scan.joiners]:
                self._members.requeue(lagging)
            del self._scans[scan]
            if not self._closed:  # else a step may still be running
                scan.replay_reader.reset()
                self._idle_readers.append(scan.replay_reader)
            self._request_schedule()

    def _fail_scan(self, scan: SharedScan, text: str) -> None:
        for lagging in scan.members:
            lagging.member.terminate(text)
