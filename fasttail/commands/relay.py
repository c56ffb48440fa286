"""`fasttail relay`: writes streams that are published to NATS JetStream to a folder like a node's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

from fasttail.config import ConfigError, RelaySettings
from fasttail.jetstream.log import ServerOptions, share_bytes
from fasttail.jetstream.relay import Relay, RelayError
from fasttail.monitoring.log import start_logging

MAX_LINE = 64 << 20

log = logging.getLogger(__name__)


def relay(settings: RelaySettings) -> int:
    """Write until SIGTERM or SIGINT. Raises ConfigError, OSError."""
    s = settings
    options = ServerOptions(s.nats_url, s.nats_prefix, s.nats_credentials, s.nats_ca)
    shares = share_bytes(s.relay_keep, s.streams)
    try:
        relays = [
            Relay(options, s.directory, stream, keep_bytes=shares[stream], max_line=MAX_LINE)
            for stream in s.streams
        ]
    except RelayError as error:
        raise ConfigError(str(error)) from None
    log_service = start_logging(s.log_level)
    try:
        log.info("relaying %s to %s", ", ".join(s.streams), s.directory)
        asyncio.run(_run(relays))
        log.info("stopped")
    finally:
        log_service.stop(timeout=1.0)
    return 0


async def _run(relays: list[Relay]) -> None:
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(each.run()) for each in relays]

    def stop() -> None:
        for task in tasks:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
    finally:
        stop()
        await asyncio.wait(tasks)
