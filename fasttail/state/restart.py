"""Restart in place: the process executes itself anew, keeps its pid, and takes the listening sockets along.

    old image:  exec_arguments() ──► execute()     argv, sockets left open, FASTTAIL_RESTART = state as JSON
                                 │ execve: same pid, no thread survives, memory is given back
    new image:               load_state()          sockets and state, once

Connections that arrive meanwhile wait in the sockets' backlog instead of being refused. The sockets must not
be closed before: closing the last descriptor of a listening socket loses those connections.
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
"""Where this image was started: relative paths of its command line begin there. None: it was gone then."""


@dataclass(frozen=True)
class RestartState:
    """What the former image left: its listening sockets, the reading position (JSON text, "" = there was no
    file, None = not known), when the first image started (seconds since 1970), and how many restarts
    there were, this one included.
    recent: when the last of them were (monotonic seconds: the clock goes on through an `execve`).
    kept_fds: other descriptors that were kept open.
    """

    sockets: list[socket.socket]
    position: str | None
    started: float
    restarts: int
    recent: tuple[float, ...] = ()
    kept_fds: tuple[int, ...] = ()


class RestartLimiter:
    """At most `max_per_hour` restarts in any hour; `recent`: those of former images. A process that needs
    more than that is not helped by them, and its clients are cut off each time.
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
        """The restarts of the last hour, this image's own included."""
        now = self._clock()
        return tuple(when for when in self._recent if now - self.HOUR_S < when <= now)

    @property
    def exhausted(self) -> bool:
        """No more may be made now."""
        return len(self.recent) >= self._max_per_hour

    def try_acquire(self) -> bool:
        """Whether one more may be made; it is counted."""
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
    """The command line and the environment for `execute`; `restarts` counts those made before this one.

    The command line is the one this process was started with, interpreter options included, whether by a
    console script or by `python -m`. Its first word becomes the path of the interpreter: by the bare name
    "python" another one might be found, or this one without its virtual environment.
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
    """What the next image would not find: the interpreter, the script, the package, the folder it is started
    in, or one of the paths that are `needed`. In words; "" if all of it is there. Takes `CHECK_TIMEOUT_S` at
    most:
    what a dead file system does not tell by then counts as there.
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
    """Becomes the new image, in the folder where this one was started. Comes back only by an OSError, with
    everything as it was: the process can go on.

    What Python still holds for its standard streams is lost: flush before.
    """
    state = json.loads(env[STATE_VARIABLE])
    fds = state["fds"] + state["kept"]
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        if _START_FOLDER is not None:
            os.chdir(_START_FOLDER)  # another one of that name, if it was removed and made anew
        os.execve(argv[0], list(argv), dict(env))
    except OSError:
        for fd in fds:
            os.set_inheritable(fd, False)
        raise


def load_state() -> RestartState | None:
    """What the former image left, None if this is a fresh start. Takes it out of the environment: it counts
    once.

    State that is not this process's (a child inherits its parent's environment) or not understood (another
    version of fasttail wrote it) is passed over, and so is a descriptor that is no listening socket any more.
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
    """The listening socket that descriptor `fd` is, owned from now on; None if it is something else."""
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
