"""Pings: so that no proxy cuts a quiet connection off, and to find clients that are gone.

Proxies and load balancers end a connection on which nothing was sent for 50 to 60 s, so what counts is what
the server has sent. Once a second all clients are looked at. That costs sending one flag and no clock, and
a process that was halted does not take its own silence for that of its clients.
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
"""How long it may take to answer. The ping waits its turn behind what is queued for the client."""


class Pulse:
    """What was noticed of one client since the last look, and for how many looks it was not.

    The client sets the three flags.
    """

    __slots__ = ("heard", "looks_unheard", "looks_unsent", "looks_without_pong", "ponged", "sent")

    def __init__(self) -> None:
        self.sent = self.heard = self.ponged = False
        self.looks_unsent = self.looks_unheard = 0
        self.looks_without_pong: int | None = None  # None: no ping is open

    def look(self) -> None:
        """One more look."""
        self.looks_unsent = 0 if self.sent else self.looks_unsent + 1
        self.looks_unheard = 0 if self.heard else self.looks_unheard + 1
        if self.ponged:
            self.looks_without_pong = None
        elif self.looks_without_pong is not None:
            self.looks_without_pong += 1
        self.sent = self.heard = self.ponged = False


class Client(Protocol):
    """What is needed of a client here."""

    @property
    def pulse(self) -> Pulse: ...

    @property
    def is_open(self) -> bool: ...

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
            pulse.look()
            if pulse.looks_without_pong is not None:
                if pulse.looks_without_pong >= self._without_pong:
                    client.close(CloseCode.GOING_AWAY, f"no pong within {PONG_S:g} s")
            elif pulse.looks_unsent >= self._unsent or pulse.looks_unheard >= self._unheard:
                pulse.looks_unsent = pulse.looks_unheard = pulse.looks_without_pong = 0
                client.ping()
