"""/ws: each request gets one answer, in the order of the requests, even if something is slow or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from lines import event, plain
from running import PATIENCE_S, Serve, hour_file, serve, wait_for
from serving import PING, TEXT, RawClient, close_frame, masked, run, serving, until, upgrade
from serving import PONG as PONG_FRAME
from test_budget import NoReplays
from test_ws import USERS, Bot, append
from websockets.exceptions import ConnectionClosed

from fasttail.connection.hub import Hub
from fasttail.engine.topics import Topic
from fasttail.publish import legacy_api as legacy
from fasttail.publish import public_api as public
from fasttail.publish.budget import Budget
from fasttail.publish.feeds import Feeds
from fasttail.publish.subscriptions import ClientRequest, RequestError

A = {"type": "orderUpdates", "user": USERS[0]}
B = {"type": "orders", "coins": ["BTC"]}
START = "p2026050517-0000000000000-0000000"
PONG = {"channel": "pong"}

Message = dict[str, Any] | str | bytes


def subscribe(subscription: dict[str, Any]) -> dict[str, Any]:
    return {"method": "subscribe", "subscription": subscription}


def unsubscribe(subscription: dict[str, Any]) -> dict[str, Any]:
    return {"method": "unsubscribe", "subscription": subscription}


def gist(message: dict[str, Any]) -> str:
    """Summarize an answer: "subscribe orders", "pong", or the beginning of an error."""
    match message:
        case {"channel": "subscriptionResponse", "data": {"method": method, "subscription": {"type": kind}}}:
            return f"{method} {kind}"
        case {"channel": "error", "data": text}:
            return str(text).partition(":")[0]
        case {"channel": "post", "data": {"id": number}}:
            return f"post {number}"
        case {"channel": channel}:
            return str(channel)
    raise AssertionError(message)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = hour_file(tmp_path / "data", "plain", "20260505", 17)
    path.write_bytes(plain(*(event(oid=i, coin="ETH", user=USERS[4]) for i in range(100))))
    return path


@pytest.fixture
def server(path: Path, tmp_path: Path) -> Iterator[Serve]:
    # No replay is refused: there are enough slots for all that one client may have here.
    with serve(tmp_path / "data", "--max-messages-per-minute", 0, "--max-replays", 16) as running:
        yield running


def hanging(path: Path, seconds: float, *options: object) -> Any:
    """Start a server whose first batch hangs for `seconds`, during which it adds no topic."""
    folder = path.parents[3]
    stalled = ("--debug-stall", seconds, "--from", "oldest", "--max-messages-per-minute", 0)
    return serve(folder, *stalled, *options)


BURSTS: list[list[tuple[Message, str]]] = [
    [
        (subscribe(A), "subscribe orderUpdates"),
        (unsubscribe(A), "unsubscribe orderUpdates"),
        (subscribe(A), "subscribe orderUpdates"),
    ],
    [
        (subscribe(A), "subscribe orderUpdates"),
        ({"method": "ping"}, "pong"),
        ("what?", "Error parsing JSON into valid websocket request"),
        (b"\x00\xff", "Error parsing JSON into valid websocket request"),
        (subscribe(A), "Already subscribed"),
        (unsubscribe(B), "Already unsubscribed"),
        (subscribe({"type": "status"}), "subscribe status"),
        ({"method": "post", "id": 7, "request": {"type": "info", "payload": {}}}, "post 7"),
        (subscribe({"type": "l2Book", "coin": "BTC"}), "Invalid subscription"),
        (subscribe(B), "subscribe orders"),
        (unsubscribe(A), "unsubscribe orderUpdates"),
        (unsubscribe(A), "Already unsubscribed"),
        ({"method": "ping"}, "pong"),
    ],
    [
        (subscribe({**B, "cursor": START}), "subscribe orders"),
        (subscribe(A), "subscribe orderUpdates"),
        ({"method": "ping"}, "pong"),
        (unsubscribe(B), "unsubscribe orders"),
        (subscribe({**B, "since": "2026-05-05T20:00:00"}), "subscribe orders"),
        (subscribe(B), "Already subscribed"),
    ],
    [
        (subscribe({**B, "cursor": "nonsense"}), "Invalid subscription"),
        (unsubscribe(B), "Already unsubscribed"),
        (subscribe(B), "subscribe orders"),
        (subscribe({**A, "since": "1999-01-01T00:00:00"}), "Invalid subscription"),
        (subscribe(A), "subscribe orderUpdates"),
    ],
]


def answers(bot: Bot, count: int) -> list[dict[str, Any]]:
    """Return the next answers, skipping data messages and replay notices."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        message = bot.next()
        # a `status` message has an object, a subscriptionResponse too
        if message["channel"] not in ("orders", "orderUpdates", "status", "live"):
            found.append(message)
    return found


def send(bot: Bot, messages: list[Message]) -> None:
    for message in messages:
        bot.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))


@pytest.mark.parametrize("burst", BURSTS, ids=["the same", "all kinds", "resuming", "refused"])
@pytest.mark.parametrize("hangs", [True, False])
def test_a_burst_is_answered_in_its_order(path: Path, hangs: bool, burst: list[tuple[Message, str]]) -> None:
    with hanging(path, 2 if hangs else 0) as server:
        for _ in range(1 if hangs else 10):
            with Bot(server) as bot:
                send(bot, [request for request, _ in burst])
                assert [gist(answer) for answer in answers(bot, len(burst))] == [gist for _, gist in burst]


class Model:
    """A client whose requests are served one after the other."""

    def __init__(self) -> None:
        self.subscribed: set[str] = set()

    def answer(self, method: str, key: str, *, good: bool) -> str:
        kind = json.loads(key)["type"]
        if method == "ping":
            return "pong"
        if method == "subscribe":
            if key in self.subscribed:
                return "Already subscribed"
            if not good:
                return "Invalid subscription"
            self.subscribed.add(key)
        elif key not in self.subscribed:
            return "Already unsubscribed"
        else:
            self.subscribed.discard(key)
        return f"{method} {kind}"


@pytest.mark.parametrize("seed", range(4))
def test_any_requests_are_answered_as_if_one_by_one(server: Serve, seed: int) -> None:
    chance = random.Random(seed)
    what: list[dict[str, Any]] = [A, B, {"type": "status"}, {"type": "orders", "coins": ["SOL"]}]
    with Bot(server) as bot:
        model = Model()
        for _ in range(20):
            requests: list[Message] = []
            wanted = []
            for _ in range(chance.randrange(1, 40)):
                method = chance.choice(["subscribe", "subscribe", "unsubscribe", "ping"])
                chosen = chance.choice(what)
                begin = (
                    {} if chosen["type"] == "status" else {"cursor": chance.choice([None, START, "x" * 9])}
                )
                good = begin.get("cursor") != "x" * 9
                requests.append(
                    {"method": "ping"}
                    if method == "ping"
                    else {"method": method, "subscription": {**chosen, **begin}}
                )
                wanted.append(model.answer(method, json.dumps(chosen), good=good))
            send(bot, requests)
            found = [gist(answer) for answer in answers(bot, len(requests))]
            assert found == wanted


def test_no_data_of_a_subscription_comes_before_its_answer_or_after_its_end(
    server: Serve, path: Path
) -> None:
    stop = threading.Event()

    def write() -> None:
        oid = 1000
        while not stop.is_set():
            append(path, plain(*(event(oid=oid + i, user=user) for i, user in enumerate(USERS))))
            oid += len(USERS)
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with Bot(server) as bot:
            on: set[str] = set()
            given = 0
            for _ in range(30):
                send(
                    bot,
                    [
                        {"method": method, "subscription": {"type": "orderUpdates", "user": user}}
                        for user in USERS
                        for method in ("subscribe", "unsubscribe", "subscribe")
                    ],
                )
                left = 3 * len(USERS)
                while left or given < 50:
                    message = bot.next()
                    if message["channel"] == "orderUpdates":
                        assert message["user"] in on
                        given += 1
                        continue
                    left -= 1
                    user = message["data"]["subscription"]["user"]
                    (on.add if message["data"]["method"] == "subscribe" else on.remove)(user)
                send(bot, [unsubscribe({"type": "orderUpdates", "user": user}) for user in USERS])
                while on:
                    message = bot.next()
                    if message["channel"] == "subscriptionResponse":
                        on.remove(message["data"]["subscription"]["user"])
                given = 0
    finally:
        stop.set()
        writer.join()


def test_a_long_replay_delays_no_answer_and_no_other_subscription(tmp_path: Path, path: Path) -> None:
    """The client reads only up to the answers, so the replay cannot end and they must come before its end."""
    path.write_bytes(plain(*(event(oid=i) for i in range(60_000))))
    with serve(tmp_path / "data", "--client-queue", "256k") as server, Bot(server) as bot:
        send(
            bot,
            [
                subscribe({**B, "format": "raw", "cursor": START}),
                {"method": "ping"},
                subscribe(A),
                unsubscribe({"type": "status"}),
            ],
        )
        seen: list[str] = []
        while seen[-1:] != ["Already unsubscribed"]:
            seen.append(gist(bot.next()))
        append(path, plain(event(oid=99_999, coin="ETH", user=USERS[0])))
        server.wait_metric("fasttail_lines_total", 1)
        while seen[-1] != "live":
            seen.append(gist(bot.next()))
        assert [each for each in seen if each != "orders"] == [
            "subscribe orders",
            "pong",
            "subscribe orderUpdates",
            "Already unsubscribed",
            "orderUpdates",
            "live",
        ]


def test_while_the_pipeline_hangs_there_is_an_answer_in_time(path: Path) -> None:
    """While the pipeline hangs, every request is answered in time; afterwards everything works as before."""
    with hanging(path, public.REPLY_TIMEOUT_S + 4) as server, Bot(server) as bot:
        began = time.monotonic()
        send(bot, [subscribe(A), {"method": "ping"}, subscribe(B), unsubscribe(A), {"method": "ping"}])
        first, *rest = answers(bot, 5)
        assert time.monotonic() - began < public.REPLY_TIMEOUT_S + 3, (
            "the pipeline hung no longer: nothing is shown"
        )
        assert first["channel"] == "error"
        assert first["data"] == (
            f"Invalid subscription: {json.dumps(A, separators=(',', ':'))}: it could not start within 8 s, "
            "the server is busy; try again later"
        )
        assert [gist(each) for each in rest] == [
            "pong",
            "Invalid subscription",
            "Already unsubscribed",
            "pong",
        ]
        wait_for("the batch to end", lambda: server.metric("fasttail_lines_total") == 100)
        send(bot, [subscribe(A)])
        assert [gist(each) for each in answers(bot, 1)] == ["subscribe orderUpdates"]
        append(path, plain(event(oid=1000, user=USERS[0])))
        assert [each["order"]["oid"] for each in bot.orders(1)] == [1000]


def test_who_goes_before_the_answers_leaves_nothing_behind(path: Path) -> None:
    with hanging(path, 3) as server:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
                client.sendall(upgrade("/ws"))
                client.recv(4096)
                burst = [subscribe(A), subscribe(B), unsubscribe(A), subscribe({**B, "coins": ["X"]})]
                client.sendall(b"".join(masked(TEXT, json.dumps(each).encode()) for each in burst))
        with Bot(server) as bot:
            bot.subscribe(**A)
            server.wait_metric("fasttail_topics", 1)
            server.wait_metric("fasttail_subscriptions", 1)
        server.wait_metric("fasttail_topics", 0)


def test_a_shutdown_ends_what_waits_for_its_answer(path: Path) -> None:
    with hanging(path, 5) as server, Bot(server) as bot:
        send(bot, [subscribe(A), {"method": "ping"}])
        wait_for("the subscription", lambda: server.metric("fasttail_topics") == 1)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            bot.next()
        assert (bot.socket.close_code, bot.socket.close_reason) == (1001, "going away")
    assert not server.count("Traceback")


def test_a_client_that_sends_more_than_can_be_answered_is_not_read_from(path: Path) -> None:
    """A server with blocked answers stops reading from the client, and answers all in the end."""
    request = b"?" * 60_000
    frame = masked(TEXT, request)
    most = 200
    with hanging(path, 4) as server:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        client.connect(("127.0.0.1", server.port))
        with client:
            client.sendall(upgrade("/ws"))
            client.recv(4096)
            client.sendall(masked(TEXT, json.dumps(subscribe(A)).encode()))
            client.settimeout(1)
            sent = 0
            rest = frame * most
            with contextlib.suppress(TimeoutError):
                while rest:
                    taken = client.send(rest)
                    sent += taken
                    rest = rest[taken:]
            assert sent < 2 << 20
            client.settimeout(PATIENCE_S)
            got = bytearray()
            done = threading.Event()

            def read() -> None:
                while got.count(b"Error parsing JSON") < most:
                    got.extend(client.recv(1 << 16))
                done.set()

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            client.sendall(rest)
            assert done.wait(PATIENCE_S)
            assert got.find(b"subscriptionResponse") < got.find(b"Error parsing JSON")


def test_requests_that_inflate_while_they_wait_are_bounded_too(path: Path) -> None:
    """Pending requests are also bounded when they inflate: the client is closed with 1008."""
    deflate = zlib.compressobj(wbits=-15)
    small = (deflate.compress(b"?" * 60_000) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    burst = masked(TEXT, json.dumps(subscribe(A)).encode()) + masked(TEXT, small, rsv=4) * 100
    with (
        hanging(path, 4, "--compression") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client,
    ):
        client.sendall(upgrade("/ws", "Sec-WebSocket-Extensions: permessage-deflate"))
        assert b"permessage-deflate" in client.recv(4096)
        client.sendall(burst)
        got = b""
        while more := client.recv(4096):
            got += more
            client.sendall(close_frame(1008))
        assert got[2:4] == (1008).to_bytes(2, "big")
        assert got[4:] == b"too many pending requests"


def test_control_frames_are_no_requests(path: Path) -> None:
    """An unsolicited pong has no answer, and a ping's pong does not wait for a subscribe's answer."""
    with (
        hanging(path, 3) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client,
    ):
        client.sendall(upgrade("/ws"))
        client.recv(4096)
        asked = masked(TEXT, json.dumps(subscribe(A)).encode())
        client.sendall(masked(PONG_FRAME, b"unasked") + asked + masked(PING, b"1") + masked(PONG_FRAME))
        got = b""
        while b"subscriptionResponse" not in got:
            got += client.recv(4096)
        assert got.startswith(bytes((0x80 | PONG_FRAME, 1)) + b"1")
        assert got.count(b"channel") == 1


# Both the client and the subscription's task may end it


class Pipe:
    """Accepts topics and never confirms them."""

    def __init__(self) -> None:
        self.topics: list[int] = []

    def add_topic(self, topic: Topic) -> int:
        self.topics.append(topic.id)
        return len(self.topics)

    def remove_topic(self, topic: Topic) -> int:
        self.topics.remove(topic.id)
        return 0

    def follow(self, stream: str) -> int:
        raise AssertionError(stream)

    unfollow = follow


def served(pipe: Pipe, start_finder: public.ReplayStartFinder | None = None) -> public.PublicService:
    return public.PublicService(
        Hub((*legacy.CHANNELS, *public.CHANNELS)),
        {"orders": public.StreamService(Feeds(pipe, "e"), start_finder or NoReplays(), NoReplays())},
        queue_limit=1 << 20,
        max_message=1 << 18,
        max_subscriptions=10,
        budget=Budget(10**6, 10**6),
    )


@asynccontextmanager
async def subscribed(
    service: public.PublicService, subscription: dict[str, Any]
) -> AsyncIterator[public.Member]:
    """Yield a client's subscription that waits for the pipeline, then disconnect the client."""
    async with serving(hub=service.hub, routes={public.PATH: service.make_client}) as server:
        raw = await RawClient.connect(server.port, public.PATH)
        raw.send(masked(TEXT, json.dumps(subscribe(subscription)).encode()))
        await until(lambda: any(client.exempt_from_idle for client in service.hub.clients))
        client = server.client()
        assert isinstance(client, public.PublicClient)
        (member,) = client.members.values()
        yield member
        raw.reset()
        await until(lambda: not service.hub.clients)


class Ending:
    """Refuses every start, after calling `before`."""

    def __init__(self, before: Callable[[], None]) -> None:
        self.before = before

    async def find_start(self, request: ClientRequest) -> public.ReplayStart:
        await asyncio.sleep(0)
        self.before()
        raise RequestError("lost")

    async def find_recent(self, before: object, size: int) -> None:
        raise AssertionError


@pytest.mark.parametrize("again", [False, True])
def test_a_subscription_that_has_two_ends_ends_once(again: bool) -> None:
    ended = []
    client: public.PublicClient | None = None

    def before() -> None:
        assert client is not None
        member = next(iter(client.members.values()))
        if again:
            member.client.on_text(json.dumps(unsubscribe(B)).encode())
            member.client.on_text(json.dumps(subscribe(B)).encode())
        else:
            member.client.on_closing()
        ended.append(member)

    async def main() -> None:
        nonlocal client
        pipe = Pipe()
        service = served(pipe, Ending(before))
        async with subscribed(service, {**B, "cursor": START}) as member:
            client = member.client
            assert member.feed is not None
            assert member.task is not None
            member.feed.active.set()
            await member.task
            assert ended == [member]
            assert len(client.members) == len(pipe.topics) == again
        await until(lambda: not pipe.topics)

    run(main())


def test_a_feed_that_is_paused_again_before_a_member_wakes_makes_nobody_live() -> None:
    """A member that falls behind pauses the shared feed, for which the pipeline then makes no messages."""

    async def main() -> None:
        pipe = Pipe()
        service = served(pipe)
        async with subscribed(service, B) as member:
            feed = member.feed
            assert feed is not None
            feed.active.set()
            service.streams["orders"].feeds.pause_feed(feed)
            assert not pipe.topics
            await until(lambda: bool(pipe.topics))  # it requests the topic again
            assert not member.live
            feed.active.set()
            await until(lambda: member.live)

    run(main())


def test_what_was_sent_is_not_kept_once_it_is_answered() -> None:
    """The request, as large as a message may be, is released once it is answered."""

    async def main() -> None:
        sent = {**A, "more": ["x" * 100] * 30}
        async with subscribed(served(Pipe()), sent) as member:
            assert member.feed is not None
            assert member.task is not None
            assert member.request.sent == sent
            member.feed.active.set()
            await member.task
            assert member.live
            assert member.request.sent == {}

    run(main())
