"""Tasks that are cancelled end, also where they lose a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from fasttail.system.tasks import cancel_tasks


async def lose(cancellations: int) -> None:
    """Run for an hour, but for the last of some cancellations."""
    for _ in range(cancellations - 1):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    await asyncio.sleep(3600)


async def begun(count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(lose(each + 1)) for each in range(count)]
    await asyncio.sleep(0)
    return tasks


def test_tasks_that_lose_cancellations_end() -> None:
    async def run() -> None:
        tasks = await begun(3)
        await cancel_tasks(tasks)
        assert all(task.cancelled() for task in tasks)

    asyncio.run(run())


def test_a_cancellation_takes_effect_after_the_tasks_have_ended() -> None:
    async def run() -> None:
        tasks = await begun(3)
        cancelling = asyncio.create_task(cancel_tasks(tasks))
        await asyncio.sleep(0)
        cancelling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelling
        assert all(task.cancelled() for task in tasks)

    asyncio.run(run())


def test_a_task_that_does_not_end_is_waited_for_only_so_long() -> None:
    async def run() -> None:
        stopping = asyncio.Event()

        async def go_on() -> None:
            while not stopping.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await stopping.wait()

        task = asyncio.create_task(go_on())
        await asyncio.sleep(0)
        begun_at = time.monotonic()
        await cancel_tasks([task], 0.3)
        assert time.monotonic() - begun_at >= 0.3
        assert not task.done()
        stopping.set()
        await task

    asyncio.run(run())


def test_exceptions_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError

    async def run() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await cancel_tasks([task])

    asyncio.run(run())
    assert not caplog.records
