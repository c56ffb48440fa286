"""Threads that run steps of replay readers give the same messages as without, and leave nothing behind."""

from __future__ import annotations

import gc
import os
import select
import threading
from pathlib import Path

import pytest
from lines import event, plain
from running import PATIENCE_S, wait_for

from fasttail.engine.topics import Topic
from fasttail.replay.replay_reader import ReplayReader
from fasttail.replay.step_threads import ReplayThreadPool


def opened(path: Path) -> ReplayReader:
    replay_reader = ReplayReader(window=1 << 16)
    replay_reader.attach_topic(Topic("orders", format="raw", with_seq=False))
    replay_reader.open(str(path), "plain", 0)
    return replay_reader


def replay_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fasttail-replay")]


@pytest.mark.parametrize("urgent", [False, True])
def test_a_step_in_a_thread(tmp_path: Path, urgent: bool) -> None:
    path = tmp_path / "9"
    path.write_bytes(plain(*(event(oid=n) for n in range(2000))))
    size = path.stat().st_size
    threads = ReplayThreadPool(2)
    here, there = [opened(path) for _ in range(2)], [opened(path) for _ in range(2)]
    expected = []
    for replay_reader in here:
        while replay_reader.tell() < size:
            replay_reader.read_step(size)
            expected += replay_reader.take_messages()
    got = []
    waiting = list(there)
    while waiting:
        for replay_reader in waiting:
            replay_reader.begin_step(size)
            threads.submit(replay_reader, urgent=urgent)
        done: list[ReplayReader] = []
        while len(done) < len(waiting):
            assert select.select([threads.fd], [], [], PATIENCE_S)[0]
            done += threads.take_finished()
        assert {id(each) for each in done} == {id(each) for each in waiting}
        assert threads.take_finished() == []
        for replay_reader in waiting:
            assert replay_reader.end_step()
            got += replay_reader.take_messages()
        waiting = [replay_reader for replay_reader in waiting if replay_reader.tell() < size]
    assert sorted(each.data for each in got) == sorted(each.data for each in expected)
    threads.close()


def test_nothing_is_left_behind() -> None:
    gc.collect()
    wait_for("the threads of other tests", lambda: not replay_threads())
    before = len(os.listdir("/proc/self/fd"))
    threads = ReplayThreadPool(3)
    assert len(replay_threads()) == 4
    threads.close()
    threads.close()
    wait_for("the end of the threads", lambda: not replay_threads())
    del threads
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_arguments_that_are_none() -> None:
    """A pool whose construction failed closes no foreign descriptor."""
    status = os.fstat(0)
    with pytest.raises(TypeError):
        ReplayThreadPool("several")  # type: ignore[arg-type]
    assert os.fstat(0) == status
