"""Channels: sets of clients that receive the same frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttail.connection.connection import Client


def _ignore() -> None:
    """Do nothing: the default callback."""


class Channel:
    """A named set of clients that receive the same frames. Counters include clients that have left."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clients: set[Client] = set()
        self.on_change: Callable[[], None] = _ignore  # a client joined or left
        self.messages_sent = 0
        self.orders_sent = 0
        self.bytes_sent = 0

    def add_client(self, client: Client) -> None:
        """Add a client."""
        self.clients.add(client)
        self.on_change()

    def remove_client(self, client: Client) -> None:
        """Remove a client, if it is in the channel."""
        self.clients.discard(client)
        self.on_change()

    def publish(self, data: bytes, orders: int, messages: int | None = None) -> int:
        """Send `data` (one or more complete frames) to every client, in one write each.

        orders, messages: how many are in `data`; by default each order is a message. Return the number of
        clients that accepted it, without waiting.
        """
        if not data:
            return 0
        accepted = 0
        for client in tuple(self.clients):  # a copy: a full queue removes the client from the set
            accepted += client.send(data)
        self.orders_sent += orders * accepted
        self.messages_sent += (orders if messages is None else messages) * accepted
        self.bytes_sent += len(data) * accepted
        return accepted
