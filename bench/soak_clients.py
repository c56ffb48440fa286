"""Runs the soak's clients, each in its own process; they check and count everything they get.

On /ws: one that reads as fast as it can, one that reads slowly, and one that comes and goes and resumes by
its cursor. One more is on the old channel.
"""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import orjson
import uvloop
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.soak_node import hour_of

TAIL = 200
"""Bytes at the end of a message that hold its cursor and sequence numbers."""
EVENT = b'},{"time":"'
"""Separates two events of the raw format: unescaped quotes cannot occur inside a string."""
SAMPLED = 16
"""One of this many messages is kept for the delays."""


@dataclass
class Account:
    """What one client got over all its connections.

    crcs: by hour, of its events in the plain layout, comparable with the node's; raw format only.
    """

    name: str
    orders: int = 0
    messages: int = 0
    gaps: int = 0
    gap_orders: int = 0
    connections: int = 0
    closed: int = 0  # by the server
    replays: int = 0  # replays started because it was slow
    lost: bool = False  # unread files were deleted: the number of lost orders is unknown
    faults: list[str] = field(default_factory=list)
    crcs: dict[int, int] = field(default_factory=dict)
    cursor: str = ""
    seen_hours: array[int] = field(default_factory=lambda: array("q"))  # these three: per sampled message
    seen_offsets: array[int] = field(default_factory=lambda: array("q"))  # offset of its last order's line
    seen_times: array[int] = field(default_factory=lambda: array("q"))  # monotonic ns

    def fault(self, text: str) -> None:
        if len(self.faults) < 10:
            self.faults.append(text)


class Orders(WSListener):
    """A connection on /ws with one subscription to all orders.

    bytes_per_s: reading speed limit while `hurry` is not set.
    """

    def __init__(
        self,
        account: Account,
        total: Any,
        *,
        raw: bool,
        on_slow: str = "replay",
        bytes_per_s: float = 0.0,
        hurry: Any = None,
    ) -> None:
        self.account = account
        self.subscribed = asyncio.Event()
        self.gone = asyncio.Event()
        self.leaving = False
        self.missed = False  # a gap was received
        self._total = total  # shared: orders so far, including those in gaps
        self._raw = raw
        self.on_slow = on_slow
        self._mark = EVENT if raw else b'"statusTimestamp":'
        self._bytes_per_s = bytes_per_s
        self._hurry = hurry
        self._seq: int | None = None
        self._ponged = time.monotonic()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        at = time.monotonic_ns()
        if frame.msg_type == WSMsgType.CLOSE and not self.leaving:
            self.account.fault(f"closed with {frame.get_close_code()} {frame.get_close_message()!r}")
        if frame.msg_type != WSMsgType.TEXT or self.leaving:
            return
        payload = frame.get_payload_as_bytes()
        if payload.startswith(b'{"channel":"orders"'):
            self._take(payload, at)
        else:
            self._told(orjson.loads(payload))
        if self._bytes_per_s and not self._hurry.value:
            if time.monotonic() - self._ponged > 20:  # the server's ping is queued behind everything else
                self._ponged = time.monotonic()
                transport.send_pong()
            time.sleep(len(payload) / self._bytes_per_s)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.leaving:
            self.account.closed += 1
        self.subscribed.set()
        self.gone.set()

    def _take(self, payload: bytes, at: int) -> None:
        account = self.account
        end = payload[-TAIL:]
        numbers = orjson.loads(b"{" + end[end.rfind(b'"cursor":"') :])
        cursor = numbers["cursor"]
        if cursor <= account.cursor:
            account.fault(f"cursor {cursor} behind {account.cursor}")
        if self._seq is not None and numbers.get("prev") != self._seq:
            account.fault(f"prev {numbers.get('prev')} behind {self._seq} at {cursor}")
        self._seq = numbers.get("seq")
        orders = payload.count(self._mark)
        if self._raw:
            orders += 1
            data = payload[payload.index(b"[") + 1 : payload.rindex(b'],"cursor":"')]
            hour = hour_of(cursor)
            crc = zlib.crc32(data.replace(EVENT, b'}\n{"time":"'), account.crcs.get(hour, 0))
            account.crcs[hour] = zlib.crc32(b"\n", crc)
        account.cursor = cursor
        account.orders += orders
        account.messages += 1
        if not account.lost:
            self._total.value = account.orders + account.gap_orders
        if account.messages % SAMPLED == 0:
            account.seen_hours.append(hour_of(cursor))
            account.seen_offsets.append(int(cursor.split("-")[1]))
            account.seen_times.append(at)

    def _told(self, message: dict[str, Any]) -> None:
        account = self.account
        match message:
            case {"channel": "subscriptionResponse", "seq": int(seq)} | {"channel": "live", "seq": int(seq)}:
                self._seq = seq - 1
                self.subscribed.set()
            case {"channel": "subscriptionResponse"}:
                self.subscribed.set()  # a replay comes first
            case {"channel": "replay", "data": {"cursor": cursor}}:
                if (cursor or "") < account.cursor:  # it may be past the last order's line
                    account.fault(f"replay from {cursor}, but the last cursor was {account.cursor}")
                account.replays += 1
                self._seq = None  # until `live`
            case {"channel": "gap", "data": {"orders": None, "to": end}} if not self._raw:
                account.gaps += 1
                account.lost = True
                self._total.value = 1 << 60  # the last of them cannot be awaited
                account.cursor = end
            case {"channel": "gap", "data": {"orders": int(orders), "from": begin, "to": end}}:
                self.missed = True
                if self._raw:
                    self.leaving = True  # it resumes at its cursor and ignores what follows the gap
                    return
                if (begin or "") != account.cursor:
                    account.fault(f"gap from {begin}, but the last cursor was {account.cursor}")
                account.gaps += 1
                account.gap_orders += orders
                account.cursor = end
                self._seq = None
                self._total.value = account.orders + account.gap_orders
            case {"channel": "error", "data": text}:
                account.fault(text)
                self.gone.set()
            case _:
                account.fault(f"unexpected: {message}")


async def connect(port: int, client: Orders, cursor: str = "") -> WSTransport:
    transport, _ = await ws_connect(lambda: client, f"ws://127.0.0.1:{port}/ws", max_frame_size=1 << 26)
    wanted = {"type": "orders", "format": "raw" if client._raw else "ws", "onSlow": client.on_slow}
    if cursor:
        wanted["cursor"] = cursor
    transport.send(WSMsgType.TEXT, orjson.dumps({"method": "subscribe", "subscription": wanted}))
    client.account.connections += 1
    await client.subscribed.wait()
    return transport


async def until_over(ended: Any, gone: asyncio.Event) -> None:
    """Wait until the run has ended (set by another process) or the connection has closed."""
    while not (ended.value or gone.is_set()):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def stay(port: int, account: Account, total: Any, ended: Any, pipe: Connection, **options: Any) -> None:
    """Keep one connection from beginning to end."""
    client = Orders(account, total, raw=False, **options)
    await connect(port, client)
    pipe.send("ready")
    await until_over(ended, client.gone)
    client.leaving = True


async def come_and_go(
    port: int,
    account: Account,
    total: Any,
    ended: Any,
    pipe: Connection,
    hurry: Any,
    seed: int,
    stay_s: float,
    away_s: float,
) -> None:
    """Connect and disconnect at random, resuming at the cursor each time, also after a gap."""
    chance = random.Random(seed)
    told = False
    while not ended.value:
        client = Orders(account, total, raw=True)
        transport = await connect(port, client, account.cursor)
        if not told:
            pipe.send("ready")
            told = True
        until = time.monotonic() + chance.uniform(stay_s / 10, stay_s)
        while not (ended.value or client.gone.is_set() or client.missed):
            if time.monotonic() > until and not hurry.value and account.cursor:
                break
            await asyncio.sleep(0.02)
        client.leaving = True
        account.gaps += client.missed
        transport.disconnect()
        if not client.missed and not hurry.value:
            await asyncio.sleep(chance.uniform(away_s / 20, away_s))


class Old(WSListener):
    """A client of /ws/orderUpdate that counts messages."""

    def __init__(self, account: Account, total: Any) -> None:
        self.account = account
        self.gone = asyncio.Event()
        self._total = total

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            start = bytes(frame.get_payload_as_memoryview()[:21])
            if start == b'{"type":"orderUpdate"':
                self.account.orders += 1
                self._total.value = self.account.orders

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.gone.set()


async def listen_old(port: int, account: Account, total: Any, ended: Any, pipe: Connection) -> None:
    """Stay on the old channel; reconnect when closed for being too slow, as that channel requires."""
    told = False
    while not ended.value:
        client = Old(account, total)
        transport, _ = await ws_connect(lambda client=client: client, f"ws://127.0.0.1:{port}/ws/orderUpdate")
        account.connections += 1
        if not told:
            pipe.send("ready")
            told = True
        await until_over(ended, client.gone)
        account.closed += not ended.value
        transport.disconnect()


def run(
    what: Callable[..., Any], port: int, name: str, total: Any, ended: Any, pipe: Connection, **more: Any
) -> None:
    """Run one client's process and send its account through the pipe at the end."""
    account = Account(name)
    try:
        uvloop.run(what(port, account, total, ended, pipe, **more))
    except (OSError, WSError) as error:
        account.fault(f"{type(error).__name__}: {error}")
        pipe.send("ready")
    pipe.send(account)
