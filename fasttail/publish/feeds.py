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

from fasttail.connection.channel import Channel
from fasttail.engine.topics import Topic
from fasttail.sources.cursor import CursorPosition

MAX_DELIVERED_HOURS = 64


class OutgoingMessage(Protocol):
    """What the pipeline made for a topic (`fasttail.engine.topics.TopicMessage`)."""

    @property
    def topic(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def over_quota(self) -> bool: ...
    @property
    def orders(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def cursor(self) -> str: ...


class Sink(Protocol):
    """What takes the messages of one topic."""

    def deliver(self, message: OutgoingMessage) -> None: ...


class PipelineProgress(Protocol):
    """How far the pipeline is (`BatchEnd` and `TopicsChanged`)."""

    @property
    def hour(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def late(self) -> bool: ...


class BatchProgress(PipelineProgress, Protocol):
    """What has been read (`BatchEnd`): an hour's file from `begin` to `end`."""

    @property
    def begin(self) -> int: ...


class TopicControl(Protocol):
    """The pipeline, as far as topics go."""

    def add_topic(self, topic: Topic) -> int: ...
    def remove_topic(self, topic: Topic) -> int: ...


class TopicFactory(Protocol):
    """Makes a feed's topic; its first message has the number `seq` + 1."""

    def __call__(self, *, seq: int) -> Topic: ...


class Subscriber(Protocol):
    """A member of a feed. live: it gets what the feed gets; else it waits, or reads what it has missed
    from the files. quota_group: the number of its client, for the topic's quota (`Topic.set_quota_group`).
    """

    live: bool

    @property
    def quota_group(self) -> int: ...

    def send_live(self, message: OutgoingMessage) -> bool: ...


class Feed:
    """One distinct subscription: its topic and its members. `channel` counts what is sent.

    refused: the pipeline had no room for the topic, so that there will be no messages; known once `active`.
    paused: nobody is live, and the pipeline makes none.
    """

    def __init__(self, key: str, topic: Topic, channel: Channel) -> None:
        self.key = key
        self.topic = topic
        self.channel = channel
        self.members: set[Subscriber] = set()
        self.seq = 0  # of the last message handed out
        self.refused = False
        self.paused = False
        self.active = asyncio.Event()  # the pipeline makes its messages, from the frontier on

    def add_member(self, member: Subscriber) -> None:
        """One more member; it gets nothing before it is live."""
        self.members.add(member)
        self.update_quota_group()

    def update_quota_group(self) -> None:
        """Let the topic's messages count to the client that has it alone, or to nobody's."""
        self.topic.set_quota_group(next(iter(self.members)).quota_group if len(self.members) == 1 else 0)

    def deliver(self, message: OutgoingMessage) -> None:
        """Hand a message to every member that is live."""
        if message.seq:
            self.seq = message.seq
        accepted = 0
        for member in tuple(self.members):
            if member.live:
                accepted += member.send_live(message)
        self.channel.orders_sent += message.orders * accepted
        self.channel.messages_sent += accepted
        self.channel.bytes_sent += len(message.data) * accepted


class Feeds:
    """All feeds of a server, and how far the pipeline's output has been handed out.

    frontier: everything before this place has been; None while the pipeline has no file. setbacks: how often
    it has moved back, for a file that was truncated, or to another layout. batch: the number of the last one.
    late: its lines are not those at the frontier. delivered_offsets: how far each of the last hours' files
    has been handed out, late lines too. epoch: of the `seq` numbers: they begin anew with each Feeds.
    """

    def __init__(self, topic_control: TopicControl, epoch: str) -> None:
        self.epoch = epoch
        self.layout: str | None = None
        self.high_watermark: CursorPosition | None = None
        self.rewinds = 0
        self.batch = 0
        self.late = False
        self.delivered_offsets: dict[int, int] = {}
        self.on_late_lines: Callable[[int, int, int], None] = _ignore  # late lines: hour, begin, end
        self.on_rewind: Callable[[CursorPosition], None] = _ignore  # from where
        self._next_seq_base = 0  # what new feeds count from: past all numbers of those that have gone
        self._topic_control = topic_control
        self._feeds: dict[str, Feed] = {}
        self._sinks: dict[int, Sink] = {}
        self._activating: deque[tuple[int, Feed]] = deque()  # (command, feed) that the pipeline has not yet

    def __len__(self) -> int:
        return len(self._feeds)

    @property
    def cursor(self) -> str | None:
        """The frontier as a cursor."""
        return self.high_watermark.to_cursor(self.layout) if self.high_watermark and self.layout else None

    def set_source(self, layout: str | None, position: CursorPosition | None) -> None:
        """What is handed out from now on stands in files of this layout, from this place on; others are
        forgotten.
        """
        before, changed = self.high_watermark, self.layout not in (None, layout)
        self.layout = layout
        if changed:
            self.delivered_offsets.clear()
        rewound = before is not None and (changed or (position is not None and position < before))
        if rewound or before is None:
            self.high_watermark = position
        if rewound and before is not None:
            self.rewinds += 1
            self.batch += 1  # what the last one gave is no more of the present content
            self.on_rewind(before)

    def get_or_create(self, key: str, make_topic: TopicFactory, channel: Channel) -> Feed:
        """The feed of a key; made, with its topic, for the first who asks."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(key, make_topic(seq=self._next_seq_base), channel)
            feed.seq = self._next_seq_base
            self._activating.append((self.attach_sink(feed.topic, feed), feed))
        self.resume_feed(feed)
        return feed

    def pause_feed(self, feed: Feed) -> None:
        """Let the pipeline make no more of its messages, if no member is live. Those that it has made still
        come: they count.
        """
        if feed.active.is_set() and not feed.refused and not any(member.live for member in feed.members):
            feed.paused = True
            feed.active.clear()
            self._topic_control.remove_topic(feed.topic)

    def resume_feed(self, feed: Feed) -> None:
        """Let it make them again, if it does not; `active` says when."""
        if feed.paused:
            feed.paused = False
            self._activating.append((self._topic_control.add_topic(feed.topic), feed))

    def remove_member(self, feed: Feed, member: Subscriber) -> None:
        """A member goes; the last one takes the feed with it."""
        member.live = False
        feed.members.discard(member)
        feed.update_quota_group()
        if not feed.members and self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]
            # One more: whoever comes back to a subscription that nobody had meanwhile must not find the next
            # number and take it that nothing was missed.
            self._next_seq_base = max(self._next_seq_base, feed.seq + 1)
            if feed.paused:
                del self._sinks[feed.topic.id]
            else:
                self.detach_sink(feed.topic)

    def attach_sink(self, topic: Topic, sink: Sink) -> int:
        """Let the pipeline make a topic's messages and hand them to `sink`. Number of the command."""
        self._sinks[topic.id] = sink
        return self._topic_control.add_topic(topic)

    def detach_sink(self, topic: Topic) -> None:
        """No more."""
        del self._sinks[topic.id]
        self._topic_control.remove_topic(topic)

    def deliver_batch(self, messages: Iterable[OutgoingMessage], progress: BatchProgress) -> None:
        """Hand out what a batch has made."""
        self.batch += 1
        self.late = progress.late
        for message in messages:
            sink = self._sinks.get(message.topic)
            if sink is not None:  # else its last member has gone meanwhile
                sink.deliver(message)
        if progress.late and progress.hour:
            self.on_late_lines(progress.hour, progress.begin, progress.end)
        self._advance(progress, progress.begin)
        self.late = False

    def on_commands_applied(self, command_number: int, progress: PipelineProgress) -> None:
        """The pipeline has done all commands up to this one."""
        self._advance(progress, progress.end)
        while self._activating and self._activating[0][0] <= command_number:
            _, feed = self._activating.popleft()
            if feed.topic.refused:
                feed.refused = True
                if self._feeds.get(feed.key) is feed:  # else its last member has gone meanwhile
                    del self._feeds[feed.key]  # whoever comes next may find room
                    self.detach_sink(feed.topic)
            feed.active.set()

    def _advance(self, progress: PipelineProgress, begin: int) -> None:
        if progress.hour:
            # Late lines may stand in front of others, where a hole has been filled.
            self.delivered_offsets[progress.hour] = (
                max(progress.end, self.delivered_offsets.get(progress.hour, 0))
                if progress.late
                else progress.end
            )
            if len(self.delivered_offsets) > MAX_DELIVERED_HOURS:
                del self.delivered_offsets[min(self.delivered_offsets)]
        if progress.hour and not progress.late:
            before, self.high_watermark = self.high_watermark, CursorPosition(progress.hour, progress.end)
            if before is not None and CursorPosition(progress.hour, begin) < before:
                self.rewinds += 1
                self.on_rewind(before)


def _ignore(*_: object) -> None:
    """Nobody wants to know."""
