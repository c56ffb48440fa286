"""Restart in place: the process executes itself again, keeping its pid and its listening sockets.

    old image:  exec_arguments() ──► execute()     argv, sockets left open, FASTTAIL_RESTART = state as JSON
                                 │ execve: same pid, all threads replaced, memory released
    new image:               load_state()          sockets and state, once

The sockets stay open throughout, so that new connections wait in their backlog: closing the last descriptor
of a listening socket would lose them.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STATE_VARIABLE = "FASTTAIL_RESTART"
_STATE_VERSION = 2
CHECK_TIMEOUT_S = 1.0
_PACKAGE = Path(__file__).parent.parent


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


_START_FOLDER = _working_folder()
"""Where this image was started, and where its relative paths begin. None: the folder was already gone."""


@dataclass(frozen=True)
class RestartState:
    """What the previous image left.

    sockets: listening. position: where to resume, as JSON; "" if there was no file, None if unknown. started:
    the first image's start (Unix time). restarts: how many, including this one. recent: times of the last
    ones (monotonic seconds, which continue across `execve`). kept_fds: other open descriptors.
    """

    sockets: list[socket.socket]
    position: str | None
    started: float
    restarts: int
    recent: tuple[float, ...] = ()
    kept_fds: tuple[int, ...] = ()


class RestartLimiter:
    """Allows `max_per_hour` restarts in any hour. `recent`: times of those of previous images.

    More do not help the process, and each one disconnects its clients.
    """

    HOUR_S = 3600.0

    def __init__(
        self, max_per_hour: int, recent: Sequence[float] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_per_hour = max_per_hour
        self._clock = clock
        self._recent = tuple(recent)

    @property
    def recent(self) -> tuple[float, ...]:
        """The times of the restarts of the last hour, including this image's own."""
        now = self._clock()
        return tuple(when for when in self._recent if now - self.HOUR_S < when <= now)

    @property
    def exhausted(self) -> bool:
        """Whether the limit is reached."""
        return len(self.recent) >= self._max_per_hour

    def try_acquire(self) -> bool:
        """Count a restart and return True, or return False if the limit is reached."""
        if self.exhausted:
            return False
        self._recent = (*self.recent, self._clock())
        return True


def exec_arguments(
    sockets: Sequence[socket.socket],
    position: str | None,
    started: float,
    restarts: int,
    recent: Sequence[float] = (),
    kept_fds: Sequence[int] = (),
) -> tuple[list[str], dict[str, str]]:
    """Return the command line and environment for `execute`; `restarts`: those made before this one.

    The command line is this process's own, with interpreter options, from a console script or `python -m`.
    Its first word becomes the interpreter's path: the bare name "python" might find another interpreter, or
    this one without its virtual environment.
    """
    state = {
        "version": _STATE_VERSION,
        "pid": os.getpid(),
        "fds": [listening_socket.fileno() for listening_socket in sockets],
        "position": position,
        "started": started,
        "restarts": restarts + 1,
        "recent": list(recent),
        "kept": list(kept_fds),
    }
    return [sys.executable, *sys.orig_argv[1:]], {**os.environ, STATE_VARIABLE: json.dumps(state)}


def first_missing(needed: Sequence[Path]) -> str:
    """Describe what is missing for the next image, or return "".

    Checked are the interpreter, the script, the package, the folder it was started in, and the `needed`
    paths. What a hung file system does not answer within `CHECK_TIMEOUT_S` counts as present.
    """
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(_first_missing(needed)), daemon=True)
    thread.start()
    thread.join(CHECK_TIMEOUT_S)
    return found[0] if found else ""


def _first_missing(needed: Sequence[Path]) -> str:
    if not os.access(sys.executable, os.X_OK):
        return f"the interpreter {sys.executable} is gone"
    if _START_FOLDER is not None and not os.path.isdir(_START_FOLDER):
        return f"the folder it was started in, {_START_FOLDER}, is gone"
    script = Path(_START_FOLDER or "", sys.argv[0])
    for path in (script, _PACKAGE / "__main__.py", *needed):
        if not os.path.exists(path):
            return f"{path} is gone"
    return ""


def execute(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Replace this process by the new image, started in the same folder as this one.

    Returns only by raising OSError; the process can then continue unchanged. Flush the standard streams
    before, because Python's buffers are lost.
    """
    state = json.loads(env[STATE_VARIABLE])
    fds = state["fds"] + state["kept"]
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        if _START_FOLDER is not None:
            os.chdir(_START_FOLDER)  # it may have been recreated since
        os.execve(argv[0], list(argv), dict(env))
    except OSError:
        for fd in fds:
            os.set_inheritable(fd, False)
        raise


def load_state() -> RestartState | None:
    """Return what the previous image left, or None at a fresh start.

    The state is removed from the environment: it is valid once. State of another process (children inherit
    the environment) or version is ignored, and so is a descriptor that is no longer a listening socket.
    """
    text = os.environ.pop(STATE_VARIABLE, None)
    if text is None:
        return None
    try:
        state = json.loads(text)
        if state["version"] != _STATE_VERSION or state["pid"] != os.getpid():
            return None
        fds = [int(fd) for fd in state["fds"]]
        position = None if state["position"] is None else str(state["position"])
        started, restarts = float(state["started"]), int(state["restarts"])
        recent = tuple(float(when) for when in state["recent"])
        kept_fds = tuple(int(fd) for fd in state["kept"])
    except (ValueError, KeyError, TypeError):
        return None
    sockets = [sock for fd in fds if (sock := listening_socket(fd)) is not None]
    return RestartState(sockets, position, started, restarts, recent, kept_fds)


def listening_socket(fd: int) -> socket.socket | None:
    """Take ownership of descriptor `fd` if it is a listening socket, else return None."""
    try:
        sock = socket.socket(fileno=fd)
    except (OSError, ValueError):
        return None
    try:
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError:
        listening = False
    if not listening:
        sock.detach()
        return None
    os.set_inheritable(fd, False)
    return sock
