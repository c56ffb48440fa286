"""The members that are behind: where each is, how far behind that is, and what happens to it meanwhile."""

from __future__ import annotations

import time
from bisect import bisect_right
from typing import Any

import fasttail.publish.cursor as cursors
from fasttail.publish.connection import Client
from fasttail.publish.cursor import Place
from fasttail.publish.feeds import Feeds
from fasttail.publish.public import Member
from fasttail.replay_scan import LaggingMember, SharedScan

TOGETHER = 64 << 20
"""Bytes: members whose places lie within so many share a reading."""

FEED_S = 0.01
"""Until the next look at a member at the frontier whose messages the pipeline does not make yet."""

MOST_SAMPLES = 4096


class LaggingMembers:
    """Each is in a reading, or waits for one.

    max_behind_s: a member that falls further behind is told a gap, and goes on at the newest place. finished:
    members that are live again, or have gone. waiting: those in no reading; who has waited longest comes
    first. hour_sizes: of hours that were not handed out by this process. known_hours: hours that there were
    since the first of them fell behind.
    """

    def __init__(self, feeds: Feeds, max_behind_s: float) -> None:
        self.finished = 0
        self.waiting: dict[LaggingMember, None] = {}
        self.hour_sizes: dict[int, int] = {}
        self.known_hours: set[int] = set()
        self._feeds = feeds
        self._max_behind_s = max_behind_s
        self._behind: dict[Member, LaggingMember] = {}
        self._passed: list[tuple[float, Place]] = []  # when the frontier was where
        feeds.on_late = self._hear_of_late
        feeds.on_set_back = self._set_back

    def __len__(self) -> int:
        return len(self._behind)

    # ---- coming and going

    def admit(self, member: Member) -> None:
        """A member is behind: everything up to its cursor has been given to it, or is not wanted."""
        assert member.cursor is not None
        assert member.feed is not None
        layout, place = cursors.parse(member.cursor)
        asked = self._feeds.frontier if member.resumes else place
        behind = LaggingMember(member, member.feed, layout, place, time.monotonic(), asked)
        member.resumes = False
        self._behind[member] = behind
        self.waiting[behind] = None
        self._feeds.pause(behind.feed)

    def discard(self, member: Member) -> None:
        """It wants no more, if it is one of them."""
        behind = self._behind.pop(member, None)
        if behind is None:
            return
        self.finished += 1
        if behind.reading is not None:
            behind.reading.leave(behind)
        self.waiting.pop(behind, None)

    def is_ready(self, behind: LaggingMember) -> bool:
        """Whether one that waits may go into a reading, or live."""
        frontier = self._feeds.frontier
        if frontier is None or behind.place > frontier or behind.not_before > time.monotonic():
            return False
        if behind.layout != self._feeds.layout:
            self._skip(behind, frontier)
        return behind.member.client.is_drained

    def try_go_live(self, behind: LaggingMember) -> bool:
        """Let a member that is at the frontier go live."""
        if behind not in self.waiting or behind.place != self._feeds.frontier or behind.owed:
            return False
        feed = behind.feed
        if not feed.active.is_set():
            self._feeds.go_on(feed)
            behind.not_before = time.monotonic() + FEED_S
            return False
        if feed.refused:
            behind.member.fail("the server has no room for one more topic; try again later")
            return True
        self.tell_cut(behind, behind.place)
        if behind not in self.waiting:  # its client has been closed just now
            return True
        del self.waiting[behind]
        del self._behind[behind.member]
        self.finished += 1
        behind.member.go_live()
        return True

    def assign(self, behind: LaggingMember, reading: SharedScan) -> None:
        """One that waits is to join a reading."""
        del self.waiting[behind]
        behind.reading = reading
        reading.joiners.append(behind)

    def requeue(self, behind: LaggingMember, seconds: float = 0.0) -> None:
        """Out of its reading; its turn comes again. Does nothing for a member that has gone meanwhile: to ask
        for a client's queue may find out that its connection has ended, which drops its members.
        """
        if behind.reading is None:
            return
        behind.reading.leave(behind)
        if seconds:
            behind.not_before = time.monotonic() + seconds
        self.waiting[behind] = None
        client = behind.member.client
        if client.queued > client.queue_limit // 4:
            self._feeds.pause(behind.feed)  # it may have come near the frontier, but will not be live soon

    def reposition(self, behind: LaggingMember, to: Place, *, lost: bool) -> None:
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
            self.waiting[behind] = None

    def tell_cut(self, behind: LaggingMember, place: Place) -> None:
        """Send a gap to a member that has come to `place` if a file on its way there had been truncated, even
        if that file has been empty ever since.
        """
        passed = {hour for hour in behind.cut if hour <= place.hour}
        if passed:
            behind.cut -= passed
            behind.member.tell_lost(Place(place.hour, place.offset).text(behind.layout))

    def _skip(self, behind: LaggingMember, to: Place) -> None:
        """What lies between is not given to it."""
        behind.owed.clear()
        behind.cut.clear()
        self.reposition(behind, to, lost=True)
        behind.since, behind.asked, behind.allowed = time.monotonic(), to, None

    # ---- how far behind

    def counters(self) -> dict[str, float]:
        """For the metrics."""
        places = [behind.now_at for behind in self._behind.values()]
        return {
            "replays": self.finished,
            "replays_running": len(self._behind),
            "replay_bytes_behind": max(map(self._bytes_behind, places), default=0),
            "replay_seconds_behind": max(map(self._lag, places), default=0.0),
        }

    def lag_report(self) -> dict[Client, list[dict[str, Any]]]:
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
            self.known_hours.clear()
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

    def is_near(self, place: Place, ahead: Place) -> bool:
        """Whether the second place is the first, or not far ahead of it."""
        if place.hour == ahead.hour:
            return place <= ahead and ahead.offset - place.offset <= TOGETHER
        known = place.hour in self._feeds.ends or place.hour in self.hour_sizes
        return known and place < ahead and self._bytes_behind(place) - self._bytes_behind(ahead) <= TOGETHER

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
        sizes = {**self.hour_sizes, **self._feeds.ends}
        between = sum(size for hour, size in sizes.items() if place.hour < hour < frontier.hour)
        return max(0, sizes.get(place.hour, place.offset) - place.offset) + between + frontier.offset

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
                self.reposition(behind, Place(frontier.hour, 0), lost=place < before)
            elif place.hour < frontier.hour:
                behind.cut.add(frontier.hour)
            behind.owed = [each for each in behind.owed if each[0] != frontier.hour]
