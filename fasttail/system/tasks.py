"""Ends tasks of asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

AGAIN_S = 0.1


async def cancel_tasks(tasks: Iterable[asyncio.Future[Any]], timeout_s: float = float("inf")) -> None:
    """Cancel tasks and wait until they have ended, or for `timeout_s`. Their exceptions are dropped.

    They are cancelled again every AGAIN_S: before Python 3.12, `asyncio.wait_for` loses a cancellation that
    comes together with the result it waits for (https://github.com/python/cpython/issues/86296), and clients
    of other projects wait that way. A cancellation of the caller takes effect after the tasks have ended.
    """
    pending = set(tasks)
    cancelled: asyncio.CancelledError | None = None
    deadline = time.monotonic() + timeout_s
    while pending and (left_s := deadline - time.monotonic()) > 0:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=min(left_s, AGAIN_S))
        except asyncio.CancelledError as error:
            cancelled = error
        for task in pending:
            if task.done() and not task.cancelled():
                task.exception()  # it has been seen
        pending = {task for task in pending if not task.done()}
    if cancelled is not None:
        raise cancelled
