"""A named set of clients that all get the same frames, and how much they got."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttail.connection.connection import Client


def _ignore() -> None:
    """Nobody wants to know."""


class Channel:
    """A named set of clients that all get the same frames. Its counters are totals over all clients ever."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clients: set[Client] = set()
        self.on_change: Callable[[], None] = _ignore  # somebody came or left
        self.messages_sent = 0
        self.orders_sent = 0
        self.bytes_sent = 0

    def add_client(self, client: Client) -> None:
        """From now on the client gets what is published."""
        self.clients.add(client)
        self.on_change()

    def remove_client(self, client: Client) -> None:
        """No more, if it ever did."""
        self.clients.discard(client)
        self.on_change()

    def publish(self, data: bytes, orders: int, messages: int | None = None) -> int:
        """Hand `data` (complete frames, any number in one bytes object) to every client, in one write each.

        `orders` and `messages` say what is in it; by default every order is a message of its own. Never
        waits; returns the number of clients that took it.
        """
        if not data:
            return 0
        accepted = 0
        for client in tuple(self.clients):  # a copy: a full queue takes the client out of the set
            accepted += client.send(data)
        self.orders_sent += orders * accepted
        self.messages_sent += (orders if messages is None else messages) * accepted
        self.bytes_sent += len(data) * accepted
        return accepted
