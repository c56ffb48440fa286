"""The checkpoint: where to go on after whatever end, kept in the state folder; one instance for each folder.

    DIR/lock                  held (flock) while an instance lives, over a restart in place too
    DIR/checkpoint.json       the last one: version, and a Position with its path relative to the data folder
    DIR/checkpoint.json.new   the next one, until it is whole and on the disk; then it takes the name

The main thread says where it is (`put`); a thread of its own writes, so that a disk that is slow, hung or
full holds nobody up. A write that fails is tried again with the next `put`.

A checkpoint lies at or before what was handed out, never behind it. So after a kill some may be handed out
again, and nothing is left out. Each file is flushed (fsync) before it takes the name, the folder only at the
end: a power cut may bring back an older checkpoint, never half of one. A file system that does not support
fsync gets the checkpoint without it; that is said once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fasttail.observe.rate_limit import RateLimit
from fasttail.tail.files import open_regular
from fasttail.tail.position import Position

log = logging.getLogger(__name__)

VERSION = 1
NAME = "checkpoint.json"
LOCK = "lock"
LONGEST = 1 << 16
"""Bytes of a file that are looked at: no checkpoint is as long."""

UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What fsync answers where there is no such thing, as on some FUSE, 9p and shared folders."""

COMPLAINT_S = 60.0
"""A failure that lasts is told so often."""


class InUse(Exception):
    """Another instance holds the state folder."""


class Unusable(Exception):
    """What is there is no checkpoint; says why."""


@dataclass(frozen=True)
class Found:
    """A checkpoint that was read. position: None if there was no file of the node yet when it was written."""

    position: Position | None


class Checkpoint:
    """The state folder of one instance, from the lock to the last write.

    inherited: descriptors that came over a restart in place; the lock is taken over if it is among them.
    Raises InUse, and OSError if the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, data_dir: Path, inherited: tuple[int, ...] = ()) -> None:
        self.written = 0
        self.failures = 0
        self.path = os.path.abspath(folder / NAME)
        self._folder = os.path.dirname(self.path)
        self._data_dir = os.path.abspath(data_dir)
        os.makedirs(self._folder, exist_ok=True)
        self.lock = _lock(os.path.join(self._folder, LOCK), inherited)
        self._changed = threading.Condition()
        self._wanted: Found | None = None  # what is to be written; None: nothing that is not
        self._latest: Found | None = None
        self._closing = False
        self._fresh = time.monotonic()  # when the latest stood on the disk
        self._failing = False
        self._complaints = RateLimit(COMPLAINT_S)
        self._unsynced_told = False
        self._thread = threading.Thread(target=self._run, name="fasttail-state", daemon=True)
        self._thread.start()

    # ---- the main thread's side

    def read(self) -> Found:
        """The last checkpoint. Raises Unusable, and nothing else, whatever is there."""
        try:
            with open_regular(self.path) as file:
                data = file.read(LONGEST)
        except FileNotFoundError:
            raise Unusable("there is none") from None
        except OSError as error:
            raise Unusable(f"it cannot be read: {error.strerror}") from None
        if not data.strip():
            raise Unusable("it is empty")
        try:
            state = json.loads(data)
            version = state["version"]
            if isinstance(version, int) and version != VERSION:
                raise Unusable(f"its version is {version}, this fasttail reads {VERSION}")
            if state["position"] is None:
                return Found(None)
            position = Position.from_dict(state["position"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Unusable("it is damaged") from None
        return Found(_with_paths(position, lambda path: os.path.join(self._data_dir, path)))

    def put(self, position: Position | None) -> None:
        """Everything before this place has been handed out. Called again and again, also when it has not
        moved: a write that failed is repeated then.
        """
        with self._changed:
            found = Found(position)
            if found == self._latest and self._wanted is None and not self._failing:
                self._fresh = time.monotonic()
                return
            self._wanted = self._latest = found
            self._changed.notify()

    def close(self, timeout: float, *, keep_lock: bool = False) -> None:
        """Write what is left, for so long at most, and let go of the folder (or not: for the next image)."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("the last checkpoint could not be written within %g s", timeout)
        if not keep_lock:
            os.close(self.lock)

    def counts(self) -> dict[str, float]:
        """For the metrics."""
        return {
            "checkpoints": self.written,
            "checkpoint_failures": self.failures,
            "checkpoint_age": max(0.0, time.monotonic() - self._fresh),
        }

    # ---- the thread's side

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._wanted is None and not self._closing:
                    self._changed.wait()
                found, self._wanted = self._wanted, None
                closing = self._closing
            if found is not None:
                self._attempt(found)
            if closing:
                with contextlib.suppress(OSError):
                    self._sync_folder()
                return

    def _attempt(self, found: Found) -> None:
        asked = time.monotonic()
        try:
            self._write(found)
        except Exception as error:  # a thread that ended would end all checkpoints
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            self.failures += 1
            self._failing = True
            if self._complaints.ready():
                log.warning("cannot write the checkpoint %s: %s; trying again", self.path, reason)
            return
        self.written += 1
        self._fresh = asked
        if self._failing:
            self._failing = False
            self._complaints.reset()
            log.info("the checkpoint is written again, after %d failures", self.failures)

    def _write(self, found: Found) -> None:
        if not _is_file(self.lock, os.path.join(self._folder, LOCK)):
            # The folder was removed; another instance may have made it anew, and holds it now.
            raise OSError(errno.ESTALE, "the state folder's lock is gone")
        position = found.position
        state: dict[str, object] = {"version": VERSION, "written": time.time(), "position": None}
        if position is not None:
            state["position"] = asdict(self._relative(position.with_marks()))
        new = self.path + ".new"
        try:
            self._write_whole(new, json.dumps(state, indent=1).encode() + b"\n")
            os.rename(new, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)  # on a full disk half of one would only take up room
            raise

    def _write_whole(self, path: str, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            written = os.write(fd, data)
            if written != len(data):  # the last block of the disk took a part of it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._sync(fd)
        finally:
            os.close(fd)

    def _sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)  # many file systems cannot, and need not: nothing is said of it
        finally:
            os.close(fd)

    def _sync(self, fd: int) -> None:
        """Flush a file to the disk, where its file system supports that. OSError: it failed."""
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            if not self._unsynced_told:
                self._unsynced_told = True
                why = f"its file system does not support fsync ({error.strerror})"
                log.warning("state folder %s: %s; a power cut may cost the checkpoint", self._folder, why)

    def _relative(self, position: Position) -> Position:
        """The data folder may be mounted elsewhere the next time."""
        return _with_paths(position, lambda path: os.path.relpath(path, self._data_dir))


def _with_paths(position: Position, change: Callable[[str], str]) -> Position:
    formers = tuple(replace(left, path=change(left.path)) for left in position.formers)
    holes = tuple(replace(hole, path=change(hole.path)) for hole in position.holes)
    return replace(position, path=change(position.path), formers=formers, holes=holes)


def _lock(path: str, inherited: tuple[int, ...]) -> int:
    """A descriptor of the lock file that holds the lock. Raises InUse, OSError."""
    for fd in inherited:
        if _is_file(fd, path):
            os.set_inheritable(fd, False)
            return fd
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 20, 0).strip().decode("ascii", "replace")
        os.close(fd)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise OSError(error.errno, error.strerror, path) from None
        who = f" (process {holder})" if holder.isdecimal() else ""
        folder = os.path.dirname(path)
        raise InUse(f"another fasttail{who} uses the state folder {folder}: give each its own") from None
    with contextlib.suppress(OSError):  # said to the next one only; a full disk must not stop this one
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _is_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
