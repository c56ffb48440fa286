"""How the service ends, where that takes timing which no process from outside can hit."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
import uvloop
from lines import event, plain
from running import hour_file, wait_for
from serving import upgrade

from fasttail import app as service
from fasttail.config import ServeSettings
from fasttail.observe.log import setup
from fasttail.pipeline import BatchEnd


def test_a_batch_that_ends_after_the_last_look_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs longer than a restart waits, and ends while the clients are being closed: nobody got it."""
    monkeypatch.setattr(service, "STOP_S", 0.05)
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.write_bytes(plain(*[event(oid=number) for number in range(5)]))
    settings = ServeSettings(data_dir=tmp_path, port=0, start="oldest", debug_stall=0.8, workers=1)
    log = setup("warning")
    app = service.App(settings, log, None, lambda: settings)

    async def main() -> None:
        running = asyncio.create_task(app.run())
        while not app.pipeline.stats()["in_batch_ns"]:  # noqa: ASYNC110 - the pipeline sets no event
            await asyncio.sleep(0.005)
        # A client that does not answer the closing handshake, for which the server waits a second.
        reader, writer = await asyncio.open_connection("127.0.0.1", app.server.port)
        writer.write(upgrade("/ws/orderUpdate"))
        await reader.readuntil(b"connected")
        monkeypatch.setattr(app, "_restart_reason", "a test")
        app._stop.set()
        await running
        writer.close()

    try:
        uvloop.run(main())
    finally:
        log.stop()
    deadline = time.monotonic() + 10
    while not app.pipeline.stopped and time.monotonic() < deadline:
        time.sleep(0.01)
    assert app.pipeline.stats()["offset"] == path.stat().st_size, "the batch ended in the meantime"
    assert app.restart_as is not None
    state = json.loads(app.restart_as[1]["FASTTAIL_RESTART"])
    assert json.loads(state["position"])["offset"] == 0
    for sock in app.server.sockets:
        sock.close()


@pytest.mark.fault(27)
def test_the_checkpoint_does_not_run_ahead_of_what_is_handed_out(tmp_path: Path) -> None:
    """What the pipeline has read and made, but the main thread has not taken, is read again after a kill."""
    path = hour_file(tmp_path / "data", "plain", "20260505", 9)
    line = plain(event(oid=1))
    path.write_bytes(line * 1000)
    settings = ServeSettings(
        data_dir=tmp_path / "data", state_dir=tmp_path / "state", port=0, start="oldest", workers=1,
        block_size=len(line) * 5, min_batch_us=0, log_batches="summary",
    )  # fmt: skip
    log = setup("warning")
    app = service.App(settings, log, None, lambda: settings)
    checkpoint = app._checkpoint
    assert checkpoint is not None

    def kept() -> int:
        """Have the checkpoint written; its offset."""
        before = checkpoint.written
        app._keep_place()
        wait_for("the checkpoint", lambda: checkpoint.written > before)
        return int(json.loads((tmp_path / "state" / "checkpoint.json").read_text())["position"]["offset"])

    try:
        app._open.set()
        app.pipeline.start()
        # The ring is full then: of the opening of the file, and 15 batches.
        wait_for("15 batches", lambda: app.pipeline.stats()["batches"] >= 15)
        time.sleep(0.1)
        app._take()
        assert kept() == 75 * len(line)
        wait_for("the end", lambda: not app._take() and app.pipeline.stats()["lines"] == 1000)
        app._take()
        assert kept() == path.stat().st_size
        place = app._handed_out.position()
        app._publish(
            BatchEnd(
                number=9999, logged=False, lines=1, orders=1, selected=1, published=0, failed=0, rejected=0,
                reject=None, seconds=0.0, workers=[], hour=2026050508, begin=0, end=7, late=True,
                file=("a former hour's", 1, 2), event_ns=0, local_ns=0, messages=[],
            )
        )  # fmt: skip
        assert app._handed_out.position() == place
    finally:
        app.pipeline.stop()
        wait_for("the stop", lambda: not app._take() and app.pipeline.stopped)
        checkpoint.close(5)
        log.stop()


def test_batches_that_cannot_be_handed_over_do_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = hour_file(tmp_path, "plain", "20260505", 9)
    path.touch()
    settings = ServeSettings(data_dir=tmp_path, port=0, start="oldest", workers=1)
    log = setup("warning")
    app = service.App(settings, log, None, lambda: settings)
    failed = 0

    def publish(note: BatchEnd) -> None:
        nonlocal failed
        failed += 1
        raise ValueError("a bug")

    async def main() -> None:
        running = asyncio.create_task(app.run())
        for number in range(5):
            with path.open("ab") as file:
                file.write(plain(event(oid=number)))
            while failed <= number:  # noqa: ASYNC110 - nothing sets an event
                await asyncio.sleep(0.005)
        app._stop.set()
        await running

    monkeypatch.setattr(app, "_publish", publish)
    try:
        uvloop.run(main())
    finally:
        log.stop()
    lines = capfd.readouterr().out.splitlines()
    assert sum("handing over failed" in line for line in lines) == 1
    assert sum("ValueError: a bug" in line for line in lines) == 1
