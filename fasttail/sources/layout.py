"""Names the node's files and lists them by time: `DATA_DIR/<folder><suffix>/hourly/{YYYYMMDD}/{H}`.

The hour has no leading zero and no extension. Any other name is ignored. A missing folder counts as empty.
A folder that cannot be listed raises OSError, because skipping it would skip lines.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

STREAM_FOLDERS = {
    "orders": "node_order_statuses",
    "fills": "node_fills",
    "nodeTrades": "node_trades",
    "bookDiffs": "node_raw_book_diffs",
    "twapStatuses": "node_twap_statuses",
    "miscEvents": "misc_events",
    "oracleUpdates": "hip3_oracle_updates",
    "writerActions": "system_and_core_writer_actions",
}
"""All streams of a node by name, and the folder of each in the plain layout."""

Layout = Literal["plain", "by_block", "streaming"]

# In order of preference: streaming gives the block of every event, and is written soonest.
LAYOUT_SUFFIXES: dict[Layout, str] = {"streaming": "_streaming", "by_block": "_by_block", "plain": ""}
LAYOUTS = tuple(LAYOUT_SUFFIXES)

_DATE = re.compile(r"[0-9]{8}")
_HOUR = re.compile(r"[0-9]|1[0-9]|2[0-3]")


@dataclass(frozen=True, order=True)
class HourFile:
    """One hour's file of one stream; sorts by time."""

    date: str  # YYYYMMDD
    hour: int
    path: str = field(compare=False)

    @property
    def number(self) -> int:
        """The hour as one number, YYYYMMDDHH."""
        return int(self.date) * 100 + self.hour


CONCURRENT_WRITE_S = 60.0
"""Layouts whose newest files were modified within this time of each other count as written concurrently."""


@dataclass(frozen=True)
class LayoutChoice:
    """The layout to follow (None: no files yet) and the other layouts that have files."""

    layout: str | None
    others: tuple[str, ...]


def stream_folder(data_dir: str | Path, layout: str, stream: str = "orders") -> str:
    """Return the folder of a stream in a layout. Raise ValueError if either is unknown."""
    if layout not in LAYOUT_SUFFIXES:
        raise ValueError(f"unknown layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if stream not in STREAM_FOLDERS:
        raise ValueError(f"unknown stream {stream!r}: expected one of {', '.join(STREAM_FOLDERS)}")
    return os.path.join(data_dir, STREAM_FOLDERS[stream] + LAYOUT_SUFFIXES[layout])


def stream_of_path(path: str) -> str | None:
    """Return the stream whose folder is part of the path, None if there is none."""
    for part in reversed(path.split(os.sep)):
        for stream, folder in STREAM_FOLDERS.items():
            if part in {folder + suffix for suffix in LAYOUT_SUFFIXES.values()}:
                return stream
    return None


def hourly_folder(data_dir: str | Path, layout: str, stream: str = "orders") -> str:
    """Return the folder that holds the date folders. Raise ValueError if the layout is unknown."""
    return os.path.join(stream_folder(data_dir, layout, stream), "hourly")


def date_folders(hourly: str, since: str = "") -> list[str]:
    """Return the dates (YYYYMMDD) from `since` on that have a folder, oldest first."""
    return sorted(
        entry.name
        for entry in _list_folder(hourly)
        if entry.name >= since and _DATE.fullmatch(entry.name) and _is_entry(entry, folder=True)
    )


def hour_files(hourly: str, since: str = "") -> list[HourFile]:
    """Return the hour files of the dates from `since` on, oldest first."""
    return [hour for date in date_folders(hourly, since) for hour in _hours_in_date(hourly, date)]


def oldest_hour(hourly: str) -> HourFile | None:
    """Return the first of `hour_files` without listing the others, None if there is none."""
    return next((hour for date in date_folders(hourly) for hour in _hours_in_date(hourly, date)), None)


def previous_hour(path: str) -> HourFile | None:
    """Return the hour file before the one at `path`, None if there is none or `path` is no hour's."""
    head, name = os.path.split(path)
    hourly, date = os.path.split(head)
    if not _DATE.fullmatch(date) or not _HOUR.fullmatch(name):
        return None
    this = HourFile(date, int(name), path)
    dates = (each for each in reversed(date_folders(hourly)) if each <= date)
    return next(
        (hour for each in dates for hour in reversed(_hours_in_date(hourly, each)) if hour < this), None
    )


def parse_hour_path(data_dir: str | Path, path: str, stream: str = "orders") -> tuple[str, HourFile] | None:
    """Return the layout and hour that `path` names, None if it is not an hour file of this stream.

    The file need not exist.
    """
    head, name = os.path.split(path)
    hourly, date = os.path.split(head)
    if not _DATE.fullmatch(date) or not _HOUR.fullmatch(name):
        return None
    for layout in LAYOUTS:
        if hourly == hourly_folder(data_dir, layout, stream):
            return layout, HourFile(date, int(name), path)
    return None


def choose_layout(data_dir: str | Path, setting: str = "auto", stream: str = "orders") -> LayoutChoice:
    """Choose the layout `setting`, or with "auto" the one being written. Raise ValueError if it is unknown.

    "auto" takes the layout whose newest file was modified last. Among layouts written concurrently, the
    newest date wins, then the order of LAYOUTS.
    """
    if setting == "auto":
        found = []
        for layout in LAYOUTS:
            newest = newest_hour(hourly_folder(data_dir, layout, stream))
            if newest is not None:
                with suppress(FileNotFoundError):
                    found.append((layout, newest.date, os.stat(newest.path).st_mtime))
        last = max((mtime for _, _, mtime in found), default=0.0)
        recent = [(layout, date) for layout, date, mtime in found if mtime >= last - CONCURRENT_WRITE_S]
        date = max((date for _, date in recent), default="")
        chosen = next((layout for layout, newest_date in recent if newest_date == date), None)
        return LayoutChoice(chosen, tuple(layout for layout, _, _ in found if layout != chosen))
    stream_folder(data_dir, setting, stream)
    others = []
    for layout in LAYOUTS:
        # The other layouts are only reported here, so one that cannot be listed is no reason to fail.
        with suppress(OSError):
            if layout != setting and newest_hour(hourly_folder(data_dir, layout, stream)):
                others.append(layout)
    return LayoutChoice(setting, tuple(others))


def newest_hour(hourly: str) -> HourFile | None:
    """Return the newest hour file below `hourly`, None if there is none."""
    # Starts with the newest date, so that one listing usually suffices however many dates there are.
    return next(
        (hours[-1] for date in reversed(date_folders(hourly)) if (hours := _hours_in_date(hourly, date))),
        None,
    )


def _hours_in_date(hourly: str, date: str) -> list[HourFile]:
    return sorted(
        HourFile(date, int(entry.name), entry.path)
        for entry in _list_folder(os.path.join(hourly, date))
        if _HOUR.fullmatch(entry.name) and _is_entry(entry, folder=False)
    )


def _list_folder(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_entry(entry: os.DirEntry[str], *, folder: bool) -> bool:
    """Return whether the entry, links followed, is a folder or a regular file; a loop of links is neither."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:
        return False
