"""The checkpoint: where to go on after whatever end, kept in the state folder; one instance for each folder.

    DIR/lock                  held (flock) while an instance lives, over a restart in place too
    DIR/checkpoint.json       the last one: version, and a Position with its path relative to the data folder
    DIR/checkpoint.json.new   the next one, until it is whole and on the disk; then it takes the name

The main thread says where it is (`save`); a thread of its own writes, so that a disk that is slow, hung or
full holds nobody up. A write that fails is tried again with the next `save`.

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
from dataclasses import dataclass, replace
from pathlib import Path

from fasttail.monitoring.rate_limit import RateLimit
from fasttail.sources.files import open_regular
from fasttail.sources.position import Position

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
FILE_NAME = "checkpoint.json"
LOCK_NAME = "lock"
MAX_FILE_BYTES = 1 << 16
"""Bytes of a file that are looked at: no checkpoint is as long."""

FSYNC_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What fsync answers where there is no such thing, as on some FUSE, 9p and shared folders."""

LOG_INTERVAL_S = 60.0
"""A failure that lasts is told so often."""


class StateDirInUse(Exception):
    """Another instance holds the state folder."""


class UnusableCheckpoint(Exception):
    """What is there is no checkpoint; says why."""


@dataclass(frozen=True)
class SavedPosition:
    """A checkpoint that was read. position: None if there was no file of the node yet when it was written."""

    position: Position | None


class Checkpoint:
    """The state folder of one instance, from the lock to the last write.

    inherited: descriptors that came over a restart in place; the lock is taken over if it is among them.
    Raises StateDirInUse, and OSError if the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, data_dir: Path, inherited: tuple[int, ...] = ()) -> None:
        self.written = 0
        self.failures = 0
        self.path = os.path.abspath(folder / FILE_NAME)
        self._folder = os.path.dirname(self.path)
        self._data_dir = os.path.abspath(data_dir)
        os.makedirs(self._folder, exist_ok=True)
        self.lock_fd = _acquire_lock(os.path.join(self._folder, LOCK_NAME), inherited)
        self._changed = threading.Condition()
        self._pending: SavedPosition | None = None  # what is to be written; None: nothing that is not
        self._latest: SavedPosition | None = None
        self._closing = False
        self._up_to_date_at = time.monotonic()  # when the latest stood on the disk
        self._failing = False
        self._warnings = RateLimit(LOG_INTERVAL_S)
        self._fsync_warning_logged = False
        self._thread = threading.Thread(target=self._run, name="fasttail-state", daemon=True)
        self._thread.start()

    # ---- the main thread's side

    def load(self) -> SavedPosition:
        """The last checkpoint. Raises Unusable, and nothing else, whatever is there."""
        try:
            with open_regular(self.path) as file:
                data = file.read(MAX_FILE_BYTES)
        except FileNotFoundError:
            raise UnusableCheckpoint("it does not exist") from None
        except OSError as error:
            raise UnusableCheckpoint(f"it cannot be read: {error.strerror}") from None
        if not data.strip():
            raise UnusableCheckpoint("it is empty")
        try:
            state = json.loads(data)
            version = state["version"]
            if isinstance(version, int) and version != FORMAT_VERSION:
                raise UnusableCheckpoint(f"its version is {version}, this fasttail reads {FORMAT_VERSION}")
            if state["position"] is None:
                return SavedPosition(None)
            position = Position.from_dict(state["position"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UnusableCheckpoint("it is corrupt") from None
        return SavedPosition(_map_paths(position, lambda path: os.path.join(self._data_dir, path)))

    def save(self, position: Position | None) -> None:
        """Everything before this place has been handed out. Called again and again, also when it has not
        moved: a write that failed is repeated then.
        """
        with self._changed:
            saved = SavedPosition(position)
            if saved == self._latest and self._pending is None and not self._failing:
                self._up_to_date_at = time.monotonic()
                return
            self._pending = self._latest = saved
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
            os.close(self.lock_fd)

    def counts(self) -> dict[str, float]:
        """For the metrics."""
        return {
            "checkpoints": self.written,
            "checkpoint_failures": self.failures,
            "checkpoint_age": max(0.0, time.monotonic() - self._up_to_date_at),
        }

    # ---- the thread's side

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._pending is None and not self._closing:
                    self._changed.wait()
                saved, self._pending = self._pending, None
                closing = self._closing
            if saved is not None:
                self._try_write(saved)
            if closing:
                with contextlib.suppress(OSError):
                    self._sync_folder()
                return

    def _try_write(self, saved: SavedPosition) -> None:
        started = time.monotonic()
        try:
            self._write(saved)
        except Exception as error:  # a thread that ended would end all checkpoints
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            self.failures += 1
            self._failing = True
            if self._warnings.ready():
                log.warning("cannot write checkpoint %s: %s; trying again", self.path, reason)
            return
        self.written += 1
        self._up_to_date_at = started
        if self._failing:
            self._failing = False
            self._warnings.reset()
            log.info("checkpoint written again after %d failures", self.failures)

    def _write(self, saved: SavedPosition) -> None:
        if not _is_same_file(self.lock_fd, os.path.join(self._folder, LOCK_NAME)):
            # The folder was removed; another instance may have made it anew, and holds it now.
            raise OSError(errno.ESTALE, "the state folder's lock file is missing")
        position = saved.position
        state: dict[str, object] = {"version": FORMAT_VERSION, "written": time.time(), "position": None}
        if position is not None:
            state["position"] = self._relative(position.with_fingerprints()).to_dict()
        new = self.path + ".new"
        try:
            self._write_file(new, json.dumps(state, indent=1).encode() + b"\n")
            os.rename(new, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)  # on a full disk half of one would only take up room
            raise

    def _write_file(self, path: str, data: bytes) -> None:
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
            if error.errno not in FSYNC_UNSUPPORTED:
                raise
            if not self._fsync_warning_logged:
                self._fsync_warning_logged = True
                reason = f"its file system does not support fsync ({error.strerror})"
                log.warning("state folder %s: %s; a power loss may lose the checkpoint", self._folder, reason)

    def _relative(self, position: Position) -> Position:
        """The data folder may be mounted elsewhere the next time."""
        return _map_paths(position, lambda path: os.path.relpath(path, self._data_dir))


def _map_paths(position: Position, transform: Callable[[str], str]) -> Position:
    previous_hours = tuple(
        replace(previous, path=transform(previous.path)) for previous in position.previous_hours
    )
    holes = tuple(replace(hole, path=transform(hole.path)) for hole in position.holes)
    return replace(position, path=transform(position.path), previous_hours=previous_hours, holes=holes)


def _acquire_lock(path: str, inherited: tuple[int, ...]) -> int:
    """A descriptor of the lock file that holds the lock. Raises StateDirInUse, OSError."""
    for fd in inherited:
        if _is_same_file(fd, path):
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
        raise StateDirInUse(
            f"another fasttail{who} uses the state folder {folder}; each instance needs its own"
        ) from None
    with contextlib.suppress(OSError):  # said to the next one only; a full disk must not stop this one
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _is_same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
