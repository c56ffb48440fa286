"""Resuming: what a subscription missed, read once more from the node's files, until it can go live.

    cursor ──read──► … ──read──► frontier of the live way    (in a thread, as the client's queue allows)
                                    │
                                    └─ the last stretch on the event loop itself, so that the frontier
                                       cannot move meanwhile: no hole, no double ─► live

A replay never reads beyond the frontier: what lies behind it has not been handed out to live clients, and
will be to this one too. A cursor that lies ahead of it (the server reads once more what it had published
before a restart) waits for it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from weakref import WeakSet

import fasttail.publish.cursor as cursors
from fasttail.find import order_at
from fasttail.publish.clients import Client
from fasttail.publish.cursor import Place
from fasttail.publish.feeds import Feeds
from fasttail.publish.public import Member
from fasttail.publish.subscriptions import Subscription, invalid
from fasttail.publish.topics import Topic, TopicMessage
from fasttail.reread import Rereader
from fasttail.slices import ask_for_slices
from fasttail.tail.blocks import Reader
from fasttail.tail.follower import last_line_start
from fasttail.tail.layout import HourFile, hour_files, hourly_folder, oldest_hour

AT_ONCE = 1 << 18
"""Bytes that are read on the event loop's thread: a fraction of a millisecond."""

NICENESS = 10
"""Of the replays' threads: the live way goes first."""

ROOM_S = 0.005
"""Between two looks at a queue that is full."""

STALLED_S = 30.0
"""So long a replay waits for a client that reads nothing."""

GIVES_WAY_S = 2.0
"""A replay that has waited so long for its client gives its place to another that wants it."""

PROGRESS_S = 1.0

NO_END = 1 << 63
"""Of a file that the pipeline has left, or never had: all that is in it."""


class _Lost(Exception):
    """Why a replay cannot begin, or not go on."""


class Resumer:
    """Replays for the members of feeds. `limit` at a time run beside the live way; the next is refused.

    ready: the pipeline has had its first look at the folders.
    """

    def __init__(
        self,
        feeds: Feeds,
        data_dir: Path,
        make_topic: Callable[[Subscription], Topic],
        *,
        layout: Callable[[], str | None],
        ready: asyncio.Event,
        limit: int,
        window: int,
        max_line: int,
    ) -> None:
        self.done = 0
        self._running: Counter[Client] = Counter()
        self._waits: dict[Member, float] = {}  # for its client to read on, and since when
        self._gave_way: set[Member] = set()  # not counted in _running any more
        self._walks: WeakSet[_Walk] = WeakSet()
        self._feeds = feeds
        self._data_dir = os.path.abspath(data_dir)
        self._make_topic = make_topic
        self._layout = layout
        self._ready = ready
        self._limit = limit
        self._window = window
        self._max_line = max_line
        # One message of all replays in a turn of the event loop: what is live comes between any two.
        self._turn = asyncio.Lock()
        self._threads = ThreadPoolExecutor(
            max(1, limit), thread_name_prefix="fasttail-replay", initializer=_step_back
        )

    @property
    def block_bytes(self) -> int:
        """What the blocks of the replays that run occupy."""
        return sum(walk.block_bytes for walk in self._walks)

    def counts(self) -> dict[str, int]:
        """For the metrics."""
        return {"replays": self.done, "replays_running": self._running.total()}

    def close(self) -> None:
        """No more; what runs ends with its step."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def find(self, member: Member) -> str:
        """The cursor at which a member's replay begins. Raises RequestError.

        There is a place for the replay, if it follows without a switch to other tasks.
        """
        request, subscription = member.request, member.subscription
        await self._ready.wait()  # clients that were cut off by a restart come before it
        self._check_room(member)
        layout = self._layout()
        if layout is None:
            raise invalid(request.sent, "no data yet, nothing to resume")
        if subscription.cursor is not None:
            look = partial(self._check_cursor, layout, subscription.cursor)
        else:
            assert subscription.since is not None
            look = partial(self._find_time, layout, subscription.since)
        try:
            place = await asyncio.get_running_loop().run_in_executor(self._threads, look)
        except _Lost as error:
            raise invalid(request.sent, str(error)) from None
        except OSError as error:
            raise invalid(request.sent, f"cannot read the node's files: {error.strerror}") from error
        self._check_room(member)  # another may have come meanwhile
        return place.text(layout)

    def _check_cursor(self, layout: str, cursor: str) -> Place:
        """The place that a cursor names, if it can be read from. Raises _Lost, OSError."""
        try:
            of_layout, place = cursors.parse(cursor)
        except ValueError:
            raise _Lost("not a cursor") from None
        if of_layout != layout:
            raise _Lost(f"a cursor of layout {of_layout}, but {layout} is read here")
        folder = hourly_folder(self._data_dir, layout)
        first = oldest_hour(folder)
        if first is None:
            raise _Lost("no data on disk, nothing to resume")
        oldest = Place(_number(first), 0)
        if place < oldest:
            raise _Lost(f"older than what is on disk: the oldest is {oldest.text(layout)}")
        hours = hour_files(folder, place.date)
        path = next((hour.path for hour in hours if _number(hour) == place.hour), None)
        if path is None:
            raise _Lost(f"no file of that hour: the oldest is {oldest.text(layout)}")
        with suppress(OSError):
            if os.stat(path).st_size < place.offset + (place.events > 0):
                raise _Lost("ahead of the end of that hour's file")
        return place

    def _find_time(self, layout: str, since: int) -> Place:
        """Where the first event from a time on stands. Raises _Lost, OSError."""
        hours = self.hours(layout)
        if not hours:
            raise _Lost("no data on disk, nothing to resume")
        place = _Search(hours, self._max_line).find(since)
        if place is None:
            oldest = Place(_number(hours[0]), 0)
            raise _Lost(f"older than the oldest event on disk, {oldest.text(layout)}")
        return place

    async def replay(self, member: Member) -> bool:
        """Give the member what stands behind its cursor. True, without a switch to other tasks, when it
        can go live; False if its client has gone.
        """
        assert member.cursor is not None
        assert member.feed is not None
        self._take_place(member)
        try:
            await member.feed.active.wait()
            # Never closed by hand: cancelled, this returns while a step still runs in its thread. The last
            # reference goes with whichever of the two ends last.
            walk = _Walk(
                Rereader(self._make_topic(member.subscription), window=self._window, max_line=self._max_line),
                self,
                member.cursor,
            )
            self._walks.add(walk)
            return await self._catch_up(member, walk)
        except _Lost as error:
            raise invalid(member.request.sent, str(error)) from None
        except OSError as error:
            raise invalid(member.request.sent, f"cannot read the node's files: {error.strerror}") from error
        finally:
            if member in self._gave_way:
                self._gave_way.discard(member)
            else:
                self._running -= Counter((member.client,))
            self.done += 1

    async def _catch_up(self, member: Member, walk: _Walk) -> bool:
        loop = asyncio.get_running_loop()
        setbacks = self._feeds.setbacks
        while True:
            if self._feeds.layout not in (None, walk.layout):
                raise _Lost(f"{self._feeds.layout} is read now, no longer {walk.layout}")
            if self._feeds.setbacks != setbacks:
                raise _Lost("the file was truncated meanwhile")
            frontier = self._feeds.frontier
            if frontier is None or walk.place > frontier:
                progress = self._feeds.progress
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROGRESS_S):
                        await progress.wait()
                continue
            ends = self._feeds.ends
            if walk.place == frontier:
                hour = walk.left_behind(ends)
                if hour is None:
                    return True
                messages = await loop.run_in_executor(self._threads, walk.go_back, hour, ends[hour])
            elif walk.place.hour != frontier.hour:
                end = ends.get(walk.place.hour, NO_END)
                messages = await loop.run_in_executor(self._threads, walk.step, end, None)
            elif frontier.offset - walk.place.offset > AT_ONCE or not walk.is_open:
                messages = await loop.run_in_executor(self._threads, walk.step, frontier.offset, frontier)
            else:
                for message in walk.step(frontier.offset, frontier):
                    member.give(message)
                messages = []
            for message in messages:
                await self._room(member)
                async with self._turn:
                    member.give(message)
                    await asyncio.sleep(0)
            if not member.client.is_open:
                return False

    async def _room(self, member: Member) -> None:
        """Until the client has read on, or has gone. The transport tells only its own, far lower marks."""
        client = member.client
        loop = asyncio.get_running_loop()
        since, queued = loop.time(), client.queued
        self._waits[member] = since
        try:
            while client.is_open and client.queued > client.queue_limit // 2:
                await asyncio.sleep(ROOM_S)
                if member in self._gave_way:
                    raise _Lost("its client reads too slowly, and others wait for this replay's place")
                if client.queued < queued:
                    since, queued = loop.time(), client.queued
                elif loop.time() - since > STALLED_S:
                    raise _Lost(f"nothing was read for {STALLED_S:g} s: others wait for this replay's place")
        finally:
            self._waits.pop(member, None)

    def _check_room(self, member: Member) -> None:
        """Half of the places are the most for one client. Raises RequestError."""
        most = (self._limit + 1) // 2
        full = self._running.total() >= self._limit and self._slowest() is None
        if self._running[member.client] >= most or full:
            text = f"too many replays: at most {self._limit} at a time, {most} of one client; try again later"
            raise invalid(member.request.sent, text)

    def _take_place(self, member: Member) -> None:
        """Count one more replay, maybe in place of one that waits for its client. Raises RequestError."""
        self._check_room(member)
        slowest = self._slowest()
        if self._running.total() >= self._limit and slowest is not None:
            del self._waits[slowest]
            self._gave_way.add(slowest)
            self._running -= Counter((slowest.client,))
        self._running[member.client] += 1

    def _slowest(self) -> Member | None:
        """Whose replay has waited longest for its client, if that is long enough to give way."""
        member = min(self._waits, key=self._waits.__getitem__, default=None)
        if member is None or asyncio.get_running_loop().time() - self._waits[member] < GIVES_WAY_S:
            return None
        return member

    def hours(self, layout: str) -> list[HourFile]:
        """The files on disk, oldest first."""
        return hour_files(hourly_folder(self._data_dir, layout))


class _Search:
    """Looks for a time in the files, which are at least one. One reader serves for all its looks."""

    def __init__(self, hours: list[HourFile], max_line: int) -> None:
        self._hours = hours
        self._reader = Reader(window=1 << 14, max_line=max_line)

    def find(self, since: int) -> Place | None:
        """Where the first event from a time (ns) on stands; None if even the oldest event on disk is younger.
        Raises OSError.
        """
        try:
            return self._find(since)
        finally:
            self._reader.close()

    def _find(self, since: int) -> Place | None:
        hours = self._hours
        low, begin = self._begin(0, len(hours) - 1)
        if begin is None or begin > since:
            return None
        # The newest file that begins before: hours are the node's, and need not be those of the events.
        high = len(hours) - 1
        while low < high:
            middle = (low + high + 1) // 2
            found, begin = self._begin(middle, high)
            if begin is not None and begin < since:
                low = found
            else:
                high = middle - 1
        file = hours[low]
        # The first line in it that does not; `low` and `high` are bytes from here on.
        low, high = 0, os.stat(file.path).st_size
        while low < high:
            middle = (low + high) // 2
            event = order_at(self._reader, file.path, middle, "time_ns")
            if event is not None and event.value is not None and event.value < since:
                low = event.offset + 1
            else:
                high = middle
        event = order_at(self._reader, file.path, low, "time_ns")
        # Not the end of the file: its last line may be torn, and is still to be read as a whole.
        return Place(_number(file), event.offset if event is not None else last_line_start(file.path))

    def _begin(self, first: int, last: int) -> tuple[int, int | None]:
        """The first of these files with an event, and that event's time; None: there is none."""
        for number in range(first, last + 1):
            event = order_at(self._reader, self._hours[number].path, 0, "time_ns")
            if event is not None:
                return number, event.value
        return last, None


class _Walk:
    """A replay's way through the files. `step` may run in any thread, one at a time."""

    def __init__(self, rereader: Rereader, resumer: Resumer, cursor: str) -> None:
        self.layout, self.place = cursors.parse(cursor)
        self._rereader = rereader
        self._resumer = resumer
        self._open_hour = 0
        self._path = ""  # of that hour
        self._left: dict[int, int] = {}  # hours that are done with, and how far each was read
        self._known = {self.place.hour}  # hours that were there at the last look

    @property
    def block_bytes(self) -> int:
        """What its block occupies."""
        return self._rereader.reader.touched

    @property
    def is_open(self) -> bool:
        """The next step reads, rather than looking at the folders first."""
        return self._open_hour == self.place.hour

    def step(self, limit: int, frontier: Place | None) -> list[TopicMessage]:
        """Read on in the present hour's file, at most to `limit`, where a line ends. frontier: its hour is
        the last; None: the next one follows. Raises _Lost, OSError.
        """
        if not self.is_open:
            self._open()
            return []
        messages = self._rereader.read(limit)
        at_end = messages is None
        if messages is None and self._is_replaced():
            self._open()  # by a copy that goes on: the one that was read ends here
            return []
        if messages is None:
            # A last line that got no end has been taken as it was; or the file was truncated, its rest gone.
            messages = self._rereader.read_tail()
        offset = self._rereader.tell()
        if at_end and offset < limit < NO_END and os.stat(self._path).st_size < limit:
            # What the pipeline has handed out is no longer there, and it has not seen that yet.
            raise _Lost("the file was truncated meanwhile")
        if frontier is None and (at_end or offset >= limit):
            self._left[self.place.hour] = offset
            self.place = Place(self.place.hour + 1, 0)
        elif frontier is not None and at_end:
            self.place = frontier
        elif offset > self.place.offset:
            # Not beyond the limit, though NUL bytes behind it may have been passed over.
            self.place = Place(self.place.hour, min(offset, limit))
        return messages

    def _is_replaced(self) -> bool:
        """Whether another file has taken the name of the open one."""
        try:
            status = os.stat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) != self._rereader.identity()

    def left_behind(self, ends: dict[int, int]) -> int | None:
        """An hour that has got late lines since it was left, and that were handed out since."""
        return next((hour for hour, offset in self._left.items() if ends.get(hour, 0) > offset), None)

    def go_back(self, hour: int, end: int) -> list[TopicMessage]:
        """The late lines of such an hour, which end at `end`. Raises OSError."""
        file = next((file for file in self._resumer.hours(self.layout) if _number(file) == hour), None)
        if file is None:
            raise _Lost(f"the file of hour {hour} was deleted meanwhile")
        self._rereader.open(file.path, self.layout, self._left[hour], 0, self.place)
        self._open_hour = 0  # `step` comes back to `place`
        found: list[TopicMessage] = []
        while self._rereader.tell() < end:
            messages = self._rereader.read(end)
            found += self._rereader.read_tail() if messages is None else messages
            if messages is None:
                break
        self._left[hour] = end
        return found

    def _open(self) -> None:
        files = {_number(file): file for file in self._resumer.hours(self.layout)}
        hour = min((number for number in files if number >= self.place.hour), default=1 << 63)
        gone = min((number for number in self._known if self.place.hour <= number < hour), default=None)
        if gone is not None or hour not in files:
            raise _Lost(f"the file of hour {gone or self.place.hour} was deleted meanwhile")
        self._known = set(files)
        if hour != self.place.hour:
            self.place = Place(hour, 0)
        self._path = files[hour].path
        self._rereader.open(self._path, self.layout, self.place.offset, self.place.events)
        self._open_hour = hour


def _number(file: HourFile) -> int:
    return int(file.date) * 100 + file.hour


def _step_back() -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    ask_for_slices(0)
