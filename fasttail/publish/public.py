"""`/ws`: the public API's protocol. One connection, its subscriptions, and what each of them missed.

    request ─► parse_request ─► subscribe ─► feed ──(pipeline has the topic)──► response ─► live
                                                └─ cursor, since: response ─► replay ─► "live" message ─► live

A member (one subscription of one client) that was not given something is told so: `missed` counts the
orders, and a gap message goes out before the subscription's next message, or as soon as the client's queue
has run down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import count
from typing import Any, Final, Protocol

import orjson

from fasttail.publish.budget import Account, Budget, Exceeded
from fasttail.publish.clients import Client, Hub
from fasttail.publish.feeds import Feed, Feeds, Message
from fasttail.publish.filters import Selector
from fasttail.publish.subscriptions import Request, RequestError, Subscription, invalid, parse_request
from fasttail.publish.topics import Topic
from fasttail.publish.wire import text_frame

ORDERS: Final = "orders"
ORDER_UPDATES: Final = "orderUpdates"
STATUS: Final = "status"
CHANNELS = (ORDERS, ORDER_UPDATES, STATUS)

PATH = "/ws"
REPLAYED = 64 << 10
"""Bytes of a replay's message, but for single orders that are longer."""

log = logging.getLogger(__name__)
PONG = text_frame(b'{"channel":"pong"}')
_numbers = count(1)  # of the clients on /ws


class Resumer(Protocol):
    """Replays from the node's files what a member has missed (`fasttail.resume`)."""

    async def find(self, member: Member) -> str:
        """The cursor to begin at. Raises RequestError."""

    async def replay(self, member: Member) -> bool:
        """Give the member what stands behind its cursor. True at the moment when `Member.go_live` is due;
        False if its client has gone.
        """


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
    resumer: Resumer = field(init=False)
    watchers: set[Member] = field(default_factory=set)  # of `status`
    gaps: int = 0
    gap_orders: int = 0

    def client(self) -> PublicClient:
        """For the server: one more connection."""
        return PublicClient(self)

    def topic(self, subscription: Subscription, *, replayed: bool = False, seq: int = 0) -> Topic:
        """A new topic for what a subscription asks for; `seq`: of the message before its first.

        replayed: from the files. Its messages are short: what is live waits for one of them at most.
        """
        aim = REPLAYED if replayed else self.max_message
        if subscription.type == ORDER_UPDATES:
            assert subscription.users
            return Topic(
                ORDER_UPDATES,
                user=subscription.users[0],
                max_message=self.max_message,
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
            max_message=self.max_message,
            aim=aim,
            numbered=not replayed,
            seq=seq,
        )

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
        frame = text_frame(orjson.dumps({"channel": STATUS, "data": status()}))
        for member in tuple(self.watchers):
            if member.client.has_room and member.client.send(frame):
                channel.messages_sent += 1
                channel.bytes_sent += len(frame)


class Member:
    """One subscription of one client.

    live: it gets what its feed gets. cursor: behind the last order it was given, or where it began; None
    if that is not known.
    """

    def __init__(self, client: PublicClient, request: Request) -> None:
        assert request.subscription is not None
        self.client = client
        self.request = request
        self.subscription = request.subscription
        self.feed: Feed | None = None  # none for `status`
        self.live = False
        self.cursor: str | None = None
        self.missed = 0
        self.task: asyncio.Task[None] | None = None  # what makes it live
        self._missed_to = ""

    @property
    def group(self) -> int:
        """Its client's number."""
        return self.client.number

    def give(self, message: Message) -> bool:
        """Send a message; False if the client was not given it: it is counted then, or the client closed."""
        if message.data and self.tell() and self.client.has_room:
            if not self.client.send(message.data):
                return False
            self.cursor = message.cursor
            return True
        if message.data and self.subscription.on_slow == "close":
            self.client.close_slow()
            return False
        self.missed += message.orders
        self._missed_to = message.cursor
        self.client.behind.add(self)
        self.tell()
        return False

    def tell(self, *, last: bool = False) -> bool:
        """Send the gap, if there is one and the queue has run down (or this is the last chance to); False
        while there is something to tell.
        """
        if not self.missed:
            return True
        client = self.client
        if client.queued > client.queue_limit // 2 and not last:
            return False
        gap = {
            "subscription": self.subscription.echo,
            "orders": self.missed,
            "from": self.cursor,
            "to": self._missed_to,
        }
        if not client.send(text_frame(orjson.dumps({"channel": "gap", "data": gap}))):
            return False
        client.service.gaps += 1
        client.service.gap_orders += self.missed
        self.missed = 0
        self.cursor = self._missed_to
        client.behind.discard(self)
        return True

    def forget_request(self) -> None:
        """It has been met: from now on nothing refers to what was sent, which may have thousands of texts."""
        self.request = Request(self.request.method, self.subscription)

    def go_live(self) -> None:
        """A replay has come to where the live messages begin."""
        assert self.feed is not None
        self.live = True
        self.forget_request()
        feeds = self.client.service.feeds
        self.client.answer(
            "live",
            {"subscription": self.subscription.echo},
            epoch=feeds.epoch,
            seq=self.feed.seq + 1,
            cursor=self.cursor,
        )


class PublicClient(Client):
    """A connection on /ws."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.hub, service.queue_limit)
        self.service = service
        self.number = next(_numbers)
        self.account = Account()
        self.members: dict[str, Member] = {}
        self.behind: set[Member] = set()  # those that have a gap to be told

    @property
    def waits(self) -> bool:
        return bool(self.members)

    def left(self) -> None:
        for key in tuple(self.members):
            self._drop(key)

    def drained(self) -> None:
        for member in tuple(self.behind):
            member.tell()

    def text(self, payload: bytes) -> None:
        try:
            request = parse_request(payload)
            if request.subscription is None:
                self.send(PONG)
            elif request.method == "subscribe":
                self._subscribe(request, request.subscription)
            else:
                self._unsubscribe(request, request.subscription)
        except RequestError as error:
            self.refuse(error)

    def refuse(self, error: RequestError) -> None:
        """Say that a request cannot be met."""
        self.answer("error", str(error))

    def answer(self, channel: str, data: Any, **more: Any) -> None:
        """Send a message that is no data."""
        self.send(text_frame(orjson.dumps({"channel": channel, "data": data, **more})))

    def _subscribe(self, request: Request, subscription: Subscription) -> None:
        service = self.service
        if subscription.key in self.members:
            raise RequestError(f"Already subscribed: {_shown(subscription)}")
        if len(self.members) >= service.max_subscriptions:
            raise RequestError(f"Too many subscriptions: at most {service.max_subscriptions} a connection")
        try:
            service.budget.take(self.account, subscription)
        except Exceeded as why:
            raise invalid(request.sent, str(why)) from None
        member = Member(self, request)
        channel = self.hub.channels[subscription.type]
        channel.join(self)
        if subscription.type == STATUS:
            self.members[subscription.key] = member
            service.watchers.add(member)
            self._confirm(request)
            member.forget_request()
            return
        member.feed = service.feeds.join(subscription.key, partial(service.topic, subscription), channel)
        other = next(iter(member.feed.members), None)
        if isinstance(other, Member):  # equal ones share what they select, as they share the topic
            member.subscription = subscription.sharing(other.subscription)
        self.members[member.subscription.key] = member
        member.feed.add(member)
        if member.feed.active.is_set() and subscription.cursor is None and subscription.since is None:
            self._begin(member)
        else:
            member.task = asyncio.get_running_loop().create_task(self._prepare(member, member.feed))

    def _begin(self, member: Member) -> None:
        """From now on the member gets what its feed gets."""
        assert member.feed is not None
        feeds = self.service.feeds
        member.live = True
        member.cursor = feeds.cursor
        self._confirm(member.request, epoch=feeds.epoch, seq=member.feed.seq + 1, cursor=member.cursor)
        member.forget_request()

    async def _prepare(self, member: Member, feed: Feed) -> None:
        """What comes before a member is live: the pipeline has to take the topic, files may have to be
        read.
        """
        resumer = self.service.resumer
        try:
            await feed.active.wait()
            if feed.refused:
                raise invalid(
                    member.request.sent, "the server has no room for one more topic; try again later"
                )
            if member.subscription.cursor is None and member.subscription.since is None:
                self._begin(member)
                return
            member.cursor = await resumer.find(member)
            self._confirm(member.request, epoch=self.service.feeds.epoch, seq=None, cursor=member.cursor)
            if await resumer.replay(member):
                member.go_live()
        except RequestError as error:
            self._drop(member.subscription.key)
            self.refuse(error)
        except Exception:
            log.exception("a replay has failed")
            self._drop(member.subscription.key)
            self.refuse(RequestError(f"The replay has failed: {_shown(member.subscription)}"))

    def _unsubscribe(self, request: Request, subscription: Subscription) -> None:
        member = self.members.get(subscription.key)
        if member is None:
            raise RequestError(f"Already unsubscribed: {_shown(subscription)}")
        member.tell(last=True)
        if self.is_open:
            self._drop(subscription.key)
            self._confirm(request)

    def _drop(self, key: str) -> None:
        """The subscription ends, in whatever state it is."""
        member = self.members.pop(key)
        self.service.budget.give_back(self.account, member.subscription)
        self.behind.discard(member)
        self.service.watchers.discard(member)
        if member.feed is not None:
            self.service.feeds.leave(member.feed, member)
        if member.task is not None and member.task is not asyncio.current_task():
            member.task.cancel()
            # It keeps the CancelledError, whose traceback leads to the replay's block and table, and back to
            # the member: in a circle they would lie there, megabytes each, until a full garbage collection.
            member.task = None
        kind = member.subscription.type
        if not any(other.subscription.type == kind for other in self.members.values()):
            self.hub.channels[kind].leave(self)

    def _confirm(self, request: Request, **more: Any) -> None:
        data = {"method": request.method, "subscription": request.answer}
        self.answer("subscriptionResponse", data, **more)


def _shown(subscription: Subscription) -> str:
    return orjson.dumps(subscription.echo).decode()
