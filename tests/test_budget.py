"""The cost of subscriptions: the budget, what is refused, and that no client pays for another."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from driving import Drive
from hypothesis import given, settings
from hypothesis import strategies as st
from lines import event, plain
from running import hour_file, serve
from serving import until
from test_subscriptions import subscribe
from test_ws import Bot, append

from fasttail.connection.channel import Channel
from fasttail.connection.connection import Client
from fasttail.connection.hub import Hub
from fasttail.engine.filters import Selector
from fasttail.engine.topics import Topic
from fasttail.publish.budget import SUBSCRIPTION_COST, Account, Budget, BudgetExceeded, topic_cost
from fasttail.publish.feeds import Feeds
from fasttail.publish.public_api import (
    CHANNELS,
    Member,
    PublicClient,
    PublicService,
    ReplayStart,
    StreamService,
)
from fasttail.publish.subscriptions import ClientRequest

USERS = [f"0x{number:040x}" for number in range(2000)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def path(folder: Path) -> Path:
    path = hour_file(folder, "plain", "20260505", 17)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({"type": "status"}, 0),
        ({"type": "orderUpdates", "user": USERS[0]}, 4),
        ({"type": "orders"}, 1009),
        ({"type": "orders", "minNotional": 1}, 1009),
        ({"type": "orders", "statuses": ["open"]}, 1010),
        ({"type": "orders", "coins": ["BTC"]}, 30),
        ({"type": "orders", "coins": ["BTC"], "users": USERS[:16]}, 75),
        ({"type": "orders", "coins": [f"C{each}" for each in range(1000)]}, 1072),
        ({"type": "orders", "users": USERS[:1000]}, 1072),
    ],
)
def test_what_a_topic_costs(fields: dict[str, Any], cost: int) -> None:
    """The cost of a topic is as documented."""
    assert topic_cost(subscribe(**fields)) == cost


def test_the_cost_of_many_is_refused_and_given_back(folder: Path, path: Path) -> None:
    """A client's share and the total budget are enforced, and ended subscriptions free their cost."""
    one = SUBSCRIPTION_COST + 4
    options = ("--subscription-budget", 4 * one, "--subscription-budget-per-client", 3 * one)
    with serve(folder, *options) as server, Bot(server) as bot:
        for user in USERS[:3]:
            bot.subscribe(type="orderUpdates", user=user)
        refused = bot.ask("subscribe", type="orderUpdates", user=USERS[3])
        shown = json.dumps({"type": "orderUpdates", "user": USERS[3]}, separators=(",", ":"))
        assert refused["channel"] == "error"
        assert refused["data"] == (
            f"Invalid subscription: {shown}: it costs 5 units, but only 0 of the 15 of one client are left"
        )
        with Bot(server) as other:
            other.subscribe(type="orderUpdates", user=USERS[4])
            refused = other.ask("subscribe", type="orderUpdates", user=USERS[5])
            assert refused["data"].endswith("it costs 5 units, but only 0 of the 20 of all clients are left")
            server.wait_metric("fasttail_subscriptions_refused_total", 2)
            server.wait_metric("fasttail_subscription_cost", 4 * one)
            assert server.metric("fasttail_subscription_budget") == 4 * one
            assert server.metric("fasttail_client_subscription_cost") == 3 * one
            assert server.metric("fasttail_client_subscription_budget") == 3 * one
            bot.ask("unsubscribe", type="orderUpdates", user=USERS[0])
            other.subscribe(type="orderUpdates", user=USERS[5])
        server.wait_metric("fasttail_subscription_cost", 2 * one)
        bot.subscribe(type="orderUpdates", user=USERS[3])
        append(path, plain(event(oid=7, user=USERS[3])))
        assert [each["order"]["oid"] for each in bot.orders(1)] == [7]
        assert server.metric("fasttail_topics_seconds_total") > 0


def test_equal_subscriptions_cost_their_topic_once(folder: Path, path: Path) -> None:
    with serve(folder, "--subscription-budget", 1010 + 2) as server:
        bots = [Bot(server) for _ in range(4)]
        for bot in bots[:3]:
            bot.subscribe(type="orders")
        assert bots[3].ask("subscribe", type="orders")["channel"] == "error"
        assert bots[3].ask("subscribe", type="status")["channel"] == "error", (
            "its one unit is not left either"
        )
        server.wait_metric("fasttail_subscription_cost", 1012)
        for bot in bots[:3]:
            bot.socket.close()
        server.wait_metric("fasttail_subscription_cost", 0)
        bots[3].subscribe(type="orders")
        bots[3].socket.close()


def test_the_old_channels_have_room_whatever_is_taken(folder: Path, path: Path) -> None:
    with serve(folder, "--subscription-budget", 5) as server, Bot(server) as bot:
        bot.subscribe(type="orderUpdates", user=USERS[0])
        old = server.client()
        append(path, plain(event(oid=1)))
        assert len(old.wait_orders(1)) == 1


steps = st.lists(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe", "leave"]), st.integers(0, 3), st.integers(0, 5)),
    max_size=60,
)


@given(steps=steps, limit=st.integers(1, 2500), share=st.integers(1, 2500))
@settings(deadline=None)
def test_the_sum_is_right_after_anything(steps: list[tuple[str, int, int]], limit: int, share: int) -> None:
    """After any sequence of changes, each topic and each subscription counts once, within the limits."""
    asked = [
        subscribe(type="status"),
        subscribe(type="orderUpdates", user=USERS[1]),
        subscribe(type="orderUpdates", user=USERS[2]),
        subscribe(type="orders", coins=["BTC"]),
        subscribe(type="orders", users=USERS[:20]),
        subscribe(type="orders"),
    ]
    budget = Budget(limit, share)
    accounts = [Account() for _ in range(4)]
    held: list[set[int]] = [set() for _ in range(4)]
    for what, who, which in steps:
        if what == "subscribe" and which not in held[who]:
            try:
                budget.charge(accounts[who], asked[which])
                held[who].add(which)
            except BudgetExceeded:
                pass
        elif what == "unsubscribe" and which in held[who]:
            held[who].remove(which)
            budget.refund(accounts[who], asked[which])
        elif what == "leave":
            for each in held[who]:
                budget.refund(accounts[who], asked[each])
            held[who] = set()
        topics = set().union(*held)
        assert budget.used == sum(topic_cost(asked[each]) for each in topics) + sum(map(len, held))
        for account, own in zip(accounts, held, strict=True):
            assert account.used == sum(topic_cost(asked[each]) + SUBSCRIPTION_COST for each in own) <= share
        assert budget.used <= limit


def one_batch(drive: Drive, path: Path, events: list[dict[str, Any]]) -> None:
    made = path.with_name("made")
    made.write_bytes(plain(*events))
    made.rename(path.with_name("18"))  # complete at once
    drive.until_lines(len(events))
    assert len(drive.ends) == 1


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("together", [True, False])
def test_a_client_that_wants_too_much_makes_gaps_for_itself_only(
    folder: Path, path: Path, workers: int, together: bool
) -> None:
    """A client with too many topics of everything gets gaps in a batch; clients with one topic do not."""
    events = [event(oid=i, coin="AB"[i % 2], children=[{"note": "x" * 400}]) for i in range(1000)]
    noisy = [Topic("orders", format="raw", quota_group=1) for _ in range(200)]
    small = Topic("orders", selector=Selector(coins={"A": 0.0}), format="raw", quota_group=1)
    innocent = [
        Topic("orders", format="full", quota_group=2),
        Topic("orders", selector=Selector(coins={"A": 0.0}), format="full", quota_group=3),
        Topic("orderUpdates", user=events[0]["user"], quota_group=4),
        Topic("orders", format="ws"),  # shared by several clients
    ]
    if not together:
        innocent[0].set_quota_group(0)
    with Drive(folder, workers=workers, window=1 << 21) as drive:
        for topic in (*noisy, small, *innocent):
            number = drive.pipeline.add_topic(topic)
        drive.until_applied(number)
        one_batch(drive, path, events)
        stats = drive.pipeline.stats()
    for topic, count in zip(innocent, (1000, 500, 1000, 1000), strict=True):
        messages = drive.messages(topic)
        assert all(message.data for message in messages), "no gap"
        assert sum(message.orders for message in messages) == count
    assert len(drive.updates()) == len(drive.batched()) == 1000
    cut = [any(not message.data for message in drive.messages(topic)) for topic in noisy]
    assert all(cut), "each has the same share of what its client may have"
    assert all(sum(message.orders for message in drive.messages(topic)) == 1000 for topic in noisy)
    size = len(plain(*events))
    made = sum(len(message.data) for end in drive.ends for message in end.messages)
    assert size * 20 < made <= (32 << 20) + 64 * size + 4 * size, "the bound, and the old channels' beside it"
    assert stats["crowded_batches"] == 1


def test_topics_of_coins_and_users_that_share_a_list(folder: Path, path: Path) -> None:
    """Of thousands of topics found by coin or user, others in the same list get nothing."""
    path.touch()
    topics: dict[Topic, set[int]] = {}
    for i in range(3000):
        topics[Topic("orders", selector=Selector(coins={f"C{i}": 0.0, f"C{i + 1}": 0.0}))] = {i, i + 1}
        topics[Topic("orders", selector=Selector(users=[USERS[i % 2000].upper().replace("X", "x")]))] = {
            i % 2000
        }
    wanted = set(range(0, 3000, 7))
    events = [event(oid=i, coin=f"C{i}", user=USERS[i % 2000]) for i in sorted(wanted)]
    late = [event(oid=5000 + i, coin=f"C{i}", user="0x" + "f" * 40) for i in range(10)]
    with Drive(folder, window=1 << 20, frames=False, pieces=False) as drive:
        for topic in topics:
            number = drive.pipeline.add_topic(topic)
        drive.until_applied(number)
        append(path, plain(*events))
        drive.until_lines(len(events))
        for topic, own in topics.items():
            got = [each["order"]["oid"] for m in drive.messages(topic) for each in payload(m.data)["data"]]
            of_coins = sorted(own & wanted)
            by_user = sorted(i for i in wanted if i % 2000 in own)
            assert got == (of_coins if len(own) == 2 else by_user)
        drive.notes.clear()
        for topic in list(topics)[::2]:  # topics of coins are removed from the middle of their lists
            number = drive.pipeline.remove_topic(topic)
        drive.until_applied(number)
        append(path, plain(*late))
        drive.until_lines(len(late))
        assert not [message for end in drive.ends for message in end.messages]


def payload(frame: bytes) -> dict[str, Any]:
    text: dict[str, Any] = json.loads(frame[frame.index(b"{") :])
    return text


def test_a_topic_for_which_there_is_no_room_says_so(folder: Path, path: Path) -> None:
    with Drive(folder, max_topics=2) as drive:
        topics = [Topic("orders"), Topic("orderUpdates", user=USERS[0]), Topic("orders")]
        for topic in topics:
            number = drive.pipeline.add_topic(topic)
        drive.until_applied(number)
        assert [topic.refused for topic in topics] == [False, False, True], "the old channels do not count"
        drive.pipeline.remove_topic(topics[2])  # like any other; no other topic is removed instead
        drive.until_applied(drive.pipeline.remove_topic(topics[0]))
        again = Topic("orders")
        drive.until_applied(drive.pipeline.add_topic(again))
        assert not again.refused
        append(path, plain(event(oid=1, user=USERS[0])))
        drive.until_lines(1)
        assert [len(drive.messages(topic)) for topic in (*topics, again)] == [0, 1, 0, 1]
        assert len(drive.updates()) == 1


class NoReplays:
    """Nobody is behind, and nobody resumes."""

    async def find_start(self, request: ClientRequest) -> ReplayStart:
        raise AssertionError(request)

    async def find_recent(self, before: object, size: int) -> None:
        raise AssertionError

    def start_replay(self, _: Member) -> None: ...
    def cancel_replay(self, _: Member) -> None: ...
    def on_client_writable(self) -> None: ...
    def lag_report(self) -> dict[Client, Any]:
        return {}


class Recorded(PublicClient):
    """A client whose messages are kept instead of written to a socket."""

    def __init__(self, service: PublicService) -> None:
        super().__init__(service)
        self.got: list[dict[str, Any]] = []

    @property
    def is_open(self) -> bool:
        return True

    def send(self, data: bytes, *, limit: int | None = None) -> bool:
        self.got.append(payload(data))
        return True

    def ask(self, **subscription: Any) -> None:
        self.on_text(json.dumps({"method": "subscribe", "subscription": subscription}).encode())


@pytest.mark.parametrize("more", [{}, {"since": "2026-05-05T17:00:00"}])
def test_a_topic_that_could_not_be_added_is_an_error_to_its_clients(
    folder: Path, path: Path, more: dict[str, str]
) -> None:
    """The subscription is neither active nor pending forever, and works once there is space again."""

    async def main(drive: Drive) -> None:
        feeds = Feeds(drive.pipeline, "epoch")
        budget = Budget(10**6, 10**6)
        hub = Hub(CHANNELS)
        service = PublicService(
            hub,
            {"orders": StreamService(feeds, NoReplays(), NoReplays())},
            queue_limit=1 << 20,
            max_message=1 << 16,
            max_subscriptions=99,
            budget=budget,
        )
        one, other = Recorded(service), Recorded(service)

        def look() -> None:
            drive.take()
            for change in drive.changes:
                feeds.on_commands_applied(change.number, change)

        asyncio.get_running_loop().add_reader(drive.pipeline.ready_fd, look)
        one.ask(type="orders")
        await until(lambda: len(one.got) == 1, 30)
        for client in (one, other):
            client.ask(type="orderUpdates", user=USERS[0], **more)
        await until(lambda: len(one.got) == 2 and len(other.got) == 1, 30)
        for client in (one, other):
            assert client.got[-1]["channel"] == "error"
            assert client.got[-1]["data"].endswith("the server cannot take another topic; try again later")
        assert list(other.members) == []
        assert budget.used == 1010
        one.on_closing()
        assert (budget.used, len(feeds)) == (0, 0)
        other.ask(type="orderUpdates", user=USERS[0])
        await until(lambda: len(other.got) == 2, 30)
        assert other.got[-1]["channel"] == "subscriptionResponse"
        asyncio.get_running_loop().remove_reader(drive.pipeline.ready_fd)

    with Drive(folder, max_topics=1, frames=False, pieces=False) as drive:
        asyncio.run(main(drive))


def test_a_topic_counts_to_the_client_that_has_it_alone(folder: Path, path: Path) -> None:
    """A topic shared by two clients counts for neither."""

    class Counted:
        def __init__(self) -> None:
            self.groups: list[int] = []
            self.id = 1
            self.refused = False

        def set_quota_group(self, quota_group: int) -> None:
            self.groups.append(quota_group)

    class Member:
        live = False

        def __init__(self, quota_group: int) -> None:
            self.quota_group = quota_group

        def send_live_gap(self, to: str, position: str) -> None:
            raise AssertionError

        def send_live(self, _: object) -> bool:
            return True

    class Pipe:
        def add_topic(self, _: object) -> int:
            return 1

        remove_topic = follow = unfollow = add_topic

    feeds = Feeds(Pipe(), "epoch")
    topic = Counted()
    feed = feeds.get_or_create("key", lambda *, seq: topic, Channel("orders"))  # type: ignore[arg-type]
    one, other = Member(5), Member(6)
    feed.add_member(one)
    feed.add_member(other)
    feeds.remove_member(feed, one)
    assert topic.groups == [5, 0, 6]
