"""`fasttail` whose server fails when it is stopped. ARGV is the command line of running.command."""

from __future__ import annotations

import sys

from fasttail.__main__ import main
from fasttail.server.server import Server


async def broken(self: Server, *given: object, **named: object) -> None:
    raise AssertionError("a bug")


Server.stop = broken  # type: ignore[method-assign]
sys.argv = ["fasttail", *sys.argv[sys.argv.index("fasttail") + 1 :]]
sys.exit(main())
