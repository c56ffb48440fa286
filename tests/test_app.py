"""Behaviour of the service that depends on timing no external process can hit: how it ends, what it keeps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from lines import event, plain
from running import hour_file, wait_for
from serving import until

from fasttail.app import App, lifecycle
from fasttail.config import ServeSettings
from fasttail.monitoring.log import start_logging
from fasttail.publish.feeds import Feeds
from fasttail.sources.position import Position
from fasttail.state.checkpoint import Checkpoint


def test_a_batch_that_ends_after_the_last_look_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that outlasts the restart's wait and ends while clients are closed was delivered to nobody."""
    monkeypatch.setattr(lifecycle, "STOP_TIMEOUT_S", 0.05)
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.write_bytes(plain(*[event(oid=number) for number in range(5)]))
    settings = ServeSettings(data_dir=tmp_path, port=0, start="oldest", debug_stall=3, workers=1)
    log = start_logging("warning")
    app = App(settings, log, None, lambda: settings)
    stop_server = app.server.stop

    async def stop(*given: Any, **named: Any) -> None:
        await until(lambda: app.pipeline.stopped)  # closing the clients takes that long
        await stop_server(*given, **named)

    async def main() -> None:
        running = asyncio.create_task(app.run())
        await until(lambda: bool(app.pipeline.stats()["in_batch_ns"]))
        app.request_restart("a test")
        await running

    monkeypatch.setattr(app.server, "stop", stop)
    try:
        uvloop.run(main())
    finally:
        log.stop()
    assert app.pipeline.stats()["offset"] == path.stat().st_size, "the batch ended in the meantime"
    assert app.exec_args is not None
    state = json.loads(app.exec_args[1]["FASTTAIL_RESTART"])
    assert json.loads(state["position"])["offset"] == 0
    for sock in app.server.sockets:
        sock.close()


@pytest.mark.fault(27)
def test_the_checkpoint_does_not_run_ahead_of_what_is_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the pipeline has published but the main thread has not taken is read again after a kill."""
    path = hour_file(tmp_path / "data", "plain", "20260505", 9)
    line = plain(event(oid=1))
    path.write_bytes(line * 5)
    settings = ServeSettings(
        data_dir=tmp_path / "data", state_dir=tmp_path / "state", port=0, start="oldest", workers=1,
        block_size=len(line) * 5, min_batch_us=0, log_batches="summary",
    )  # fmt: skip
    log = start_logging("warning")
    app = App(settings, log, None, lambda: settings)
    kept = [-1]
    write = Checkpoint.save

    def save(self: Checkpoint, position: Position | None) -> None:
        kept.append(position.offset if position else -1)
        write(self, position)

    async def handed_out(lines: int) -> None:
        while kept[-1] != lines * len(line):
            await asyncio.sleep(0.005)
            app.dispatcher.save_checkpoint()

    async def main() -> None:
        running = asyncio.create_task(app.run())
        await handed_out(5)
        with path.open("ab") as file:
            file.write(line * 995)
        # While the main thread waits here, it takes nothing, and the ring fills.
        wait_for("a full ring", lambda: app.pipeline.stats()["batches"] >= 16)
        app.dispatcher.save_checkpoint()
        assert kept[-1] == 5 * len(line)
        await handed_out(1000)
        app.request_stop()
        assert await running == 0

    monkeypatch.setattr(Checkpoint, "save", save)
    try:
        uvloop.run(asyncio.wait_for(main(), 240))
    finally:
        log.stop()
    assert kept == sorted(kept)
    state = json.loads((tmp_path / "state" / "checkpoint.json").read_bytes())
    assert state["position"]["offset"] == path.stat().st_size


def test_batches_that_cannot_be_handed_over_do_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.touch()
    settings = ServeSettings(data_dir=tmp_path, port=0, start="oldest", workers=1)
    log = start_logging("warning")
    failed = 0

    def take(self: Feeds, messages: Sequence[object], note: object) -> None:
        nonlocal failed
        failed += 1
        raise ValueError("a bug")

    async def main() -> None:
        running = asyncio.create_task(app.run())
        for number in range(5):
            with path.open("ab") as file:
                file.write(plain(event(oid=number)))
            await until(lambda: failed > number)  # noqa: B023 - called before the next number
        app.request_stop()
        await running

    monkeypatch.setattr(Feeds, "deliver_batch", take)
    app = App(settings, log, None, lambda: settings)
    try:
        uvloop.run(main())
    finally:
        log.stop()
    lines = capfd.readouterr().out.splitlines()
    assert sum("publishing failed" in line for line in lines) == 1
    assert sum("ValueError: a bug" in line for line in lines) == 1
