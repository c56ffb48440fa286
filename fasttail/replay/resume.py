"""Finds where a replay begins: the position that a client's `cursor` or `since` names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import fasttail.sources.cursor as cursors
from fasttail.publish.public_api import ReplayStart
from fasttail.publish.subscriptions import ClientRequest, invalid_subscription
from fasttail.replay.block_search import BlockAheadError, BlockSearch, BlockTooOldError, NoBlocksError
from fasttail.replay.find import first_event_from
from fasttail.sources.cursor import BlockPosition, CursorPosition
from fasttail.sources.files import last_line_start
from fasttail.sources.layout import HourFile, hour_files, hourly_folder, oldest_hour
from fasttail.sources.reader import Reader
from fasttail.sources.relay_state import RelayState

SEARCH_THREADS = 2

MAX_BLOCKS_AHEAD = 20_000
"""How far a cursor may be ahead of the node's files, which is waited for: about 20 minutes."""


class _CannotResume(Exception):
    """Why a replay cannot begin."""


class ReplayStartFinder:
    """Finds start positions in the files of one stream, in threads of its own.

    deliver_replayed: how far a server has come in the chain is not known, so no cursor ahead is waited for.
    layout: returns the layout being followed. ready: set after the pipeline's first scan of the folders.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        layout: Callable[[], str | None],
        ready: asyncio.Event,
        max_line: int,
        stream: str = "orders",
        deliver_replayed: bool = False,
    ) -> None:
        self._data_dir = os.path.abspath(data_dir)
        self._stream = stream
        self._layout = layout
        self._ready = ready
        self._max_line = max_line
        self._deliver_replayed = deliver_replayed
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="fasttail-find")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def find_recent(self, before: CursorPosition, size: int) -> tuple[str, int] | None:
        """Return the position, as a cursor, of a line about `size` bytes before another, and its time in ms.

        Returns None if there is no such line. Raises OSError.
        """
        layout = self._layout()
        if layout is None:
            return None
        search = partial(self._find_recent, layout, before, size)
        return await asyncio.get_running_loop().run_in_executor(self._threads, search)

    def _find_recent(self, layout: str, before: CursorPosition, size: int) -> tuple[str, int] | None:
        hours = hour_files(hourly_folder(self._data_dir, layout, self._stream))
        start: tuple[HourFile, int] | None = None
        for hour in reversed([hour for hour in hours if hour.number <= before.hour]):
            end = before.offset if hour.number == before.hour else os.stat(hour.path).st_size
            start = hour, max(0, end - size)
            size -= end
            if size <= 0:
                break
        if start is None:
            return None
        reader = Reader(window=1 << 14, max_line=self._max_line)
        try:
            event = first_event_from(reader, start[0].path, start[1], "time_ns", self._stream)
        finally:
            reader.close()
        position = CursorPosition(start[0].number, event.offset if event else 0)
        if event is None or event.value is None or position >= before:
            return None
        return position.to_cursor(layout, self._stream), event.value // 1_000_000

    async def find_start(self, request: ClientRequest) -> ReplayStart:
        """Return where a replay begins. Raises RequestError."""
        subscription = request.subscription
        assert subscription is not None
        await self._ready.wait()  # after a restart, clients reconnect before that
        layout = self._layout()
        if layout is None:
            raise invalid_subscription(request.sent, "no data yet, nothing to resume")
        if subscription.cursor is not None:
            search = partial(self._find_cursor, layout, subscription.cursor)
        else:
            assert subscription.since is not None
            search = partial(self._find_time, layout, subscription.since)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, search)
        except _CannotResume as error:
            raise invalid_subscription(request.sent, str(error)) from None
        except OSError as error:
            raise invalid_subscription(
                request.sent, f"cannot read the node's files: {error.strerror}"
            ) from error

    def _find_cursor(self, layout: str, cursor: str) -> ReplayStart:
        """Return the position that a cursor names, if it can be read from. Raises _CannotResume, OSError."""
        try:
            block = cursors.parse_block(cursor, self._stream)
            if block is not None:
                return self._find_block(layout, block)
            return ReplayStart(cursor, self._check_file_cursor(layout, cursor))
        except ValueError as error:
            raise _CannotResume(str(error)) from None

    def _find_block(self, layout: str, block: BlockPosition) -> ReplayStart:
        """Return the position of a block's event. Raises _CannotResume, OSError."""
        hours = hour_files(hourly_folder(self._data_dir, layout, self._stream))
        if not hours:
            raise _CannotResume("no data on disk, nothing to resume")
        cursor, position = block.to_cursor(self._stream), None
        try:
            found = BlockSearch(hours, max_line=self._max_line, stream=self._stream).find(block)
            position = found.to_cursor(layout, self._stream)
        except NoBlocksError:
            raise _CannotResume("the cursor names a block, but the lines of layout plain name none") from None
        except BlockTooOldError as error:
            oldest = error.oldest.to_cursor(self._stream)
            raise _CannotResume(f"older than the data on disk: the oldest is {oldest}") from None
        except BlockAheadError as error:
            if block.height - error.newest > MAX_BLOCKS_AHEAD or self._deliver_replayed:
                text = (
                    f"{block.height - error.newest} blocks ahead of this node, whose newest is {error.newest}"
                )
                raise _CannotResume(text) from None
        return ReplayStart(cursor, position)

    def _check_file_cursor(self, layout: str, cursor: str) -> str:
        """Return a cursor that names a position in the files, if there is one.

        Raises _CannotResume, OSError, ValueError.
        """
        cursor_layout, position = cursors.parse(cursor, self._stream)
        if cursor_layout != layout:
            raise _CannotResume(f"the cursor is of layout {cursor_layout}, but this server reads {layout}")
        folder = hourly_folder(self._data_dir, layout, self._stream)
        first = oldest_hour(folder)
        if first is None:
            raise _CannotResume("no data on disk, nothing to resume")
        relayed = RelayState.read(self._data_dir, self._stream)
        begin = CursorPosition(first.number, 0)
        if relayed is not None and relayed.begin_hour == begin.hour:
            begin = CursorPosition(begin.hour, relayed.begin_offset)  # the file begins with a hole
        oldest = begin.to_cursor(layout, self._stream)
        if position < begin:
            raise _CannotResume(f"older than the data on disk: the oldest is {oldest}")
        hours = hour_files(folder, position.date)
        path = next((hour.path for hour in hours if hour.number == position.hour), None)
        if path is None:
            raise _CannotResume(f"no file for that hour: the oldest is {oldest}")
        with suppress(OSError):
            if os.stat(path).st_size < position.offset + (position.events_consumed > 0):
                raise _CannotResume("beyond the end of that hour's file")
        return cursor

    def _find_time(self, layout: str, since: int) -> ReplayStart:
        """Return the position of the first event at or after a time. Raises _CannotResume, OSError."""
        hours = hour_files(hourly_folder(self._data_dir, layout, self._stream))
        if not hours:
            raise _CannotResume("no data on disk, nothing to resume")
        position = _TimeSearch(hours, self._max_line, self._stream).find(since)
        if position is None:
            oldest = self._to_start(hours, layout, CursorPosition(hours[0].number, 0)).cursor
            raise _CannotResume(f"older than the oldest event on disk, {oldest}")
        return self._to_start(hours, layout, position)

    def _to_start(self, hours: list[HourFile], layout: str, position: CursorPosition) -> ReplayStart:
        """Return a start at a line, whose cursor names the line's block if it has one. Raises OSError."""
        in_file = position.to_cursor(layout, self._stream)
        block = None
        if not self._deliver_replayed:
            block = BlockSearch(hours, max_line=self._max_line, stream=self._stream).position_at(position)
        return ReplayStart(block.to_cursor(self._stream) if block is not None else in_file, in_file)


class _TimeSearch:
    """A binary search for a time in the files, of which there is at least one. All probes share a reader."""

    def __init__(self, hours: list[HourFile], max_line: int, stream: str) -> None:
        self._hours = hours
        self._stream = stream
        self._reader = Reader(window=1 << 14, max_line=max_line)

    def find(self, since: int) -> CursorPosition | None:
        """Return the position of the first event at or after `since` (ns).

        Returns None if even the oldest event on disk is later. Raises OSError.
        """
        try:
            return self._find(since)
        finally:
            self._reader.close()

    def _find(self, since: int) -> CursorPosition | None:
        hours = self._hours
        low, first_time_ns = self._first_event_time(0, len(hours) - 1)
        if first_time_ns is None or first_time_ns > since:
            return None
        # Find the newest file that begins before: the node's hours need not be those of its events.
        high = len(hours) - 1
        while low < high:
            middle = (low + high + 1) // 2
            found, first_time_ns = self._first_event_time(middle, high)
            if first_time_ns is not None and first_time_ns < since:
                low = found
            else:
                high = middle - 1
        file = hours[low]
        # Find the first line in it that is not before; from here on, `low` and `high` are bytes.
        low, high = 0, os.stat(file.path).st_size
        while low < high:
            middle = (low + high) // 2
            event = first_event_from(self._reader, file.path, middle, "time_ns", self._stream)
            if event is not None and event.value is not None and event.value < since:
                low = event.offset + 1
            else:
                high = middle
        event = first_event_from(self._reader, file.path, low, "time_ns", self._stream)
        # Not the end of the file: its last line may be partial, and is yet to be read as a whole.
        return CursorPosition(file.number, event.offset if event is not None else last_line_start(file.path))

    def _first_event_time(self, first: int, last: int) -> tuple[int, int | None]:
        """Return the number of the first of these files that has an event, and that event's time, or None."""
        for number in range(first, last + 1):
            event = first_event_from(self._reader, self._hours[number].path, 0, "time_ns", self._stream)
            if event is not None:
                return number, event.value
        return last, None
