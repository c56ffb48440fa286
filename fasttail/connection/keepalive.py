"""Pings, which keep proxies from closing quiet connections and detect clients that are gone.

Proxies and load balancers close a connection on which the server sent nothing for 50 to 60 s, so that is what
counts. A sweep per second checks all clients: sending then costs one addition and no clock, and a suspended
process does not mistake the pause for its clients' silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from fasttail.connection.wire import CloseCode

SWEEP_S = 1.0
MAX_SILENCE_S = 60.0
"""A client that is silent for this long is pinged even while it is sent data."""
PONG_TIMEOUT_S = 20.0
"""How long a client may take to answer after it stops reading what is queued before the ping."""


class Liveness:
    """One client's activity, and the sweeps without it.

    The client counts the bytes that it passes to its transport, and sets both flags.
    """

    __slots__ = (
        "_flushed_before",
        "_sent_before",
        "pong_received",
        "received",
        "sent_bytes",
        "sweeps_without_pong",
        "sweeps_without_receive",
        "sweeps_without_send",
    )

    def __init__(self) -> None:
        self.received = self.pong_received = False
        self.sent_bytes = self._sent_before = self._flushed_before = 0
        self.sweeps_without_send = self.sweeps_without_receive = 0
        self.sweeps_without_pong: int | None = None  # None: no ping is pending

    def update(self, queued_bytes: int) -> None:
        """Record one sweep. queued_bytes: bytes in the transport's buffer, which may be before a ping.

        A slow client that still reads is alive, and cannot answer a ping that has not reached it.
        """
        self.sweeps_without_send = 0 if self.sent_bytes > self._sent_before else self.sweeps_without_send + 1
        self.sweeps_without_receive = 0 if self.received else self.sweeps_without_receive + 1
        flushed = self.sent_bytes - queued_bytes
        if self.pong_received:
            self.sweeps_without_pong = None
        elif self.sweeps_without_pong is not None:
            is_reading = queued_bytes > 0 and flushed > self._flushed_before
            self.sweeps_without_pong = 0 if is_reading else self.sweeps_without_pong + 1
        self._sent_before, self._flushed_before = self.sent_bytes, flushed
        self.received = self.pong_received = False


class PingTarget(Protocol):
    """The part of a client that keep-alive uses."""

    @property
    def liveness(self) -> Liveness: ...

    @property
    def is_open(self) -> bool: ...

    @property
    def queued_bytes(self) -> int: ...

    def ping(self) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...


class KeepAlive:
    """Pings clients that were sent nothing for `interval_s` seconds; closes those that do not answer."""

    def __init__(self, clients: Collection[PingTarget], interval_s: float) -> None:
        self._clients = clients
        self._max_sweeps_without_send = max(1, round(interval_s / SWEEP_S))
        self._max_sweeps_without_receive = max(1, round(MAX_SILENCE_S / SWEEP_S))
        self._max_sweeps_without_pong = max(1, round(PONG_TIMEOUT_S / SWEEP_S))
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the sweeps."""
        self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """Stop the sweeps."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self.start()
        for client in tuple(self._clients):  # a copy: closing removes clients from the set
            if not client.is_open:
                continue
            liveness = client.liveness
            liveness.update(client.queued_bytes)
            if liveness.sweeps_without_pong is not None:
                if liveness.sweeps_without_pong >= self._max_sweeps_without_pong:
                    client.close(CloseCode.GOING_AWAY, f"no pong within {PONG_TIMEOUT_S:g} s")
            elif (
                liveness.sweeps_without_send >= self._max_sweeps_without_send
                or liveness.sweeps_without_receive >= self._max_sweeps_without_receive
            ):
                liveness.sweeps_without_send = liveness.sweeps_without_receive = (
                    liveness.sweeps_without_pong
                ) = 0
                client.ping()
