"""Listening sockets that the service manager opened before the process began: systemd's sd_listen_fds(3).

They stay open in the manager while there is no process: connections wait in the kernel.
"""

from __future__ import annotations

import os
import socket

from fasttail.state.restart import listening_socket

FIRST_DESCRIPTOR = 3
"""The first descriptor that the manager hands over."""
MAX_SOCKETS = 64
"""As many are looked at."""


def activation_sockets() -> list[socket.socket]:
    """The TCP sockets that are this process's. Takes them out of the environment: a restart in place
    hands them over in its own way.
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
