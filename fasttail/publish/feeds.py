"""Feeds, the main thread's side of topics: which subscribers receive a topic's messages.

    subscribe ──► feed of the same key? ──no──► topic to the pipeline … TopicsChanged ──► active
                    │yes                                                                  │
                    └──────────► member: gets its start, is live from the next batch on ◄─┘

All of this runs on the event loop's thread. When the last member leaves, the feed is removed and the
pipeline drops its topic.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Protocol

from fasttail.connection.channel import Channel
from fasttail.engine.topics import Topic
from fasttail.sources.cursor import BlockPosition, CursorPosition

MAX_DELIVERED_HOURS = 64
_numbers = count()  # of those that wait

UNFOLLOW_AFTER_S = 5.0
"""How long a stream is still followed after its last feed: clients reconnect, and opening it has a cost."""


class OutgoingMessage(Protocol):
    """A message that the pipeline encoded for a topic (`fasttail.engine.topics.TopicMessage`)."""

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
    @property
    def position(self) -> str: ...


class Sink(Protocol):
    """Receives the messages of one topic."""

    def deliver(self, message: OutgoingMessage) -> None: ...


class PipelineProgress(Protocol):
    """The pipeline's reading position (`BatchEnd` and `TopicsChanged`)."""

    @property
    def hour(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def late(self) -> bool: ...
    @property
    def block(self) -> BlockPosition | None: ...
    @property
    def last_line(self) -> BlockPosition | None: ...


class BatchProgress(PipelineProgress, Protocol):
    """The part of an hour's file that a batch covered (`BatchEnd`): from `begin` to `end`."""

    @property
    def begin(self) -> int: ...


class TopicControl(Protocol):
    """The pipeline's commands, which return the command's number."""

    def add_topic(self, topic: Topic) -> int: ...
    def remove_topic(self, topic: Topic) -> int: ...
    def follow(self, stream: str) -> int: ...
    def unfollow(self, stream: str) -> int: ...


class TopicFactory(Protocol):
    """Makes a feed's topic, whose first message gets the number `seq` + 1."""

    def __call__(self, *, seq: int) -> Topic: ...


class Subscriber(Protocol):
    """A member of a feed.

    live: whether it receives the feed's messages; else it waits to start, or replays what it missed.
    quota_group: its client's number, for the topic's quota (`Topic.set_quota_group`).
    """

    live: bool

    @property
    def quota_group(self) -> int: ...

    def send_live(self, message: OutgoingMessage) -> bool: ...

    def send_live_gap(self, to: str, position: str) -> None: ...


class Feed:
    """One distinct subscription: its topic, its members, and the channel that counts what is sent.

    refused: the pipeline had no capacity for the topic; valid once `active` is set.
    paused: no member is live, so the pipeline encodes nothing.
    """

    def __init__(self, key: str, topic: Topic, channel: Channel) -> None:
        self.key = key
        self.topic = topic
        self.channel = channel
        self.members: set[Subscriber] = set()
        self.seq = 0  # of the last delivered message
        self.refused = False
        self.paused = False
        self.active = asyncio.Event()  # the pipeline encodes its messages, from the high watermark on

    def add_member(self, member: Subscriber) -> None:
        """Add a member, not live yet."""
        self.members.add(member)
        self.update_quota_group()

    def update_quota_group(self) -> None:
        """Charge the topic's messages to its only client, or to none if several share it."""
        self.topic.set_quota_group(next(iter(self.members)).quota_group if len(self.members) == 1 else 0)

    def deliver(self, message: OutgoingMessage) -> None:
        """Deliver a message to every live member."""
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
    """All feeds of one stream, and how far the pipeline's output has been delivered.

    on_demand: the pipeline follows the stream only while there is a feed.
    epoch: identifies the `seq` numbers, which start again with each Feeds.
    high_watermark: everything before it has been delivered; None while the pipeline has no file.
    block: the same position in the chain; None while unknown, or in the plain layout.
    rewinds: how often the watermark moved back, after a truncation or a change of layout.
    batch: the number of the latest one. late: it holds late lines, which are not at the watermark.
    delivered_offsets: the offset delivered in each of the last hours' files, including late lines.
    """

    def __init__(
        self, topic_control: TopicControl, epoch: str, stream: str = "orders", *, on_demand: bool = False
    ) -> None:
        self.epoch = epoch
        self.stream = stream
        self.applied = 0  # the last command that the pipeline has applied
        self._on_demand = on_demand
        self._is_held = False
        self._followed = not on_demand
        self._unfollow_timer: asyncio.TimerHandle | None = None
        self.layout: str | None = None
        self.high_watermark: CursorPosition | None = None
        self.block: BlockPosition | None = None
        self.rewinds = 0
        self.batch = 0
        self.late = False
        self.delivered_offsets: dict[int, int] = {}
        self.on_late_lines: Callable[[int, int, int], None] = _ignore  # hour, begin, end
        self.on_gap: Callable[[CursorPosition], None] = _ignore  # where the files begin after it
        self.on_other_history: Callable[[], None] = _ignore
        self.on_rewind: Callable[[CursorPosition], None] = _ignore  # the watermark before it moved back
        self._next_seq_base = 0  # seq of new feeds: above every number of removed ones
        self._topic_control = topic_control
        self._feeds: dict[str, Feed] = {}
        self._sinks: dict[int, Sink] = {}
        self._last_line: BlockPosition | None = None  # where it ends
        self._line_waiters: list[tuple[BlockPosition, int, asyncio.Future[None]]] = []  # a heap
        self._waiters_limit = 64  # above which those that have left are removed
        self._activating: deque[tuple[int, Feed]] = deque()  # (command, feed) not yet applied by the pipeline

    def __len__(self) -> int:
        return len(self._feeds)

    @property
    def cursor(self) -> str | None:
        """The high watermark as a cursor for clients."""
        if self.high_watermark is None or self.layout is None:
            return None
        return self.cursor_at(self.high_watermark)

    @property
    def position(self) -> str | None:
        """The high watermark as a cursor that names a position in the files."""
        if self.high_watermark is None or self.layout is None:
            return None
        return self.position_at(self.high_watermark)

    def cursor_at(self, position: CursorPosition) -> str:
        """Return a position as a cursor for clients, which names a block only at the high watermark."""
        if position == self.high_watermark and self.block is not None and self.layout != "plain":
            return self.block.to_cursor(self.stream)
        return self.position_at(position)

    def position_at(self, position: CursorPosition) -> str:
        """Return a position in the files of the current layout as a cursor."""
        assert self.layout is not None
        return position.to_cursor(self.layout, self.stream)

    async def wait_for_line(self, block: BlockPosition) -> None:
        """Wait until the node's last line is at or after a position in the chain, or the layout changes."""
        if self._last_line is None or self._last_line < block:
            if len(self._line_waiters) > self._waiters_limit:
                self._line_waiters = [each for each in self._line_waiters if not each[2].done()]
                heapq.heapify(self._line_waiters)
                self._waiters_limit = 64 + 2 * len(self._line_waiters)
            written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._line_waiters, (block, next(_numbers), written))
            await written

    def set_source(
        self, layout: str | None, position: CursorPosition | None, block: BlockPosition | None
    ) -> None:
        """Set the layout and position of what is delivered next, and forget other layouts' offsets."""
        before, changed = self.high_watermark, self.layout not in (None, layout)
        self.layout = layout
        if changed:
            self.delivered_offsets.clear()
            self._last_line = None
            self._wake_waiters(None)
        rewound = before is not None and (changed or (position is not None and position < before))
        if rewound or before is None:
            self.high_watermark = position
            self.block = block
        if rewound and before is not None:
            self.rewinds += 1
            self.batch += 1  # the last batch was not of the new content
            self.on_rewind(before)

    def report_gap(self, position: CursorPosition, offset: int, block: BlockPosition | None) -> None:
        """Tell all members that the files miss what comes before the lines of the file at `position`.

        offset: where the lines begin. block: the same in the chain, None where cursors name no blocks
        """
        begin = position._replace(offset=offset)
        in_file = self.position_at(begin)
        to = block.to_cursor(self.stream) if block is not None else in_file
        for feed in tuple(self._feeds.values()):
            for member in tuple(feed.members):
                if member.live:
                    member.send_live_gap(to, in_file)
        # So that a client that resumes where delivery was before is told, too.
        self.high_watermark, self.block = position, block
        self.on_gap(begin)

    def restart(
        self, layout: str | None, position: CursorPosition | None, block: BlockPosition | None
    ) -> None:
        """Begin anew at a position, because the pipeline has begun to follow the stream there."""
        self.layout = layout
        self.high_watermark = position
        self.block = block
        self.delivered_offsets.clear()

    def _follow(self) -> None:
        """Let the pipeline follow the stream, if it does not."""
        if self._unfollow_timer is not None:
            self._unfollow_timer.cancel()
            self._unfollow_timer = None
        if not self._followed:
            self._followed = True
            self._topic_control.follow(self.stream)

    def hold(self, wanted: bool) -> None:
        """Let the pipeline follow the stream even without a feed, or no longer."""
        self._is_held = wanted
        if wanted:
            self._follow()
        else:
            self._unfollow_if_unused()

    def _unfollow_if_unused(self) -> None:
        if self._on_demand and not self._feeds and not self._is_held and self._unfollow_timer is None:
            loop = asyncio.get_running_loop()
            self._unfollow_timer = loop.call_later(UNFOLLOW_AFTER_S, self._unfollow)

    def _unfollow(self) -> None:
        self._unfollow_timer = None
        self._followed = False
        self._topic_control.unfollow(self.stream)

    def get_or_create(self, key: str, make_topic: TopicFactory, channel: Channel) -> Feed:
        """Return the feed of a key. The first caller creates it and its topic."""
        feed = self._feeds.get(key)
        if feed is None:
            self._follow()
            feed = self._feeds[key] = Feed(key, make_topic(seq=self._next_seq_base), channel)
            feed.seq = self._next_seq_base
            self._activating.append((self.attach_sink(feed.topic, feed), feed))
        self.resume_feed(feed)
        return feed

    def pause_feed(self, feed: Feed) -> None:
        """Stop encoding the feed's messages if no member is live.

        Messages that are already encoded still arrive, and count.
        """
        if feed.active.is_set() and not feed.refused and not any(member.live for member in feed.members):
            feed.paused = True
            feed.active.clear()
            self._topic_control.remove_topic(feed.topic)

    def resume_feed(self, feed: Feed) -> None:
        """Encode a paused feed's messages again; `active` is set once the pipeline does."""
        if feed.paused:
            feed.paused = False
            self._activating.append((self._topic_control.add_topic(feed.topic), feed))

    def remove_member(self, feed: Feed, member: Subscriber) -> None:
        """Remove a member, and the feed with its last member."""
        member.live = False
        feed.members.discard(member)
        feed.update_quota_group()
        if not feed.members and self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]
            # Skip a number: a client that returns after the feed was gone must not see the next number and
            # conclude that it missed nothing.
            self._next_seq_base = max(self._next_seq_base, feed.seq + 1)
            if feed.paused:
                del self._sinks[feed.topic.id]
            else:
                self.detach_sink(feed.topic)
            self._unfollow_if_unused()

    def attach_sink(self, topic: Topic, sink: Sink) -> int:
        """Make the pipeline encode a topic's messages for `sink`. Return the command's number."""
        self._sinks[topic.id] = sink
        return self._topic_control.add_topic(topic)

    def detach_sink(self, topic: Topic) -> None:
        """Remove a topic from the pipeline. Messages that still arrive are discarded."""
        del self._sinks[topic.id]
        self._topic_control.remove_topic(topic)

    def deliver_batch(self, messages: Iterable[OutgoingMessage], progress: BatchProgress) -> None:
        """Deliver the messages of a batch, then advance the high watermark."""
        self.batch += 1
        self.late = progress.late
        for message in messages:
            sink = self._sinks.get(message.topic)
            if sink is not None:  # else its last member has left
                sink.deliver(message)
        if progress.late and progress.hour:
            self.on_late_lines(progress.hour, progress.begin, progress.end)
        self._advance(progress, progress.begin)
        self.late = False

    def on_commands_applied(self, command_number: int, progress: PipelineProgress) -> None:
        """Activate the feeds whose commands the pipeline has applied, up to `command_number`."""
        self.applied = max(self.applied, command_number)
        self._advance(progress, progress.end)
        while self._activating and self._activating[0][0] <= command_number:
            _, feed = self._activating.popleft()
            if feed.topic.refused:
                feed.refused = True
                if self._feeds.get(feed.key) is feed:  # else its last member has left
                    del self._feeds[feed.key]  # the next subscriber may find capacity
                    self.detach_sink(feed.topic)
                    self._unfollow_if_unused()
            feed.active.set()

    def _wake_waiters(self, up_to: BlockPosition | None) -> None:
        """Wake those who wait for a line up to a position; None: all."""
        while self._line_waiters and (up_to is None or self._line_waiters[0][0] <= up_to):
            written = heapq.heappop(self._line_waiters)[2]
            if not written.done():  # else who waited has left
                written.set_result(None)

    def _advance(self, progress: PipelineProgress, begin: int) -> None:
        if progress.hour:
            # Late lines that fill a hole may lie before lines already delivered.
            self.delivered_offsets[progress.hour] = (
                max(progress.end, self.delivered_offsets.get(progress.hour, 0))
                if progress.late
                else progress.end
            )
            if len(self.delivered_offsets) > MAX_DELIVERED_HOURS:
                del self.delivered_offsets[min(self.delivered_offsets)]
        if progress.hour and not progress.late:
            before, self.high_watermark = self.high_watermark, CursorPosition(progress.hour, progress.end)
            if progress.block is not None and self.block is not None and progress.block < self.block:
                self.on_other_history()
            self.block = progress.block
            if progress.last_line is not None:
                self._last_line = progress.last_line
                self._wake_waiters(progress.last_line)
            if before is not None and CursorPosition(progress.hour, begin) < before:
                self.rewinds += 1
                self.on_rewind(before)


def _ignore(*_: object) -> None:
    """Do nothing: the default callback."""
