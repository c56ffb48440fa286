"""Takes a reading through the files: makes its members' messages step by step, and hands them out.

Most steps are run by threads. The last stretch before the frontier is read on the event loop itself, so that
the frontier cannot move meanwhile: no hole and no double.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from fasttail.publish.cursor import Place
from fasttail.publish.feeds import Feeds
from fasttail.publish.subscriptions import Subscription
from fasttail.publish.topics import Topic, TopicMessage
from fasttail.replay_members import LaggingMembers
from fasttail.replay_scan import (
    NO_END,
    FileMissing,
    FileTruncated,
    LaggingMember,
    SharedScan,
    TopicGroup,
)
from fasttail.replay_threads import ReplayThreads

AT_ONCE = 1 << 18
"""Bytes that are read on the event loop's thread: a fraction of a millisecond. With many topics less."""

SLICE = 64 << 20
"""Bytes after which a reading gives its place to others that wait."""

HANDED_OVER = 64 << 10
"""Bytes of messages that the event loop hands out in one turn: what is live comes in between."""

GIVEN_AT_ONCE = 1 << 20
"""Bytes, of all members together, after which live messages come in between"""

GIVEN_EACH = 8 << 10
"""… and so many are added for each message: its way through the kernel takes as long as these."""

NEAR = 8 << 20
"""Bytes in front of the frontier: from here on the pipeline makes a member's live messages, because the
member will be live soon. It begins with some batch after it was asked.
"""

NOT_SEEN_YET_S = 0.2
"""How long a file that is shorter than it was waits for the pipeline to find that out."""

JOINED_AT_ONCE = 50


class ScanStep(NamedTuple):
    """What a reading is to read next: the present file from `begin` up to `limit`.

    end: of what is to be read of it at all. exact: `limit` is that end, else a joiner's place. former: the
    pipeline has left the file. last: of all steps before the frontier; nothing may come in between.
    """

    begin: int
    end: int
    limit: int
    exact: bool = True
    former: bool = False
    last: bool = False


class ScanRunner:
    """Runs the readings of all members that are behind, one `read` each.

    ease: to be called when something has been handed out.
    """

    def __init__(
        self,
        members: LaggingMembers,
        feeds: Feeds,
        threads: ReplayThreads,
        make_topic: Callable[[Subscription], Topic],
        ease: Callable[[], None],
    ) -> None:
        self.replayed_orders = 0
        self._members = members
        self._feeds = feeds
        self._threads = threads
        self._make_topic = make_topic
        self._ease = ease
        # One hand-over of all readings in a turn of the event loop.
        self._turn = asyncio.Lock()

    async def read(self, reading: SharedScan) -> None:
        """Until its members are live, or none is left in it, or others are to have its place.

        Raises OSError.
        """
        feeds = self._feeds
        setbacks = feeds.setbacks
        while True:
            reading.forget()
            await self._join(reading)
            frontier = feeds.frontier
            if (
                not reading.by_topic
                or feeds.setbacks != setbacks
                or frontier is None
                or reading.place > frontier
            ):
                return
            if reading.late is None and reading.place == frontier:
                self._arrive(reading)
                return
            step = self._next_step(reading, frontier)
            if step.former and step.begin >= step.end:
                reading.place = Place(reading.place.hour + 1, 0)
                continue
            if not reading.is_open:
                if not await self._open(reading, step.former, setbacks):
                    return
                continue
            if step.last:
                self._only_drained(reading)
            self._go_on_near(reading, frontier)
            try:
                if step.last:
                    more = reading.step(step.limit, step.exact)
                else:
                    more = await self._threads.run_step(reading, step.limit, step.exact)
            except FileTruncated:
                if feeds.setbacks == setbacks:
                    self._cut_short(reading, step.former)
                continue
            if feeds.setbacks != setbacks:
                return
            await self._hand_out(reading, setbacks, at_once=step.last)
            if feeds.setbacks != setbacks or self._advance(reading, step, more):
                return

    def _next_step(self, reading: SharedScan, frontier: Place) -> ScanStep:
        if reading.late is not None:
            end = reading.late[2]
            return ScanStep(reading.rereader.tell() if reading.open_hour else 0, end, end)
        hour, begin = reading.place.hour, reading.place.offset
        former = hour != frontier.hour
        end = self._feeds.ends.get(hour, NO_END) if former else frontier.offset
        ahead = [each.place.offset for each in reading.joiners if each.place.hour == hour]
        next_join = min(ahead, default=end)
        last = not former and end - begin <= min(AT_ONCE, 4 * reading.rereader.step_bytes)
        return ScanStep(begin, end, min(end, next_join), next_join >= end, former, last)

    async def _open(self, reading: SharedScan, former: bool, setbacks: int) -> bool:
        """Open the file that comes next. False: the frontier has moved back meanwhile."""
        feeds = self._feeds
        try:
            place = await self._threads.open_file(reading, dict(feeds.ends))
        except (FileMissing, FileTruncated) as fault:
            if feeds.setbacks == setbacks:
                if isinstance(fault, FileMissing):
                    self._lose(reading, fault.place)
                else:
                    self._cut_short(reading, former)
            return True
        if feeds.setbacks != setbacks:
            return False
        reading.place = place
        for behind in reading.members:
            self._members.tell_cut(behind, place)
        return True

    def _go_on_near(self, reading: SharedScan, frontier: Place) -> None:
        """Near the frontier, have the pipeline make the live messages."""
        if reading.place.hour == frontier.hour and frontier.offset - reading.place.offset < NEAR:
            for behind in reading.members:
                self._feeds.go_on(behind.feed)

    def _advance(self, reading: SharedScan, step: ScanStep, more: bool) -> bool:
        """What a step has made has been handed out. True: the reading is to end. more: the file goes on."""
        tell = reading.rereader.tell()
        if reading.late is not None:
            return self._advance_late(reading, min(tell, step.end), done=not more or tell >= step.end)
        if not step.exact and not more:
            for behind in [each for each in reading.joiners if each.place.offset == step.limit]:
                self._members.requeue(behind)  # it cannot be come to
        hour = reading.place.hour
        if not more and step.exact:
            if step.end == NO_END:
                self._members.hour_sizes[hour] = tell
                reading.place = Place(hour + 1, 0)
            else:
                reading.place = Place(hour, step.end)
        elif tell > step.begin and reading.is_open:
            if tell <= step.limit:
                reading.mark = (hour, tell, reading.rereader.reader.before())
            # Not beyond the limit, though NUL bytes behind it may have been passed over.
            reading.place = Place(hour, min(tell, step.limit) if step.exact else tell)
        reading.read_bytes += max(0, tell - step.begin)
        if reading.gathers:
            return True
        return reading.read_bytes > SLICE and any(map(self._members.is_ready, tuple(self._members.waiting)))

    async def _join(self, reading: SharedScan) -> None:
        """Those whose places the reading has come to."""
        count = 0
        for behind in tuple(reading.joiners):
            line = Place(behind.place.hour, behind.place.offset)
            if behind.reading is not reading or (reading.late is None and line > reading.place):
                continue
            subscription = behind.member.subscription
            events = behind.place.events if reading.late is None else 0
            group = reading.groups.get((subscription.key, events))
            # A user has one topic in a rereader, be it behind other events of the line.
            clash = (
                group is None
                and subscription.type == "orderUpdates"
                and any(key == subscription.key for key, _ in reading.groups)
            )
            if clash or (reading.late is None and line < reading.place):
                self._members.requeue(behind)
                continue
            if group is None:
                group = TopicGroup(self._make_topic(subscription), set(), reading.place)
                reading.rereader.add(group.topic, reading.place.offset, events)
                reading.groups[subscription.key, events] = reading.by_topic[group.topic.id] = group
                count += 1
            reading.joiners.remove(behind)
            group.members.add(behind)
            behind.group = group
            if reading.late is None:
                self._members.tell_cut(behind, reading.place)
            if count >= JOINED_AT_ONCE:
                count = 0
                await asyncio.sleep(0)

    async def _hand_out(self, reading: SharedScan, setbacks: int, *, at_once: bool) -> None:
        """Give the members what the step has made. at_once: without a switch to other tasks."""
        if at_once:
            for behind, message in reading.deliveries(reading.rereader.take()):
                self._give(reading, behind, message)
            self._ease()
            return
        while messages := reading.rereader.take(HANDED_OVER):
            async with self._turn:
                if self._feeds.setbacks != setbacks:
                    return
                given = 0
                for behind, message in reading.deliveries(messages):
                    self._give(reading, behind, message)
                    given += len(message.data) + GIVEN_EACH
                    if given > GIVEN_AT_ONCE:
                        given = 0
                        await asyncio.sleep(0)
                        if self._feeds.setbacks != setbacks:
                            return
                self._ease()
                await asyncio.sleep(0)

    def _give(self, reading: SharedScan, behind: LaggingMember, message: TopicMessage) -> None:
        if behind.member.replay(message, whole=reading.late is not None):
            self.replayed_orders += message.orders
        elif behind.reading is reading:
            self._members.requeue(behind)

    def _only_drained(self, reading: SharedScan) -> None:
        """Whoever has much to read yet does not go live: it leaves."""
        for behind in reading.members:
            if not behind.member.client.is_drained:
                self._members.requeue(behind)

    def _arrive(self, reading: SharedScan) -> None:
        for behind in reading.members:
            self._members.requeue(behind)
            if behind.member.client.has_room:
                self._members.try_go_live(behind)

    def _advance_late(self, reading: SharedScan, to: int, *, done: bool) -> bool:
        """The late lines up to there have been given. True: that was all, or nobody is left."""
        assert reading.late is not None
        hour, _, end = reading.late
        reading.late = (hour, to, end)
        for behind in reading.members:
            behind.owed[0] = (hour, to, behind.owed[0][2])
            if done and behind.owed[0][2] <= end:
                del behind.owed[0]
            if done or not behind.member.client.has_room:
                self._members.requeue(behind)
        return done

    def _lose(self, reading: SharedScan, to: Place | None) -> None:
        """What was to be read next has been deleted: go on at the oldest place there is."""
        frontier = self._feeds.frontier
        assert frontier is not None
        if reading.late is not None:
            for behind in reading.members:
                del behind.owed[0]
                behind.member.tell_lost(behind.place.text(behind.layout))
                self._members.requeue(behind)
            return
        self._go_on_at(reading, min(to or frontier, frontier))

    def _cut_short(self, reading: SharedScan, former: bool) -> None:
        """A file has been truncated. Of the present one the pipeline will find that out."""
        if reading.late is not None:
            self._lose(reading, None)
            return
        if not former:
            for behind in [*reading.members, *reading.joiners]:
                self._members.requeue(behind, NOT_SEEN_YET_S)
            return
        frontier = self._feeds.frontier
        assert frontier is not None
        hours = {*self._feeds.ends, *self._members.known_hours, frontier.hour}
        self._go_on_at(reading, Place(min(hour for hour in hours if hour > reading.place.hour), 0))

    def _go_on_at(self, reading: SharedScan, to: Place) -> None:
        """What lies before that place is lost to those who have not had it."""
        for behind in [*reading.members, *reading.joiners]:
            if behind.now_at < to:
                self._members.reposition(behind, to, lost=True)
                if behind in self._members.waiting:
                    self._members.assign(behind, reading)
        reading.place = to
