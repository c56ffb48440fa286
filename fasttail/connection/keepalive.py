"""Pings: so that no proxy cuts a quiet connection off, and to find clients that are gone.

Proxies and load balancers end a connection on which nothing was sent for 50 to 60 s, so what counts is what
the server has sent. Once a second all clients are looked at. That costs sending one addition and no clock,
and a process that was halted does not take its own silence for that of its clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from fasttail.connection.wire import CloseCode

SWEEP_S = 1.0
MAX_SILENCE_S = 60.0
"""Nothing came from the client for this long: it gets a ping too, however much is sent to it."""
PONG_TIMEOUT_S = 20.0
"""How long it may take to answer, once it reads no more of what is queued in front of the ping."""


class Liveness:
    """What was noticed of one client since the last look, and for how many looks it was not.

    The client counts the bytes that it hands to its transport, and sets the two flags.
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
        self.sweeps_without_pong: int | None = None  # None: no ping is open

    def update(self, queued_bytes: int) -> None:
        """One more look. queued: bytes that wait in the transport, a ping behind them perhaps.

        A client that is slow but reads is alive, and cannot answer a ping that has not come to it yet.
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
    """What is needed of a client here."""

    @property
    def liveness(self) -> Liveness: ...

    @property
    def is_open(self) -> bool: ...

    @property
    def queued_bytes(self) -> int: ...

    def ping(self) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...


class KeepAlive:
    """Pings clients to whom nothing was sent for `interval_s` seconds; closes those that do not answer."""

    def __init__(self, clients: Collection[PingTarget], interval_s: float) -> None:
        self._clients = clients
        self._max_sweeps_without_send = max(1, round(interval_s / SWEEP_S))
        self._max_sweeps_without_receive = max(1, round(MAX_SILENCE_S / SWEEP_S))
        self._max_sweeps_without_pong = max(1, round(PONG_TIMEOUT_S / SWEEP_S))
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look at the clients from now on."""
        self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self.start()
        for client in tuple(self._clients):  # a copy: closing takes clients out of the set
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
