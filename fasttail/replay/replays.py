"""Schedules replays of a stream: members that are behind read its files at their own pace, until live.

    behind ──its queue is below a quarter──► waits for a scan ──► in a scan ──► high watermark ──► live
      ▲                                                               │
      └───────────────── its queue is full, or the quantum is over ───┘

A scan reads the files once for many members, whose positions must be close together. Equal subscriptions
share a topic; different ones are evaluated as in the pipeline. The scans of all streams share a few threads
that run only on idle cores. A scan waits for no member: one whose queue is full leaves it, and costs
nothing until its client has read on.

A scan never passes the high watermark. What follows it has not been delivered to live members, and will be
delivered to these as well. A position ahead of it, which happens when the server reads again what it
published before a restart, is waited for.

Everything here belongs to the event loop's thread.
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
"""Bytes of one read with many users. With few topics, a scan uses smaller steps."""

MERGE_AFTER_S = 0.25
"""How long a scan runs, at least, before it ends to start again with members that are not far behind it."""

POLL_INTERVAL_S = 0.1
"""Interval between polls for members that are ready, for those that no event has reported."""

log = logging.getLogger(__name__)


class ReplayManager:
    """All members of one stream that are behind. While no thread is free for another scan, the others wait.

    deliver_replayed: deliver the events of blocks that the node wrote again, as the pipeline does
    threads: of the replays of all streams; whoever made them closes them
    max_behind_s: a member that is further behind gets a gap, and continues at the high watermark
    on_delivered: called after messages were delivered
    """

    def __init__(
        self,
        feeds: Feeds,
        data_dir: str | os.PathLike[str],
        make_topic: Callable[[Subscription], Topic],
        *,
        threads: ReplayThreads,
        max_line: int,
        window: int = READ_WINDOW_BYTES,
        max_behind_s: float,
        on_delivered: Callable[[], None],
        stream: str = "orders",
        deliver_replayed: bool = False,
    ) -> None:
        self._stream = stream
        self._feeds = feeds
        self._data_dir = os.path.abspath(data_dir)
        self._new_replay_reader = partial(
            ReplayReader, stream, window=window, max_line=max_line, deliver_replayed=deliver_replayed
        )
        self._members = LaggingMembers(feeds, max_behind_s)
        self._threads = threads
        self._runner = ScanRunner(self._members, feeds, self._threads, make_topic, on_delivered)
        self._scans: dict[SharedScan, asyncio.Task[None]] = {}
        self._idle_readers: list[ReplayReader] = []
        self._timer: asyncio.TimerHandle | None = None
        self._schedule_requested = False
        self._closed = False
        self._failures = RateLimitedLog(log, logging.ERROR, "a replay read has failed")

    # ---- interface

    def start_replay(self, member: Member) -> None:
        """Add a member that is behind. Everything up to its position is delivered or not wanted."""
        self._members.start_replay(member)
        self._request_schedule()

    def cancel_replay(self, member: Member) -> None:
        self._members.discard(member)

    def on_client_writable(self) -> None:
        """Check again whether members are ready, after a client has read on."""
        if self._members.waiting:
            self._request_schedule()

    def lag_report(self) -> dict[Client, list[dict[str, Any]]]:
        """Return the entries for the `status` of each client with members that are behind."""
        return self._members.lag_report()

    def tick(self) -> None:
        """Skip members that are too far behind. To be called once a second."""
        if not self._members:
            self._idle_readers.clear()
        self._members.tick()

    def close(self) -> None:
        """Stop all scans. A running step still ends."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._scans.values():
            task.cancel()

    @property
    def reader_bytes(self) -> int:
        """Bytes that the readers' blocks occupy."""
        replay_readers = [scan.replay_reader for scan in self._scans] + self._idle_readers
        return sum(replay_reader.reader.resident_bytes for replay_reader in replay_readers)

    def replay_counters(self) -> dict[str, float]:
        return {
            **self._members.counters(),
            "replayed_orders": self._runner.replayed_orders,
            "replay_readings": len(self._scans),
        }

    # ---- scheduling

    def _request_schedule(self) -> None:
        if not self._schedule_requested and not self._closed:
            self._schedule_requested = True
            asyncio.get_running_loop().call_soon(self._schedule)

    def _poll(self) -> None:
        self._timer = None
        self._schedule()

    def _schedule(self) -> None:
        """Make members at the high watermark live, and start scans for those that are ready."""
        self._schedule_requested = False
        if self._closed:
            return
        members = self._members
        ready = [lagging for lagging in tuple(members.waiting) if members.is_ready(lagging)]
        ready = [lagging for lagging in ready if not members.try_go_live(lagging)]
        # Without those whose clients have just left.
        ready = [lagging for lagging in ready if lagging in members.waiting]
        for scan in self._scans if ready else ():
            ready = self._assign_nearby(scan, ready)
        ready = [lagging for lagging in ready if not self._awaits_merge(lagging)]
        while ready and self._threads.can_start_scan:
            ready = self._start_scan(ready)
        if ready:
            self._threads.waiting[self._stream] = self._request_schedule
        if members and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL_INTERVAL_S, self._poll)

    def _awaits_merge(self, lagging: LaggingMember) -> bool:
        """Whether a scan that is not far ahead should end soon, to start again with this member."""
        if lagging.late_ranges_owed:
            return False
        for scan in self._scans:
            if scan.late_range is None and self._members.is_near(lagging.position, scan.position):
                scan.ends_to_merge = time.monotonic() - scan.started_at > MERGE_AFTER_S
                return True
        return False

    def _start_scan(self, ready: list[LaggingMember]) -> list[LaggingMember]:
        """Start a scan for the longest waiting member and all near it. Return the others."""
        first = ready[0]
        if first.late_ranges_owed and first.position == self._feeds.high_watermark:
            late_range = first.late_ranges_owed[0]
            assigned = [
                each
                for each in ready
                if each.late_ranges_owed[:1] == [late_range] and each.position == first.position
            ]
            start, block = first.position, first.block
        else:
            late_range = None
            near = [each for each in ready if self._members.is_near(each.position, first.position)]
            earliest = min(near, key=lambda each: each.position)
            start, block = earliest.position, earliest.line_block
            assigned = []
        replay_reader = self._idle_readers.pop() if self._idle_readers else self._new_replay_reader()
        scan = SharedScan(
            replay_reader,
            first.layout,
            CursorPosition(start.hour, start.offset),
            self._data_dir,
            self._members.known_hours,
            self._stream,
            block,
        )
        scan.late_range = late_range
        for lagging in assigned:
            self._members.assign(lagging, scan)
        remaining = [each for each in ready if each.scan is None]
        remaining = remaining if late_range else self._assign_nearby(scan, remaining)
        self._threads.running_scans += 1
        self._scans[scan] = asyncio.get_running_loop().create_task(self._run_scan(scan))
        return remaining

    def _assign_nearby(self, scan: SharedScan, ready: list[LaggingMember]) -> list[LaggingMember]:
        """Assign members not far ahead of the scan, which join when it reaches them. Return the others."""
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
            self._threads.end_scan()
            if not self._closed:  # else a step may still be running
                scan.replay_reader.reset()
                self._idle_readers.append(scan.replay_reader)
            self._request_schedule()

    def _fail_scan(self, scan: SharedScan, text: str) -> None:
        for lagging in scan.members:
            lagging.member.terminate(text)
