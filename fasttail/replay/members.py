"""The members that are behind: their positions, their lag, and how truncation and late lines affect them."""

from __future__ import annotations

import time
from bisect import bisect_right
from typing import Any

import fasttail.sources.cursor as cursors
from fasttail.connection.connection import Client
from fasttail.publish.feeds import Feeds
from fasttail.publish.public_api import Member
from fasttail.replay.scan import LaggingMember, SharedScan
from fasttail.sources.cursor import CursorPosition

SHARED_RANGE_BYTES = 64 << 20
"""Members whose positions are within this many bytes share a scan."""

ACTIVATION_RETRY_S = 0.01
"""Time until a member at the high watermark is retried if the pipeline does not make its messages yet."""

MAX_SAMPLES = 4096
MAX_GAPS = 64


class LaggingMembers:
    """The members that are behind. Each is in a scan or waits for one.

    max_behind_s: a member that is further behind gets a gap, and continues at the high watermark
    finished: number of members that went live again or left
    waiting: members in no scan, the longest waiting first
    hour_sizes: sizes of hours that this process did not deliver
    known_hours: hours that have existed since the first of them fell behind
    """

    def __init__(self, feeds: Feeds, max_behind_s: float) -> None:
        self.finished = 0
        self.waiting: dict[LaggingMember, None] = {}
        self.hour_sizes: dict[int, int] = {}
        self.known_hours: set[int] = set()
        self._feeds = feeds
        self._max_behind_s = max_behind_s
        self._lagging: dict[Member, LaggingMember] = {}
        self._gaps: set[CursorPosition] = set()  # before which the files miss something
        self._watermark_samples: list[tuple[float, CursorPosition]] = []  # when the watermark was where
        feeds.on_late_lines = self._on_late_lines
        feeds.on_rewind = self._on_rewind
        feeds.on_gap = self._on_gap
        feeds.on_other_history = self._on_other_history

    def __len__(self) -> int:
        return len(self._lagging)

    # ---- membership

    def start_replay(self, member: Member) -> None:
        """Add a member that is behind. Everything up to its position is delivered or not wanted."""
        assert member.position is not None
        assert member.feed is not None
        layout, position = cursors.parse(member.position, self._feeds.stream)
        block = cursors.parse_block(member.cursor, self._feeds.stream) if member.cursor else None
        requested_from = self._feeds.high_watermark if member.needs_replay else position
        now = time.monotonic()
        lagging = LaggingMember(member, member.feed, layout, position, block, now, requested_from)
        lagging.truncated_hours = {gap.hour for gap in self._gaps if gap > position}
        member.needs_replay = False
        self._lagging[member] = lagging
        self.waiting[lagging] = None
        self._feeds.pause_feed(lagging.feed)

    def discard(self, member: Member) -> None:
        """Remove a member, if it is one of these."""
        lagging = self._lagging.pop(member, None)
        if lagging is None:
            return
        self.finished += 1
        if lagging.scan is not None:
            lagging.scan.detach_member(lagging)
        self.waiting.pop(lagging, None)

    def is_ready(self, lagging: LaggingMember) -> bool:
        """Whether a waiting member may join a scan or go live."""
        high_watermark = self._feeds.high_watermark
        if (
            high_watermark is None
            or lagging.position > high_watermark
            or lagging.not_before > time.monotonic()
        ):
            return False
        if lagging.layout != self._feeds.layout:
            self._skip_to(lagging, high_watermark)
        if lagging.position == high_watermark and not lagging.late_ranges_owed:
            return lagging.member.client.is_drained and self._has_same_block(lagging)
        return lagging.member.client.is_drained

    def try_go_live(self, lagging: LaggingMember) -> bool:
        """Make a member live if it is at the high watermark. Return whether it is live or gone."""
        if (
            lagging not in self.waiting
            or lagging.position != self._feeds.high_watermark
            or lagging.late_ranges_owed
            or not self._has_same_block(lagging)
        ):
            return False
        feed = lagging.feed
        if not feed.active.is_set():
            self._feeds.resume_feed(feed)
            lagging.not_before = time.monotonic() + ACTIVATION_RETRY_S
            return False
        if feed.refused:
            lagging.member.terminate("the server cannot take another topic; try again later")
            return True
        self.report_truncation(lagging, lagging.position)
        if lagging not in self.waiting:  # its client has just been closed
            return True
        del self.waiting[lagging]
        del self._lagging[lagging.member]
        self.finished += 1
        lagging.member.go_live()
        return True

    def _has_same_block(self, lagging: LaggingMember) -> bool:
        """Whether a member at the high watermark has got as much as live members.

        Where the node writes blocks again, it may have got less: what comes next is dropped for live members.
        Or more, if the server started there: it does not know how far they had come before.
        """
        block = self._feeds.block
        return lagging.block is None or block is None or lagging.block == block

    def assign(self, lagging: LaggingMember, scan: SharedScan) -> None:
        del self.waiting[lagging]
        lagging.scan = scan
        scan.joiners.append(lagging)

    def requeue(self, lagging: LaggingMember, seconds: float = 0.0) -> None:
        """Move a member out of its scan, back to those that wait.

        Does nothing for a member that has left meanwhile: checking a client's queue may reveal that its
        connection has ended, which removes its members.
        """
        if lagging.scan is None:
            return
        lagging.scan.detach_member(lagging)
        if seconds:
            lagging.not_before = time.monotonic() + seconds
        self.waiting[lagging] = None
        client = lagging.member.client
        if client.queued_bytes > client.queue_limit // 4:
            # It may be near the high watermark, but will not be live soon.
            self._feeds.pause_feed(lagging.feed)

    def reposition(self, lagging: LaggingMember, to: CursorPosition, *, report_gap: bool) -> None:
        """Take a member out of its scan and move it to another position. report_gap: send it a gap."""
        assert self._feeds.layout is not None
        if lagging.scan is not None:
            lagging.scan.detach_member(lagging)
        lagging.layout = self._feeds.layout
        lagging.position, lagging.fingerprint = to, None
        known = [block for block in (lagging.block, self._feeds.block) if block is not None]
        lagging.block = max(known, default=None) if to == self._feeds.high_watermark else None
        if report_gap:
            lagging.member.send_unknown_gap(to)
        lagging.member.cursor, lagging.member.position = (
            self._feeds.cursor_at(to),
            self._feeds.position_at(to),
        )
        if lagging.member in self._lagging:  # else its client has just been closed
            self.waiting[lagging] = None

    def report_truncation(self, lagging: LaggingMember, position: CursorPosition) -> None:
        """Send a gap to a member at `position` if a file before it was truncated, be it still empty."""
        passed = {hour for hour in lagging.truncated_hours if hour <= position.hour}
        if passed:
            lagging.truncated_hours -= passed
            lagging.member.send_unknown_gap(CursorPosition(position.hour, position.offset))

    def _skip_to(self, lagging: LaggingMember, to: CursorPosition) -> None:
        """Skip everything up to a position, and report it as a gap."""
        lagging.late_ranges_owed.clear()
        lagging.truncated_hours.clear()
        self.reposition(lagging, to, report_gap=True)
        lagging.behind_since, lagging.requested_from, lagging.max_lag_s = time.monotonic(), to, None

    # ---- lag

    def counters(self) -> dict[str, float]:
        positions = [lagging.current_position for lagging in self._lagging.values()]
        return {
            "replays": self.finished,
            "replays_running": len(self._lagging),
            "replay_bytes_behind": max(map(self._bytes_behind, positions), default=0),
            "replay_seconds_behind": max(map(self._lag_seconds, positions), default=0.0),
        }

    def lag_report(self) -> dict[Client, list[dict[str, Any]]]:
        """Return the entries for the `status` of each client with members that are behind."""
        found: dict[Client, list[dict[str, Any]]] = {}
        for member, lagging in self._lagging.items():
            position = lagging.current_position
            shown = {
                "subscription": member.subscription.echo,
                "bytes": self._bytes_behind(position),
                "lagMs": round(self._lag_seconds(position) * 1000),
            }
            found.setdefault(member.client, []).append(shown)
        return found

    def tick(self) -> None:
        """Record the high watermark, and skip members that are too far behind. To be called once a second."""
        now, high_watermark = time.monotonic(), self._feeds.high_watermark
        if not self._lagging:
            self.known_hours.clear()
        if high_watermark is None:
            return
        if self._watermark_samples and self._watermark_samples[-1][1] > high_watermark:
            self._watermark_samples.clear()
        self._watermark_samples.append((now, high_watermark))
        if len(self._watermark_samples) > MAX_SAMPLES:
            del self._watermark_samples[1:-1:2]
        for lagging in tuple(self._lagging.values()):
            position = lagging.current_position
            if position > high_watermark:
                continue
            if lagging.max_lag_s is None and (
                lagging.requested_from is None or position >= lagging.requested_from
            ):
                lagging.max_lag_s = self._max_behind_s + now - lagging.behind_since
            if lagging.max_lag_s is not None and self._lag_seconds(position) > lagging.max_lag_s:
                self._skip_to(lagging, high_watermark)

    def is_near(self, position: CursorPosition, ahead: CursorPosition) -> bool:
        """Whether `position` is `ahead`, or not far before it."""
        if position.hour == ahead.hour:
            return position <= ahead and ahead.offset - position.offset <= SHARED_RANGE_BYTES
        size_known = position.hour in self._feeds.delivered_offsets or position.hour in self.hour_sizes
        return (
            size_known
            and position < ahead
            and self._bytes_behind(position) - self._bytes_behind(ahead) <= SHARED_RANGE_BYTES
        )

    def _lag_seconds(self, position: CursorPosition) -> float:
        """Return the seconds since the high watermark was at `position`, or since its first sample."""
        high_watermark = self._feeds.high_watermark
        if high_watermark is None or position >= high_watermark or not self._watermark_samples:
            return 0.0
        index = bisect_right(self._watermark_samples, position, key=lambda sample: sample[1])
        return time.monotonic() - self._watermark_samples[max(0, index - 1)][0]

    def _bytes_behind(self, position: CursorPosition) -> int:
        """Return the bytes up to the high watermark, as far as the sizes of files are known."""
        high_watermark = self._feeds.high_watermark
        if high_watermark is None or position >= high_watermark:
            return 0
        if position.hour == high_watermark.hour:
            return high_watermark.offset - position.offset
        sizes = {**self.hour_sizes, **self._feeds.delivered_offsets}
        between = sum(size for hour, size in sizes.items() if position.hour < hour < high_watermark.hour)
        return (
            max(0, sizes.get(position.hour, position.offset) - position.offset)
            + between
            + high_watermark.offset
        )

    # ---- changes of the files

    def _on_late_lines(self, hour: int, begin: int, end: int) -> None:
        """Note late lines that were delivered to live members, for members that have passed them."""
        for lagging in self._lagging.values():
            if lagging.current_position < CursorPosition(hour, end):
                continue  # it has yet to read them
            if lagging.late_ranges_owed and lagging.late_ranges_owed[-1][::2] == (hour, begin):
                lagging.late_ranges_owed[-1] = (hour, lagging.late_ranges_owed[-1][1], end)
            else:
                lagging.late_ranges_owed.append((hour, begin, end))

    def _on_other_history(self) -> None:
        """React to a chain that has begun again with lower blocks."""
        for lagging in self._lagging.values():
            lagging.block = None

    def _on_gap(self, begin: CursorPosition) -> None:
        """React to files that miss what comes before a position."""
        self._gaps = {begin} | set(sorted(self._gaps)[-MAX_GAPS:])
        for lagging in self._lagging.values():
            if lagging.current_position <= begin:
                lagging.truncated_hours.add(begin.hour)

    def _on_rewind(self, previous: CursorPosition) -> None:
        """React to a high watermark that moved back, because of a truncation or a change of layout."""
        feeds = self._feeds
        high_watermark = feeds.high_watermark
        self._watermark_samples.clear()
        if high_watermark is None:
            return
        for lagging in tuple(self._lagging.values()):
            position = lagging.current_position
            if lagging.layout != feeds.layout:
                self._skip_to(lagging, high_watermark)
            elif lagging.member.last_batch == feeds.batch:
                pass  # its position is in the new content: it fell behind in this batch
            elif position.hour == high_watermark.hour and position <= previous:
                self.reposition(
                    lagging, CursorPosition(high_watermark.hour, 0), report_gap=position < previous
                )
            elif position.hour < high_watermark.hour:
                lagging.truncated_hours.add(high_watermark.hour)
            lagging.late_ranges_owed = [
                each for each in lagging.late_ranges_owed if each[0] != high_watermark.hour
            ]
