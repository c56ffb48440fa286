"""Writes the growing hour files of a node."""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path

from fasttail.tools.synth.constants import NS, SynthError

_MAX_TORN_WRITE = 32_768


class HourClock:
    """Maps times of the node's clock to hour files, as hours since 1970. Never goes back.

    With `hour_seconds`, hours have that length, counted from the first time given.
    """

    def __init__(self, hour_seconds: float | None, newest: int | None) -> None:
        self._length_ns = None if hour_seconds is None else max(1, int(hour_seconds * NS))
        self._current = -1 if newest is None else newest
        self._origin: tuple[int, int] | None = None  # (ns, hour)

    def at(self, local_ns: int) -> int:
        hour = local_ns // (3600 * NS)
        if self._length_ns is not None:
            if self._origin is None:
                self._origin = (local_ns, max(hour, self._current))
            hour = self._origin[1] + (local_ns - self._origin[0]) // self._length_ns
        self._current = max(hour, self._current)
        return self._current


def newest_hour(hourly: Path) -> int | None:
    """Return the newest hour file in a layout's `hourly` folder, as hours since 1970, or None."""
    newest: int | None = None
    for day in hourly.iterdir() if hourly.is_dir() else ():
        try:
            date = datetime.strptime(day.name, "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:
            continue
        if date.strftime("%Y%m%d") != day.name:  # strptime also accepts dates with fewer digits
            continue
        for name in os.listdir(day) if day.is_dir() else ():
            if name.isdecimal() and name == str(int(name)) and int(name) < 24:
                newest = max(newest or 0, int(date.timestamp()) // 3600 + int(name))
    return newest


class HourFiles:
    """The growing hour files of one layout, one of which is open.

    torn: cut the bytes anywhere, as a node with buffered output does, instead of writing whole lines. Held
          bytes follow with the next write, with `flush_held`, or before the next hour's file is opened.
    """

    def __init__(self, hourly: Path, torn: bool, rng: random.Random) -> None:
        self._hourly = hourly
        self._torn = torn
        self._rng = rng
        self._fd = -1
        self._hour = -1
        self._held_bytes = b""
        self._path = hourly
        self.bytes = 0
        self.files = 0

    def write(self, hour: int, data: bytes) -> None:
        """Append lines to an hour's file, after completing and closing an earlier one. Raises SynthError."""
        if not data:
            return
        if hour != self._hour:
            self.close()
            self._open(hour)
        if not self._torn:
            self._append(data)
            return
        self._held_bytes += data
        index = 0
        stop = self._rng.randrange(len(self._held_bytes) + 1)
        while index < stop:
            cut = min(stop, index + self._rng.randrange(1, _MAX_TORN_WRITE))
            self._append(self._held_bytes[index:cut])
            index = cut
        self._held_bytes = self._held_bytes[stop:]

    @property
    def has_held_bytes(self) -> bool:
        """Whether bytes of a torn line are held back."""
        return bool(self._held_bytes)

    def flush_held(self) -> None:
        """Write the held bytes."""
        held_bytes, self._held_bytes = self._held_bytes, b""
        if held_bytes:
            self._append(held_bytes)

    def close(self) -> None:
        try:
            self.flush_held()
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _open(self, hour: int) -> None:
        moment = time.gmtime(hour * 3600)
        self._path = self._hourly / time.strftime("%Y%m%d", moment) / str(moment.tm_hour)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise write_error(self._path, error) from error
        self._hour = hour
        self.files += 1

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._fd, view)
            except OSError as error:
                raise write_error(self._path, error) from error
            self.bytes += written
            view = view[written:]


def write_error(path: Path, error: OSError) -> SynthError:
    return SynthError(f"cannot write {path}: {error.strerror or error}")
