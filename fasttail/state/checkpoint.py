"""The checkpoint: where to resume after any end, stored in a state folder that belongs to one instance.

    DIR/lock                  locked (flock) while an instance runs, including restarts in place
    DIR/checkpoint.json       the last one: version, and a Position with its path relative to the data folder
    DIR/checkpoint.json.new   the next one, renamed once it is complete and on disk

A thread of its own writes what the main thread passes to `save`, so a slow, hung or full disk blocks nobody.
The next `save` repeats a failed write.

A checkpoint is never ahead of what was delivered: after a kill, some orders may be delivered twice, none is
lost. Files are flushed (fsync) before the rename, the folder only at the end, so a power failure may restore
an older checkpoint, never a partial one. Without fsync in the file system, they are written with one warning.
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
"""Bytes to read at most: no checkpoint is as long."""

FSYNC_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""Errors of file systems without fsync, such as some FUSE, 9p and shared folders."""

LOG_INTERVAL_S = 60.0
"""Interval between warnings about a lasting failure."""


class StateDirInUse(Exception):
    """Another instance holds the state folder's lock."""


class UnusableCheckpoint(Exception):
    """The checkpoint cannot be used; the text gives the reason."""


@dataclass(frozen=True)
class SavedPosition:
    """A checkpoint as it was read. position: None if the node had no file yet when it was written."""

    position: Position | None


class Checkpoint:
    """The state folder of one instance, from the lock to the last write.

    inherited: descriptors kept over a restart in place; the lock is reused if it is among them. Raises
    StateDirInUse, and OSError if the folder cannot be created or written.
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
        self._pending: SavedPosition | None = None  # to be written; None: nothing new
        self._latest: SavedPosition | None = None
        self._closing = False
        self._up_to_date_at = time.monotonic()  # when the latest was on disk
        self._failing = False
        self._warnings = RateLimit(LOG_INTERVAL_S)
        self._fsync_warning_logged = False
        self._thread = threading.Thread(target=self._run, name="fasttail-state", daemon=True)
        self._thread.start()

    # ---- called by the main thread

    def load(self) -> SavedPosition:
        """Return the last checkpoint. Raises only UnusableCheckpoint, whatever the file contains."""
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
        """Schedule a write of the position up to which everything has been delivered.

        Call it regularly, even with the same position, because it repeats a failed write.
        """
        with self._changed:
            saved = SavedPosition(position)
            if saved == self._latest and self._pending is None and not self._failing:
                self._up_to_date_at = time.monotonic()
                return
            self._pending = self._latest = saved
            self._changed.notify()

    def close(self, timeout: float, *, keep_lock: bool = False) -> None:
        """Write what is pending, for at most `timeout` seconds, and unlock the folder unless `keep_lock`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("the last checkpoint could not be written within %g s", timeout)
        if not keep_lock:
            os.close(self.lock_fd)

    def counts(self) -> dict[str, float]:
        """Return the values for the metrics."""
        return {
            "checkpoints": self.written,
            "checkpoint_failures": self.failures,
            "checkpoint_age": max(0.0, time.monotonic() - self._up_to_date_at),
        }

    # ---- called by the state thread

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
        except Exception as error:  # an exception would end the thread, and with it all checkpoints
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
            # The folder was removed; another instance may have recreated and locked it.
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
                os.unlink(new)  # a partial file would only use space on a full disk
            raise

    def _write_file(self, path: str, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            written = os.write(fd, data)
            if written != len(data):  # the disk became full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._sync(fd)
        finally:
            os.close(fd)

    def _sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)  # many file systems do not support it and do not need it: errors are ignored
        finally:
            os.close(fd)

    def _sync(self, fd: int) -> None:
        """Flush a file to disk if its file system supports that. Raises OSError if it fails."""
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
        """Make paths relative, because the data folder may be mounted elsewhere at the next start."""
        return _map_paths(position, lambda path: os.path.relpath(path, self._data_dir))


def _map_paths(position: Position, transform: Callable[[str], str]) -> Position:
    previous_hours = tuple(
        replace(previous, path=transform(previous.path)) for previous in position.previous_hours
    )
    holes = tuple(replace(hole, path=transform(hole.path)) for hole in position.holes)
    return replace(position, path=transform(position.path), previous_hours=previous_hours, holes=holes)


def _acquire_lock(path: str, inherited: tuple[int, ...]) -> int:
    """Return a descriptor of the lock file that holds the lock. Raises StateDirInUse, OSError."""
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
    with contextlib.suppress(OSError):  # only informs the next instance: must not stop this one
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _is_same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
