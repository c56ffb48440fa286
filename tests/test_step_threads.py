"""Threads that run steps of rereaders: the messages are the same as without, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import select
import threading
from pathlib import Path

import pytest
from lines import event, plain
from running import PATIENCE_S, wait_for

from fasttail.publish.topics import Topic
from fasttail.reread import Rereader
from fasttail.step_threads import StepThreads


def opened(path: Path) -> Rereader:
    rereader = Rereader(window=1 << 16)
    rereader.add(Topic("orders", format="raw", numbered=False))
    rereader.open(str(path), "plain", 0)
    return rereader


def replay_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fasttail-replay")]


@pytest.mark.parametrize("urgent", [False, True])
def test_a_step_in_a_thread(tmp_path: Path, urgent: bool) -> None:
    path = tmp_path / "9"
    path.write_bytes(plain(*(event(oid=n) for n in range(2000))))
    size = path.stat().st_size
    threads = StepThreads(2)
    here, there = [opened(path) for _ in range(2)], [opened(path) for _ in range(2)]
    expected = []
    for rereader in here:
        while rereader.tell() < size:
            rereader.read(size)
            expected += rereader.take()
    got = []
    waiting = list(there)
    while waiting:
        for rereader in waiting:
            rereader.begin_step(size)
            threads.submit(rereader, urgent=urgent)
        done: list[Rereader] = []
        while len(done) < len(waiting):
            assert select.select([threads.fd], [], [], PATIENCE_S)[0]
            done += threads.finished()
        assert {id(each) for each in done} == {id(each) for each in waiting}
        assert threads.finished() == []
        for rereader in waiting:
            assert rereader.end_step()
            got += rereader.take()
        waiting = [rereader for rereader in waiting if rereader.tell() < size]
    assert sorted(each.data for each in got) == sorted(each.data for each in expected)
    threads.close()


def test_nothing_is_left_behind() -> None:
    gc.collect()
    wait_for("the threads of other tests", lambda: not replay_threads())
    before = len(os.listdir("/proc/self/fd"))
    threads = StepThreads(3)
    assert len(replay_threads()) == 4
    threads.close()
    threads.close()
    wait_for("the end of the threads", lambda: not replay_threads())
    del threads
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_arguments_that_are_none() -> None:
    """Nothing is closed that is not its own."""
    status = os.fstat(0)
    with pytest.raises(TypeError):
        StepThreads("several")  # type: ignore[arg-type]
    assert os.fstat(0) == status
