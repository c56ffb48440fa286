"""Feeds: the main thread's side of the topics. Who gets the messages of a topic, and what each missed.

    subscribe ──► feed of the same key? ──no──► topic to the pipeline … TopicsChanged ──► active
                    │yes                                                                  │
                    └──────────────► member: told its start, live from the next batch on ◄┘

Everything here belongs to the event loop's thread. A feed goes, and its topic leaves the pipeline, with
its last member.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from fasttail.publish.channel import Channel
from fasttail.publish.cursor import Place
from fasttail.publish.topics import Topic

MOST_ENDS = 64


class Message(Protocol):
    """What the pipeline made for a topic (`fasttail.publish.topics.TopicMessage`)."""

    @property
    def topic(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def left_out(self) -> bool: ...
    @property
    def orders(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def cursor(self) -> str: ...


class Sink(Protocol):
    """What takes the messages of one topic."""

    def deliver(self, message: Message) -> None: ...


class Progress(Protocol):
    """How far the pipeline is (`BatchEnd` and `TopicsChanged`)."""

    @property
    def hour(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def late(self) -> bool: ...


class Batch(Progress, Protocol):
    """What has been read (`BatchEnd`): an hour's file from `begin` to `end`."""

    @property
    def begin(self) -> int: ...


class Pipe(Protocol):
    """The pipeline, as far as topics go."""

    def add_topic(self, topic: Topic) -> int: ...
    def remove_topic(self, topic: Topic) -> int: ...


class MakeTopic(Protocol):
    """Makes a feed's topic; its first message has the number `seq` + 1."""

    def __call__(self, *, seq: int) -> Topic: ...


class Taker(Protocol):
    """A member of a feed. live: it gets what the feed gets; else it waits, or reads what it has missed
    from the files. group: the number of its client, for the topic's quota (`Topic.count_to`).
    """

    live: bool

    @property
    def group(self) -> int: ...

    def give(self, message: Message) -> bool: ...


class Feed:
    """One distinct subscription: its topic and its members. `channel` counts what is sent.

    refused: the pipeline had no room for the topic, so that there will be no messages; known once `active`.
    paused: nobody is live, and the pipeline makes none.
    """

    def __init__(self, key: str, topic: Topic, channel: Channel) -> None:
        self.key = key
        self.topic = topic
        self.channel = channel
        self.members: set[Taker] = set()
        self.seq = 0  # of the last message handed out
        self.refused = False
        self.paused = False
        self.active = asyncio.Event()  # the pipeline makes its messages, from the frontier on

    def add(self, member: Taker) -> None:
        """One more member; it gets nothing before it is live."""
        self.members.add(member)
        self.count()

    def count(self) -> None:
        """Let the topic's messages count to the client that has it alone, or to nobody's."""
        self.topic.count_to(next(iter(self.members)).group if len(self.members) == 1 else 0)

    def deliver(self, message: Message) -> None:
        """Hand a message to every member that is live."""
        if message.seq:
            self.seq = message.seq
        taken = 0
        for member in tuple(self.members):
            if member.live:
                taken += member.give(message)
        self.channel.orders_sent += message.orders * taken
        self.channel.messages_sent += taken
        self.channel.bytes_sent += len(message.data) * taken


class Feeds:
    """All feeds of a server, and how far the pipeline's output has been handed out.

    frontier: everything before this place has been; None while the pipeline has no file. setbacks: how often
    it has moved back, for a file that was truncated, or to another layout. batch: the number of the last one.
    late: its lines are not those at the frontier. ends: how far each of the last hours' files has been
    handed out, late lines too. epoch: of the `seq` numbers: they begin anew with each Feeds.
    """

    def __init__(self, pipe: Pipe, epoch: str) -> None:
        self.epoch = epoch
        self.layout: str | None = None
        self.frontier: Place | None = None
        self.setbacks = 0
        self.batch = 0
        self.late = False
        self.ends: dict[int, int] = {}
        self.on_late: Callable[[int, int, int], None] = _nothing  # late lines: hour, begin, end
        self.on_set_back: Callable[[Place], None] = _nothing  # from where
        self._next_begin = 0  # what new feeds count from: past all numbers of those that have gone
        self._pipe = pipe
        self._by_key: dict[str, Feed] = {}
        self._by_id: dict[int, Sink] = {}
        self._waiting: deque[tuple[int, Feed]] = deque()  # (command, feed) that the pipeline has not yet

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def cursor(self) -> str | None:
        """The frontier as a cursor."""
        return self.frontier.text(self.layout) if self.frontier and self.layout else None

    def read_in(self, layout: str | None, place: Place | None) -> None:
        """What is handed out from now on stands in files of this layout, from this place on; others are
        forgotten.
        """
        before, changed = self.frontier, self.layout not in (None, layout)
        self.layout = layout
        if changed:
            self.ends.clear()
        back = before is not None and (changed or (place is not None and place < before))
        if back or before is None:
            self.frontier = place
        if back and before is not None:
            self.setbacks += 1
            self.batch += 1  # what the last one gave is no more of the present content
            self.on_set_back(before)

    def join(self, key: str, make: MakeTopic, channel: Channel) -> Feed:
        """The feed of a key; made, with its topic, for the first who asks."""
        feed = self._by_key.get(key)
        if feed is None:
            feed = self._by_key[key] = Feed(key, make(seq=self._next_begin), channel)
            feed.seq = self._next_begin
            self._waiting.append((self.attach(feed.topic, feed), feed))
        self.go_on(feed)
        return feed

    def pause(self, feed: Feed) -> None:
        """Let the pipeline make no more of its messages, if no member is live. Those that it has made still
        come: they count.
        """
        if feed.active.is_set() and not feed.refused and not any(member.live for member in feed.members):
            feed.paused = True
            feed.active.clear()
            self._pipe.remove_topic(feed.topic)

    def go_on(self, feed: Feed) -> None:
        """Let it make them again, if it does not; `active` says when."""
        if feed.paused:
            feed.paused = False
            self._waiting.append((self._pipe.add_topic(feed.topic), feed))

    def leave(self, feed: Feed, member: Taker) -> None:
        """A member goes; the last one takes the feed with it."""
        member.live = False
        feed.members.discard(member)
        feed.count()
        if not feed.members and self._by_key.get(feed.key) is feed:
            del self._by_key[feed.key]
            # One more: whoever comes back to a subscription that nobody had meanwhile must not find the next
            # number and take it that nothing was missed.
            self._next_begin = max(self._next_begin, feed.seq + 1)
            if feed.paused:
                del self._by_id[feed.topic.id]
            else:
                self.detach(feed.topic)

    def attach(self, topic: Topic, sink: Sink) -> int:
        """Let the pipeline make a topic's messages and hand them to `sink`. Number of the command."""
        self._by_id[topic.id] = sink
        return self._pipe.add_topic(topic)

    def detach(self, topic: Topic) -> None:
        """No more."""
        del self._by_id[topic.id]
        self._pipe.remove_topic(topic)

    def take(self, messages: Iterable[Message], note: Batch) -> None:
        """Hand out what a batch has made."""
        self.batch += 1
        self.late = note.late
        for message in messages:
            sink = self._by_id.get(message.topic)
            if sink is not None:  # else its last member has gone meanwhile
                sink.deliver(message)
        if note.late and note.hour:
            self.on_late(note.hour, note.begin, note.end)
        self._move(note, note.begin)
        self.late = False

    def changed(self, number: int, note: Progress) -> None:
        """The pipeline has done all commands up to this one."""
        self._move(note, note.end)
        while self._waiting and self._waiting[0][0] <= number:
            _, feed = self._waiting.popleft()
            if feed.topic.refused:
                feed.refused = True
                if self._by_key.get(feed.key) is feed:  # else its last member has gone meanwhile
                    del self._by_key[feed.key]  # whoever comes next may find room
                    self.detach(feed.topic)
            feed.active.set()

    def _move(self, note: Progress, begin: int) -> None:
        if note.hour:
            # Late lines may stand in front of others, where a hole has been filled.
            self.ends[note.hour] = max(note.end, self.ends.get(note.hour, 0)) if note.late else note.end
            if len(self.ends) > MOST_ENDS:
                del self.ends[min(self.ends)]
        if note.hour and not note.late:
            before, self.frontier = self.frontier, Place(note.hour, note.end)
            if before is not None and Place(note.hour, begin) < before:
                self.setbacks += 1
                self.on_set_back(before)


def _nothing(*_: object) -> None:
    """Nobody wants to know."""
