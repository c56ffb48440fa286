"""Up to where everything has been handed out: what is kept of hours that were left."""

from __future__ import annotations

import weakref

from fasttail.handed_out import HandedOut
from fasttail.pipeline import FileOpened
from fasttail.tail.follower import MOST_FORMERS


def opened(hour: int) -> FileOpened:
    return FileOpened(hour, 0, (f"/data/{hour}", 1, hour))


class Name(str):
    """One to which there can be a weak reference."""


def test_hours_that_grow_no_more_are_forgotten_though_nobody_asks() -> None:
    now = [0.0]
    kept = weakref.WeakSet[Name]()
    handed_out = HandedOut(None, 5.0, clock=lambda: now[0])
    for hour in range(1000):
        now[0] += 1.0
        path = Name(hour)
        kept.add(path)
        handed_out.opened(FileOpened(hour, 0, (path, 1, hour)))
        assert len(kept) <= 7


def test_many_hours_at_once() -> None:
    handed_out = HandedOut(None, 5.0, clock=lambda: 0.0)
    for hour in range(1000):
        handed_out.opened(opened(hour))
    position = handed_out.position()
    assert position is not None
    assert [left.ino for left in position.formers] == list(range(999 - MOST_FORMERS, 999))
