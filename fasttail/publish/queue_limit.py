"""The limit of what may wait for all clients of `/ws` together."""

from __future__ import annotations

from fasttail.publish.clients import LEAST_SHED, Hub
from fasttail.publish.public import PublicClient

LOOKS = 16
"""So often the queues are added up while as much is handed out as they may hold together."""


class QueueLimit:
    """Keeps the queues of all clients together below `total` bytes."""

    def __init__(self, hub: Hub, total: int) -> None:
        self._hub = hub
        self._total = total
        self._handed_before = 0

    def enforce(self) -> None:
        """If the queues of all clients together are too long, add nothing to the longest until they have run
        down: their members read on from the files. To be called whenever something has been handed out.
        """
        if self._hub.handed_bytes - self._handed_before < self._total // LOOKS:
            return
        self._handed_before = self._hub.handed_bytes
        if sum(client.queued for client in self._hub.clients) <= self._total:
            return
        clients = (each for each in self._hub.clients if isinstance(each, PublicClient) and not each.crowded)
        queues = sorted(((client.queued, client) for client in clients), key=lambda each: -each[0])
        rest = sum(queued for queued, _ in queues)
        for queued, client in queues:
            if rest <= self._total // 4 or queued < LEAST_SHED:
                break
            client.crowd()
            rest -= queued
