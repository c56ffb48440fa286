"""How a run begins and ends: where it goes on, the first look, the pipeline's end, restarts in place."""

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
"""How long the running batch may take to end at a stop. Container engines kill after ten seconds, and
clients, checkpoint, webhook and log take 7 more if they hang as well.
"""
MIN_DESCRIPTORS = 32
"""A server without clients has some 20 open."""


def raise_descriptor_limit() -> None:
    """As many descriptors as the hard limit allows: clients must not take those that the files need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MIN_DESCRIPTORS:  # libuv and libc end the process in some places where they get none
        raise ConfigError(
            f"the limit of open files is {hard} (ulimit -n): at least {MIN_DESCRIPTORS} are needed"
        )
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_checkpoint(settings: ServeSettings, inherited: restart.RestartState | None) -> Checkpoint | None:
    """The state folder, if there is to be one. ConfigError: another instance has it, or it cannot be used."""
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
    """Where to begin, if there is no place to go on at, and that place."""
    if inherited is not None:
        if inherited.position == "":
            # Restarted before the first file came: if it came meanwhile, it is new as a whole.
            return "oldest", None
        try:
            if inherited.position is not None:  # else the folders could not be looked at
                return "end", Position.from_json(inherited.position)
        except ValueError as error:  # of another version, installed while the process ran
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
    """The pipeline looks at the folders first, and reads once clients may come.

    Where reading begins is so known before clients can come: what is written after a greeting is read.
    """

    def __init__(self) -> None:
        self._initial_scan_done = threading.Event()
        self._accepting = threading.Event()

    def wait(self) -> None:
        """In the pipeline's thread, after its first look."""
        self._initial_scan_done.set()
        self._accepting.wait()

    async def first_look(self, pipeline: Pipeline) -> None:
        """Until the folders have been looked at, or that takes too long."""
        for _ in range(2000):
            if self._initial_scan_done.is_set() or pipeline.stopped:
                return
            await asyncio.sleep(0.005)

    def open(self) -> None:
        """Clients may come."""
        self._accepting.set()


async def stop_pipeline(pipeline: Pipeline, take: Callable[[], bool]) -> Position | None:
    """End the running batch, and `take` what was made. Where the reader stands; None: it hangs in a batch."""
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
    # Before the ring is emptied for the last time: what a batch hands over only after that is read again.
    position = pipeline.position()
    while take():
        pass
    return position


class InPlaceRestarts:
    """Those that were made, `count` since `started` (Unix time), and what the next one takes along."""

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
        """What the next image would not find; "" if it finds all."""
        state = [self._settings.state_dir] if self._settings.state_dir is not None else []
        # A folder that the node has not written to yet is waited for, by the next image too.
        return restart.first_missing(
            state if self._follower.no_file_yet else [self._settings.data_dir, *state]
        )

    def prepare(
        self, sockets: Sequence[socket.socket], position: Position | None, checkpoint: Checkpoint | None
    ) -> tuple[list[str], dict[str, str]]:
        """Command line and environment of the next image, which goes on at that position."""
        return restart.exec_arguments(
            sockets,
            position.to_json() if position is not None else "" if self._follower.no_file_yet else None,
            self.started,
            self.count,
            self.guard.recent,
            kept_fds=[checkpoint.lock_fd] if checkpoint is not None else [],
        )
