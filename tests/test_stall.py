"""The stall watch: what counts as a stall, and what the stacks show."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from running import wait_for

from fasttail.monitoring import stall
from fasttail.monitoring.stall import StallWatch, unread_lines

S = 1_000_000_000


class Pipeline:
    """Adjustable stats and clock. The loop advances at each step unless told otherwise."""

    def __init__(self, path: Path | None = None) -> None:
        self.now = 1000 * S
        self.stats: dict[str, Any] = {
            "in_batch_ns": 0,
            "loop_ns": 0,
            "file": str(path) if path else None,
            "offset": 0,
            "batch_number": 0,
            "oversize_lines": 0,
            "identity": None,
            "read_errors": 0,
        }
        self.watch = StallWatch(
            lambda: self.stats, stall_after_s=10, batch_timeout_s=20, clock=lambda: self.now
        )

    def looked(self) -> bool:
        """Return whether the probe that the previous step started has ended."""
        return all(thread.name != stall.PROBE_THREAD for thread in threading.enumerate())

    def step(self, seconds: float = 5, *, comes_by: bool = True, **stats: Any) -> str | None:
        self.now += int(seconds * S)
        self.stats |= stats
        if comes_by:
            self.stats["loop_ns"] = self.now
        return self.watch.sample()


def test_a_pipeline_that_does_not_come_by() -> None:
    pipeline = Pipeline()
    assert pipeline.step(9.9, comes_by=False) is None
    assert pipeline.step(0.2, comes_by=False) is None, "once may be our own absence"
    assert pipeline.step(0.2, comes_by=False) == "the pipeline has made no progress for 10.3 s"
    assert pipeline.step() is None
    assert pipeline.step(10.1, comes_by=False) is None
    assert pipeline.step(0.1, comes_by=False) is not None


def test_a_process_that_did_not_run_is_no_stalled_pipeline() -> None:
    pipeline = Pipeline()
    for _ in range(5):
        assert pipeline.step(100, comes_by=False) is None
        assert pipeline.step(5) is None
        assert pipeline.step(100, comes_by=False, in_batch_ns=pipeline.now) is None
        assert pipeline.step(5, in_batch_ns=0) is None


def test_a_batch_has_the_longer_of_both_limits() -> None:
    pipeline = Pipeline()
    began = pipeline.now
    assert pipeline.step(19.9, comes_by=False, in_batch_ns=began) is None
    assert pipeline.step(0.2, comes_by=False) is None
    assert pipeline.step(0.2, comes_by=False) == "a batch has run for 20.3 s"
    assert pipeline.step(in_batch_ns=0) is None


def test_a_pipeline_that_comes_by_and_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "9"
    path.touch()
    pipeline = Pipeline(path)
    assert pipeline.step() is None
    for _ in range(10):  # nothing to read
        assert pipeline.step() is None
        wait_for("the look", pipeline.looked)
    path.write_bytes(b"a line\nanother\n")
    assert pipeline.step() is None  # detected now
    wait_for("the look", pipeline.looked)
    assert pipeline.step() is None
    assert pipeline.step() is None
    assert pipeline.step() is None
    assert pipeline.step() == "15 bytes of complete lines have been unread for 20.0 s"
    assert pipeline.step(offset=15) is None


def test_reading_on_is_progress(tmp_path: Path) -> None:
    path = tmp_path / "9"
    path.write_bytes(b"line\n" * 1000)
    pipeline = Pipeline(path)
    for offset in range(1, 200):
        assert pipeline.step(9, offset=offset) is None
    for skipped in range(1, 20):
        assert pipeline.step(9, oversize_lines=skipped) is None
    for failed in range(1, 20):
        assert pipeline.step(9, read_errors=failed) is None, "a bad sector: no restart would help"


def test_what_is_no_work_yet(tmp_path: Path) -> None:
    path = tmp_path / "9"
    path.write_bytes(b"done\nonly half of a li")
    assert unread_lines(str(path), 0) == 22
    assert unread_lines(str(path), 5) == 0, "a torn line"
    assert unread_lines(str(path), 22) == 0
    assert unread_lines(str(path), 99) == 0, "truncated"
    assert unread_lines(str(tmp_path / "none"), 0) == 0
    assert unread_lines(str(tmp_path), 0) == 0, "not a file"
    path.write_bytes(b"x" * 200_000 + b"\n")
    assert unread_lines(str(path), 5) == 199_996
    status = path.stat()
    assert unread_lines(str(path), 5, (status.st_dev, status.st_ino)) == 199_996
    assert unread_lines(str(path), 5, (status.st_dev, status.st_ino + 1)) == 0, "another file of that name"


def test_no_file_is_no_stall() -> None:
    pipeline = Pipeline()
    assert [pipeline.step() for _ in range(100)] == [None] * 100
