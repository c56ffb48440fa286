"""The hub: all connected clients, their channels, and the counters over all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fasttail.connection.channel import Channel
from fasttail.monitoring.rate_limited import RateLimitedLog

if TYPE_CHECKING:
    from fasttail.connection.connection import Client

log = logging.getLogger(__name__)

MIN_SHED_BYTES = 64 << 10
"""A client with fewer bytes queued keeps up, and disconnecting it would free little."""


class Hub:
    """All connected clients and the channels, with counters since the start.

    close_timeout_s:         how long a peer may take to answer a close frame before it is disconnected.
    max_messages_per_minute: frames from one client, not counting pongs; above it, it is closed. 0: unlimited.
    idle_timeout_s:          how long a client without subscriptions may be silent. 0: unlimited.
    """

    def __init__(
        self,
        channels: Iterable[str],
        *,
        close_timeout_s: float = 5.0,
        max_messages_per_minute: int = 0,
        idle_timeout_s: float = 0.0,
    ) -> None:
        self.channels = {name: Channel(name) for name in channels}
        self.clients: set[Client] = set()
        self.close_timeout_s = close_timeout_s
        self.max_messages_per_minute = max_messages_per_minute
        self.idle_timeout_s = idle_timeout_s
        self.accepting = True
        self.written_bytes = 0  # to the transports
        self.opened = 0
        self.refused = 0
        self.closed_slow = 0
        self.shed_clients = 0
        self.closed_idle = 0
        self.closed_flooding = 0
        self.protocol_faults = 0
        self.slow_lines = RateLimitedLog(
            log, logging.INFO, "client %s is too slow (%d bytes queued): closing"
        )
        self.shed_lines = RateLimitedLog(
            log, logging.WARNING, "client %s disconnected: memory is low, %d bytes queued"
        )
        self._empty: asyncio.Event | None = None  # created by close_all

    def register_client(self, client: Client) -> None:
        """Add a client whose handshake succeeded."""
        self.clients.add(client)
        self.opened += 1

    def unregister_client(self, client: Client) -> None:
        """Remove a client whose connection is gone."""
        self.clients.discard(client)
        if self._empty is not None and not self.clients:
            self._empty.set()

    def shed_slowest(self) -> tuple[int, int]:
        """Disconnect the clients with the longest queues, until half of all queued bytes is freed.

        Return the clients and bytes. No close frame is sent, since it would wait behind the queue.
        """
        queues = sorted(((client.queued_bytes, client) for client in self.clients), key=lambda each: -each[0])
        target_bytes = sum(queued_bytes for queued_bytes, _ in queues) // 2
        count = freed_bytes = 0
        for queued_bytes, client in queues:
            if freed_bytes >= target_bytes or queued_bytes < MIN_SHED_BYTES:
                break
            self.shed_lines.emit(client.peer, queued_bytes)
            client.abort()
            count += 1
            freed_bytes += queued_bytes
        self.shed_clients += count
        return count, freed_bytes

    def connection_counters(self) -> dict[str, Any]:
        """Return all counters as plain numbers and as dicts by channel name."""
        channels = self.channels.values()
        return {
            "connections": len(self.clients),
            "clients": {channel.name: len(channel.clients) for channel in channels},
            "messages_sent": {channel.name: channel.messages_sent for channel in channels},
            "orders_sent": {channel.name: channel.orders_sent for channel in channels},
            "bytes_sent": {channel.name: channel.bytes_sent for channel in channels},
            "queued_bytes": sum(client.queued_bytes for client in self.clients),
            "opened": self.opened,
            "refused": self.refused,
            "closed_slow": self.closed_slow,
            "shed": self.shed_clients,
            "closed_idle": self.closed_idle,
            "closed_flooding": self.closed_flooding,
            "protocol_faults": self.protocol_faults,
        }

    async def close_all(self, code: int, reason: str = "", *, wait_s: float = 1.0) -> None:
        """Close every client with `code`, and abort those left after `wait_s` seconds.

        No client is accepted from now on. Used at shutdown (1001) and before a restart (1012).
        """
        self.accepting = False
        self._empty = asyncio.Event()
        for client in tuple(self.clients):
            client.close(code, reason)
        await self._wait_empty(wait_s)
        for client in tuple(self.clients):
            client.abort()
        await self._wait_empty(1.0)  # an abort takes one or two turns of the loop

    async def _wait_empty(self, seconds: float) -> None:
        if not self.clients or self._empty is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            log.debug("%d clients have not disconnected within %g s", len(self.clients), seconds)
