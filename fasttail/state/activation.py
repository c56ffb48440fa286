"""Listening sockets inherited from the service manager: systemd's sd_listen_fds(3).

The manager keeps them open while the process is down, so connections wait in the kernel.
"""

from __future__ import annotations

import os
import socket

from fasttail.state.restart import listening_socket

FIRST_DESCRIPTOR = 3
"""The first descriptor that the manager passes."""
MAX_SOCKETS = 64
"""Further descriptors are ignored."""


def activation_sockets() -> list[socket.socket]:
    """Return the TCP sockets that were passed to this process.

    This removes them from the environment, because a restart in place passes them on in its own way.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    found = [
        listening_socket(fd)
        for fd in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + min(int(count), MAX_SOCKETS))
    ]
    return [sock for sock in found if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6)]
