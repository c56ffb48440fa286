"""The afternoon solution: asyncio, orjson and `websockets`, polling the file every 2 ms.

It is a program of its own, without threads. Its messages are those of fasttail's /ws/orderUpdate. It keeps a
partial line until the rest arrives, and leaves a file when nothing more comes and the next hour's exists.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from websockets.asyncio.server import ServerConnection, broadcast, serve

POLL_S = 0.002
READ = 256 * 1024
STATUSES = {
    "open": "open",
    "filled": "filled",
    "triggered": "triggered",
    "canceled": "canceled",
    "cancelled": "canceled",
    "vaultWithdrawalCanceled": "canceled",
}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def micros(text: str) -> str:
    """Return the node's time with six fractional digits."""
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction[:6]:0<6}"


def messages(lines: list[bytes], least: dict[str, float]) -> Iterator[str]:
    for line in lines:
        try:
            value = orjson.loads(line)
            for event in value.get("events", [value]):
                if (order := pick(event, least)) is not None:
                    message = {
                        "type": "orderUpdate", "channel": "orderUpdate", "timestamp": now(), "data": order
                    }  # fmt: skip
                    yield orjson.dumps(message).decode()
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def pick(event: dict[str, Any], least: dict[str, float]) -> dict[str, Any] | None:
    """Return the order as sent, or None if filtered out.

    least: minimum notional by symbol; if empty, every order passes.
    """
    order, status = event["order"], STATUSES.get(event["status"])
    if status is None or (least and order["coin"] not in least):
        return None
    price, size = float(order["limitPx"]), float(order["origSz"])
    if least and price * size < least[order["coin"]]:
        return None
    return {
        "id": str(order["oid"]),
        "symbol": order["coin"],
        "side": "Bid" if order["side"] == "B" else "Ask",
        "price": price,
        "size": size,
        "owner": event["user"],
        "timestamp": micros(event["time"]),
        "status": status,
    }


def hours(hourly: Path) -> list[Path]:
    found = [path for path in hourly.glob("*/*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: (path.parent.name, int(path.name)))


async def follow(hourly: Path, least: dict[str, float], clients: set[ServerConnection]) -> None:
    while True:
        if found := hours(hourly):
            break
        await asyncio.sleep(POLL_S)
    path = found[-1]
    fd = os.open(path, os.O_RDONLY)
    os.lseek(fd, 0, os.SEEK_END)
    partial = b""
    later: Path | None = None  # once it exists, the current file is read to its end again
    looks = 0
    while True:
        if data := os.read(fd, READ):
            *lines, partial = (partial + data).split(b"\n")
            for text in messages(lines, least):
                broadcast(clients, text)
            await asyncio.sleep(0)
            continue
        if later is not None:
            os.close(fd)
            path, partial, later = later, b"", None
            fd = os.open(path, os.O_RDONLY)
            continue
        looks += 1
        if looks % 10 == 0:
            found = hours(hourly)
            behind = found[found.index(path) + 1 :] if path in found else found
            later = behind[0] if behind else None
        await asyncio.sleep(POLL_S)


async def run(hourly: Path, least: dict[str, float]) -> None:
    clients: set[ServerConnection] = set()

    async def one(client: ServerConnection) -> None:
        greeting = {"type": "connected", "channel": "orderUpdate", "timestamp": now()}
        await client.send(orjson.dumps(greeting).decode())
        clients.add(client)
        try:
            async for text in client:
                if text == "ping":
                    await client.send("pong")
                elif text == "close":
                    return
        finally:
            clients.discard(client)

    async with serve(one, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        following = asyncio.create_task(follow(hourly, least, clients))
        await asyncio.sleep(POLL_S)
        print(f"listening on port {port}", flush=True)
        await following


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hourly", type=Path, help="the folder with a folder for each date")
    parser.add_argument("--symbols", type=Path, required=True, help="JSON with symbols_config")
    args = parser.parse_args()
    symbols = orjson.loads(args.symbols.read_bytes())["symbols_config"]
    asyncio.run(run(args.hourly, {each["symbol"]: float(each["min_liquidity"]) for each in symbols}))


if __name__ == "__main__":
    main()
