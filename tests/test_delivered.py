"""The delivered position: what is kept about previous hours."""

from __future__ import annotations

import weakref

from fasttail.engine.events import BatchEnd, FileOpened
from fasttail.sources.previous_hours import MAX_PREVIOUS_HOURS
from fasttail.state.delivered import DeliveredPosition


def opened(hour: int) -> FileOpened:
    return FileOpened("orders", hour, 0, None, (f"/data/{hour}", 1, hour))


class Name(str):
    """A str that supports weak references."""


def test_hours_that_grow_no_more_are_forgotten_though_nobody_asks() -> None:
    now = [0.0]
    kept = weakref.WeakSet[Name]()
    delivered = DeliveredPosition(None, 5.0, clock=lambda: now[0])
    for hour in range(1000):
        now[0] += 1.0
        path = Name(hour)
        kept.add(path)
        delivered.on_file_opened(FileOpened("orders", hour, 0, None, (path, 1, hour)))
        assert len(kept) <= 7


def test_many_hours_at_once() -> None:
    delivered = DeliveredPosition(None, 5.0, clock=lambda: 0.0)
    for hour in range(1000):
        delivered.on_file_opened(opened(hour))
    position = delivered.position()
    assert position is not None
    assert [left.ino for left in position.previous_hours] == list(range(999 - MAX_PREVIOUS_HOURS, 999))


def test_a_former_hour_that_is_not_known_any_more_does_not_move_the_place() -> None:
    delivered = DeliveredPosition(None, 5.0, clock=lambda: 0.0)
    delivered.on_file_opened(opened(9))
    before = delivered.position()
    delivered.on_batch_end(
        BatchEnd(
            stream="orders", number=9999, logged=False, lines=1, orders=1, selected=1, published=0, failed=0,
            rejected=0, reject=None, seconds=0.0, workers=[], hour=2026050508, begin=0, end=7, late=True,
            block=None, last_line=None, file=("a former hour's", 1, 2),
            event_ns=0, local_ns=0, messages=[],
        )
    )  # fmt: skip
    assert delivered.position() == before
