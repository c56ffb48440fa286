"""Replays: members of feeds that are behind read the node's files at their own pace, until they are live.

    behind ──its queue is below a quarter──► waits for its turn ──► in a reading ──► frontier ──► live
      ▲                                                                │
      └─────────────────── its queue is full, or the slice is over ────┘

A reading goes through the files once for many: all members whose places lie close together, equal
subscriptions as one topic, different ones evaluated as the pipeline does it. `limit` readings run at a time,
in threads that get only the time that nobody else wants. A reading waits for no member: one whose queue is
full leaves it, and costs nothing until it has read on.

The last stretch before the frontier is read on the event loop itself, so that the frontier cannot move
meanwhile: no hole and no double. No reading goes beyond the frontier: what lies behind it has not been handed
out to live members, and will be to these too. A place ahead of the frontier (the server reads once more what
it had published before a restart) is waited for.

Everything here but `_Reading.open` and `_Reading.look_at_end` belongs to the event loop's thread. The steps
in between are run by threads that never hold the GIL (`fasttail.step_threads`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import fasttail.publish.cursor as cursors
from fasttail.observe.now_and_then import Seldom
from fasttail.publish.clients import Client
from fasttail.publish.cursor import Place
from fasttail.publish.feeds import Feed, Feeds
from fasttail.publish.public import Member
from fasttail.publish.subscriptions import Subscription
from fasttail.publish.topics import Topic, TopicMessage
from fasttail.reread import Rereader
from fasttail.resume import hour_number
from fasttail.step_threads import StepThreads
from fasttail.tail.layout import hour_files, hourly_folder

AT_ONCE = 1 << 18
"""Bytes that are read on the event loop's thread: a fraction of a millisecond. With many topics less."""

TOGETHER = 64 << 20
"""Bytes: members whose places lie within so many share a reading."""

WINDOW = 4 << 20
"""Bytes that a reading reads at once, for many users; with few topics it goes on in smaller steps."""

GATHER_S = 0.25
"""A reading goes on for so long before it ends for the sake of those who are not far behind it."""

SLICE = 64 << 20
"""Bytes after which a reading gives its place to others that wait."""

HANDED_OVER = 64 << 10
"""Bytes of messages that the event loop hands out in one turn: what is live comes in between."""

GIVEN_AT_ONCE = 1 << 20
"""Bytes, of all members together, after which live messages come in between"""

GIVEN_EACH = 8 << 10
"""… and so many are added for each message: its way through the kernel takes as long as these."""

POLL_S = 0.1
"""Between two looks at who is ready: most become so by an event, and these looks find the others."""

NEAR = 8 << 20
"""Bytes in front of the frontier: from here on the pipeline makes a member's live messages, because the
member will be live soon. It begins with some batch after it was asked.
"""

FEED_S = 0.01
"""Until the next look at a member at the frontier whose messages the pipeline does not make yet."""

STARVED_S = 0.1
"""A step takes some milliseconds. One that takes longer than this found no idle core."""

URGENT_S = 10.0
"""For so long after such a step, steps run with a priority of their own, so that no replay stands still."""

NOT_SEEN_YET_S = 0.2
"""How long a file that is shorter than it was waits for the pipeline to find that out."""

MOST_SAMPLES = 4096
JOINED_AT_ONCE = 50

NO_END = 1 << 63
"""Of a file that the pipeline has left, or never had: all that is in it."""

log = logging.getLogger(__name__)


class _Gone(Exception):
    """What a reading is to read next is not there. place: the oldest that is; None: nothing."""

    def __init__(self, place: Place | None) -> None:
        super().__init__()
        self.place = place


class _Truncated(Exception):
    """The file is shorter than what has been handed out of it."""


@dataclass(eq=False)
class _Behind:
    """A member that is behind. place: everything before it has been given, but for `owed`.

    owed: (hour, begin, end) of late lines that were handed out when it had read past them. cut: hours to come
    of which something was truncated. asked: where the frontier was when it asked to begin further back; what
    lies before that is not held against it. allowed: seconds that it may be behind, once it is there. mark:
    hour, offset, and what stood in front of it there.
    """

    member: Member
    feed: Feed
    layout: str
    place: Place
    since: float
    asked: Place | None
    owed: list[tuple[int, int, int]] = field(default_factory=list)
    cut: set[int] = field(default_factory=set)
    allowed: float | None = None
    mark: tuple[int, int, bytes] | None = None
    not_before: float = 0.0
    reading: _Reading | None = None
    group: _Group | None = None

    @property
    def now_at(self) -> Place:
        """Its place, also while it is in a reading."""
        if self.group is None or self.reading is None or self.reading.late is not None:
            return self.place
        own = cursors.parse(self.member.cursor)[1] if self.member.cursor else self.place
        return max(self.reading.place, own)


@dataclass(eq=False)
class _Group:
    """Members of a reading that get the messages of one topic."""

    topic: Topic
    members: set[_Behind]
    since: Place  # where it was made: some of that line's events may be passed over


class _Reading:
    """One way through the files, for those who have joined it. `open` and `look_at_end` may run in any
    thread, one at a time; nothing else is done with the rereader meanwhile.

    place: up to where everything has been handed out. late: the range of late lines that it reads instead of
    what lies ahead. joiners: those whose places it will come to. known: hours that were there at some look.
    """

    def __init__(self, rereader: Rereader, layout: str, place: Place, data_dir: str, known: set[int]) -> None:
        self.rereader = rereader
        self.layout = layout
        self.place = place
        self.late: tuple[int, int, int] | None = None
        self.groups: dict[tuple[str, int], _Group] = {}  # by key of the subscription and events to pass over
        self.by_topic: dict[int, _Group] = {}
        self.joiners: list[_Behind] = []
        self.read_bytes = 0
        self.began = time.monotonic()
        self.gathers = False
        self.open_hour = 0
        self.mark: tuple[int, int, bytes] | None = None  # of what has been handed out
        self._path = ""
        self._data_dir = data_dir
        self._known = known
        if place.offset:
            known.add(place.hour)

    @property
    def members(self) -> list[_Behind]:
        return [behind for group in self.by_topic.values() for behind in group.members]

    @property
    def is_open(self) -> bool:
        return self.open_hour == self.place.hour

    @property
    def marks(self) -> set[tuple[int, int, bytes]]:
        """What its members have been given from stood in front of these places."""
        found = {behind.mark for behind in [*self.joiners, *self.members]}
        return {mark for mark in (*found, self.mark) if mark is not None}

    def open(self, ends: dict[int, int], marks: set[tuple[int, int, bytes]]) -> Place:
        """Open the file of the present hour, or of the next there is. Where reading goes on then.

        Raises _Gone, _Truncated, OSError.
        """
        hour, stands = self.place.hour, None
        offset = self.place.offset
        if self.late is not None:
            (hour, offset, _), stands = self.late, self.place
        files = {hour_number(file): file for file in hour_files(hourly_folder(self._data_dir, self.layout))}
        found = min((number for number in files if number >= hour), default=None)
        missing = [each for each in {*ends, *self._known} if hour <= each < (found or NO_END)]
        lost = any(each != hour or ends.get(each, NO_END) > offset for each in missing)
        if found is None or lost or (self.late is not None and found != hour):
            raise _Gone(Place(found, 0) if found is not None else None)
        self._known |= set(files)
        if found != hour:
            hour, offset = found, 0
        self._path = files[hour].path
        try:
            self.rereader.open(self._path, self.layout, offset, stands)
        except FileNotFoundError:  # deleted just now: the next look tells
            return self.open(ends, marks)
        reader = self.rereader.reader
        for of_hour, behind, text in marks:
            if of_hour == hour and reader.peek(behind - len(text), len(text)) != text:
                raise _Truncated
        self.open_hour = hour
        return self.place if self.late is not None else Place(hour, offset)

    def step(self, limit: int, exact: bool) -> bool:
        """Make the next messages. False at the end of the file. Raises _Truncated, OSError."""
        return self.rereader.read(limit, exact) or self.look_at_end(limit, exact)

    def look_at_end(self, limit: int, exact: bool) -> bool:
        """What the end of the file means. False if it is the end. Raises _Truncated, OSError."""
        if self._is_replaced():
            self.open_hour = 0  # by a copy that goes on: the one that was read ends here
            return True
        if self.rereader.reader.changed:
            raise _Truncated
        if not exact:
            return False
        # A last line that got no end has been taken as it was; or the file was truncated, its rest gone.
        self.rereader.read_tail()
        if self.rereader.tell() < limit < NO_END and os.stat(self._path).st_size < limit:
            raise _Truncated
        return False

    def _is_replaced(self) -> bool:
        """Whether another file has taken the name of the open one."""
        try:
            status = os.stat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) != self.rereader.identity()

    def leave(self, behind: _Behind) -> None:
        """No more messages for this member. Its topic stays until `forget`: a step may be running."""
        if behind.group is not None:
            behind.place = behind.now_at
            behind.mark = self.mark or behind.mark
            behind.group.members.discard(behind)
        else:
            self.joiners.remove(behind)
        behind.reading = behind.group = None

    def forget(self) -> None:
        """Topics that nobody wants any more, or that need not be apart any more. No step is running."""
        for key, group in list(self.groups.items()):
            if key[1] and group.members:
                if self.place <= group.since:
                    continue
                # Behind its line it is as all the others.
                del self.groups[key]
                other = self.groups.get((key[0], 0))
                if other is None:
                    self.rereader.want_all(group.topic)
                    self.groups[key[0], 0] = group
                    continue
                for behind in group.members:
                    behind.group = other
                other.members |= group.members
                group.members = set()
                self._remove(group)
            elif not group.members:
                del self.groups[key]
                self._remove(group)

    def _remove(self, group: _Group) -> None:
        del self.by_topic[group.topic.id]
        self.rereader.remove(group.topic)


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
        self.done = 0  # members that are live again, or have gone
        self.replayed_orders = 0
        self._feeds = feeds
        self._data_dir = os.path.abspath(data_dir)
        self._make_topic = make_topic
        self._limit = limit
        self._new_rereader = partial(Rereader, window=window, max_line=max_line)
        self._max_behind_s = max_behind_s
        self._ease = ease
        self._behind: dict[Member, _Behind] = {}
        self._waiting: dict[_Behind, None] = {}  # in no reading; who has waited longest comes first
        self._readings: dict[_Reading, asyncio.Task[None]] = {}
        self._free: list[Rereader] = []
        self._passed: list[tuple[float, Place]] = []  # when the frontier was where
        self._sizes: dict[int, int] = {}  # of hours that were not handed out by this process
        self._known: set[int] = set()  # hours that there were since the first of them fell behind
        self._timer: asyncio.TimerHandle | None = None
        self._looks = False
        self._closed = False
        # Until then steps are urgent. After a start many come back at once, and whether a core is idle is not
        # known yet.
        self._urgent_until = time.monotonic() + URGENT_S
        # One hand-over of all readings in a turn of the event loop.
        self._turn = asyncio.Lock()
        self._failures = Seldom(log, logging.ERROR, "a reading for clients that are behind has failed")
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="fasttail-replay-open")
        self._threads: StepThreads | None = None  # from the first member on
        self._steps: dict[Rereader, asyncio.Future[None]] = {}
        feeds.on_late = self._hear_of_late
        feeds.on_set_back = self._set_back

    # ---- what others want of it

    def admit(self, member: Member) -> None:
        """A member is behind: everything up to its cursor has been given to it, or is not wanted."""
        assert member.cursor is not None
        assert member.feed is not None
        layout, place = cursors.parse(member.cursor)
        asked = self._feeds.frontier if member.resumes else place
        behind = _Behind(member, member.feed, layout, place, time.monotonic(), asked)
        member.resumes = False
        self._behind[member] = behind
        self._waiting[behind] = None
        self._feeds.pause(behind.feed)
        self._look_soon()

    def drop(self, member: Member) -> None:
        """It wants no more."""
        behind = self._behind.pop(member, None)
        if behind is None:
            return
        self.done += 1
        if behind.reading is not None:
            behind.reading.leave(behind)
        self._waiting.pop(behind, None)

    def drained(self) -> None:
        """A client has read on: members of it may be ready."""
        if self._waiting:
            self._look_soon()

    def close(self) -> None:
        """No more; what runs ends with its step."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._readings.values():
            task.cancel()
        self._opener.shutdown(wait=False, cancel_futures=True)
        if self._threads is not None:
            asyncio.get_running_loop().remove_reader(self._threads.fd)
            self._threads.close()

    @property
    def block_bytes(self) -> int:
        """What the blocks of the readings occupy."""
        rereaders = [reading.rereader for reading in self._readings] + self._free
        return sum(rereader.reader.touched for rereader in rereaders)

    def counts(self) -> dict[str, float]:
        """For the metrics."""
        places = [behind.now_at for behind in self._behind.values()]
        return {
            "replays": self.done,
            "replayed_orders": self.replayed_orders,
            "replays_running": len(self._behind),
            "replay_readings": len(self._readings),
            "replay_bytes_behind": max(map(self._bytes_behind, places), default=0),
            "replay_seconds_behind": max(map(self._lag, places), default=0.0),
        }

    def report(self) -> dict[Client, list[dict[str, Any]]]:
        """For the `status` of each client that has members which are behind."""
        found: dict[Client, list[dict[str, Any]]] = {}
        for member, behind in self._behind.items():
            place = behind.now_at
            shown = {
                "subscription": member.subscription.echo,
                "bytes": self._bytes_behind(place),
                "lagMs": round(self._lag(place) * 1000),
            }
            found.setdefault(member.client, []).append(shown)
        return found

    def tick(self) -> None:
        """Once a second: remember where the frontier is, and look for members that are too far behind."""
        now, frontier = time.monotonic(), self._feeds.frontier
        if not self._behind:
            self._known.clear()
            self._free.clear()
        if frontier is None:
            return
        if self._passed and self._passed[-1][1] > frontier:
            self._passed.clear()
        self._passed.append((now, frontier))
        if len(self._passed) > MOST_SAMPLES:
            del self._passed[1:-1:2]
        for behind in tuple(self._behind.values()):
            place = behind.now_at
            if place > frontier:
                continue
            if behind.allowed is None and (behind.asked is None or place >= behind.asked):
                behind.allowed = self._max_behind_s + now - behind.since
            if behind.allowed is not None and self._lag(place) > behind.allowed:
                self._skip(behind, frontier)

    # ---- how far behind

    def _lag(self, place: Place) -> float:
        """Seconds since the frontier was there; or since it is known, if that was before."""
        frontier = self._feeds.frontier
        if frontier is None or place >= frontier or not self._passed:
            return 0.0
        at = bisect_right(self._passed, place, key=lambda sample: sample[1])
        return time.monotonic() - self._passed[max(0, at - 1)][0]

    def _bytes_behind(self, place: Place) -> int:
        """Bytes of the files up to the frontier, as far as their sizes are known."""
        frontier = self._feeds.frontier
        if frontier is None or place >= frontier:
            return 0
        if place.hour == frontier.hour:
            return frontier.offset - place.offset
        sizes = {**self._sizes, **self._feeds.ends}
        between = sum(size for hour, size in sizes.items() if place.hour < hour < frontier.hour)
        return max(0, sizes.get(place.hour, place.offset) - place.offset) + between + frontier.offset

    def _is_near(self, place: Place, ahead: Place) -> bool:
        """Whether the second place is the first, or not far ahead of it."""
        if place.hour == ahead.hour:
            return place <= ahead and ahead.offset - place.offset <= TOGETHER
        known = place.hour in self._feeds.ends or place.hour in self._sizes
        return known and place < ahead and self._bytes_behind(place) - self._bytes_behind(ahead) <= TOGETHER

    # ---- what happens to the files

    def _hear_of_late(self, hour: int, begin: int, end: int) -> None:
        """Late lines have been handed out to those who are live."""
        for behind in self._behind.values():
            if behind.now_at < Place(hour, end):
                continue  # it will come by them
            if behind.owed and behind.owed[-1][::2] == (hour, begin):
                behind.owed[-1] = (hour, behind.owed[-1][1], end)
            else:
                behind.owed.append((hour, begin, end))

    def _set_back(self, before: Place) -> None:
        """The frontier has moved back: a file was truncated; or another layout is read now."""
        feeds = self._feeds
        frontier = feeds.frontier
        self._passed.clear()
        if frontier is None:
            return
        for behind in tuple(self._behind.values()):
            place = behind.now_at
            if behind.layout != feeds.layout:
                self._skip(behind, frontier)
            elif behind.member.given_in == feeds.batch:
                pass  # of what stands there now: it fell behind in this batch
            elif place.hour == frontier.hour and place <= before:
                self._move(behind, Place(frontier.hour, 0), lost=place < before)
            elif place.hour < frontier.hour:
                behind.cut.add(frontier.hour)
            behind.owed = [each for each in behind.owed if each[0] != frontier.hour]

    def _skip(self, behind: _Behind, to: Place) -> None:
        """What lies between is not given to it."""
        behind.owed.clear()
        behind.cut.clear()
        self._move(behind, to, lost=True)
        behind.since, behind.asked, behind.allowed = time.monotonic(), to, None

    def _move(self, behind: _Behind, to: Place, *, lost: bool) -> None:
        """Take a member out of its reading, to another place. lost: it is told a gap."""
        assert self._feeds.layout is not None
        if behind.reading is not None:
            behind.reading.leave(behind)
        behind.layout = self._feeds.layout
        behind.place, behind.mark = to, None
        cursor = to.text(behind.layout)
        if lost:
            behind.member.tell_lost(cursor)
        behind.member.cursor = cursor
        if behind.member in self._behind:  # else its client has been closed just now
            self._waiting[behind] = None

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
        ready = [behind for behind in tuple(self._waiting) if self._is_ready(behind)]
        ready = [behind for behind in ready if not self._arrived(behind)]
        ready = [behind for behind in ready if behind in self._waiting]  # else its client has gone just now
        for reading in self._readings if ready else ():
            ready = self._let_join(reading, ready)
        ready = [behind for behind in ready if not self._is_to_gather(behind)]
        while ready and len(self._readings) < self._limit:
            ready = self._begin(ready)
        if self._behind and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL_S, self._poll)

    def _is_ready(self, behind: _Behind) -> bool:
        frontier = self._feeds.frontier
        if frontier is None or behind.place > frontier or behind.not_before > time.monotonic():
            return False
        if behind.layout != self._feeds.layout:
            self._skip(behind, frontier)
        return behind.member.client.is_drained

    def _arrived(self, behind: _Behind) -> bool:
        """Let a member that is at the frontier go live."""
        if behind not in self._waiting or behind.place != self._feeds.frontier or behind.owed:
            return False
        feed = behind.feed
        if not feed.active.is_set():
            self._feeds.go_on(feed)
            behind.not_before = time.monotonic() + FEED_S
            return False
        if feed.refused:
            behind.member.fail("the server has no room for one more topic; try again later")
            return True
        del self._waiting[behind]
        del self._behind[behind.member]
        self.done += 1
        behind.member.go_live()
        return True

    def _is_to_gather(self, behind: _Behind) -> bool:
        """Whether a reading that is not far ahead is to end soon, to begin again with this member, too."""
        for reading in self._readings:
            if reading.late is None and not behind.owed and self._is_near(behind.place, reading.place):
                reading.gathers = time.monotonic() - reading.began > GATHER_S
                return True
        return False

    def _begin(self, ready: list[_Behind]) -> list[_Behind]:
        """A reading for the one that has waited longest and all who are near it. Who is left over."""
        first = ready[0]
        if first.owed and first.place == self._feeds.frontier:
            late = first.owed[0]
            taken = [each for each in ready if each.owed[:1] == [late] and each.place == first.place]
            start = first.place
        else:
            late = None
            start = min(each.place for each in ready if self._is_near(each.place, first.place))
            taken = []
        rereader = self._free.pop() if self._free else self._new_rereader()
        reading = _Reading(
            rereader, first.layout, Place(start.hour, start.offset), self._data_dir, self._known
        )
        reading.late = late
        for behind in taken:
            self._take(reading, behind)
        rest = [each for each in ready if each.reading is None]
        rest = rest if late else self._let_join(reading, rest)
        self._readings[reading] = asyncio.get_running_loop().create_task(self._run(reading))
        return rest

    def _let_join(self, reading: _Reading, ready: list[_Behind]) -> list[_Behind]:
        """Those near ahead join when the reading comes there. Who is left over."""
        if reading.late is not None:
            return ready
        rest = []
        for behind in ready:
            if self._is_near(reading.place, Place(behind.place.hour, behind.place.offset)):
                self._take(reading, behind)
            else:
                rest.append(behind)
        return rest

    def _take(self, reading: _Reading, behind: _Behind) -> None:
        del self._waiting[behind]
        behind.reading = reading
        reading.joiners.append(behind)

    def _wait(self, behind: _Behind, seconds: float = 0.0) -> None:
        """Out of its reading; its turn comes again. Does nothing for a member that has gone meanwhile: to ask
        for a client's queue may find out that its connection has ended, which drops its members.
        """
        if behind.reading is None:
            return
        behind.reading.leave(behind)
        if seconds:
            behind.not_before = time.monotonic() + seconds
        self._waiting[behind] = None
        client = behind.member.client
        if client.queued > client.queue_limit // 4:
            self._feeds.pause(behind.feed)  # it may have come near the frontier, but will not be live soon

    # ---- a reading

    async def _run(self, reading: _Reading) -> None:
        try:
            await self._read(reading)
        except OSError as error:
            self._fail(reading, f"cannot read the node's files: {error.strerror}")
        except Exception:
            self._failures.tell(exc_info=True)
            self._fail(reading, "the server has failed to serve it")
        finally:
            for behind in [*reading.members, *reading.joiners]:
                self._wait(behind)
            del self._readings[reading]
            if not self._closed:  # else a step may still be running
                reading.rereader.clear()
                self._free.append(reading.rereader)
            self._look_soon()

    def _fail(self, reading: _Reading, text: str) -> None:
        for behind in reading.members:
            behind.member.fail(text)

    async def _read(self, reading: _Reading) -> None:
        feeds = self._feeds
        setbacks = feeds.setbacks
        opening = partial(asyncio.get_running_loop().run_in_executor, self._opener)
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
            former = reading.place.hour != frontier.hour
            end = feeds.ends.get(reading.place.hour, NO_END) if former else frontier.offset
            at = reading.place.offset
            if reading.late is not None:
                end, at = reading.late[2], reading.rereader.tell() if reading.open_hour else 0
                former = False
            elif former and at >= end:
                reading.place = Place(reading.place.hour + 1, 0)
                continue
            if not (reading.open_hour == reading.late[0] if reading.late else reading.is_open):
                try:
                    place = await opening(reading.open, dict(feeds.ends), reading.marks)
                except (_Gone, _Truncated) as fault:
                    if feeds.setbacks == setbacks:
                        if isinstance(fault, _Gone):
                            self._lose(reading, fault.place)
                        else:
                            self._cut_short(reading, former)
                    continue
                if feeds.setbacks != setbacks:
                    return
                reading.place = place
                for behind in reading.members:
                    self._tell_cut(behind, place)
                continue
            ahead = [each.place.offset for each in reading.joiners if each.place.hour == reading.place.hour]
            next_join = min(ahead, default=end) if reading.late is None else end
            limit, exact = min(end, next_join), next_join >= end
            last = (
                not former
                and reading.late is None
                and end - at <= min(AT_ONCE, 4 * reading.rereader.step_bytes)
            )
            if last:
                self._only_drained(reading)
            if reading.place.hour == frontier.hour and frontier.offset - reading.place.offset < NEAR:
                for behind in reading.members:
                    feeds.go_on(behind.feed)
            try:
                if last:
                    more = reading.step(limit, exact)
                else:
                    await self._step(reading, limit, exact)
                    more = reading.rereader.end_step() or await opening(reading.look_at_end, limit, exact)
            except _Truncated:
                if feeds.setbacks == setbacks:
                    self._cut_short(reading, former)
                continue
            if feeds.setbacks != setbacks:
                return
            await self._hand_out(reading, setbacks, at_once=last)
            if feeds.setbacks != setbacks:
                return
            tell = reading.rereader.tell()
            if reading.late is not None:
                if self._advance_late(reading, min(tell, end), done=not more or tell >= end):
                    return
                continue
            if not exact and not more:
                for behind in [each for each in reading.joiners if each.place.offset == next_join]:
                    self._wait(behind)  # it cannot be come to
            if not more and exact:
                if end == NO_END:
                    self._sizes[reading.place.hour] = tell
                    reading.place = Place(reading.place.hour + 1, 0)
                else:
                    reading.place = Place(reading.place.hour, end)
            elif tell > at and reading.is_open:
                if tell <= limit:
                    reading.mark = (reading.place.hour, tell, reading.rereader.reader.before())
                # Not beyond the limit, though NUL bytes behind it may have been passed over.
                reading.place = Place(reading.place.hour, min(tell, limit) if exact else tell)
            reading.read_bytes += max(0, tell - at)
            if reading.gathers:
                return
            if reading.read_bytes > SLICE and any(map(self._is_ready, tuple(self._waiting))):
                return

    async def _step(self, reading: _Reading, limit: int, exact: bool) -> None:
        """Have a thread make the next messages."""
        loop = asyncio.get_running_loop()
        if self._threads is None:
            self._threads = StepThreads(self._limit)
            loop.add_reader(self._threads.fd, self._finish_steps)
        began = time.monotonic()
        rereader = reading.rereader
        rereader.begin_step(limit, exact)
        self._steps[rereader] = done = loop.create_future()
        self._threads.submit(rereader, urgent=began < self._urgent_until)
        await done
        now = time.monotonic()
        if now - began > STARVED_S and began >= self._urgent_until:
            self._urgent_until = now + URGENT_S

    def _finish_steps(self) -> None:
        assert self._threads is not None
        for rereader in self._threads.finished():
            done = self._steps.pop(rereader)
            if not done.cancelled():
                done.set_result(None)

    async def _join(self, reading: _Reading) -> None:
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
                self._wait(behind)
                continue
            if group is None:
                group = _Group(self._make_topic(subscription), set(), reading.place)
                reading.rereader.add(group.topic, reading.place.offset, events)
                reading.groups[subscription.key, events] = reading.by_topic[group.topic.id] = group
                count += 1
            reading.joiners.remove(behind)
            group.members.add(behind)
            behind.group = group
            if reading.late is None:
                self._tell_cut(behind, reading.place)
            if count >= JOINED_AT_ONCE:
                count = 0
                await asyncio.sleep(0)

    def _tell_cut(self, behind: _Behind, place: Place) -> None:
        """It has come to an hour of which something was truncated before."""
        if place.hour in behind.cut:
            behind.cut.remove(place.hour)
            behind.member.tell_lost(Place(place.hour, 0).text(behind.layout))

    async def _hand_out(self, reading: _Reading, setbacks: int, *, at_once: bool) -> None:
        """Give the members what the step has made. at_once: without a switch to other tasks."""
        if at_once:
            for behind, message in _deliveries(reading, reading.rereader.take()):
                self._give(reading, behind, message)
            self._ease()
            return
        while messages := reading.rereader.take(HANDED_OVER):
            async with self._turn:
                if self._feeds.setbacks != setbacks:
                    return
                given = 0
                for behind, message in _deliveries(reading, messages):
                    self._give(reading, behind, message)
                    given += len(message.data) + GIVEN_EACH
                    if given > GIVEN_AT_ONCE:
                        given = 0
                        await asyncio.sleep(0)
                        if self._feeds.setbacks != setbacks:
                            return
                self._ease()
                await asyncio.sleep(0)

    def _give(self, reading: _Reading, behind: _Behind, message: TopicMessage) -> None:
        if behind.member.replay(message, whole=reading.late is not None):
            self.replayed_orders += message.orders
        elif behind.reading is reading:
            self._wait(behind)

    def _only_drained(self, reading: _Reading) -> None:
        """Whoever has much to read yet does not go live: it leaves."""
        for behind in reading.members:
            if not behind.member.client.is_drained:
                self._wait(behind)

    def _arrive(self, reading: _Reading) -> None:
        for behind in reading.members:
            self._wait(behind)
            if behind.member.client.has_room:
                self._arrived(behind)

    def _advance_late(self, reading: _Reading, to: int, *, done: bool) -> bool:
        """The late lines up to there have been given. True: that was all, or nobody is left."""
        assert reading.late is not None
        hour, _, end = reading.late
        reading.late = (hour, to, end)
        for behind in reading.members:
            behind.owed[0] = (hour, to, behind.owed[0][2])
            if done and behind.owed[0][2] <= end:
                del behind.owed[0]
            if done or not behind.member.client.has_room:
                self._wait(behind)
        return done

    def _lose(self, reading: _Reading, to: Place | None) -> None:
        """What was to be read next has been deleted: go on at the oldest place there is."""
        frontier = self._feeds.frontier
        assert frontier is not None
        if reading.late is not None:
            for behind in reading.members:
                del behind.owed[0]
                behind.member.tell_lost(behind.place.text(behind.layout))
                self._wait(behind)
            return
        self._go_on_at(reading, min(to or frontier, frontier))

    def _cut_short(self, reading: _Reading, former: bool) -> None:
        """A file has been truncated. Of the present one the pipeline will find that out."""
        if reading.late is not None:
            self._lose(reading, None)
            return
        if not former:
            for behind in [*reading.members, *reading.joiners]:
                self._wait(behind, NOT_SEEN_YET_S)
            return
        frontier = self._feeds.frontier
        assert frontier is not None
        hours = {*self._feeds.ends, *self._known, frontier.hour}
        self._go_on_at(reading, Place(min(hour for hour in hours if hour > reading.place.hour), 0))

    def _go_on_at(self, reading: _Reading, to: Place) -> None:
        """What lies before that place is lost to those who have not had it."""
        for behind in [*reading.members, *reading.joiners]:
            if behind.now_at < to:
                self._move(behind, to, lost=True)
                if behind in self._waiting:
                    self._take(reading, behind)
        reading.place = to


def _deliveries(reading: _Reading, messages: list[TopicMessage]) -> Iterator[tuple[_Behind, TopicMessage]]:
    """Each message with each member that is to get it, and that has not left the reading by then."""
    for message in messages:
        group = reading.by_topic[message.topic]
        for behind in tuple(group.members):
            if behind.group is group:
                yield behind, message
