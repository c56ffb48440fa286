"""How a run starts and ends: its start position, the first scan, the pipeline's stop, restarts in place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable, Sequence

from fasttail.config import ConfigError, ServeSettings
from fasttail.engine.pipeline import Pipeline
from fasttail.sources.follower import Follower, Start
from fasttail.sources.position import Position
from fasttail.state import restart
from fasttail.state.checkpoint import Checkpoint, StateDirInUse, UnusableCheckpoint

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 3.0
"""How long the current batch may take to finish at a stop. Container engines kill after 10 s, and hung
clients, checkpoint, webhook and log need up to 7 s more.
"""
MIN_DESCRIPTORS = 32
"""A server without clients has about 20 open."""


def raise_descriptor_limit() -> None:
    """Raise the limit of descriptors to the hard limit, so that clients do not use those that files need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MIN_DESCRIPTORS:  # libuv and libc may end the process for want of one
        raise ConfigError(
            f"the limit of open files is {hard} (ulimit -n): at least {MIN_DESCRIPTORS} are needed"
        )
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_checkpoint(settings: ServeSettings, inherited: restart.RestartState | None) -> Checkpoint | None:
    """Open the state folder, if one is configured. Raises ConfigError if it is in use or unusable."""
    if settings.state_dir is None:
        return None
    try:
        return Checkpoint(settings.state_dir, settings.data_dir, inherited.kept_fds if inherited else ())
    except StateDirInUse as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"state_dir: {error.filename or settings.state_dir}: {error.strerror}") from error


def start_position(
    settings: ServeSettings, inherited: restart.RestartState | None, checkpoint: Checkpoint | None
) -> tuple[Start, Position | None]:
    """Return the start option, and the position to resume from, if there is one."""
    if inherited is not None:
        if inherited.position == "":
            # No file existed before the restart, so one that exists now is entirely new.
            return "oldest", None
        try:
            if inherited.position is not None:  # None: the folders could not be scanned
                return "end", Position.from_json(inherited.position)
        except ValueError as error:  # written by another version, replaced while the process ran
            log.warning("ignoring the position saved before the restart: %s", error)
    if settings.start != "checkpoint":
        return settings.start, None
    if checkpoint is None:
        return "end", None
    try:
        found = checkpoint.load()
    except UnusableCheckpoint as why:
        log.warning("ignoring checkpoint %s: %s; starting at the end", checkpoint.path, why)
        return "end", None
    if found.position is None:
        return "oldest", None
    log.info("resuming from checkpoint: %s, byte %d", found.position.path, found.position.offset)
    return "end", found.position


class StartBarrier:
    """Holds the pipeline between its first scan and the moment clients are accepted.

    So reading begins at a position found before clients connect, and they receive whatever is written after
    their greeting.
    """

    def __init__(self) -> None:
        self._initial_scan_done = threading.Event()
        self._accepting = threading.Event()

    def wait(self) -> None:
        """Block the pipeline's thread after its first scan, until clients are accepted."""
        self._initial_scan_done.set()
        self._accepting.wait()

    async def wait_for_initial_scan(self, pipeline: Pipeline) -> None:
        """Wait for the first scan, for about 10 s at most."""
        for _ in range(2000):
            if self._initial_scan_done.is_set() or pipeline.stopped:
                return
            await asyncio.sleep(0.005)

    def open(self) -> None:
        """Let the pipeline read: clients are accepted."""
        self._accepting.set()


async def stop_pipeline(pipeline: Pipeline, take: Callable[[], bool]) -> Position | None:
    """Finish the current batch, and call `take` until nothing is left to deliver.

    Return the reader's position, or None if the pipeline hangs in a batch.
    """
    loop = asyncio.get_running_loop()
    pipeline.stop()
    deadline = loop.time() + STOP_TIMEOUT_S
    while not pipeline.stopped and loop.time() < deadline:
        take()
        await asyncio.sleep(0.005)
    if not pipeline.stopped:
        log.warning(
            "the running batch did not finish within %g s; its lines will be read again after the restart",
            STOP_TIMEOUT_S,
        )
    loop.remove_reader(pipeline.ready_fd)
    # Before the last drain: a batch that is published only after it is read again.
    position = pipeline.position()
    while take():
        pass
    return position


class InPlaceRestarts:
    """The restarts so far, and what the next one needs.

    count: how many there were since `started` (Unix time).
    """

    def __init__(
        self, settings: ServeSettings, inherited: restart.RestartState | None, follower: Follower
    ) -> None:
        self.count = inherited.restarts if inherited else 0
        self.started = inherited.started if inherited else time.time()
        self.guard = restart.RestartLimiter(
            settings.max_restarts_per_hour, inherited.recent if inherited else ()
        )
        self._settings = settings
        self._follower = follower

    def first_missing(self) -> str:
        """Describe what the next image would not find, or return ""."""
        state = [self._settings.state_dir] if self._settings.state_dir is not None else []
        # If the node has written nothing yet, its folder may be missing: the next image waits for it too.
        return restart.first_missing(
            state if self._follower.no_file_yet else [self._settings.data_dir, *state]
        )

    def prepare(
        self, sockets: Sequence[socket.socket], position: Position | None, checkpoint: Checkpoint | None
    ) -> tuple[list[str], dict[str, str]]:
        """Return the command line and environment of the next image, which resumes at that position."""
        return restart.exec_arguments(
            sockets,
            position.to_json() if position is not None else "" if self._follower.no_file_yet else None,
            self.started,
            self.count,
            self.guard.recent,
            kept_fds=[checkpoint.lock_fd] if checkpoint is not None else [],
        )
