"""`/ws`, the public API's protocol: its connections, their subscriptions, and what each missed.

    request ─► parse_request ─► subscribe ─► feed ──(pipeline has the topic)──► response ─► live
                                                └─ cursor, since: response ─► replay ─► "live" message ─► live

Requests are answered in order, within REPLY_TIMEOUT_S. While a slow subscribe holds up the requests behind
it, their topics are already being added.

A member is one subscription of one client. When the client's queue is full, it gets a `replay` message and
continues from the files until it is live again (`fasttail.replay`). A member that chose gaps, or cannot
receive an order at all, gets a gap message before its next message; `missed_orders` counts the orders.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple, Protocol

import orjson

from fasttail.connection.connection import Client
from fasttail.connection.hub import MIN_SHED_BYTES, Hub
from fasttail.connection.wire import CloseCode, text_frame
from fasttail.engine.channels import CHANNELS as CHANNEL_SPECS
from fasttail.engine.filters import Selector
from fasttail.engine.topics import Topic
from fasttail.monitoring.rate_limited import RateLimitedLog
from fasttail.publish.budget import Account, Budget, BudgetExceeded
from fasttail.publish.feeds import Feed, Feeds, OutgoingMessage
from fasttail.publish.snapshot import SNAPSHOT_BYTES, FillSnapshot
from fasttail.publish.subscriptions import (
    BROADCASTS,
    Broadcast,
    ClientRequest,
    RequestError,
    Subscription,
    binary_not_supported,
    invalid_subscription,
    parse_request,
)
from fasttail.sources.cursor import CursorPosition, parse_block

STATUS: Final = "status"
CHANNELS = ("orders", "orderUpdates", "fills", "trades", "userFills", "userEvents", *sorted(BROADCASTS))

PATH = "/ws"
REPLAY_MESSAGE_BYTES = 64 << 10
"""Maximum bytes of a replay's message. A longer single order is still sent."""

REPLY_TIMEOUT_S = 8.0
"""How long a request may wait for its answer. Clients commonly give up after ten seconds, on a subscription
as on a pong.
"""

STATUS_HEADROOM_BYTES = 64 << 10
"""Bytes of `status` messages that may wait behind a full queue."""

MAX_PENDING_BYTES = 256 << 10
"""Bytes of unanswered requests above which reading from the client pauses."""

MIN_BLOCK_PAUSE_S, MAX_BLOCK_PAUSE_S = 0.05, 10.0
"""Between two searches for an event that was written and is not there any more."""

log = logging.getLogger(__name__)
PONG = text_frame(b'{"channel":"pong"}')
_client_numbers = count(1)  # of the clients on /ws


class ReplayStart(NamedTuple):
    """Where a replay begins.

    cursor: for the client
    position: the same as a cursor that names a position in the files; None: the cursor names an event that
              the node has not written yet
    """

    cursor: str
    position: str | None


class ReplayStartFinder(Protocol):
    """Finds where replays begin (`fasttail.replay.resume`)."""

    async def find_start(self, request: ClientRequest) -> ReplayStart:
        """Return where to begin. Raises RequestError."""

    async def find_recent(self, before: CursorPosition, size: int) -> tuple[str, int] | None:
        """Return the position about `size` bytes before another, and its time. Raises OSError."""


class ReplayControl(Protocol):
    """Replays what members that are behind have missed, then makes them live (`fasttail.replay`)."""

    def start_replay(self, member: Member) -> None:
        """Add a member that has a position and is not live."""

    def cancel_replay(self, member: Member) -> None:
        """Remove a member, if it is being replayed."""

    def on_client_writable(self) -> None:
        """Continue: some client's queue has drained."""

    def lag_report(self) -> dict[Client, list[dict[str, Any]]]:
        """Return how far each client's members are behind, for its `status`."""


@dataclass(frozen=True)
class StreamService:
    """What serves the subscriptions to one stream."""

    feeds: Feeds
    start_finder: ReplayStartFinder
    replays: ReplayControl


@dataclass
class PublicService:
    """The state that all connections on /ws share.

    streams: by the stream's name
    gaps: sent to clients. gap_orders: orders in the gaps of known size.
    """

    hub: Hub
    streams: Mapping[str, StreamService]
    _: KW_ONLY
    queue_limit: int
    max_message: int
    max_subscriptions: int
    budget: Budget
    broadcasts: frozenset[str] = BROADCASTS  # those that are served
    broadcast_members: Mapping[str, set[Member]] = field(
        default_factory=lambda: {kind: set() for kind in BROADCASTS}
    )
    gaps: int = 0
    gap_orders: int = 0
    failures: RateLimitedLog = field(
        default_factory=lambda: RateLimitedLog(log, logging.ERROR, "a subscription has failed")
    )

    def make_client(self) -> PublicClient:
        """Create the client for a new connection."""
        return PublicClient(self)

    def subscription_counters(self) -> dict[str, int]:
        """Return the values for the metrics."""
        clients = [client for client in self.hub.clients if isinstance(client, PublicClient)]
        return {
            "topics": sum(len(stream.feeds) for stream in self.streams.values()),
            "subscriptions": sum(len(client.members) for client in clients),
            "subscriptions_refused": self.budget.refused,
            "subscription_cost": self.budget.used,
            "subscription_budget": self.budget.limit,
            "client_subscription_cost": max((client.account.used for client in clients), default=0),
            "client_subscription_budget": self.budget.client_limit,
            "gaps": self.gaps,
            "gap_orders": self.gap_orders,
        }

    def serves(self, subscription: Subscription) -> bool:
        """Whether it is a broadcast that is made, or its stream is one of those that are followed."""
        if subscription.type in BROADCASTS:
            return subscription.type in self.broadcasts
        return CHANNEL_SPECS[subscription.type].stream in self.streams

    def publish_status(self, status: Callable[[], dict[str, Any]]) -> None:
        """Send the state of the data to all subscribers of `status`."""
        members = self.broadcast_members[STATUS]
        if not members:
            return
        channel = self.hub.channels[STATUS]
        data = status()
        behind: dict[Client, list[dict[str, Any]]] = {}
        for stream in self.streams.values():
            for client, entries in stream.replays.lag_report().items():
                behind.setdefault(client, []).extend(entries)
        shared = text_frame(orjson.dumps({"channel": STATUS, "data": data}))
        for member in tuple(members):
            frame, lags = shared, behind.get(member.client)
            if lags is not None:
                lags = _furthest_behind(lags, STATUS_HEADROOM_BYTES)
                frame = text_frame(orjson.dumps({"channel": STATUS, "data": {**data, "behind": lags}}))
            # Even behind a full queue: a slow reader wants to know how far behind it is.
            limit = self.queue_limit + self.max_message + STATUS_HEADROOM_BYTES
            if member.client.queued_bytes <= limit and member.client.send(frame, limit=limit):
                channel.messages_sent += 1
                channel.bytes_sent += len(frame)

    def broadcast(self, kind: Broadcast, data: dict[str, Any]) -> None:
        """Send a message to all subscribers whose queues are not full. Those get the next one."""
        frame, channel = text_frame(orjson.dumps({"channel": kind, "data": data})), self.hub.channels[kind]
        for member in tuple(self.broadcast_members[kind]):
            if member.client.accepts_data and member.client.send(frame):
                channel.messages_sent += 1
                channel.bytes_sent += len(frame)


def make_topic(
    subscription: Subscription, *, max_message: int, for_replay: bool = False, seq: int = 0
) -> Topic:
    """Make a topic for a subscription; its first message has the number `seq` + 1.

    for_replay: short messages, because live ones wait for at most one of them.
    """
    target_size = REPLAY_MESSAGE_BYTES if for_replay else max_message
    if subscription.user is not None:
        return Topic(
            subscription.type,
            user=subscription.user,
            max_message=max_message,
            target_size=target_size,
            with_seq=not for_replay,
            seq=seq,
        )
    coins = subscription.coins
    selector = Selector(
        coins=None if coins is None else dict.fromkeys(coins, 0.0),
        sides=subscription.sides,
        statuses=subscription.statuses,
        users=subscription.users,
        min_notional=subscription.min_notional,
        liquidations=subscription.liquidations,
    )
    return Topic(
        subscription.type,
        selector=selector,
        format=subscription.format,
        max_message=max_message,
        target_size=target_size,
        with_seq=not for_replay,
        seq=seq,
    )


class Member:
    """One subscription of one client.

    live: whether it receives its feed's messages; else it is starting or being replayed (`fasttail.replay`).
    needs_replay: whether it starts at a given position.
    needs_snapshot: whether it starts with a snapshot, which `snapshot` collects.
    cursor: the position after its last order, or where it began; None if unknown.
    position: the same as a cursor that names a position in the files.
    """

    def __init__(self, client: PublicClient, request: ClientRequest) -> None:
        assert request.subscription is not None
        self.client = client
        self.request = request
        self.subscription = request.subscription
        self.needs_replay = self.subscription.cursor is not None or self.subscription.since is not None
        self.needs_snapshot = self.subscription.type == "userFills" and not self.needs_replay
        self.snapshot: FillSnapshot | None = None
        self.feed: Feed | None = None  # None for a broadcast
        self._stream: StreamService | None = None  # likewise
        if self.subscription.type not in BROADCASTS:
            self._stream = client.service.streams[CHANNEL_SPECS[self.subscription.type].stream]
        self.live = False
        self.cursor: str | None = None
        self.position: str | None = None
        self.missed_orders = 0
        self.task: asyncio.Task[None] | None = None  # makes it live, or finds where it begins
        self.last_batch = 0  # the batch of the last message
        self._missed_until = ("", "")  # as cursor and as position

    @property
    def stream(self) -> StreamService:
        """What serves the subscription; not for a broadcast."""
        assert self._stream is not None
        return self._stream

    @property
    def quota_group(self) -> int:
        return self.client.number

    def send_live(self, message: OutgoingMessage) -> bool:
        """Send a live message. Return whether the client accepted it.

        If not, its orders count as missed, the member falls behind, or the client is closed.
        """
        feeds, client = self.stream.feeds, self.client
        # No cursor points between a batch's late lines, so the member receives all of them or none.
        batch_started = feeds.late and self.last_batch == feeds.batch
        if message.data and self.flush_gap() and (batch_started or client.accepts_data):
            if not client.send(message.data, limit=sys.maxsize if batch_started else None):
                return False
            self.cursor, self.position = message.cursor, message.position
            self.last_batch = feeds.batch
            return True
        on_slow = self.subscription.on_slow
        if (
            on_slow == "replay"
            and (message.data or message.over_quota)
            and not batch_started
            and feeds.high_watermark is not None
        ):
            self.fall_behind()
        elif on_slow == "close" and message.data:
            client.close_too_slow()
        else:
            self._count_missed(message)
            self.flush_gap()
        return False

    def send_replayed(self, message: OutgoingMessage, *, ignore_limit: bool) -> bool:
        """Send a message from the files. Return whether the client accepted it.

        ignore_limit: even if the queue is full.
        """
        if not message.data:  # an order that does not fit into a message
            self._count_missed(message)
            self.flush_gap(now=True)
            return True
        if self.snapshot is not None:
            self.snapshot.add(message.data, message.orders)
            self.cursor, self.position = message.cursor, message.position
            return True
        if not (ignore_limit or self.client.accepts_data):
            return False
        if not self.client.send(message.data, limit=sys.maxsize if ignore_limit else None):
            return False
        self.cursor, self.position = message.cursor, message.position
        return True

    def fall_behind(self) -> None:
        """Leave the live messages, and continue from the files at the client's pace."""
        feeds = self.stream.feeds
        if self.last_batch != feeds.batch:  # nothing of the current batch was sent
            self.cursor, self.position = feeds.cursor, feeds.position
        self.live = False
        data = {"subscription": self.subscription.echo, "cursor": self.cursor}
        self.client.send_message("replay", data)
        if self.client.is_open:
            self.stream.replays.start_replay(self)

    def send_unknown_gap(self, to: CursorPosition) -> None:
        """Send a gap up to a position, with an unknown number of orders."""
        feeds = self.stream.feeds
        self._send_gap(None, feeds.cursor_at(to), feeds.position_at(to))

    def send_live_gap(self, to: str, position: str) -> None:
        """Send a gap from the high watermark to another cursor, and the same as a position in the files."""
        self.flush_gap(now=True)
        self.cursor = self.stream.feeds.cursor or self.cursor
        self._send_gap(None, to, position)

    def terminate(self, reason: str) -> None:
        """End the subscription with an error."""
        sent = self.request.sent or {**self.subscription.echo}
        self.client.fail_subscription(self, invalid_subscription(sent, reason))

    def _count_missed(self, message: OutgoingMessage) -> None:
        self.missed_orders += message.orders
        self._missed_until = message.cursor, message.position
        self.client.members_with_gap.add(self)

    def flush_gap(self, *, now: bool = False) -> bool:
        """Send the pending gap, if any. Return whether none remains.

        The gap waits until the queue is at most half full, unless `now` is set or `onSlow` is "replay".
        """
        if not self.missed_orders:
            return True
        client = self.client
        if (
            client.queued_bytes > client.queue_limit // 2
            and self.subscription.on_slow != "replay"
            and not now
        ):
            return False
        if not self._send_gap(self.missed_orders, *self._missed_until):
            return False
        client.service.gap_orders += self.missed_orders
        self.missed_orders = 0
        client.members_with_gap.discard(self)
        return True

    def _send_gap(self, orders: int | None, to: str, position: str) -> bool:
        gap = {"subscription": self.subscription.echo, "orders": orders, "from": self.cursor, "to": to}
        if not self.client.send_message("gap", gap):
            return False
        self.client.service.gaps += 1
        self.cursor, self.position = to, position
        return True

    def set_live(self) -> None:
        self.live = True
        # The request as sent is only needed to reject it, and may be large.
        self.request = ClientRequest("subscribe", self.subscription)

    def go_live(self) -> None:
        """Make a replayed member live: the replay has reached the high watermark."""
        assert self.feed is not None
        self.set_live()
        self.send_snapshot()
        feeds = self.stream.feeds
        self.cursor, self.position = feeds.cursor, feeds.position
        self.last_batch = 0
        data = {"subscription": self.subscription.echo}
        self.client.send_message("live", data, epoch=feeds.epoch, seq=self.feed.seq + 1, cursor=self.cursor)

    def send_snapshot(self) -> None:
        """Send the collected snapshot, if there is one."""
        if self.snapshot is not None:
            self.client.send_reply(text_frame(self.snapshot.payload()))
            self.snapshot = None


class _PendingRequest(NamedTuple):
    """A request that waits for the answers to earlier ones.

    size: bytes of the message. deadline: event loop time of its answer. member: of a subscribe whose topic
    the pipeline is already adding.
    """

    parsed: ClientRequest | RequestError
    size: int
    deadline: float
    member: Member | None


class PublicClient(Client):
    """A connection on /ws.

    throttled: no data is added to its queue until it has drained.
    """

    has_reply_headroom = True

    def __init__(self, service: PublicService) -> None:
        super().__init__(service.hub, service.queue_limit)
        self.service = service
        self.number = next(_client_numbers)
        self.account = Account()
        self.members: dict[str, Member] = {}
        self.members_with_gap: set[Member] = set()  # with an unsent gap
        self.throttled = False
        self._current_subscribe: Member | None = None  # to be answered next
        self._pending: deque[_PendingRequest] = deque()  # requests behind it
        self._pending_bytes = 0

    @property
    def accepts_data(self) -> bool:
        """Whether data may be added to the queue."""
        return self.queued_bytes <= self.queue_limit and (not self.throttled or self.is_drained)

    @property
    def is_drained(self) -> bool:
        """Whether a member may start its replay or go live, because the queue is short. Ends throttling."""
        enough = min(self.queue_limit // 4, MIN_SHED_BYTES) if self.throttled else self.queue_limit // 4
        if not self.is_open or self.queued_bytes >= enough:
            return False
        self.throttled = False
        return True

    def throttle(self) -> None:
        """Stop adding data until the queue has drained: all queues together are too long."""
        self.throttled = True
        for member in tuple(self.members.values()):
            if (
                member.live
                and member.feed is not None
                and member.subscription.on_slow == "replay"
                and member.stream.feeds.high_watermark is not None  # else there is nothing to replay
            ):
                member.fall_behind()

    @property
    def exempt_from_idle(self) -> bool:
        return bool(self.members or self._pending)

    def on_closing(self) -> None:
        for each in self._pending:
            if each.member is not None:
                self._release_member(each.member)
        self._pending.clear()
        self._pending_bytes = 0
        for member in tuple(self.members.values()):
            self._remove_member(member)

    def on_writable(self) -> None:
        for member in tuple(self.members_with_gap):
            member.flush_gap()
        for stream in self.service.streams.values():
            stream.replays.on_client_writable()

    def on_text(self, payload: bytes) -> None:
        parsed: ClientRequest | RequestError
        try:
            parsed = parse_request(payload)
        except RequestError as error:
            parsed = error
        self._enqueue_request(parsed, len(payload))

    def on_binary(self, payload: bytes) -> None:
        self._enqueue_request(binary_not_supported(len(payload)), len(payload))

    def send_error(self, error: RequestError) -> None:
        """Answer a request with an error."""
        self.send_message(error.channel, error.data)

    def send_message(self, channel: str, data: Any, **fields: Any) -> bool:
        """Send a message that is not data, within bounds even if the queue is full."""
        return self.send_reply(text_frame(orjson.dumps({"channel": channel, "data": data, **fields})))

    def _enqueue_request(self, parsed: ClientRequest | RequestError, size: int) -> None:
        """Answer a request, in its turn.

        A RequestError is the answer to an invalid message.
        """
        deadline = asyncio.get_running_loop().time() + REPLY_TIMEOUT_S
        prepared = None if self._current_subscribe is None else self._prepare_ahead(parsed)
        self._pending.append(_PendingRequest(parsed, size, deadline, prepared))
        self._pending_bytes += size
        if self._current_subscribe is None:
            self._handle_pending()
        # These were read before reading was paused, and have been inflated since.
        elif self._pending_bytes > 4 * MAX_PENDING_BYTES:
            self.close(CloseCode.POLICY, "too many pending requests")
        elif self._pending_bytes > MAX_PENDING_BYTES:
            self.pause_reading()

    def _prepare_ahead(self, parsed: ClientRequest | RequestError) -> Member | None:
        """Ask the pipeline for a waiting subscribe's topic, which takes the time."""
        if (
            not isinstance(parsed, ClientRequest)
            or parsed.method != "subscribe"
            or parsed.subscription is None
        ):
            return None
        if len(self.members) + len(self._pending) >= self.service.max_subscriptions:
            return None
        if not self.service.serves(parsed.subscription):
            return None
        with suppress(BudgetExceeded):  # rejected in its turn, if it still does not fit
            return self._create_member(parsed, parsed.subscription)
        return None

    def _handle_request(
        self, parsed: ClientRequest | RequestError, deadline: float, prepared: Member | None
    ) -> Member | None:
        """Answer a request in its turn.

        A returned member's answer takes time, and `_on_subscribe_done` follows.
        """
        try:
            if isinstance(parsed, RequestError):
                self.send_error(parsed)
            elif parsed.subscription is None:
                self.send_reply(PONG)
            elif parsed.method == "unsubscribe":
                self._unsubscribe(parsed, parsed.subscription)
            else:
                return self._subscribe(parsed, parsed.subscription, deadline, prepared)
        except RequestError as error:
            self.send_error(error)
        return None

    def _handle_pending(self) -> None:
        """Answer the waiting requests, up to one that takes time."""
        while self._pending and self._current_subscribe is None and self.is_open:
            parsed, size, deadline, prepared = self._pending.popleft()
            self._pending_bytes -= size
            self._current_subscribe = self._handle_request(parsed, deadline, prepared)
        if self._pending_bytes <= MAX_PENDING_BYTES:
            self.resume_reading()

    def _on_subscribe_done(self, member: Member) -> None:
        """Continue after a slow subscribe has its answer."""
        if self._current_subscribe is member:
            self._current_subscribe = None
            self._handle_pending()

    def _subscribe(
        self, request: ClientRequest, subscription: Subscription, deadline: float, prepared: Member | None
    ) -> Member | None:
        """Add a subscription. The answer for a returned member follows later."""
        service = self.service
        try:
            if subscription.key in self.members:
                raise RequestError(f"Already subscribed: {_echo_json(subscription)}")
            if len(self.members) >= service.max_subscriptions:
                raise RequestError(
                    f"Too many subscriptions: at most {service.max_subscriptions} a connection"
                )
            if not service.serves(subscription):
                raise invalid_subscription(request.sent, _why_not_served(subscription))
        except RequestError:
            if prepared is not None:
                self._release_member(prepared)
            raise
        try:
            member = prepared or self._create_member(request, subscription)
        except BudgetExceeded as error:
            service.budget.refused += 1
            raise invalid_subscription(request.sent, str(error)) from None
        self.members[member.subscription.key] = member
        self.hub.channels[subscription.type].add_client(self)
        if member.feed is None:
            member.set_live()
            service.broadcast_members[subscription.type].add(member)
            self._send_response(request)
            return None
        at_once = not (member.needs_replay or member.needs_snapshot)
        if member.feed.active.is_set() and not member.feed.refused and at_once:
            self._begin_live(member)
            return None
        member.task = asyncio.get_running_loop().create_task(
            self._prepare_member(member, member.feed, deadline)
        )
        return member

    def _create_member(self, request: ClientRequest, subscription: Subscription) -> Member:
        """Create a member of its feed; `_release_member` undoes this.

        It enters `members` only in its turn. Raises BudgetExceeded.
        """
        service = self.service
        service.budget.charge(self.account, subscription)
        member = Member(self, request)
        if subscription.type not in BROADCASTS:
            channel = self.hub.channels[subscription.type]
            make = partial(make_topic, subscription, max_message=service.max_message)
            feed = member.stream.feeds.get_or_create(subscription.key, make, channel)
            other = next(iter(feed.members), None)
            if isinstance(other, Member):  # equal ones share their lists, as they share the topic
                member.subscription = subscription.sharing_fields_of(other.subscription)
            member.feed = feed
            feed.add_member(member)
        return member

    def _release_member(self, member: Member) -> None:
        self.service.budget.refund(self.account, member.subscription)
        if member.feed is not None:
            member.stream.feeds.remove_member(member.feed, member)

    def _begin_live(self, member: Member) -> None:
        assert member.feed is not None
        feeds = member.stream.feeds
        member.cursor, member.position = feeds.cursor, feeds.position
        request = member.request
        member.set_live()
        self._send_response(request, epoch=feeds.epoch, seq=member.feed.seq + 1, cursor=member.cursor)
        member.send_snapshot()

    async def _prepare_member(self, member: Member, feed: Feed, deadline: float) -> None:
        """Make a member live, or start its replay, once the pipeline has its topic."""
        request, stream = member.request, member.stream
        # Let the loop call it: the next answer may end this member, and with it this task.
        done = partial(asyncio.get_running_loop().call_soon, self._on_subscribe_done, member)
        try:
            async with asyncio.timeout_at(deadline):
                # Check again after the wait: an equal member may have fallen behind and paused the feed.
                while not feed.active.is_set():
                    stream.feeds.resume_feed(feed)
                    await feed.active.wait()
                if feed.refused:
                    raise invalid_subscription(
                        request.sent, "the server cannot take another topic; try again later"
                    )
                if member.needs_snapshot:
                    await self._prepare_snapshot(member)
                elif member.needs_replay:
                    member.cursor, member.position = await stream.start_finder.find_start(request)
            if member.needs_replay:
                self._send_response(request, epoch=stream.feeds.epoch, seq=None, cursor=member.cursor)
                if member.position is None:
                    done()  # further requests need not wait
                    await self._wait_for_event(member, feed)
                if self.is_open:
                    stream.replays.start_replay(member)
            else:
                self._begin_live(member)
        except RequestError as error:
            self.fail_subscription(member, error)
        except TimeoutError:
            text = f"it could not start within {REPLY_TIMEOUT_S:g} s, the server is busy; try again later"
            self.fail_subscription(member, invalid_subscription(request.sent, text))
        except Exception:
            self.service.failures.emit(exc_info=True)
            self.fail_subscription(member, invalid_subscription(request.sent, "internal server error"))
        done()

    async def _wait_for_event(self, member: Member, feed: Feed) -> None:
        """Wait until the node has written an event that another node wrote earlier. Raises RequestError."""
        stream = member.stream
        block = parse_block(member.cursor or "", stream.feeds.stream)
        assert block is not None  # other cursors name what is in the files
        stream.feeds.pause_feed(feed)
        pause_s = MIN_BLOCK_PAUSE_S
        while member.position is None and self.is_open:
            await stream.feeds.wait_for_line(block)
            member.position = (await stream.start_finder.find_start(member.request)).position
            if member.position is None:  # the file has been cut meanwhile
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_BLOCK_PAUSE_S)

    async def _prepare_snapshot(self, member: Member) -> None:
        """Find where the snapshot of `userFills` begins. Without data, it is empty and sent at once."""
        feeds, user = member.stream.feeds, member.subscription.user
        assert user is not None
        recent = None
        if feeds.high_watermark is not None:
            with suppress(OSError):  # live fills come all the same
                recent = await member.stream.start_finder.find_recent(feeds.high_watermark, SNAPSHOT_BYTES)
        since_ms = recent[1] if recent is not None else time.time_ns() // 1_000_000
        # A part of a replay may be longer than the limit alone.
        member.snapshot = FillSnapshot(user, since_ms, self.service.max_message - REPLAY_MESSAGE_BYTES)
        if recent is not None:
            member.cursor = member.position = recent[0]
            member.needs_replay = True

    def fail_subscription(self, member: Member, error: RequestError) -> None:
        """End a subscription with an error."""
        if self._remove_member(member):
            self.send_error(error)

    def _unsubscribe(self, request: ClientRequest, subscription: Subscription) -> None:
        member = self.members.get(subscription.key)
        if member is None:
            raise RequestError(f"Already unsubscribed: {_echo_json(subscription)}")
        member.flush_gap(now=True)
        if self.is_open:
            self._remove_member(member)
            self._send_response(request)

    def _remove_member(self, member: Member) -> bool:
        """End a subscription in any state. Return False if it had already ended.

        Both its own task and the end of the client may call this.
        """
        if self.members.get(member.subscription.key) is not member:
            return False
        del self.members[member.subscription.key]
        self.members_with_gap.discard(member)
        if member.feed is None:
            self.service.broadcast_members[member.subscription.type].discard(member)
        else:
            member.stream.replays.cancel_replay(member)
        self._release_member(member)
        if member.task is not None and member.task is not asyncio.current_task():
            member.task.cancel()
            member.task = None  # it holds the CancelledError, whose traceback leads to the member
        kind = member.subscription.type
        if not any(other.subscription.type == kind for other in self.members.values()):
            self.hub.channels[kind].remove_client(self)
        return True

    def _send_response(self, request: ClientRequest, **fields: Any) -> None:
        data = {"method": request.method, "subscription": request.response_fields}
        self.send_message("subscriptionResponse", data, **fields)


def _why_not_served(subscription: Subscription) -> str:
    if subscription.type in BROADCASTS:
        return f'"{subscription.type}" is made for the page, which is switched off'
    return f'this server does not follow the stream "{CHANNEL_SPECS[subscription.type].stream}"'


def _furthest_behind(behind: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """Return the entries that are furthest behind, as many as fit into `room` bytes."""
    found = []
    for each in sorted(behind, key=lambda each: -int(each["bytes"])):
        room -= len(orjson.dumps(each))
        if room < 0:
            break
        found.append(each)
    return found


def _echo_json(subscription: Subscription) -> str:
    return orjson.dumps(subscription.echo).decode()
