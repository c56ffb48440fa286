"""The old service: watchdog, readline, json, pydantic, a thread pool and FastAPI, as a program of its own.

Its messages are those of fasttail's /ws/orderUpdate. It follows files as the old service did: it starts each
file at its end, treats a partial last line as a line, and leaves a file as soon as the next hour's exists.
`--mended` fixes these three; the rest is the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ValidationError
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

WORKERS = 4
BATCH_LINES = 4000
TORN_S = 1.0
"""With --mended, time to wait for the rest of a partial line once the next file exists."""
STATUSES = {
    "open": "open",
    "filled": "filled",
    "triggered": "triggered",
    "canceled": "canceled",
    "cancelled": "canceled",
    "vaultWithdrawalCanceled": "canceled",
}


class NodeOrder(BaseModel):
    coin: str
    side: str
    limitPx: float
    sz: float
    origSz: float
    oid: int
    timestamp: int


class NodeEvent(BaseModel):
    time: str
    user: str
    status: str
    order: NodeOrder


class Order(BaseModel):
    id: str
    symbol: str
    side: str
    price: float
    size: float
    owner: str
    timestamp: str
    status: str


class OrderUpdate(BaseModel):
    type: str = "orderUpdate"
    channel: str = "orderUpdate"
    timestamp: str
    data: Order


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def micros(text: str) -> str:
    """Return the node's time with six fractional digits."""
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction[:6]:0<6}"


class Parser:
    """Turns lines into messages. least: minimum notional by symbol; if empty, every order passes."""

    def __init__(self, least: dict[str, float]) -> None:
        self._least = least

    def messages(self, lines: list[str]) -> list[str]:
        made = []
        for line in lines:
            try:
                value = json.loads(line)
                for each in value.get("events", [value]):
                    if (order := self._order(NodeEvent.model_validate(each))) is not None:
                        made.append(OrderUpdate(timestamp=now(), data=order).model_dump_json())
            except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
                continue
        return made

    def _order(self, event: NodeEvent) -> Order | None:
        order, status = event.order, STATUSES.get(event.status)
        if status is None:
            return None
        if self._least:
            least = self._least.get(order.coin)
            if least is None or order.limitPx * order.origSz < least:
                return None
        return Order(
            id=str(order.oid),
            symbol=order.coin,
            side="Bid" if order.side == "B" else "Ask",
            price=order.limitPx,
            size=order.origSz,
            owner=event.user,
            timestamp=micros(event.time),
            status=status,
        )


class Changed(FileSystemEventHandler):
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "modified", "moved"):
            self._event.set()


class Follower:
    """Yields batches of lines from the newest hour's file, forever."""

    def __init__(self, hourly: Path, mended: bool) -> None:
        self._hourly = hourly
        self._mended = mended
        self._path: Path | None = None
        self._file: TextIOWrapper | None = None
        self._partial = ""
        self._changed = threading.Event()
        self._observer = Observer()
        self._observer.schedule(Changed(self._changed), str(hourly), recursive=True)
        self._observer.start()
        if (newest := self._newest()) is not None:
            self._open(newest)
            assert self._file is not None
            self._file.seek(0, 2)

    def batches(self) -> Iterator[list[str]]:
        torn_since = 0.0
        while True:
            self._changed.wait(1.0)
            self._changed.clear()
            if not self._mended:
                self._move_on()
                yield from self._read()
                continue
            yield from self._read()
            while self._next() is not None:
                yield from self._read()  # lines that came before the next file was seen
                if self._partial:
                    torn_since = torn_since or time.monotonic()
                    if time.monotonic() - torn_since < TORN_S:
                        time.sleep(0.002)
                        continue
                torn_since = 0.0
                self._move_on()
                yield from self._read()

    def _read(self) -> Iterator[list[str]]:
        if self._file is None:
            return
        lines: list[str] = []
        while line := self._file.readline():
            if self._mended:
                line, self._partial = self._partial + line, ""
                if not line.endswith("\n"):
                    self._partial = line
                    continue
            lines.append(line)
            if len(lines) == BATCH_LINES:
                yield lines
                lines = []
        if lines:
            yield lines

    def _hours(self) -> list[Path]:
        found = [path for path in self._hourly.glob("*/*") if path.name.isdecimal()]
        return sorted(found, key=lambda path: (path.parent.name, int(path.name)))

    def _newest(self) -> Path | None:
        hours = self._hours()
        return hours[-1] if hours else None

    def _next(self) -> Path | None:
        """Return the hour to continue with: the newest, or with --mended the one after the current."""
        hours = self._hours()
        if self._path in hours:
            hours = hours[hours.index(self._path) + 1 :]
        return (hours[0] if self._mended else hours[-1]) if hours else None

    def _move_on(self) -> None:
        if (path := self._next()) is not None:
            self._open(path)
            if not self._mended:
                assert self._file is not None
                self._file.seek(0, 2)

    def _open(self, path: Path) -> None:
        if self._file is not None:
            self._file.close()
        self._path, self._partial = path, ""
        self._file = path.open(encoding="utf-8", errors="ignore")


class Hub:
    def __init__(self) -> None:
        self.clients: set[WebSocket] = set()

    async def broadcast(self, messages: list[str]) -> None:
        for text in messages:
            for client in list(self.clients):
                try:
                    await client.send_text(text)
                except (WebSocketDisconnect, RuntimeError):
                    self.clients.discard(client)


def follow(follower: Follower, parser: Parser, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        for lines in follower.batches():
            share = -(-len(lines) // WORKERS)
            parts = [lines[at : at + share] for at in range(0, len(lines), share)]
            messages = [text for part in pool.map(parser.messages, parts) for text in part]
            asyncio.run_coroutine_threadsafe(hub.broadcast(messages), loop).result()


def application(hub: Hub) -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws/orderUpdate")
    async def order_update(client: WebSocket) -> None:
        await client.accept()
        greeting = {"type": "connected", "channel": "orderUpdate", "timestamp": now()}
        await client.send_text(json.dumps(greeting))
        hub.clients.add(client)
        try:
            while True:
                text = await client.receive_text()
                if text == "ping":
                    await client.send_text("pong")
                elif text == "close":
                    await client.close()
                    return
        except WebSocketDisconnect:
            pass
        finally:
            hub.clients.discard(client)

    return app


async def serve(hourly: Path, least: dict[str, float], mended: bool) -> None:
    hub = Hub()
    follower = Follower(hourly, mended)
    threading.Thread(
        target=follow, args=(follower, Parser(least), hub, asyncio.get_running_loop()), daemon=True
    ).start()
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on port {listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(application(hub), log_level="warning", lifespan="off")
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hourly", type=Path, help="the folder with a folder for each date")
    parser.add_argument("--symbols", type=Path, required=True, help="JSON with symbols_config")
    parser.add_argument("--mended", action="store_true")
    args = parser.parse_args()
    symbols = json.loads(args.symbols.read_text())["symbols_config"]
    least = {each["symbol"]: float(each["min_liquidity"]) for each in symbols}
    asyncio.run(serve(args.hourly, least, args.mended))


if __name__ == "__main__":
    main()
