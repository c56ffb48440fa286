"""Watcher: what ends a wait, with real inotify, and with polling where there is none."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from running import program

from fasttail.sources.watcher import WAIT_DATA, WAIT_DIRS, WAIT_TIMER, WAIT_WAKE, StreamWatch, Watcher

SOON = 2_000_000  # µs: far longer than an event takes


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    made = Watcher()
    assert made.uses_inotify, made.polling_reason
    yield made
    made.close()


@pytest.fixture
def watch(watcher: Watcher) -> StreamWatch:
    return watcher.watch()


def pending(watcher: Watcher) -> int:
    """Return the flags of everything that has happened so far."""
    answer = 0
    while (got := watcher.wait_once(0)) != WAIT_TIMER:
        answer |= got
    return answer


def append(path: Path, data: bytes = b"x\n") -> None:
    with path.open("ab") as file:
        file.write(data)


def test_current_file(watcher: Watcher, watch: StreamWatch, tmp_path: Path) -> None:
    path = tmp_path / "9"
    append(path)
    watch.watch_file(path)
    assert watcher.wait_once(0) == WAIT_TIMER
    append(path)
    assert watcher.wait_once(SOON) == WAIT_DATA
    assert pending(watcher) == 0
    os.truncate(path, 0)
    assert pending(watcher) & WAIT_DATA


def test_file_moved_and_deleted(watcher: Watcher, watch: StreamWatch, tmp_path: Path) -> None:
    path = tmp_path / "9"
    append(path)
    watch.watch_file(path)
    path.rename(tmp_path / "8")
    assert pending(watcher) == WAIT_DIRS
    append(tmp_path / "8")
    assert pending(watcher) == WAIT_DATA, "the watch goes with the file"
    (tmp_path / "8").unlink()
    assert watcher.wait_once(SOON) & WAIT_DIRS
    assert watcher.wait_once(SOON) & WAIT_DATA, "no watch is left: it polls until there is another file"
    assert watcher.uses_inotify
    watch.watch_file(None)
    assert watcher.wait_once(1000) == WAIT_TIMER


def test_another_current_file(watcher: Watcher, watch: StreamWatch, tmp_path: Path) -> None:
    old, new = tmp_path / "9", tmp_path / "10"
    append(old)
    append(new)
    watch.watch_file(old)
    watch.watch_file(new)
    pending(watcher)
    append(old)
    assert pending(watcher) == 0
    append(new)
    assert pending(watcher) == WAIT_DATA
    watch.watch_file(new)
    append(new)
    assert pending(watcher) == WAIT_DATA, "the same file again keeps its watch"
    watch.watch_file(None)
    pending(watcher)
    append(new)
    assert pending(watcher) == 0


def test_folders(watcher: Watcher, watch: StreamWatch, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    watch.watch_dirs([one, two, tmp_path / "missing"])
    assert pending(watcher) == 0
    for change in (
        lambda: append(one / "9"),
        lambda: (two / "20260505").mkdir(),
        lambda: (one / "9").rename(two / "10"),
        lambda: (two / "10").unlink(),
    ):
        change()
        assert pending(watcher) == WAIT_DIRS
    watch.watch_dirs([two])
    pending(watcher)
    append(one / "11")
    assert pending(watcher) == 0, "no longer watched"
    append(two / "11")
    assert pending(watcher) == WAIT_DIRS


@pytest.mark.fault(8)
def test_folder_made_again(watcher: Watcher, watch: StreamWatch, tmp_path: Path) -> None:
    folder = tmp_path / "20260505"
    for _ in range(3):
        folder.mkdir()
        watch.watch_dirs([folder])
        pending(watcher)
        append(folder / "1")
        assert pending(watcher) == WAIT_DIRS
        (folder / "1").unlink()
        folder.rmdir()
        assert pending(watcher) == WAIT_DIRS


def test_watching_again_costs_no_event(watcher: Watcher, watch: StreamWatch, tmp_path: Path) -> None:
    append(tmp_path / "9")
    for _ in range(3):
        watch.watch_dirs([tmp_path])
        watch.watch_file(tmp_path / "9")
        assert watcher.wait_once(0) == WAIT_TIMER


def test_wake_ends_a_wait_and_is_left_unread() -> None:
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    for use_inotify in (True, False):
        watcher = Watcher(wake, use_inotify=use_inotify, poll_ms=60_000)
        watcher.watch()
        timer = threading.Timer(0.05, os.eventfd_write, (wake, 1))
        begin = time.monotonic()
        timer.start()
        assert watcher.wait_once(-1) & WAIT_WAKE
        assert 0.04 < time.monotonic() - begin < 60, "before it polls"
        assert watcher.wait_once(0) & WAIT_WAKE
        assert os.eventfd_read(wake) == 1
        timer.join()
    os.close(wake)


def test_timeouts_below_a_millisecond(watcher: Watcher) -> None:
    begin = time.monotonic()
    for _ in range(20):
        assert watcher.wait_once(200) == WAIT_TIMER
    assert time.monotonic() - begin >= 0.004


def test_idle_costs_nothing(watcher: Watcher, watch: StreamWatch, tmp_path: Path) -> None:
    watch.watch_dirs([tmp_path])
    begin = time.thread_time()
    assert watcher.wait_once(300_000) == WAIT_TIMER
    assert time.thread_time() - begin < 0.01


@pytest.mark.fault(30)
def test_polling(tmp_path: Path) -> None:
    watcher = Watcher(use_inotify=False, poll_ms=10)
    watch = watcher.watch()
    assert not watcher.uses_inotify
    assert watcher.polling_reason == "inotify is switched off"
    watch.watch_dirs([tmp_path])
    watch.watch_file(tmp_path / "missing")
    begin = time.monotonic()
    assert watcher.wait_once(600_000_000) == WAIT_DATA, "look at the file; the time asked for has not passed"
    assert 0.009 < time.monotonic() - begin < 600
    assert watcher.wait_once(1000) == WAIT_DATA | WAIT_TIMER
    assert watcher.wait_once(-1) == WAIT_DATA


def test_file_that_cannot_be_watched_is_polled(watcher: Watcher, watch: StreamWatch, tmp_path: Path) -> None:
    watch.watch_file(tmp_path / "missing")
    assert watcher.uses_inotify
    assert watcher.wait_once(600_000_000) == WAIT_DATA, "the time asked for has not passed"
    append(tmp_path / "9")
    watch.watch_file(tmp_path / "9")
    assert watcher.wait_once(1000) == WAIT_TIMER


@pytest.mark.fault(28)
def test_queue_overflow(watcher: Watcher, watch: StreamWatch, tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    watch.watch_dirs([tmp_path])
    path = tmp_path / "9"
    for _ in range(limit // 2 + 10):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        path.unlink()
    assert pending(watcher) == WAIT_DATA | WAIT_DIRS
    assert watcher.overflows == 1
    append(path)
    assert pending(watcher) == WAIT_DIRS


def run(name: str, *words: str, wrap: Sequence[str] = ()) -> str:
    """Run a program of `programs`, prefixed by `wrap`, and return its standard output."""
    command = [*wrap, *program(name), *words]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


@pytest.mark.fault(29)
def test_no_instances_left() -> None:
    told = run("no_instances")
    assert told.startswith("False 1 inotify is unavailable (Too many open files): raise the sysctl")


@pytest.mark.fault(29)
def test_no_watches_left(tmp_path: Path) -> None:
    namespace = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    first, second = run("no_watches", str(tmp_path), wrap=namespace).splitlines()
    assert first == "True None"
    assert second.startswith("False 1 inotify is unavailable (No space left on device)")
    assert "fs.inotify.max_user_watches" in second


def test_close_gives_the_instance_back(tmp_path: Path) -> None:
    def instances() -> int:
        links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        return sum("inotify" in link for link in links)

    before = instances()
    watcher = Watcher()
    other = Watcher()
    watcher.watch()
    assert instances() == before + 2
    watcher.close()
    watcher.close()
    assert watcher.wait_once(0) & WAIT_DATA
    del other
    assert instances() == before
    state = os.fstat(0)
    with pytest.raises(TypeError):
        Watcher("no descriptor")  # type: ignore[arg-type]
    assert os.fstat(0) == state, "a Watcher that was not made closes nothing"
