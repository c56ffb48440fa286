"""`fasttail relay`: writes streams that are published to NATS JetStream to a folder like a node's."""

from __future__ import annotations

import asyncio
import logging
import signal

from fasttail.config import ConfigError, RelaySettings
from fasttail.jetstream.log import ServerOptions
from fasttail.jetstream.relay import Relay, RelayError, open_relays
from fasttail.monitoring.log import start_logging
from fasttail.system.tasks import cancel_tasks

MAX_LINE = 64 << 20

log = logging.getLogger(__name__)


def relay(settings: RelaySettings) -> int:
    """Write until SIGTERM or SIGINT. Raises ConfigError, OSError."""
    s = settings
    options = ServerOptions(s.nats_url, s.nats_prefix, s.nats_credentials, s.nats_ca)
    try:
        relays = open_relays(options, s.directory, s.streams, keep_bytes=s.relay_keep, max_line=MAX_LINE)
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
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    running = {asyncio.create_task(each.run()) for each in relays}
    stop = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait({*running, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await cancel_tasks({*running, stop})
