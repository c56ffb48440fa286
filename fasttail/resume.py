"""Where a replay begins: the place in the node's files that a client's `cursor` or `since` names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import fasttail.publish.cursor as cursors
from fasttail.find import first_order_from
from fasttail.publish.cursor import Place
from fasttail.publish.subscriptions import Request, invalid
from fasttail.tail.blocks import Reader
from fasttail.tail.files import last_line_start
from fasttail.tail.layout import HourFile, hour_files, hourly_folder, oldest_hour

THREADS = 2


class _Refused(Exception):
    """Why a replay cannot begin."""


class Finder:
    """Finds the places. layout: the one that is followed. ready: the pipeline has had its first look."""

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        layout: Callable[[], str | None],
        ready: asyncio.Event,
        max_line: int,
    ) -> None:
        self._data_dir = os.path.abspath(data_dir)
        self._layout = layout
        self._ready = ready
        self._max_line = max_line
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fasttail-find")

    def close(self) -> None:
        """No more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def find(self, request: Request) -> str:
        """The cursor at which a replay begins. Raises RequestError."""
        subscription = request.subscription
        assert subscription is not None
        await self._ready.wait()  # clients that were cut off by a restart come before it
        layout = self._layout()
        if layout is None:
            raise invalid(request.sent, "no data yet, nothing to resume")
        if subscription.cursor is not None:
            look = partial(self._check_cursor, layout, subscription.cursor)
        else:
            assert subscription.since is not None
            look = partial(self._find_time, layout, subscription.since)
        try:
            place = await asyncio.get_running_loop().run_in_executor(self._threads, look)
        except _Refused as error:
            raise invalid(request.sent, str(error)) from None
        except OSError as error:
            raise invalid(request.sent, f"cannot read the node's files: {error.strerror}") from error
        return place.text(layout)

    def _check_cursor(self, layout: str, cursor: str) -> Place:
        """The place that a cursor names, if it can be read from. Raises _Refused, OSError."""
        try:
            of_layout, place = cursors.parse(cursor)
        except ValueError:
            raise _Refused("not a cursor") from None
        if of_layout != layout:
            raise _Refused(f"a cursor of layout {of_layout}, but {layout} is read here")
        folder = hourly_folder(self._data_dir, layout)
        first = oldest_hour(folder)
        if first is None:
            raise _Refused("no data on disk, nothing to resume")
        oldest = Place(hour_number(first), 0)
        if place < oldest:
            raise _Refused(f"older than what is on disk: the oldest is {oldest.text(layout)}")
        hours = hour_files(folder, place.date)
        path = next((hour.path for hour in hours if hour_number(hour) == place.hour), None)
        if path is None:
            raise _Refused(f"no file of that hour: the oldest is {oldest.text(layout)}")
        with suppress(OSError):
            if os.stat(path).st_size < place.offset + (place.events > 0):
                raise _Refused("ahead of the end of that hour's file")
        return place

    def _find_time(self, layout: str, since: int) -> Place:
        """Where the first event from a time on stands. Raises _Refused, OSError."""
        hours = hour_files(hourly_folder(self._data_dir, layout))
        if not hours:
            raise _Refused("no data on disk, nothing to resume")
        place = _Search(hours, self._max_line).find(since)
        if place is None:
            oldest = Place(hour_number(hours[0]), 0)
            raise _Refused(f"older than the oldest event on disk, {oldest.text(layout)}")
        return place


class _Search:
    """Looks for a time in the files, which are at least one. One reader serves for all its looks."""

    def __init__(self, hours: list[HourFile], max_line: int) -> None:
        self._hours = hours
        self._reader = Reader(window=1 << 14, max_line=max_line)

    def find(self, since: int) -> Place | None:
        """Where the first event from a time (ns) on stands; None if even the oldest event on disk is younger.
        Raises OSError.
        """
        try:
            return self._find(since)
        finally:
            self._reader.close()

    def _find(self, since: int) -> Place | None:
        hours = self._hours
        low, begin = self._begin(0, len(hours) - 1)
        if begin is None or begin > since:
            return None
        # The newest file that begins before: hours are the node's, and need not be those of the events.
        high = len(hours) - 1
        while low < high:
            middle = (low + high + 1) // 2
            found, begin = self._begin(middle, high)
            if begin is not None and begin < since:
                low = found
            else:
                high = middle - 1
        file = hours[low]
        # The first line in it that does not; `low` and `high` are bytes from here on.
        low, high = 0, os.stat(file.path).st_size
        while low < high:
            middle = (low + high) // 2
            event = first_order_from(self._reader, file.path, middle, "time_ns")
            if event is not None and event.value is not None and event.value < since:
                low = event.offset + 1
            else:
                high = middle
        event = first_order_from(self._reader, file.path, low, "time_ns")
        # Not the end of the file: its last line may be torn, and is still to be read as a whole.
        return Place(hour_number(file), event.offset if event is not None else last_line_start(file.path))

    def _begin(self, first: int, last: int) -> tuple[int, int | None]:
        """The first of these files with an event, and that event's time; None: there is none."""
        for number in range(first, last + 1):
            event = first_order_from(self._reader, self._hours[number].path, 0, "time_ns")
            if event is not None:
                return number, event.value
        return last, None


def hour_number(file: HourFile) -> int:
    """The hour as a Place has it."""
    return int(file.date) * 100 + file.hour
