"""Writes the entries of a JetStream stream to hour files, as a node does, for a server on another machine.

The folder holds one unbroken range of the stream. Where entries are missing, because the relay was away for
longer than they are kept, it begins anew: what is older is deleted, and the server that follows the folder
tells its clients of a gap. The folder's `RelayState` says how far the relay has come, as of a moment ago.
What comes after that is compared with what the file already holds.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

from fasttail.engine.block_lines import BlockLines
from fasttail.engine.lines import block_of
from fasttail.jetstream.entry import Entry, EntryError, inflate
from fasttail.jetstream.log import LogError, ServerOptions, SessionStats, open_log, share_bytes
from fasttail.sources.cursor import BlockPosition
from fasttail.sources.layout import LAYOUTS, hour_files, hourly_folder
from fasttail.sources.relay_state import RelayState

SAVE_S = 1.0
RETRY_S = 0.5
INLINE_BYTES = 256 << 10
"""Lines that are appended on the event loop's thread; more of them, and new files, are another one's work."""

log = logging.getLogger(__name__)


class RelayError(Exception):
    """Why a folder cannot be used."""


@dataclass
class RelayStats(SessionStats):
    """What a relay has done. delay_s: from the publisher's append to the write, of the last entry."""

    damaged: int = 0
    delay_s: float = 0.0
    written: BlockPosition | None = None


class Relay:
    """Writes one stream to `folder` until cancelled.

    keep_bytes: of its hour files. The oldest ones are deleted, but not the one being written.
    Raises RelayError if the folder cannot be used, OSError.
    """

    def __init__(
        self, options: ServerOptions, folder: Path, stream: str, *, keep_bytes: int, max_line: int
    ) -> None:
        self.stats = RelayStats()
        self.stream = stream
        self._options = options
        self._folder = folder
        self._keep_bytes = keep_bytes
        self._max_line = max_line
        self._state = RelayState(stream)
        self._saved_at = 0.0
        self._fd = -1
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock_fd = _lock(folder / f"{stream}.relay.lock")
        self._load()

    def _load(self) -> None:
        """Read the state, and mark a new folder as a relay's."""
        try:
            state = RelayState.read(self._folder, self.stream)
        except ValueError as error:
            raise RelayError(str(error)) from None
        if state is not None:
            self._state = state
            if state.last is None:  # nothing has been written since it began, or began anew
                return
            path = self._path()
            begin = state.begin_offset if state.hour == state.begin_hour else 0
            if state.size > begin and (not path.exists() or path.stat().st_size < state.size):
                log.warning(
                    "nats: stream %s: %s is shorter than what was written to it: beginning anew",
                    self.stream,
                    path,
                )
                self._begin_anew()
            return
        if any(hour_files(hourly_folder(self._folder, layout, self.stream)) for layout in LAYOUTS):
            raise RelayError(f"{self._folder} has files of stream {self.stream} that no relay wrote")
        self._save()

    async def run(self) -> None:
        """Write until cancelled."""
        try:
            while True:
                try:
                    await self._session()
                except LogError as error:
                    text = str(error)
                except OSError as error:
                    text = f"{error.filename or self._folder}: {error.strerror}"
                self._close()
                self.stats.note_failure(self.stream, text)
                await asyncio.sleep(RETRY_S)
        finally:
            with suppress(OSError):
                self._save()
            self._close()

    async def _session(self) -> None:
        stats = self.stats
        async with open_log(self._options, self.stream) as session:
            first = await session.first_after(self._state.last)
            async with aclosing(session.read(first)) as entries:
                stats.state, stats.error = "relaying", ""
                async for sequence, entry, body in entries:
                    if isinstance(entry, EntryError):
                        self._skip_damaged(sequence, entry)
                        continue
                    try:
                        if self._is_quick(entry):
                            self._take(entry, body)
                        else:
                            await _in_thread(self._take, entry, body)
                    except EntryError as error:
                        self._skip_damaged(sequence, error)
                        continue
                    stats.error = ""
                    stats.delay_s = max(0.0, time.time() - entry.written_ms / 1000)

    def _is_quick(self, entry: Entry) -> bool:
        """Whether an entry is only appended to the open file, and small."""
        state = self._state
        return (
            entry.size <= INLINE_BYTES
            and (entry.layout, entry.hour) == (state.layout, state.hour)
            and entry.after == state.last
            and not entry.gap
        )

    def _skip_damaged(self, sequence: int, error: EntryError) -> None:
        self.stats.damaged += 1
        if self.stats.damaged == 1 or self.stats.error != str(error):
            log.error("nats: stream %s: message %d is left out: %s", self.stream, sequence, error)
        self.stats.error = str(error)

    def _take(self, entry: Entry, body: bytes) -> None:
        """Write an entry's lines. Raises EntryError, OSError."""
        last = self._state.last
        if last is not None and entry.last <= last and not entry.gap:
            return
        lines = inflate(body, entry)
        if last is not None and (entry.gap or entry.after > last):
            log.warning(
                "nats: stream %s: a gap from block %d to block %d: beginning anew, without what is older",
                self.stream, last.height, entry.after.height,
            )  # fmt: skip
            self._begin_anew()
            last = None
        if last is None:
            lines = _from_whole_block(lines, entry)
            if not lines:
                return
            self._set_begin(entry, lines)
        elif entry.after < last:
            lines = self._after(lines, entry, last)
        self._write(entry, lines)
        self._state.height, self._state.events = entry.last
        self.stats.written = entry.last
        if time.monotonic() - self._saved_at > SAVE_S:
            self._save()

    def _set_begin(self, entry: Entry, lines: bytes) -> None:
        """Note where the lines begin, which are the first ones of a folder."""
        state = self._state
        is_plain = entry.layout == "plain"
        if is_plain:
            state.size = entry.last.events - len(lines)  # offsets are the node's
        elif (entry.layout, entry.hour) != (state.layout, state.hour):
            state.size = 0
        state.layout, state.hour = entry.layout, entry.hour
        state.begin = block_of(lines) or entry.last.height
        state.begin_hour, state.begin_offset = entry.hour, state.size
        state.height, state.events = state.begin, state.begin_offset if is_plain else 0

    def _write(self, entry: Entry, lines: bytes) -> None:
        state = self._state
        if self._fd < 0 or entry.layout != state.layout or entry.hour > state.hour:
            self._open(entry)
        if entry.layout == "plain" and (begin := entry.last.events - len(lines)) > state.size:
            os.ftruncate(self._fd, begin)
            state.size = begin
        present = os.pread(self._fd, len(lines), state.size)
        if not lines.startswith(present):  # another node's lines of the same blocks
            os.ftruncate(self._fd, state.size)
            present = b""
        rest = memoryview(lines)[len(present) :]
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        state.size += len(lines)
        self.stats.entries += 1
        self.stats.bytes += len(lines)
        self.stats.events += entry.events

    def _after(self, lines: bytes, entry: Entry, last: BlockPosition) -> bytes:
        """Return the lines of an entry without those that are written."""
        if entry.layout == "plain":
            return lines[last.events - entry.last.events :] if entry.last.height == last.height else lines
        cut = BlockLines(self.stream, capacity=max(len(lines), self._max_line), max_bytes=len(lines))
        cut.begin_after(entry.after, last)
        return b"".join(run.data for run in cut.take_data(lines))

    def _begin_anew(self) -> None:
        """Delete what is there, because what follows it is missing."""
        former = self._state
        with suppress(OSError):  # the state is of a moment ago
            former.size = max(former.size, os.stat(self._path()).st_size)
        self.stats.gaps += 1
        self._close()
        for layout in LAYOUTS:
            with suppress(FileNotFoundError):
                shutil.rmtree(self._hourly(layout))
        self._state = RelayState(self.stream, former.layout, former.hour, former.size, gaps=former.gaps + 1)
        self._save()

    def _open(self, entry: Entry) -> None:
        """Open the file that the entry belongs to."""
        state = self._state
        if entry.layout != state.layout or entry.hour > state.hour:
            state.layout, state.hour, state.size = entry.layout, entry.hour, 0
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._close()
        self._save()  # before the file appears, which is when a server looks whether there was a gap
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if os.fstat(self._fd).st_size < state.size:  # a folder begins within an hour
            os.ftruncate(self._fd, state.size)
        self._delete_old()

    def _delete_old(self) -> None:
        hours = hour_files(hourly_folder(self._folder, self._state.layout, self.stream))
        sizes = [os.stat(hour.path).st_size for hour in hours]
        total = sum(sizes)
        for hour, size in zip(hours[:-1], sizes, strict=False):
            if total <= self._keep_bytes:
                return
            with suppress(FileNotFoundError):
                os.unlink(hour.path)
            total -= size

    def _path(self) -> Path:
        date, hour = divmod(self._state.hour, 100)
        return self._hourly(self._state.layout) / f"{date:08d}" / str(hour)

    def _hourly(self, layout: str) -> Path:
        return Path(hourly_folder(self._folder, layout, self.stream))

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        self._state.save(self._folder)


def _lock(path: Path) -> int:
    """Return the descriptor of a lock that ends with the process. Raises RelayError if it is taken."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RelayError(f"another relay writes to {path.parent}") from None
    return fd


async def _in_thread(take: Callable[[Entry, bytes], None], entry: Entry, body: bytes) -> None:
    """Run it in a thread, and do not leave it behind when cancelled. Raises what it raises."""
    running = asyncio.ensure_future(asyncio.to_thread(take, entry, body))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    running.result()


def _from_whole_block(lines: bytes, entry: Entry) -> bytes:
    """Return the lines from the first one on that begins a block: what a folder begins with."""
    if not entry.after.events or entry.layout == "plain":
        return lines
    at = 0
    while at < len(lines):
        end = lines.index(b"\n", at) + 1
        if block_of(lines[at:end]) not in (0, entry.after.height):
            break
        at = end
    return lines[at:]


def open_relays(
    options: ServerOptions, folder: Path, streams: Sequence[str], *, keep_bytes: int, max_line: int
) -> list[Relay]:
    """Return a relay for each stream, which share the bytes of hour files. Raises RelayError, OSError."""
    shares = share_bytes(keep_bytes, streams)
    return [
        Relay(options, folder, stream, keep_bytes=shares[stream], max_line=max_line) for stream in streams
    ]
