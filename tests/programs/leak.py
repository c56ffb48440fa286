"""Leaks 32 MB per second of its own clock and watches its real RSS."""

from __future__ import annotations

from fasttail.app.debugging import LeakInjector
from fasttail.monitoring.growth import MB
from fasttail.monitoring.memory import MemoryWatch, rss

now = 0.0


def clock() -> float:
    return now


leak = LeakInjector(mb_per_s=32, clock=clock)
watch = MemoryWatch(rss() + 40 * MB, clock=clock)
assert watch.sample().action == "ok"
before = watch.rss
now = 1.0
leak.tick()
leak.tick()
assert leak.bytes == 32 * MB
assert watch.sample().action == "ok"
assert abs(watch.rss - before - 32 * MB) < 4 * MB
now = 1.5
leak.tick()
assert watch.sample().action == "shed"
assert watch.sample().action == "restart"
