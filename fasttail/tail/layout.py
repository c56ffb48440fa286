"""Names of the node's files: `DATA_DIR/<stream><suffix>/hourly/{YYYYMMDD}/{H}`, in order of time.

The hour is a number without leading zero and has no extension. Whatever does not look like that is none of
ours. Errors: a folder that is missing holds nothing; one that cannot be listed raises OSError, because
passing over it would pass over lines.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ORDER_STATUSES = "node_order_statuses"

Layout = Literal["plain", "by_block", "streaming"]

# The one preferred comes first: streaming tells the block of every event, and tells it soonest.
SUFFIXES: dict[Layout, str] = {"streaming": "_streaming", "by_block": "_by_block", "plain": ""}
LAYOUTS = tuple(SUFFIXES)

_DATE = re.compile(r"[0-9]{8}")
_HOUR = re.compile(r"[0-9]|1[0-9]|2[0-3]")


@dataclass(frozen=True, order=True)
class HourFile:
    """One hour of one stream; sorts by time."""

    date: str  # YYYYMMDD
    hour: int
    path: str = field(compare=False)


SAME_TIME_S = 60.0
"""Layouts that were written to within such a time are both being written."""


@dataclass(frozen=True)
class Choice:
    """The layout to follow (None: nothing there yet) and the others that hold files too."""

    layout: str | None
    others: tuple[str, ...]


def stream_folder(data_dir: str | Path, layout: str, stream: str = ORDER_STATUSES) -> str:
    """The folder of one stream in one layout (ValueError: no such layout)."""
    if layout not in SUFFIXES:
        raise ValueError(f"unknown layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    return os.path.join(data_dir, stream + SUFFIXES[layout])


def hourly_folder(data_dir: str | Path, layout: str, stream: str = ORDER_STATUSES) -> str:
    """The folder that holds the date folders (ValueError: no such layout)."""
    return os.path.join(stream_folder(data_dir, layout, stream), "hourly")


def date_folders(hourly: str, since: str = "") -> list[str]:
    """Dates (YYYYMMDD) from `since` on for which there is a folder, oldest first."""
    return sorted(
        entry.name
        for entry in _entries(hourly)
        if entry.name >= since and _DATE.fullmatch(entry.name) and _is(entry, folder=True)
    )


def hour_files(hourly: str, since: str = "") -> list[HourFile]:
    """The hour files of the dates from `since` on, oldest first."""
    return [hour for date in date_folders(hourly, since) for hour in _hours_of(hourly, date)]


def oldest_hour(hourly: str) -> HourFile | None:
    """The first of `hour_files`, without a look at all the others."""
    return next((hour for date in date_folders(hourly) for hour in _hours_of(hourly, date)), None)


def locate(data_dir: str | Path, path: str, stream: str = ORDER_STATUSES) -> tuple[str, HourFile] | None:
    """Layout and hour that `path` names (it need not exist), None if it is no hour file of this folder."""
    head, name = os.path.split(path)
    hourly, date = os.path.split(head)
    if not _DATE.fullmatch(date) or not _HOUR.fullmatch(name):
        return None
    for layout in LAYOUTS:
        if hourly == hourly_folder(data_dir, layout, stream):
            return layout, HourFile(date, int(name), path)
    return None


def choose_layout(data_dir: str | Path, setting: str = "auto", stream: str = ORDER_STATUSES) -> Choice:
    """`setting` itself, or with "auto" the layout that is being written (ValueError: no layout).

    That is the one whose newest file was written to last. Of several that were written to at the same time,
    it is one with the newest date, and of these the first of LAYOUTS.
    """
    if setting == "auto":
        found = []
        for layout in LAYOUTS:
            newest = newest_hour(hourly_folder(data_dir, layout, stream))
            if newest is not None:
                with suppress(FileNotFoundError):
                    found.append((layout, newest.date, os.stat(newest.path).st_mtime))
        last = max((written for _, _, written in found), default=0.0)
        fresh = [(layout, date) for layout, date, written in found if written >= last - SAME_TIME_S]
        date = max((date for _, date in fresh), default="")
        chosen = next((layout for layout, of in fresh if of == date), None)
        return Choice(chosen, tuple(layout for layout, _, _ in found if layout != chosen))
    stream_folder(data_dir, setting, stream)
    others = []
    for layout in LAYOUTS:
        # The others are only worth a mention here: one that cannot be listed is no reason to fail.
        with suppress(OSError):
            if layout != setting and newest_hour(hourly_folder(data_dir, layout, stream)):
                others.append(layout)
    return Choice(setting, tuple(others))


def newest_hour(hourly: str) -> HourFile | None:
    """The newest hour file of a layout; None: there is none."""
    # Newest date first: found in one listing, however many dates there are.
    return next(
        (hours[-1] for date in reversed(date_folders(hourly)) if (hours := _hours_of(hourly, date))), None
    )


def _hours_of(hourly: str, date: str) -> list[HourFile]:
    return sorted(
        HourFile(date, int(entry.name), entry.path)
        for entry in _entries(os.path.join(hourly, date))
        if _HOUR.fullmatch(entry.name) and _is(entry, folder=False)
    )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is(entry: os.DirEntry[str], *, folder: bool) -> bool:
    """Whether it is a folder or else a regular file, itself or through a link; a loop of links is neither."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:
        return False
