"""Notifies the service manager by systemd's sd_notify(3) protocol, without its library.

Nothing is sent without NOTIFY_SOCKET. The variables stay in the environment: a restart in place keeps the
pid, so the next process image can notify the same manager.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 0.2
"""Longest time the main loop waits for a manager that does not read."""


class Notifier:
    """Sends notifications to the manager that `env` names. Failures are logged at the debug level.

    watchdog_s: interval in seconds at which the manager expects `ping_watchdog`; None if it does not.
    """

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        socket_path = env.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL of an abstract name. systemd's other address types are for virtual machines.
        self._address = socket_path.replace("@", "\0", 1) if socket_path.startswith("@") else socket_path
        if not socket_path.startswith(("/", "@")):
            self._address = ""
        is_for_this_process = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = env.get("WATCHDOG_USEC", "")
        watchdog_enabled = (
            bool(self._address)
            and is_for_this_process
            and usec.isascii()
            and usec.isdigit()
            and int(usec) > 0
        )
        self.watchdog_s: float | None = int(usec) / 1e6 if watchdog_enabled else None

    def ready(self, status: str) -> None:
        """Report that the service is ready (again); `status` is one line for people."""
        # READY does not reset the watchdog, and a restart in place may have used part of its interval.
        self._send(f"READY=1\nWATCHDOG=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Report that settings are being reloaded; `ready` reports the end."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def ping_watchdog(self) -> None:
        """Report that the main loop is alive, if the manager expects it."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Report that the process is stopping, not restarting in place."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def restarting(self) -> None:
        """Report a restart in place. It is the same process to the manager, and `ready` follows."""
        self._send("WATCHDOG=1\nSTATUS=restarting in place")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(SEND_TIMEOUT_S)
                sock.sendto(text.encode(), self._address)
        except OSError as error:
            log.debug("sd_notify failed: %s", error)
