"""One way through the node's files for members that are behind: which file, from where, up to what end.

`open` and `look_at_end` of a reading may run in any thread, one at a time; everything else here belongs to
the event loop's thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import fasttail.publish.cursor as cursors
from fasttail.publish.cursor import Place
from fasttail.publish.feeds import Feed
from fasttail.publish.public import Member
from fasttail.publish.topics import Topic, TopicMessage
from fasttail.reread import Rereader
from fasttail.resume import hour_number
from fasttail.tail.layout import hour_files, hourly_folder

NO_END = 1 << 63
"""Of a file that the pipeline has left, or never had: all that is in it."""


class FileMissing(Exception):
    """What a reading is to read next is not there. place: the oldest that is; None: nothing."""

    def __init__(self, place: Place | None) -> None:
        super().__init__()
        self.place = place


class FileTruncated(Exception):
    """The file is shorter than what has been handed out of it."""


@dataclass(eq=False)
class LaggingMember:
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
    reading: SharedScan | None = None
    group: TopicGroup | None = None

    @property
    def now_at(self) -> Place:
        """Its place, also while it is in a reading."""
        if self.group is None or self.reading is None or self.reading.late is not None:
            return self.place
        own = cursors.parse(self.member.cursor)[1] if self.member.cursor else self.place
        return max(self.reading.place, own)


@dataclass(eq=False)
class TopicGroup:
    """Members of a reading that get the messages of one topic."""

    topic: Topic
    members: set[LaggingMember]
    since: Place  # where it was made: some of that line's events may be passed over


class SharedScan:
    """One way through the files, for those who have joined it. While `open` or `look_at_end` run, nothing
    else is done with the rereader.

    place: up to where everything has been handed out. late: the range of late lines that it reads instead of
    what lies ahead. joiners: those whose places it will come to. known: hours that were there at some look.
    """

    def __init__(self, rereader: Rereader, layout: str, place: Place, data_dir: str, known: set[int]) -> None:
        self.rereader = rereader
        self.layout = layout
        self.place = place
        self.late: tuple[int, int, int] | None = None
        # By key of the subscription and events to pass over.
        self.groups: dict[tuple[str, int], TopicGroup] = {}
        self.by_topic: dict[int, TopicGroup] = {}
        self.joiners: list[LaggingMember] = []
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
    def members(self) -> list[LaggingMember]:
        return [behind for group in self.by_topic.values() for behind in group.members]

    @property
    def is_open(self) -> bool:
        return self.open_hour == (self.place.hour if self.late is None else self.late[0])

    @property
    def marks(self) -> set[tuple[int, int, bytes]]:
        """What its members have been given from stood in front of these places."""
        found = {behind.mark for behind in [*self.joiners, *self.members]}
        return {mark for mark in (*found, self.mark) if mark is not None}

    def open(self, ends: dict[int, int], marks: set[tuple[int, int, bytes]]) -> Place:
        """Open the file of the present hour, or of the next there is. Where reading goes on then.

        Raises FileMissing, FileTruncated, OSError.
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
            raise FileMissing(Place(found, 0) if found is not None else None)
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
                raise FileTruncated
        self.open_hour = hour
        return self.place if self.late is not None else Place(hour, offset)

    def step(self, limit: int, exact: bool) -> bool:
        """Make the next messages. False at the end of the file. Raises FileTruncated, OSError."""
        return self.rereader.read(limit, exact) or self.look_at_end(limit, exact)

    def look_at_end(self, limit: int, exact: bool) -> bool:
        """What the end of the file means. False if it is the end. Raises FileTruncated, OSError."""
        if self._is_replaced():
            self.open_hour = 0  # by a copy that goes on: the one that was read ends here
            return True
        if self.rereader.reader.changed:
            raise FileTruncated
        if not exact:
            return False
        # A last line without an end has been taken as it is. A file that still ends before `limit` has been
        # truncated, for that much of it was delivered before. It may have grown again by now.
        self.rereader.read_tail()
        if self.rereader.tell() < limit < NO_END:
            raise FileTruncated
        return False

    def _is_replaced(self) -> bool:
        """Whether another file has taken the name of the open one."""
        try:
            status = os.stat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) != self.rereader.identity()

    def deliveries(self, messages: list[TopicMessage]) -> Iterator[tuple[LaggingMember, TopicMessage]]:
        """Each message with each member that is to get it, and that has not left the reading by then."""
        for message in messages:
            group = self.by_topic[message.topic]
            for behind in tuple(group.members):
                if behind.group is group:
                    yield behind, message

    def leave(self, behind: LaggingMember) -> None:
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

    def _remove(self, group: TopicGroup) -> None:
        del self.by_topic[group.topic.id]
        self.rereader.remove(group.topic)
