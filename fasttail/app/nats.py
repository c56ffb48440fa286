"""The publishers to NATS JetStream, or the relays from it, of one run."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import uvloop

from fasttail.config import ConfigError, ServeSettings
from fasttail.jetstream.log import Limits, ServerOptions, share_bytes
from fasttail.jetstream.publisher import Publisher
from fasttail.jetstream.relay import Relay, RelayError, open_relays
from fasttail.sources.follower import Follower
from fasttail.sources.position import Position
from fasttail.system.tasks import cancel_tasks

STOP_TIMEOUT_S = 1.0
RETRY_S = 5.0

log = logging.getLogger(__name__)


class NatsTasks:
    """Publishers if there is a `nats_url`, relays if there is a `from_nats`.

    Publishers have a thread with an event loop of their own, in which they also read and compress lines.

    make_follower: returns a Follower of a stream that begins at a position; None: at the end of its files
    Raises ConfigError if a relay cannot use the folder, OSError.
    """

    def __init__(
        self, settings: ServeSettings, make_follower: Callable[[str, Position | None], Follower]
    ) -> None:
        self._publishers: list[Publisher] = []
        self._relays: list[Relay] = []
        self._tasks: list[asyncio.Task[None]] = []  # of relays
        self._thread = threading.Thread(target=self._publish, name="fasttail-nats", daemon=True)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)  # of the thread
        self._stopping = asyncio.Event()  # of its event loop
        s = settings
        options = ServerOptions(s.nats_url or s.from_nats, s.nats_prefix, s.nats_credentials, s.nats_ca)
        if s.nats_url:
            shares = share_bytes(s.nats_max_bytes, s.streams)
            self._publishers = [
                Publisher(
                    options,
                    Limits(s.nats_max_age_s, shares[stream], s.nats_replicas),
                    node=s.nats_node,
                    stream=stream,
                    data_dir=s.data_dir,
                    layout=s.layout,
                    max_line=s.max_line,
                    linger_s=s.nats_linger_ms / 1000,
                    takeover_s=s.takeover_ms / 1000,
                    make_follower=partial(make_follower, stream),
                    use_inotify=s.inotify,
                )
                for stream in s.streams
            ]
        else:
            try:
                self._relays = open_relays(
                    options, s.data_dir, s.streams, keep_bytes=s.relay_keep, max_line=s.max_line
                )
            except RelayError as error:
                raise ConfigError(str(error)) from None

    def start(self) -> None:
        """Start all of them, relays on the running event loop."""
        self._tasks = [asyncio.create_task(_keep_running(each.run)) for each in self._relays]
        if self._publishers:
            self._runner.get_loop()  # makes it
            self._thread.start()

    async def stop(self) -> None:
        """Stop them, and wait for their end for a moment."""
        await cancel_tasks(self._tasks, STOP_TIMEOUT_S)
        if self._thread.is_alive():
            with suppress(RuntimeError):  # its event loop has just been closed
                self._runner.get_loop().call_soon_threadsafe(self._stopping.set)
            await asyncio.to_thread(self._thread.join, 2 * STOP_TIMEOUT_S)

    def _publish(self) -> None:
        with self._runner:
            self._runner.run(self._run_publishers())

    async def _run_publishers(self) -> None:
        tasks = [asyncio.create_task(_keep_running(each.run)) for each in self._publishers]
        await self._stopping.wait()
        await cancel_tasks(tasks, STOP_TIMEOUT_S)

    def publishers(self) -> dict[str, dict[str, Any]]:
        """Return the statistics of each publisher (`PublisherStats`), by its stream."""
        return {
            each.stream: dataclasses.asdict(each.stats) | {"behind_s": each.stats.behind_s}
            for each in self._publishers
        }

    def relays(self) -> dict[str, dict[str, Any]]:
        """Return the statistics of each relay (`RelayStats`), by its stream."""
        return {each.stream: dataclasses.asdict(each.stats) for each in self._relays}


async def _keep_running(run: Callable[[], Any]) -> None:
    """Run until cancelled; log failures and begin again."""
    while True:
        try:
            await run()
        except Exception:
            log.exception("nats: a task has failed; starting it again")
        await asyncio.sleep(RETRY_S)
