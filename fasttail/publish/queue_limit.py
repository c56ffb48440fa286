"""The limit of all queues on `/ws` together."""

from __future__ import annotations

from fasttail.connection.hub import MIN_SHED_BYTES, Hub
from fasttail.publish.public_api import PublicClient

QUEUE_CHECKS_PER_LIMIT = 16
"""How often the queues are added up while `total` bytes are written."""


class QueueLimit:
    """Keeps the queues of all clients together below `total` bytes."""

    def __init__(self, hub: Hub, total: int) -> None:
        self._hub = hub
        self._total = total
        self._written_at_check = 0

    def enforce(self) -> None:
        """Throttle the clients with the longest queues if all queues together are too long.

        Their members continue from the files once the queues have drained. Call this after every delivery.
        """
        if self._hub.written_bytes - self._written_at_check < self._total // QUEUE_CHECKS_PER_LIMIT:
            return
        self._written_at_check = self._hub.written_bytes
        if sum(client.queued_bytes for client in self._hub.clients) <= self._total:
            return
        clients = (
            each for each in self._hub.clients if isinstance(each, PublicClient) and not each.throttled
        )
        queues = sorted(((client.queued_bytes, client) for client in clients), key=lambda each: -each[0])
        remaining = sum(queued_bytes for queued_bytes, _ in queues)
        for queued_bytes, client in queues:
            if remaining <= self._total // 4 or queued_bytes < MIN_SHED_BYTES:
                break
            client.throttle()
            remaining -= queued_bytes
