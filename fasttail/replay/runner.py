"""Runs scans: makes their members' messages step by step, and delivers them.

Threads run most steps. The final stretch before the high watermark is read on the event loop, where the
watermark cannot move meanwhile, so members go live without gaps or duplicates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from fasttail.engine.topics import Topic, TopicMessage
from fasttail.publish.feeds import Feeds
from fasttail.publish.subscriptions import Subscription
from fasttail.replay.members import LaggingMembers
from fasttail.replay.scan import (
    UNBOUNDED,
    FileMissing,
    FileTruncated,
    LaggingMember,
    SharedScan,
    TopicGroup,
)
from fasttail.replay.threads import ReplayThreads
from fasttail.sources.cursor import CursorPosition

SYNC_READ_BYTES = 1 << 18
"""Bytes of the final stretch, at most; less with many topics. Reading takes a fraction of a millisecond."""

SCAN_QUANTUM_BYTES = 64 << 20
"""Bytes after which a scan gives way to waiting members."""

DELIVERY_CHUNK_BYTES = 64 << 10
"""Bytes of messages delivered in one turn of the event loop, between which live messages are sent."""

DELIVERY_BURST_BYTES = 1 << 20
"""Bytes, for all members together, after which live messages are sent in between."""

MESSAGE_OVERHEAD_BYTES = 8 << 10
"""Added to a message's bytes, because sending one takes the kernel as long as that many bytes."""

ACTIVATE_DISTANCE_BYTES = 8 << 20
"""Bytes before the high watermark at which the pipeline is asked for live messages, which start later."""

TRUNCATION_GRACE_S = 0.2
"""How long to wait for the pipeline to detect a truncation of the current file."""

JOINS_PER_TURN = 50


class ScanStep(NamedTuple):
    """The next range to read: the current file from `begin` up to `limit`.

    end: where reading of the file ends
    exact: `limit` is that end; otherwise it is the position of a member that joins
    in_previous_hour: the pipeline has left the file
    final_stretch: the last step before the high watermark, which nothing may interrupt
    """

    begin: int
    end: int
    limit: int
    exact: bool = True
    in_previous_hour: bool = False
    final_stretch: bool = False


class ScanRunner:
    """Runs the scans of all members that are behind. on_delivered: called after messages were delivered."""

    def __init__(
        self,
        members: LaggingMembers,
        feeds: Feeds,
        threads: ReplayThreads,
        make_topic: Callable[[Subscription], Topic],
        on_delivered: Callable[[], None],
    ) -> None:
        self.replayed_orders = 0
        self._members = members
        self._feeds = feeds
        self._threads = threads
        self._make_topic = make_topic
        self._on_delivered = on_delivered
        # Allows one delivery of all scans in a turn of the event loop.
        self._delivery_lock = asyncio.Lock()

    async def read(self, scan: SharedScan) -> None:
        """Run a scan until its members are live or gone, or it gives way to others. Raises OSError."""
        feeds = self._feeds
        rewinds = feeds.rewinds
        while True:
            scan.prune_topics()
            await self._join_reached(scan)
            high_watermark = feeds.high_watermark
            if (
                not scan.by_topic
                or feeds.rewinds != rewinds
                or high_watermark is None
                or scan.position > high_watermark
            ):
                return
            if scan.late_range is None and scan.position == high_watermark:
                self._finish_scan(scan)
                return
            step = self._next_step(scan, high_watermark)
            if step.in_previous_hour and step.begin >= step.end:
                scan.position = CursorPosition(scan.position.hour + 1, 0)
                continue
            if not scan.is_open:
                if not await self._open(scan, step.in_previous_hour, rewinds):
                    return
                continue
            if step.final_stretch:
                self._requeue_undrained(scan)
            self._activate_near(scan, high_watermark)
            try:
                if step.final_stretch:
                    has_more = scan.read_step(step.limit, step.exact)
                else:
                    has_more = await self._threads.run_step(scan, step.limit, step.exact)
            except FileTruncated:
                if feeds.rewinds == rewinds:
                    self._on_truncated(scan, step.in_previous_hour)
                continue
            if feeds.rewinds != rewinds:
                return
            await self._deliver(scan, rewinds, synchronous=step.final_stretch)
            if feeds.rewinds != rewinds or self._advance(scan, step, has_more):
                return

    def _next_step(self, scan: SharedScan, high_watermark: CursorPosition) -> ScanStep:
        if scan.late_range is not None:
            end = scan.late_range[2]
            return ScanStep(scan.replay_reader.tell() if scan.open_hour else 0, end, end)
        hour, begin = scan.position.hour, scan.position.offset
        in_previous_hour = hour != high_watermark.hour
        end = (
            self._feeds.delivered_offsets.get(hour, UNBOUNDED) if in_previous_hour else high_watermark.offset
        )
        ahead = [each.position.offset for each in scan.joiners if each.position.hour == hour]
        next_join = min(ahead, default=end)
        final_stretch = not in_previous_hour and end - begin <= min(
            SYNC_READ_BYTES, 4 * scan.replay_reader.step_bytes
        )
        return ScanStep(begin, end, min(end, next_join), next_join >= end, in_previous_hour, final_stretch)

    async def _open(self, scan: SharedScan, in_previous_hour: bool, rewinds: int) -> bool:
        """Open the next file. Return False if the high watermark has moved back meanwhile."""
        feeds = self._feeds
        try:
            position = await self._threads.open_file(scan, dict(feeds.delivered_offsets))
        except (FileMissing, FileTruncated) as error:
            if feeds.rewinds == rewinds:
                if isinstance(error, FileMissing):
                    self._skip_missing(scan, error.position)
                else:
                    self._on_truncated(scan, in_previous_hour)
            return True
        if feeds.rewinds != rewinds:
            return False
        scan.position = position
        scan.block = scan.block or scan.replay_reader.block
        for lagging in scan.members:
            self._members.report_truncation(lagging, position)
        return True

    def _activate_near(self, scan: SharedScan, high_watermark: CursorPosition) -> None:
        """Near the high watermark, let the pipeline make the members' live messages."""
        if (
            scan.position.hour == high_watermark.hour
            and high_watermark.offset - scan.position.offset < ACTIVATE_DISTANCE_BYTES
        ):
            for lagging in scan.members:
                self._feeds.resume_feed(lagging.feed)

    def _advance(self, scan: SharedScan, step: ScanStep, has_more: bool) -> bool:
        """Advance the scan past a delivered step. Return whether the scan ends.

        has_more: the file continues.
        """
        read_to = scan.replay_reader.tell()
        if scan.late_range is not None:
            return self._advance_late_range(
                scan, min(read_to, step.end), done=not has_more or read_to >= step.end
            )
        scan.block = scan.replay_reader.block
        if not step.exact and not has_more:
            for lagging in [each for each in scan.joiners if each.position.offset == step.limit]:
                self._members.requeue(lagging)  # its position cannot be reached
        hour = scan.position.hour
        if not has_more and step.exact:
            if step.end == UNBOUNDED:
                self._members.hour_sizes[hour] = read_to
                scan.position = CursorPosition(hour + 1, 0)
            else:
                scan.position = CursorPosition(hour, step.end)
        elif read_to > step.begin and scan.is_open:
            if read_to <= step.limit:
                scan.fingerprint = (hour, read_to, scan.replay_reader.reader.preceding_bytes())
            # Not beyond the limit, although NUL bytes after it may have been skipped.
            scan.position = CursorPosition(hour, min(read_to, step.limit) if step.exact else read_to)
        scan.read_bytes += max(0, read_to - step.begin)
        if scan.ends_to_merge:
            return True
        return scan.read_bytes > SCAN_QUANTUM_BYTES and (
            bool(self._threads.waiting) or any(map(self._members.is_ready, tuple(self._members.waiting)))
        )

    async def _join_reached(self, scan: SharedScan) -> None:
        """Add the members whose positions the scan has reached."""
        count = 0
        for lagging in tuple(scan.joiners):
            line = CursorPosition(lagging.position.hour, lagging.position.offset)
            if lagging.scan is not scan or (scan.late_range is None and line > scan.position):
                continue
            subscription = lagging.member.subscription
            events = lagging.position.events_consumed if scan.late_range is None else 0
            group = scan.groups.get((subscription.key, events))
            # A reader has one topic per user, even for members that skip different events of the line.
            user_topic_taken = (
                group is None
                and subscription.type == "orderUpdates"
                and any(key == subscription.key for key, _ in scan.groups)
            )
            passed = scan.late_range is None and (line < scan.position or not scan.fits(lagging))
            if user_topic_taken or passed:
                self._members.requeue(lagging)
                continue
            if group is None:
                group = TopicGroup(self._make_topic(subscription), set(), scan.position)
                scan.replay_reader.attach_topic(group.topic, scan.position.offset, events)
                scan.groups[subscription.key, events] = scan.by_topic[group.topic.id] = group
                count += 1
            scan.joiners.remove(lagging)
            group.members.add(lagging)
            lagging.group = group
            if scan.late_range is None:
                self._members.report_truncation(lagging, scan.position)
            if count >= JOINS_PER_TURN:
                count = 0
                await asyncio.sleep(0)

    async def _deliver(self, scan: SharedScan, rewinds: int, *, synchronous: bool) -> None:
        """Deliver the step's messages to the members. synchronous: without switching to other tasks."""
        if synchronous:
            for lagging, message in scan.deliveries(scan.replay_reader.take_messages()):
                self._deliver_to(scan, lagging, message)
            self._on_delivered()
            return
        while messages := scan.replay_reader.take_messages(DELIVERY_CHUNK_BYTES):
            async with self._delivery_lock:
                if self._feeds.rewinds != rewinds:
                    return
                delivered_bytes = 0
                for lagging, message in scan.deliveries(messages):
                    self._deliver_to(scan, lagging, message)
                    delivered_bytes += len(message.data) + MESSAGE_OVERHEAD_BYTES
                    if delivered_bytes > DELIVERY_BURST_BYTES:
                        delivered_bytes = 0
                        await asyncio.sleep(0)
                        if self._feeds.rewinds != rewinds:
                            return
                self._on_delivered()
                await asyncio.sleep(0)

    def _deliver_to(self, scan: SharedScan, lagging: LaggingMember, message: TopicMessage) -> None:
        if lagging.member.send_replayed(message, ignore_limit=scan.late_range is not None):
            self.replayed_orders += message.orders
        elif lagging.scan is scan:
            self._members.requeue(lagging)

    def _requeue_undrained(self, scan: SharedScan) -> None:
        """Remove members whose clients have much to read yet: they cannot go live."""
        for lagging in scan.members:
            if not lagging.member.client.is_drained:
                self._members.requeue(lagging)

    def _finish_scan(self, scan: SharedScan) -> None:
        for lagging in scan.members:
            self._members.requeue(lagging)
            if lagging.member.client.accepts_data:
                self._members.try_go_live(lagging)

    def _advance_late_range(self, scan: SharedScan, to: int, *, done: bool) -> bool:
        """Note that late lines up to `to` were delivered. Return whether the range is done."""
        assert scan.late_range is not None
        hour, _, end = scan.late_range
        scan.late_range = (hour, to, end)
        for lagging in scan.members:
            lagging.late_ranges_owed[0] = (hour, to, lagging.late_ranges_owed[0][2])
            if done and lagging.late_ranges_owed[0][2] <= end:
                del lagging.late_ranges_owed[0]
            if done or not lagging.member.client.accepts_data:
                self._members.requeue(lagging)
        return done

    def _skip_missing(self, scan: SharedScan, to: CursorPosition | None) -> None:
        """Continue at the oldest position there is, because the next file was deleted."""
        high_watermark = self._feeds.high_watermark
        assert high_watermark is not None
        if scan.late_range is not None:
            for lagging in scan.members:
                del lagging.late_ranges_owed[0]
                lagging.member.send_unknown_gap(lagging.position)
                self._members.requeue(lagging)
            return
        self._jump_to(scan, min(to or high_watermark, high_watermark))

    def _on_truncated(self, scan: SharedScan, in_previous_hour: bool) -> None:
        """Handle a truncated file. The pipeline itself detects a truncation of the current one."""
        if scan.late_range is not None:
            self._skip_missing(scan, None)
            return
        if not in_previous_hour:
            for lagging in [*scan.members, *scan.joiners]:
                self._members.requeue(lagging, TRUNCATION_GRACE_S)
            return
        high_watermark = self._feeds.high_watermark
        assert high_watermark is not None
        hours = {*self._feeds.delivered_offsets, *self._members.known_hours, high_watermark.hour}
        self._jump_to(scan, CursorPosition(min(hour for hour in hours if hour > scan.position.hour), 0))

    def _jump_to(self, scan: SharedScan, to: CursorPosition) -> None:
        """Move the scan to `to`, and send a gap to each member that has not reached it."""
        for lagging in [*scan.members, *scan.joiners]:
            if lagging.current_position < to:
                self._members.reposition(lagging, to, report_gap=True)
                if lagging in self._members.waiting:
                    self._members.assign(lagging, scan)
        scan.position = to
