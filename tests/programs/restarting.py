"""Answers each connection with facts about its process, and restarts on request."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any

from fasttail.state import restart

state: dict[str, Any]
before = restart.load_state()
if before is None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    state = {"started": 1000.5, "restarts": 0, "position": None}
else:
    (listener,) = before.sockets
    state = {"started": before.started, "restarts": before.restarts, "position": before.position}
    time.sleep(0.2)  # the new image is slow to start: connections wait
while True:
    connection, _ = listener.accept()
    with connection:
        word = connection.recv(100)
        about = {
            **state,
            "pid": os.getpid(),
            "argv": sys.argv[1:],
            "port": listener.getsockname()[1],
            "flags": sys.flags.utf8_mode,
            "dont_write": sys.flags.dont_write_bytecode,
            "variable": restart.STATE_VARIABLE in os.environ,
            "executable": sys.executable,
            "inheritable": os.get_inheritable(listener.fileno()),
            "fds": len(os.listdir("/proc/self/fd")),
        }
        connection.sendall(json.dumps(about).encode())
    if word == b"restart":
        restart.execute(
            *restart.exec_arguments([listener], '{"offset": 7}', state["started"], state["restarts"])
        )
    if word == b"end":
        sys.exit(5)
