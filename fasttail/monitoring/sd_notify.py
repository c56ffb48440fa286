"""What the service manager is told of the process: systemd's sd_notify(3), without its library.

Nothing is sent without NOTIFY_SOCKET. Variables stay in the environment: a restart in place keeps the pid,
and the next image tells the same manager.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 0.2
"""How long the main loop waits at most for a manager that does not read."""


class Notifier:
    """Tells the manager named by `env`. A message that does not get out is a debug line.

    watchdog_s: how often the manager wants to hear `ping_watchdog`, in seconds; None: it does not.
    """

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        socket_path = env.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL of an abstract name; systemd's other addresses are for virtual machines.
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
        """It serves (again); `status` is one line for people."""
        # READY does not wind the watchdog up, and a restart in place may have taken a part of its time.
        self._send(f"READY=1\nWATCHDOG=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Settings are read anew; `ready` says that this is over."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def ping_watchdog(self) -> None:
        """The main loop comes by. Nothing, unless the manager wants to hear it."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """It ends, and not to begin anew in place."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def restarting(self) -> None:
        """It begins anew in place: the same process to the manager, which hears `ready` again."""
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
