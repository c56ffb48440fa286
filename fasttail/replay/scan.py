"""A scan of the node's files for members that are behind: which file it reads, and from where.

`open_next_file` and `check_end` may run in any thread, one at a time. Everything else belongs to the event
loop's thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import fasttail.sources.cursor as cursors
from fasttail.engine.topics import Topic, TopicMessage
from fasttail.publish.feeds import Feed
from fasttail.publish.public_api import Member
from fasttail.replay.replay_reader import ReplayReader
from fasttail.sources.cursor import BlockPosition, CursorPosition
from fasttail.sources.layout import hour_files, hourly_folder

UNBOUNDED = 1 << 63
"""Limit for a file that the pipeline has left or never read: its end."""


class FileMissing(Exception):
    """The next file of a scan does not exist. position: the oldest one after it, or None."""

    def __init__(self, position: CursorPosition | None) -> None:
        super().__init__()
        self.position = position


class FileTruncated(Exception):
    """The file is shorter than what was delivered from it."""


@dataclass(eq=False)
class LaggingMember:
    """A member that is behind. Everything before `position` was delivered, except `late_ranges_owed`.

    block: the same in the chain, None if unknown. In a repetition, it is ahead of the block at `position`
    late_ranges_owed: (hour, begin, end) of late lines that were delivered to others after it had passed them
    truncated_hours: hours ahead of it that were truncated
    requested_from: the high watermark when it asked to begin earlier; its lag is not limited before that
    max_lag_s: how far behind it may be; None before it reaches `requested_from`
    fingerprint: hour, offset, and the bytes before that offset
    """

    member: Member
    feed: Feed
    layout: str
    position: CursorPosition
    block: BlockPosition | None
    behind_since: float
    requested_from: CursorPosition | None
    late_ranges_owed: list[tuple[int, int, int]] = field(default_factory=list)
    truncated_hours: set[int] = field(default_factory=set)
    max_lag_s: float | None = None
    fingerprint: tuple[int, int, bytes] | None = None
    not_before: float = 0.0
    scan: SharedScan | None = None
    group: TopicGroup | None = None

    @property
    def current_position(self) -> CursorPosition:
        """Its position, including while it is in a scan."""
        if self.group is None or self.scan is None or self.scan.late_range is not None:
            return self.position
        if not self.member.position:
            return max(self.scan.position, self.position)
        return max(self.scan.position, cursors.parse(self.member.position, self.feed.topic.stream)[1])

    @property
    def current_block(self) -> BlockPosition | None:
        """Its block, including while it is in a scan."""
        if self.group is None or self.scan is None or self.scan.late_range is not None:
            return self.block
        stream = self.feed.topic.stream
        named = cursors.parse_block(self.member.cursor, stream) if self.member.cursor else None
        known = [block for block in (self.block, named, self.scan.block) if block is not None]
        return max(known, default=None)

    @property
    def line_block(self) -> BlockPosition | None:
        """The block at the start of the line of `position`."""
        if self.block is None:
            return None
        return BlockPosition(self.block.height, self.block.events - self.position.events_consumed)


@dataclass(eq=False)
class TopicGroup:
    """Members of a scan that share a topic."""

    topic: Topic
    members: set[LaggingMember]
    created_at: CursorPosition  # some events of the line here may be skipped


class SharedScan:
    """One pass over the files for the members that have joined it.

    While `open_next_file` or `check_end` runs, nothing else may use its reader.

    position: everything before it was delivered
    block: the same in the chain, None if unknown
    late_range: the late lines to read instead of what is ahead
    joiners: members that join when the scan reaches their positions
    known_hours: hours that existed at some time
    """

    def __init__(
        self,
        replay_reader: ReplayReader,
        layout: str,
        position: CursorPosition,
        data_dir: str,
        known_hours: set[int],
        stream: str = "orders",
        block: BlockPosition | None = None,
    ) -> None:
        self.replay_reader = replay_reader
        self.layout = layout
        self.position = position
        self.block = block
        self.late_range: tuple[int, int, int] | None = None
        # By key of the subscription and number of events to skip.
        self.groups: dict[tuple[str, int], TopicGroup] = {}
        self.by_topic: dict[int, TopicGroup] = {}
        self.joiners: list[LaggingMember] = []
        self.read_bytes = 0
        self.started_at = time.monotonic()
        self.ends_to_merge = False
        self.open_hour = 0
        self.fingerprint: tuple[int, int, bytes] | None = None  # of what was delivered
        self._path = ""
        self._data_dir = data_dir
        self._stream = stream
        self._known_hours = known_hours
        if position.offset:
            known_hours.add(position.hour)

    @property
    def members(self) -> list[LaggingMember]:
        return [lagging for group in self.by_topic.values() for lagging in group.members]

    @property
    def is_open(self) -> bool:
        return self.open_hour == (self.position.hour if self.late_range is None else self.late_range[0])

    @property
    def fingerprints(self) -> set[tuple[int, int, bytes]]:
        """The fingerprints of what was delivered to its members, which the file must still match."""
        found = {lagging.fingerprint for lagging in [*self.joiners, *self.members]}
        return {fingerprint for fingerprint in (*found, self.fingerprint) if fingerprint is not None}

    def open_next_file(
        self, delivered_offsets: dict[int, int], fingerprints: set[tuple[int, int, bytes]]
    ) -> CursorPosition:
        """Open the file of the current hour, or the next one that exists. Return the position to read from.

        Raises FileMissing, FileTruncated, OSError.
        """
        hour, late_position = self.position.hour, None
        offset = self.position.offset
        if self.late_range is not None:
            (hour, offset, _), late_position = self.late_range, self.position
        folder = hourly_folder(self._data_dir, self.layout, self._stream)
        files = {file.number: file for file in hour_files(folder)}
        found = min((number for number in files if number >= hour), default=None)
        missing = [
            each for each in {*delivered_offsets, *self._known_hours} if hour <= each < (found or UNBOUNDED)
        ]
        data_missing = any(
            each != hour or delivered_offsets.get(each, UNBOUNDED) > offset for each in missing
        )
        if found is None or data_missing or (self.late_range is not None and found != hour):
            raise FileMissing(CursorPosition(found, 0) if found is not None else None)
        self._known_hours |= set(files)
        if found != hour:
            hour, offset = found, 0
        self._path = files[hour].path
        try:
            self.replay_reader.open(self._path, self.layout, offset, late_position, self.block)
        except FileNotFoundError:  # deleted just now: list the files again
            return self.open_next_file(delivered_offsets, fingerprints)
        reader = self.replay_reader.reader
        for mark_hour, mark_end, expected in fingerprints:
            if mark_hour == hour and reader.pread_at(mark_end - len(expected), len(expected)) != expected:
                raise FileTruncated
        self.open_hour = hour
        return self.position if self.late_range is not None else CursorPosition(hour, offset)

    def read_step(self, limit: int, exact: bool) -> bool:
        """Make the next messages. Return False at the end of the file. Raises FileTruncated, OSError."""
        return self.replay_reader.read_step(limit, exact) or self.check_end(limit, exact)

    def check_end(self, limit: int, exact: bool) -> bool:
        """Interpret the end of the file. Return False if it is final. Raises FileTruncated, OSError."""
        if self._is_replaced():
            self.open_hour = 0  # continue in the file that took its name
            return True
        if self.replay_reader.reader.rewritten:
            raise FileTruncated
        if not exact:
            return False
        # An unterminated last line is delivered as it is. If the file still ends before `limit`, it was
        # truncated, because that much of it was delivered before. It may have grown again by now.
        self.replay_reader.read_partial_line()
        if self.replay_reader.tell() < limit < UNBOUNDED:
            raise FileTruncated
        return False

    def _is_replaced(self) -> bool:
        """Whether another file has taken the name of the open one."""
        try:
            status = os.stat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) != self.replay_reader.identity()

    def fits(self, lagging: LaggingMember) -> bool:
        """Whether the reader has come to the block at which a member joins, at whose line it is.

        Where blocks are written again, the same line may be another position in the chain for each of them.
        """
        if self.block is None or lagging.block is None or lagging.line_block is None:
            return True
        if lagging.line_block.events == 0:
            return self.block.height < lagging.block.height or self.block == lagging.line_block
        return self.block == lagging.line_block

    def deliveries(self, messages: list[TopicMessage]) -> Iterator[tuple[LaggingMember, TopicMessage]]:
        """Yield each message with each member that it is for and that is still in the scan."""
        for message in messages:
            group = self.by_topic[message.topic]
            for lagging in tuple(group.members):
                if lagging.group is group:
                    yield lagging, message

    def detach_member(self, lagging: LaggingMember) -> None:
        """Remove a member. Its topic stays until `prune_topics`, because a step may be running."""
        if lagging.group is not None:
            lagging.position, lagging.block = lagging.current_position, lagging.current_block
            lagging.fingerprint = self.fingerprint or lagging.fingerprint
            lagging.group.members.discard(lagging)
        else:
            self.joiners.remove(lagging)
        lagging.scan = lagging.group = None

    def prune_topics(self) -> None:
        """Remove topics without members, and merge those that are equal by now. No step may be running."""
        for key, group in list(self.groups.items()):
            if key[1] and group.members:
                if self.position <= group.created_at:
                    continue
                # Past its first line, it equals the topic that skips nothing.
                del self.groups[key]
                other = self.groups.get((key[0], 0))
                if other is None:
                    self.replay_reader.include_all_orders(group.topic)
                    self.groups[key[0], 0] = group
                    continue
                for lagging in group.members:
                    lagging.group = other
                other.members |= group.members
                group.members = set()
                self._remove_group(group)
            elif not group.members:
                del self.groups[key]
                self._remove_group(group)

    def _remove_group(self, group: TopicGroup) -> None:
        del self.by_topic[group.topic.id]
        self.replay_reader.detach_topic(group.topic)
