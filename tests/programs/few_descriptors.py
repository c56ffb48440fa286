"""Runs a server with 40 descriptors, from "before" or "after" its start, until its input ends."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from typing import Any

import uvloop

from fasttail.connection.hub import Hub
from fasttail.publish.legacy_api import CHANNELS
from fasttail.server.server import Server


def ok() -> tuple[int, dict[str, Any]]:
    return 200, {"status": "ok"}


async def main() -> None:
    server = Server(Hub(CHANNELS), port=0, health=ok, live=ok, metrics=lambda: b"", routes={}, status=dict)
    if sys.argv[1] == "before":
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    await server.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    print(server.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(1001)


logging.basicConfig(level="INFO")
uvloop.run(main())
