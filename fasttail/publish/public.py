"""`/ws`: the public API's protocol. One connection, its subscriptions, and what each of them missed.

    request ─► parse_request ─► subscribe ─► feed ──(pipeline has the topic)──► response ─► live
                                                └─ cursor, since: response ─► replay ─► "live" message ─► live

Each request gets one answer, in the order of the requests. Most are answered at once. A subscribe may take
time: the requests behind it then wait, but the topics that they will need are already made meanwhile. No
request waits longer than ANSWER_S.

A member (one subscription of one client) whose client's queue is full leaves the live path: it is told so
by a `replay` message, and reads on from the files until it is live again (`fasttail.replays`). One that wants
gaps instead, and one that cannot be given something at all, is told what it misses: `missed` counts the
orders, and a gap message goes out before the subscription's next message.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple, Protocol

import orjson

from fasttail.observe.now_and_then import RateLimitedLog
from fasttail.publish.budget import Account, Budget, Exceeded
from fasttail.publish.connection import Client
from fasttail.publish.feeds import Feed, Feeds, Message
from fasttail.publish.filters import Selector
from fasttail.publish.hub import LEAST_SHED, Hub
from fasttail.publish.subscriptions import (
    Request,
    RequestError,
    Subscription,
    invalid,
    not_text,
    parse_request,
)
from fasttail.publish.topics import Topic
from fasttail.publish.wire import CloseCode, text_frame

ORDERS: Final = "orders"
ORDER_UPDATES: Final = "orderUpdates"
STATUS: Final = "status"
CHANNELS = (ORDERS, ORDER_UPDATES, STATUS)

PATH = "/ws"
REPLAYED = 64 << 10
"""Bytes of a replay's message, but for single orders that are longer."""

ANSWER_S = 8.0
"""How long a request may wait for its answer. Clients commonly give up after ten seconds, on a subscription
and on a pong alike.
"""

STATUS_ROOM = 64 << 10
"""Bytes of `status` messages that may wait behind a queue that is full."""

MOST_WAITING = 256 << 10
"""Bytes of requests that wait for their answers. Past it nothing more is read from the client for a while."""

log = logging.getLogger(__name__)
PONG = text_frame(b'{"channel":"pong"}')
_numbers = count(1)  # of the clients on /ws


class Finder(Protocol):
    """Where replays begin (`fasttail.resume`)."""

    async def find(self, request: Request) -> str:
        """The cursor to begin at. Raises RequestError."""


class Replays(Protocol):
    """Members that are behind (`fasttail.replays`): each is given what stands behind its cursor, by `replay`,
    until `go_live` is due.
    """

    def admit(self, member: Member) -> None:
        """One more, which has a cursor and is not live."""

    def drop(self, member: Member) -> None:
        """It wants no more, if it is one of them."""

    def drained(self) -> None:
        """Some client has read on."""

    def report(self) -> dict[Client, list[dict[str, Any]]]:
        """For the `status` of those who have members that are behind."""


@dataclass
class Service:
    """What all connections on /ws share. gaps: told to clients; gap_orders: those that the clients were
    not given.
    """

    hub: Hub
    feeds: Feeds
    _: KW_ONLY
    queue_limit: int
    max_message: int
    max_subscriptions: int
    budget: Budget
    finder: Finder
    replays: Replays
    watchers: set[Member] = field(default_factory=set)  # of `status`
    gaps: int = 0
    gap_orders: int = 0
    failures: RateLimitedLog = field(
        default_factory=lambda: RateLimitedLog(log, logging.ERROR, "a subscription has failed")
    )

    def client(self) -> PublicClient:
        """For the server: one more connection."""
        return PublicClient(self)

    def counts(self) -> dict[str, int]:
        """For the metrics."""
        clients = [client for client in self.hub.clients if isinstance(client, PublicClient)]
        return {
            "topics": len(self.feeds),
            "subscriptions": sum(len(client.members) for client in clients),
            "subscriptions_refused": self.budget.refused,
            "subscription_cost": self.budget.used,
            "subscription_budget": self.budget.limit,
            "client_subscription_cost": max((client.account.used for client in clients), default=0),
            "client_subscription_budget": self.budget.share,
            "gaps": self.gaps,
            "gap_orders": self.gap_orders,
        }

    def tell_status(self, status: Callable[[], dict[str, Any]]) -> None:
        """The state of the data to everybody who has subscribed to it."""
        if not self.watchers:
            return
        channel = self.hub.channels[STATUS]
        data, behind = status(), self.replays.report()
        shared = text_frame(orjson.dumps({"channel": STATUS, "data": data}))
        for member in tuple(self.watchers):
            frame, own = shared, behind.get(member.client)
            if own is not None:
                own = _as_fit(own, STATUS_ROOM)
                frame = text_frame(orjson.dumps({"channel": STATUS, "data": {**data, "behind": own}}))
            # Also behind a full queue: whoever reads slowly wants to know how far behind he is.
            limit = self.queue_limit + self.max_message + STATUS_ROOM
            if member.client.queued <= limit and member.client.send(frame, limit=limit):
                channel.messages_sent += 1
                channel.bytes_sent += len(frame)


def make_topic(
    subscription: Subscription, *, max_message: int, replayed: bool = False, seq: int = 0
) -> Topic:
    """A new topic for what a subscription asks for; `seq`: of the message before its first.

    replayed: from the files. Its messages are short: what is live waits for one of them at most.
    """
    aim = REPLAYED if replayed else max_message
    if subscription.type == ORDER_UPDATES:
        assert subscription.users
        return Topic(
            ORDER_UPDATES,
            user=subscription.users[0],
            max_message=max_message,
            aim=aim,
            numbered=not replayed,
            seq=seq,
        )
    coins = subscription.coins
    chosen = Selector(
        coins=None if coins is None else dict.fromkeys(coins, 0.0),
        sides=subscription.sides,
        statuses=subscription.statuses,
        users=subscription.users,
        min_notional=subscription.min_notional,
    )
    return Topic(
        ORDERS,
        selector=chosen,
        format=subscription.format,
        max_message=max_message,
        aim=aim,
        numbered=not replayed,
        seq=seq,
    )


class Member:
    """One subscription of one client.

    live: it gets what its feed gets; else it waits for its beginning, or is behind (`fasttail.replays`).
    cursor: behind the last order it was given, or where it began; None if that is not known. resumes: it is
    to begin at a place of its own.
    """

    def __init__(self, client: PublicClient, request: Request) -> None:
        assert request.subscription is not None
        self.client = client
        self.request = request
        self.subscription = request.subscription
        self.resumes = self.subscription.cursor is not None or self.subscription.since is not None
        self.feed: Feed | None = None  # none for `status`
        self.live = False
        self.cursor: str | None = None
        self.missed = 0
        self.task: asyncio.Task[None] | None = None  # what makes it live, or finds where it begins
        self.given_in = 0  # the batch of the last message
        self._missed_to = ""

    @property
    def group(self) -> int:
        """Its client's number."""
        return self.client.number

    def give(self, message: Message) -> bool:
        """Send a live message; False if the client was not given it: it is counted then, or the member falls
        behind, or the client is closed.
        """
        feeds, client = self.client.service.feeds, self.client
        # Where the member would go on behind some of a batch's late lines cannot be said: all or none.
        begun = feeds.late and self.given_in == feeds.batch
        if message.data and self.tell() and (begun or client.has_room):
            if not client.send(message.data, limit=sys.maxsize if begun else None):
                return False
            self.cursor = message.cursor
            self.given_in = feeds.batch
            return True
        on_slow = self.subscription.on_slow
        if (
            on_slow == "replay"
            and (message.data or message.left_out)
            and not begun
            and feeds.frontier is not None
        ):
            self.fall_behind()
        elif on_slow == "close" and message.data:
            client.close_slow()
        else:
            self._miss(message)
            self.tell()
        return False

    def replay(self, message: Message, *, whole: bool) -> bool:
        """Send a message that was read from the files; False if the client was not given it. whole: also if
        its queue is full.
        """
        if not message.data:  # one order that fits into no message
            self._miss(message)
            self.tell(now=True)
            return True
        if not (whole or self.client.has_room):
            return False
        if not self.client.send(message.data, limit=sys.maxsize if whole else None):
            return False
        self.cursor = message.cursor
        return True

    def fall_behind(self) -> None:
        """Leave the live path: what comes from here on is read from the files, as the client can take it."""
        service = self.client.service
        if self.given_in != service.feeds.batch:  # of the batch that is being handed out
            self.cursor = service.feeds.cursor
        self.live = False
        data = {"subscription": self.subscription.echo, "cursor": self.cursor}
        self.client.tell("replay", data)
        if self.client.is_open:
            service.replays.admit(self)

    def tell_lost(self, to: str) -> None:
        """Send a gap up to there, of nobody knows how many orders."""
        self._tell_gap(None, to)

    def fail(self, reason: str) -> None:
        """The subscription cannot go on."""
        sent = self.request.sent or {**self.subscription.echo}
        self.client.fail(self, invalid(sent, reason))

    def _miss(self, message: Message) -> None:
        self.missed += message.orders
        self._missed_to = message.cursor
        self.client.untold.add(self)

    def tell(self, *, now: bool = False) -> bool:
        """Send the gap, if there is one and the queue has run down (or it is to be sent now); False while
        there is something to tell.
        """
        if not self.missed:
            return True
        client = self.client
        if client.queued > client.queue_limit // 2 and self.subscription.on_slow != "replay" and not now:
            return False
        if not self._tell_gap(self.missed, self._missed_to):
            return False
        client.service.gap_orders += self.missed
        self.missed = 0
        client.untold.discard(self)
        return True

    def _tell_gap(self, orders: int | None, to: str) -> bool:
        gap = {"subscription": self.subscription.echo, "orders": orders, "from": self.cursor, "to": to}
        if not self.client.tell("gap", gap):
            return False
        self.client.service.gaps += 1
        self.cursor = to
        return True

    def start(self) -> None:
        """From now on it gets what its feed gets."""
        self.live = True
        # What was sent is only needed to refuse it, and may be as large as a message.
        self.request = Request("subscribe", self.subscription)

    def go_live(self) -> None:
        """A replay has come to where the live messages begin."""
        assert self.feed is not None
        self.start()
        feeds = self.client.service.feeds
        self.cursor = feeds.cursor
        self.given_in = 0
        data = {"subscription": self.subscription.echo}
        self.client.tell("live", data, epoch=feeds.epoch, seq=self.feed.seq + 1, cursor=self.cursor)


class _Waiting(NamedTuple):
    """A request behind others that have no answer yet.

    size: bytes of the message. due: time of the event loop by which it is answered. member: of a subscribe,
    whose topic the pipeline is already told to make.
    """

    asked: Request | RequestError
    size: int
    due: float
    member: Member | None


class PublicClient(Client):
    """A connection on /ws.

    crowded: nothing is to be added to its queue before it has run down.
    """

    is_patient = True

    def __init__(self, service: Service) -> None:
        super().__init__(service.hub, service.queue_limit)
        self.service = service
        self.number = next(_numbers)
        self.account = Account()
        self.members: dict[str, Member] = {}
        self.untold: set[Member] = set()  # those that have a gap to be told
        self.crowded = False
        self._preparing: Member | None = None  # whose answer is the next
        self._waiting: deque[_Waiting] = deque()  # requests behind it
        self._waiting_bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether it may be given data."""
        return self.queued <= self.queue_limit and (not self.crowded or self.is_drained)

    @property
    def is_drained(self) -> bool:
        """Whether so little waits for it that a member may begin to replay, or go live."""
        enough = min(self.queue_limit // 4, LEAST_SHED) if self.crowded else self.queue_limit // 4
        if not self.is_open or self.queued >= enough:
            return False
        self.crowded = False
        return True

    def crowd(self) -> None:
        """All queues together are too long, and this is one of the longest."""
        self.crowded = True
        for member in tuple(self.members.values()):
            if member.live and member.feed is not None and member.subscription.on_slow == "replay":
                member.fall_behind()

    @property
    def waits(self) -> bool:
        return bool(self.members or self._waiting)

    def left(self) -> None:
        for each in self._waiting:
            if each.member is not None:
                self._leave(each.member)
        self._waiting.clear()
        self._waiting_bytes = 0
        for member in tuple(self.members.values()):
            self._drop(member)

    def drained(self) -> None:
        for member in tuple(self.untold):
            member.tell()
        self.service.replays.drained()

    def text(self, payload: bytes) -> None:
        asked: Request | RequestError
        try:
            asked = parse_request(payload)
        except RequestError as error:
            asked = error
        self._ask(asked, len(payload))

    def binary(self, payload: bytes) -> None:
        self._ask(not_text(len(payload)), len(payload))

    def refuse(self, error: RequestError) -> None:
        """Say that a request cannot be met."""
        self.tell(error.channel, error.data)

    def tell(self, channel: str, data: Any, **more: Any) -> bool:
        """Send a message that is no data: also to a client whose queue is full, within bounds."""
        return self.answer(text_frame(orjson.dumps({"channel": channel, "data": data, **more})))

    def _ask(self, asked: Request | RequestError, size: int) -> None:
        """Answer a request now or, behind others that have no answer yet, in its turn.

        RequestError: what came was no request, and this is the answer.
        """
        due = asyncio.get_running_loop().time() + ANSWER_S
        early = None if self._preparing is None else self._prepare_early(asked)
        self._waiting.append(_Waiting(asked, size, due, early))
        self._waiting_bytes += size
        if self._preparing is None:
            self._answer_waiting()
        elif self._waiting_bytes > 4 * MOST_WAITING:  # read before reading was paused, and inflated since
            self.close(CloseCode.POLICY, "too many requests wait for their answers")
        elif self._waiting_bytes > MOST_WAITING:
            self.pause_reading()

    def _prepare_early(self, asked: Request | RequestError) -> Member | None:
        """For a subscribe that waits, begin with what takes the time: the pipeline is told of its topic."""
        if not isinstance(asked, Request) or asked.method != "subscribe" or asked.subscription is None:
            return None
        if len(self.members) + len(self._waiting) >= self.service.max_subscriptions:
            return None
        with suppress(Exceeded):  # it is refused in its turn, unless there is room by then
            return self._join(asked, asked.subscription)
        return None

    def _answer(self, asked: Request | RequestError, due: float, early: Member | None) -> Member | None:
        """Answer a request whose turn it is. A member: that takes time, and `_answered` is called then."""
        try:
            if isinstance(asked, RequestError):
                self.refuse(asked)
            elif asked.subscription is None:
                self.answer(PONG)
            elif asked.method == "unsubscribe":
                self._unsubscribe(asked, asked.subscription)
            else:
                return self._subscribe(asked, asked.subscription, due, early)
        except RequestError as error:
            self.refuse(error)
        return None

    def _answer_waiting(self) -> None:
        """Answer the requests that wait, up to one that takes time."""
        while self._waiting and self._preparing is None and self.is_open:
            asked, size, due, early = self._waiting.popleft()
            self._waiting_bytes -= size
            self._preparing = self._answer(asked, due, early)
        if self._waiting_bytes <= MOST_WAITING:
            self.resume_reading()

    def _answered(self, member: Member) -> None:
        """The subscribe that took time has its answer."""
        if self._preparing is member:
            self._preparing = None
            self._answer_waiting()

    def _subscribe(
        self, request: Request, subscription: Subscription, due: float, early: Member | None
    ) -> Member | None:
        """A member: its answer comes later."""
        service = self.service
        try:
            if subscription.key in self.members:
                raise RequestError(f"Already subscribed: {_shown(subscription)}")
            if len(self.members) >= service.max_subscriptions:
                raise RequestError(
                    f"Too many subscriptions: at most {service.max_subscriptions} a connection"
                )
        except RequestError:
            if early is not None:
                self._leave(early)
            raise
        try:
            member = early or self._join(request, subscription)
        except Exceeded as why:
            service.budget.refused += 1
            raise invalid(request.sent, str(why)) from None
        self.members[member.subscription.key] = member
        self.hub.channels[subscription.type].join(self)
        if member.feed is None:
            member.start()
            service.watchers.add(member)
            self._confirm(request)
            return None
        if member.feed.active.is_set() and not member.feed.refused and not member.resumes:
            self._begin(member)
            return None
        member.task = asyncio.get_running_loop().create_task(self._prepare(member, member.feed, due))
        return member

    def _join(self, request: Request, subscription: Subscription) -> Member:
        """A member of its feed, which `_leave` undoes. It is one of ours only once its turn has come.

        Raises Exceeded.
        """
        service = self.service
        service.budget.take(self.account, subscription)
        member = Member(self, request)
        if subscription.type != STATUS:
            channel = self.hub.channels[subscription.type]
            make = partial(make_topic, subscription, max_message=service.max_message)
            feed = service.feeds.join(subscription.key, make, channel)
            other = next(iter(feed.members), None)
            if isinstance(other, Member):  # equal ones share what they select, as they share the topic
                member.subscription = subscription.sharing(other.subscription)
            member.feed = feed
            feed.add(member)
        return member

    def _leave(self, member: Member) -> None:
        self.service.budget.give_back(self.account, member.subscription)
        if member.feed is not None:
            self.service.feeds.leave(member.feed, member)

    def _begin(self, member: Member) -> None:
        """From now on the member gets what its feed gets."""
        assert member.feed is not None
        feeds = self.service.feeds
        member.cursor = feeds.cursor
        request = member.request
        member.start()
        self._confirm(request, epoch=feeds.epoch, seq=member.feed.seq + 1, cursor=member.cursor)

    async def _prepare(self, member: Member, feed: Feed, due: float) -> None:
        """What comes before a member is live: the pipeline has to take the topic, files may have to be
        read.
        """
        request, service = member.request, self.service
        # Called by the loop, not from here: what is answered next may end this member, and with it this task.
        answered = partial(asyncio.get_running_loop().call_soon, self._answered, member)
        try:
            async with asyncio.timeout_at(due):
                # Looked at again after the wait: an equal member may have fallen behind, and paused the feed.
                while not feed.active.is_set():
                    service.feeds.go_on(feed)
                    await feed.active.wait()
                if feed.refused:
                    raise invalid(request.sent, "the server has no room for one more topic; try again later")
                if member.resumes:
                    member.cursor = await service.finder.find(request)
            if member.resumes:
                self._confirm(request, epoch=service.feeds.epoch, seq=None, cursor=member.cursor)
                if self.is_open:
                    service.replays.admit(member)
            else:
                self._begin(member)
        except RequestError as error:
            self.fail(member, error)
        except TimeoutError:
            text = f"it could not begin within {ANSWER_S:g} s, the server is busy; try again later"
            self.fail(member, invalid(request.sent, text))
        except Exception:
            service.failures.emit(exc_info=True)
            self.fail(member, invalid(request.sent, "the server has failed to serve it"))
        answered()

    def fail(self, member: Member, error: RequestError) -> None:
        """A subscription cannot begin, or not go on."""
        if self._drop(member):
            self.refuse(error)

    def _unsubscribe(self, request: Request, subscription: Subscription) -> None:
        member = self.members.get(subscription.key)
        if member is None:
            raise RequestError(f"Already unsubscribed: {_shown(subscription)}")
        member.tell(now=True)
        if self.is_open:
            self._drop(member)
            self._confirm(request)

    def _drop(self, member: Member) -> bool:
        """The subscription ends, in whatever state it is. False if it had ended before: its own task and the
        client's end may both come here.
        """
        if self.members.get(member.subscription.key) is not member:
            return False
        del self.members[member.subscription.key]
        self.untold.discard(member)
        self.service.watchers.discard(member)
        if member.feed is not None:
            self.service.replays.drop(member)
        self._leave(member)
        if member.task is not None and member.task is not asyncio.current_task():
            member.task.cancel()
            member.task = None  # it keeps the CancelledError, whose traceback leads back to the member
        kind = member.subscription.type
        if not any(other.subscription.type == kind for other in self.members.values()):
            self.hub.channels[kind].leave(self)
        return True

    def _confirm(self, request: Request, **more: Any) -> None:
        data = {"method": request.method, "subscription": request.answer}
        self.tell("subscriptionResponse", data, **more)


def _as_fit(behind: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """The first of them, those that are furthest behind, that have no more bytes than that together."""
    found = []
    for each in sorted(behind, key=lambda each: -int(each["bytes"])):
        room -= len(orjson.dumps(each))
        if room < 0:
            break
        found.append(each)
    return found


def _shown(subscription: Subscription) -> str:
    return orjson.dumps(subscription.echo).decode()
