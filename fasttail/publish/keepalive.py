"""Pings: so that no proxy cuts a quiet connection off, and to find clients that are gone.

Proxies and load balancers end a connection on which nothing was sent for 50 to 60 s, so what counts is what
the server has sent. Once a second all clients are looked at. That costs sending one addition and no clock,
and a process that was halted does not take its own silence for that of its clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from fasttail.publish.wire import CloseCode

SWEEP_S = 1.0
UNHEARD_S = 60.0
"""Nothing came from the client for this long: it gets a ping too, however much is sent to it."""
PONG_S = 20.0
"""How long it may take to answer, once it reads no more of what is queued in front of the ping."""


class Pulse:
    """What was noticed of one client since the last look, and for how many looks it was not.

    The client counts the bytes that it hands to its transport, and sets the two flags.
    """

    __slots__ = (
        "_sent_before",
        "_taken_before",
        "heard",
        "looks_unheard",
        "looks_unsent",
        "looks_without_pong",
        "ponged",
        "sent_bytes",
    )

    def __init__(self) -> None:
        self.heard = self.ponged = False
        self.sent_bytes = self._sent_before = self._taken_before = 0
        self.looks_unsent = self.looks_unheard = 0
        self.looks_without_pong: int | None = None  # None: no ping is open

    def look(self, queued: int) -> None:
        """One more look. queued: bytes that wait in the transport, a ping behind them perhaps.

        A client that is slow but reads is alive, and cannot answer a ping that has not come to it yet.
        """
        self.looks_unsent = 0 if self.sent_bytes > self._sent_before else self.looks_unsent + 1
        self.looks_unheard = 0 if self.heard else self.looks_unheard + 1
        taken = self.sent_bytes - queued
        if self.ponged:
            self.looks_without_pong = None
        elif self.looks_without_pong is not None:
            reads = queued > 0 and taken > self._taken_before
            self.looks_without_pong = 0 if reads else self.looks_without_pong + 1
        self._sent_before, self._taken_before = self.sent_bytes, taken
        self.heard = self.ponged = False


class Client(Protocol):
    """What is needed of a client here."""

    @property
    def pulse(self) -> Pulse: ...

    @property
    def is_open(self) -> bool: ...

    @property
    def queued(self) -> int: ...

    def ping(self) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...


class KeepAlive:
    """Pings clients to whom nothing was sent for `interval_s` seconds; closes those that do not answer."""

    def __init__(self, clients: Collection[Client], interval_s: float) -> None:
        self._clients = clients
        self._unsent = max(1, round(interval_s / SWEEP_S))
        self._unheard = max(1, round(UNHEARD_S / SWEEP_S))
        self._without_pong = max(1, round(PONG_S / SWEEP_S))
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
            pulse = client.pulse
            pulse.look(client.queued)
            if pulse.looks_without_pong is not None:
                if pulse.looks_without_pong >= self._without_pong:
                    client.close(CloseCode.GOING_AWAY, f"no pong within {PONG_S:g} s")
            elif pulse.looks_unsent >= self._unsent or pulse.looks_unheard >= self._unheard:
                pulse.looks_unsent = pulse.looks_unheard = pulse.looks_without_pong = 0
                client.ping()
