"""Compares what a stream holds with what another node of the chain wrote, by the hashes of the events."""

from __future__ import annotations

from array import array
from collections import deque
from itertools import chain

from fasttail.engine.block_lines import LineRun
from fasttail.jetstream.entry import Entry
from fasttail.sources.cursor import BlockPosition

MAX_EVENTS = 1 << 20
MAX_ENTRIES = 4096


class Agreement:
    """Takes entries and this node's own runs, each in their order, and counts entries that differ.

    compared: entries of which all events were compared
    """

    def __init__(self) -> None:
        self.compared = 0
        self._runs: deque[_Events] = deque()
        self._events = 0
        self._entries: deque[Entry] = deque()
        self._begins_at: BlockPosition | None = None  # own events after it are known

    def add_run(self, run: LineRun) -> list[Entry]:
        """Add this node's next lines. Return the entries that differ from what it wrote."""
        if self._begins_at is None:
            self._begins_at = run.after
        if run.events:
            self._runs.append(_Events(run))
            self._events += run.events
        if self._events > MAX_EVENTS:
            self._clear()
        return self._compare(run.last)

    def add_entry(self, entry: Entry) -> list[Entry]:
        """Add another node's next entry. Return the entries that differ from what this node wrote."""
        self._entries.append(entry)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popleft()
        return self._compare(self._runs[-1].run.last if self._runs else None)

    def _compare(self, read_to: BlockPosition | None) -> list[Entry]:
        differing = []
        while self._entries and read_to is not None and self._entries[0].last <= read_to:
            entry = self._entries.popleft()
            if self._begins_at is not None and entry.after >= self._begins_at and not entry.gap:
                hashes = array(
                    "Q", chain.from_iterable(run.between(entry.after, entry.last) for run in self._runs)
                )
                # Without any of its events, this node was not there at that time.
                self.compared += bool(hashes) or not entry.events
                if hashes and (len(hashes) != entry.events or sum(hashes) % (1 << 64) != entry.hash):
                    differing.append(entry)
            while self._runs and self._runs[0].run.last <= entry.last:
                self._events -= self._runs.popleft().run.events
        return differing

    def _clear(self) -> None:
        self._runs.clear()
        self._events = 0
        self._begins_at = None


class _Events:
    """The hashes of a run's events, by their positions."""

    def __init__(self, run: LineRun) -> None:
        self.run = run
        self._hashes = array("Q", run.hashes)

    def between(self, after: BlockPosition, last: BlockPosition) -> array[int]:
        """Return the hashes of the events after one position, up to another one."""
        return self._hashes[self._ordinal(after) : self._ordinal(last)]

    def _ordinal(self, position: BlockPosition) -> int:
        """Return how many events of the run are at a position or before it."""
        found = 0
        for begin, ordinal in self.run.blocks:
            if begin.height > position.height:
                return min(found, ordinal)
            found = ordinal
            if begin.height == position.height:
                found += max(0, position.events - begin.events)
            else:
                found = self.run.events  # until the next block says less
        return min(found, self.run.events)
