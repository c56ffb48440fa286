"""Members that fall behind and catch up at random, over a real pipeline and real files.

The node appends, starts hours and dates, writes late lines, truncates and deletes. Clients read at any pace,
and some disconnect and resume. The messages of each subscription are compared with what was written.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from driving import Drive
from lines import event
from running import PATIENCE_S
from test_ws import by_layout

from fasttail.connection.hub import Hub
from fasttail.engine.events import BatchEnd, FileOpened, TopicsChanged
from fasttail.publish.budget import Budget
from fasttail.publish.feeds import Feeds
from fasttail.publish.public_api import CHANNELS, PublicClient, PublicService, StreamService, make_topic
from fasttail.publish.queue_limit import QueueLimit
from fasttail.replay.replays import ReplayManager
from fasttail.replay.resume import ReplayStartFinder
from fasttail.replay.threads import ReplayThreads
from fasttail.sources.cursor import BlockPosition, CursorPosition
from fasttail.sources.layout import parse_hour_path

SEEDS = int(os.environ.get("FASTTAIL_REPLAY_SEEDS") or 2)
"""More seeds: `FASTTAIL_REPLAY_SEEDS=100 pytest tests/test_replays.py`."""

USERS = [f"0x{number:040x}" for number in range(5)]
QUEUE = 64 << 10


@dataclass
class Wanted:
    """A subscription, and what its client has received."""

    subscription: dict[str, Any]
    wants: Callable[[int], bool]
    got: list[int] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    cursor: str = ""
    seq: int | None = None

    def take(self, message: dict[str, Any]) -> None:
        channel = message["channel"]
        if channel in ("orders", "orderUpdates"):
            assert ("seq" in message) == (self.seq is not None)
            if self.seq is not None:
                assert (message["prev"], message["seq"]) == (self.seq, self.seq + 1)
                self.seq += 1
            self.got += [each["order"]["oid"] for each in message["data"]]
            self.cursor = message["cursor"]
            return
        self.told.append(channel)
        if channel == "subscriptionResponse":
            self.seq = None if message["seq"] is None else message["seq"] - 1
            self.cursor = message["cursor"]
        elif channel == "replay":
            assert self.seq is not None
            self.seq = None
            self.cursor = message["data"]["cursor"]
        elif channel == "live":
            assert self.seq is None
            self.seq = message["seq"] - 1
            self.cursor = message["cursor"]
        else:
            assert channel == "gap", message
            self.gaps.append(message["data"])
            self.cursor = message["data"]["to"]


class Reader(PublicClient):
    """A client of one subscription, whose socket accepts only what `read` takes from its queue."""

    def __init__(self, service: PublicService, wanted: Wanted) -> None:
        super().__init__(service)
        self.wanted = wanted
        self.queue: deque[bytes] = deque()
        self.waiting = 0
        self.gone = False
        self.breaking = False  # its connection is broken, but the server does not know yet
        service.hub.clients.add(self)
        subscription = {**wanted.subscription, **({"cursor": wanted.cursor} if wanted.cursor else {})}
        self.on_text(json.dumps({"method": "subscribe", "subscription": subscription}).encode())

    @property
    def queued_bytes(self) -> int:
        return self.waiting

    @property
    def is_open(self) -> bool:
        if self.breaking and not self.gone:
            self.go()
        return not self.gone

    def send(self, data: bytes, *, limit: int | None = None) -> bool:
        if not self.is_open:
            return False
        assert self.waiting <= (self.queue_limit if limit is None else limit), "it would be closed"
        self.queue.append(data)
        self.waiting += len(data)
        self.hub.written_bytes += len(data)
        return True

    def read(self, size: int) -> None:
        before = self.waiting
        while self.queue and size > 0:
            data = self.queue.popleft()
            size -= len(data)
            self.waiting -= len(data)
            self.wanted.take(json.loads(data[data.index(b'{"channel"') :]))
        if before > 16 << 10 >= self.waiting:
            self.on_writable()

    def go(self) -> None:
        self.gone = True
        self.on_closing()
        self.hub.clients.discard(self)


class World:
    """A node, a pipeline, and clients."""

    def __init__(self, folder: Path, drive: Drive, layout: str, chance: random.Random) -> None:
        self.folder, self.drive, self.layout, self.chance = folder, drive, layout, chance
        self.hour = 22
        self.written = 0
        self.late: set[int] = set()
        self.lost: set[int] = set()  # were in a file that was truncated or deleted
        self.of_hour: dict[int, list[int]] = {}
        self.times_begun_anew = self.times_told = self.begin_offset = 0
        self.feeds = Feeds(drive.pipeline, "epoch")
        hub = Hub(CHANNELS)
        self.queue_limit = QueueLimit(hub, 6 * QUEUE)
        looked = asyncio.Event()
        looked.set()
        self.start_finder = ReplayStartFinder(
            folder, layout=lambda: drive.follower.layout, ready=looked, max_line=1 << 20
        )
        self.threads = ReplayThreads(chance.choice([1, 2, 4]))
        self.replays = ReplayManager(
            self.feeds,
            folder,
            partial(make_topic, max_message=64 << 10, for_replay=True),
            threads=self.threads,
            window=chance.choice([4 << 10, 64 << 10]),
            max_line=1 << 20,
            max_behind_s=3600.0,
            on_delivered=self.queue_limit.enforce,
            deliver_replayed=delivers_replayed(layout),
        )
        self.service = PublicService(
            hub,
            {"orders": StreamService(self.feeds, self.start_finder, self.replays)},
            queue_limit=QUEUE,
            max_message=64 << 10,
            max_subscriptions=99,
            budget=Budget(10**6, 10**6),
        )
        asyncio.get_running_loop().add_reader(drive.pipeline.ready_fd, self.take)
        kinds: list[tuple[dict[str, Any], Callable[[int], bool]]] = [
            ({"type": "orders", "format": "raw"}, lambda _: True),
            ({"type": "orders", "format": "raw", "coins": ["A"]}, lambda n: n % 3 == 0),
            *(
                ({"type": "orderUpdates", "user": user}, partial(lambda i, n: n % 5 == i, i))
                for i, user in enumerate(USERS)
            ),
        ]
        self.clients = [Reader(self.service, Wanted(*chance.choice(kinds))) for _ in range(12)]

    def take(self) -> None:
        for note in self.drive.pipeline.drain(4):
            if isinstance(note, TopicsChanged):
                self.feeds.on_commands_applied(note.number, note)
            elif isinstance(note, FileOpened):
                found = parse_hour_path(self.folder, note.file[0])
                assert found is not None
                position = CursorPosition(found[1].number, note.end)
                self.feeds.set_source(found[0], position, note.block)
                if self.times_told != self.times_begun_anew:
                    self.times_told = self.times_begun_anew
                    begin = BlockPosition(7000 + self.of_hour[self.hour][0] // 10, 0)
                    self.feeds.report_gap(
                        position, self.begin_offset, begin if note.block is not None else None
                    )
            elif isinstance(note, BatchEnd):
                self.feeds.deliver_batch(note.messages, note)
                self.queue_limit.enforce()

    def path(self, hour: int) -> Path:
        stem = "node_order_statuses" + ("" if self.layout == "plain" else f"_{self.layout}")
        path = self.folder / stem / "hourly" / f"{20260505 + hour // 24}" / str(hour % 24)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def end_of(self, hour: int) -> CursorPosition:
        return CursorPosition(2026050500 + 100 * (hour // 24) + hour % 24, self.path(hour).stat().st_size)

    def append(self, hour: int | None = None, most: int = 200) -> None:
        count = self.chance.randrange(1, most)
        numbers = range(self.written, self.written + count)
        events = [event(oid=n, coin="ABC"[n % 3], user=USERS[n % 5]) for n in numbers]
        with self.path(self.hour if hour is None else hour).open("ab") as file:
            file.write(by_layout(self.layout, events))
        self.written += count
        self.of_hour.setdefault(self.hour if hour is None else hour, []).extend(numbers)
        if hour is not None:
            self.late.update(numbers)

    def begin_anew(self) -> None:
        """Replace all files, as a relay does that was away for long. The next order is of another block."""
        self.begin_offset = self.path(self.hour).stat().st_size
        if self.chance.random() < 0.3:
            self.hour += 1
            self.begin_offset = 0
        self.lost.update(range(self.written, -(-self.written // 10) * 10))
        self.written = -(-self.written // 10) * 10
        self.lost.update(number for numbers in self.of_hour.values() for number in numbers)
        self.of_hour.clear()
        shutil.rmtree(self.path(self.hour).parent.parent)
        self.times_begun_anew += 1
        with self.path(self.hour).open("ab") as file:
            file.truncate(self.begin_offset)
        self.append()

    def is_read(self) -> bool:
        """Return whether the pipeline has read everything there is."""
        if self.times_begun_anew:
            return self.times_told == self.times_begun_anew and self.feeds.high_watermark == self.end_of(
                self.hour
            )
        return int(self.drive.pipeline.stats()["orders"]) >= self.written

    def read(self) -> None:
        for client in self.clients:
            if self.chance.random() < 0.3:
                client.read(self.chance.choice([1, 20_000, 1 << 20]))

    def cut_off(self) -> None:
        """Disconnect one client and reconnect it at its cursor."""
        at = self.chance.randrange(len(self.clients))
        if self.clients[at].wanted.cursor:
            self.clients[at].breaking = True
            if self.chance.random() < 0.5:
                self.clients[at].go()
            self.clients[at] = Reader(self.service, self.clients[at].wanted)

    async def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            assert self.drive.pipeline.failure is None, self.drive.pipeline.failure
            if time.monotonic() > deadline:
                raise AssertionError([(each.wanted.told[-3:], len(each.wanted.got)) for each in self.clients])
            await asyncio.sleep(0.002)

    async def settle(self) -> None:
        """Wait until every client has read everything."""

        def settled() -> bool:
            for client in self.clients:
                client.read(1 << 30)
            return self.is_read() and all(
                each.wanted.seq is not None and each.wanted.told for each in self.clients
            )

        await self.until(settled)
        await asyncio.sleep(0.05)
        await self.until(settled)

    def check(self) -> None:
        for client in self.clients:
            wanted = client.wanted
            first = wanted.got[0] if wanted.got else self.written
            due = [n for n in range(self.written) if wanted.wants(n)]
            assert len(set(wanted.got)) == len(wanted.got), "doubles"
            on_time = [n for n in wanted.got if n not in self.late]
            assert on_time == sorted(on_time)
            missing = set(due) - set(wanted.got)
            assert missing <= self.lost, (
                wanted.subscription,
                wanted.told,
                sorted(missing - self.lost)[:9],
                first,
            )
            told = any(gap["orders"] is None for gap in wanted.gaps)
            assert told or not missing, (wanted.subscription, wanted.told, min(missing), max(missing))
            assert self.lost or not wanted.gaps

    async def end(self) -> None:
        asyncio.get_running_loop().remove_reader(self.drive.pipeline.ready_fd)
        for client in self.clients:
            client.go()
        self.start_finder.close()
        self.replays.close()
        self.threads.close()
        await asyncio.sleep(0.05)


async def run(folder: Path, drive: Drive, layout: str, chance: random.Random, steps: list[str]) -> World:
    world = World(folder, drive, layout, chance)
    try:
        await act(world, drive, chance, steps)
        await world.settle()
        world.check()
    finally:
        await world.end()
    return world


async def act(world: World, drive: Drive, chance: random.Random, steps: list[str]) -> None:
    await world.until(lambda: all(client.queue for client in world.clients))
    world.append()
    for client in world.clients:
        client.read(1 << 20)
    for _ in range(250):
        step = chance.choice(steps)
        if step == "append":
            world.append()
        elif step == "hour":
            world.hour += 1
            world.append()
        elif step == "late":
            await world.until(lambda: int(drive.pipeline.stats()["orders"]) >= world.written)
            former = [hour for hour in world.of_hour if world.hour - 2 < hour < world.hour]
            if former:
                world.append(former[-1])
        elif step == "cut off":
            world.cut_off()
        elif step == "truncate":
            if world.of_hour.get(world.hour):
                await truncate(world)
        elif step == "delete":
            delete(world)
        elif step == "begin anew" and not world.times_begun_anew:  # else one gap would hide another
            world.begin_anew()
        world.read()
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.005]))


async def truncate(world: World) -> None:
    drive = world.drive
    await world.until(lambda: int(drive.pipeline.stats()["orders"]) >= world.written)
    count = drive.follower.truncations
    world.path(world.hour).write_bytes(b"")
    world.lost.update(world.of_hour.pop(world.hour, []))
    await world.until(lambda: drive.follower.truncations > count)


def delete(world: World) -> None:
    hours = [hour for hour in world.of_hour if hour < world.hour and world.path(hour).exists()]
    if hours and int(world.drive.pipeline.stats()["orders"]) >= world.written:
        hour = world.chance.choice(hours)
        world.path(hour).unlink()
        world.lost.update(world.of_hour.pop(hour))


def delivers_replayed(layout: str) -> bool:
    """Return whether every line is delivered in a layout: late ones have newer blocks here than a node's."""
    return layout != "streaming"


def driven(folder: Path, grace_s: float, layout: str = "by_block") -> Drive:
    return Drive(
        folder,
        frames=False,
        pieces=False,
        grace_s=grace_s,
        window=16 << 10,
        deliver_replayed=delivers_replayed(layout),
    )


APPEND = ["append"] * 10 + ["hour"]
KINDS = {
    "cut off": [*APPEND, "cut off", "cut off"],
    "late": [*APPEND, "late", "late"],
    "deleted": [*APPEND, "delete"],
    "truncated": [*APPEND * 4, "truncate"],
}


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("layout", ["plain", "by_block"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_order_once(tmp_path: Path, kind: str, layout: str, seed: int) -> None:
    chance = random.Random(f"{kind} {layout} {seed}")

    async def main(drive: Drive) -> World:
        return await run(tmp_path, drive, layout, chance, KINDS[kind])

    grace = 0.3 if kind == "truncated" else 60.0
    with driven(tmp_path, grace) as drive:
        world = asyncio.run(main(drive))
    told = [channel for client in world.clients for channel in client.wanted.told]
    assert "replay" in told, "the model is to do what it is for"
    assert "live" in told


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("layout", ["plain", "by_block", "streaming"])
def test_a_folder_that_begins_anew_is_told(tmp_path: Path, layout: str, seed: int) -> None:
    """Every client that misses something gets a gap, wherever it was in the former files."""
    chance = random.Random(f"begins anew {layout} {seed}")

    async def main(drive: Drive) -> None:
        await run(tmp_path, drive, layout, chance, [*APPEND * 4, "begin anew"])

    with driven(tmp_path, 0.3, layout) as drive:
        asyncio.run(main(drive))


def test_a_truncated_hour_that_stays_empty_is_told(tmp_path: Path) -> None:
    """A client that is behind when an hour is truncated gets a gap, even if the hour stays empty."""

    async def main(drive: Drive) -> None:
        world = World(tmp_path, drive, "by_block", random.Random(1))
        try:
            await world.until(lambda: all(client.queue for client in world.clients))
            while world.replays.replay_counters()["replays_running"] < len(world.clients):  # nobody reads
                world.append()
                await asyncio.sleep(0.002)
            world.hour += 1
            world.append()
            await truncate(world)
            # The pipeline reports its position in the file once more: its beginning.
            newcomer = Reader(world.service, Wanted({"type": "orders", "coins": ["new"]}, lambda _: False))
            await world.until(lambda: bool(newcomer.queue))
            newcomer.go()
            world.hour += 1
            world.append()
            await world.until(lambda: int(drive.pipeline.stats()["orders"]) >= world.written)
            await world.until(lambda: world.feeds.high_watermark == world.end_of(world.hour))
            await world.settle()
            world.check()
            assert all(client.wanted.gaps for client in world.clients)
        finally:
            await world.end()

    with driven(tmp_path, 0.3) as drive:
        asyncio.run(main(drive))
