"""Collects the parts of an archive, each on its own thread with a time limit, and writes it.

`missing.txt` lists the parts that are unavailable, with the reason. A failure affects no other part.
"""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fasttail.tools.bundle.redact import Redactor

TIMEOUT_S = 5.0
"""Time limit of each source. A source that sends several requests enforces it by itself."""
SLACK_S = 1.5
"""Extra time in which such a source can return what it has."""
MAX_PART = 16 << 20
"""Maximum size of a part. The log has a limit of its own."""


class SourceUnavailable(Exception):
    """A source is unavailable; the message is one line."""


class BundleParts:
    """Parts of an archive (name -> bytes), and what is missing."""

    def __init__(self, redactor: Redactor) -> None:
        self.ready: dict[str, bytes] = {}
        self.missing: dict[str, str] = {}
        self._redactor = redactor
        self._sources: dict[str, Callable[[], bytes | str]] = {}
        self._limits: dict[str, int] = {}

    def add_source(self, name: str, source: Callable[[], bytes | str], limit: int = MAX_PART) -> None:
        """Add a source for `gather`. It may raise."""
        self._sources[name] = source
        self._limits[name] = limit

    def add_missing(self, name: str, reason: str) -> None:
        """Record that a part is missing or incomplete."""
        self.missing[name] = " ".join(reason.split())

    def gather(self) -> None:
        """Query all sources concurrently, and keep what arrives within the limit."""
        results: dict[str, bytes | str | Exception] = {}

        def ask(name: str, source: Callable[[], bytes | str]) -> None:
            try:
                results[name] = source()
            except Exception as error:
                results[name] = error

        # Daemon threads: one that hangs in a dead file system must not keep the process from ending.
        threads = [threading.Thread(target=ask, args=each, daemon=True) for each in self._sources.items()]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + TIMEOUT_S + SLACK_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for name in self._sources:
            result = results.get(name)
            if result is None:
                self.add_missing(name, f"no answer within {TIMEOUT_S:g} s")
            elif isinstance(result, Exception):
                self.add_missing(name, _reason(result))
            else:
                self._store(name, result.encode("utf-8", "replace") if isinstance(result, str) else result)

    def _store(self, name: str, data: bytes) -> None:
        limit = self._limits[name]
        if len(data) > limit:
            self.add_missing(name, f"cut: the first {limit} of {len(data)} bytes are there")
            data = data[:limit]
            data = data[: data.rfind(b"\n") + 1] or data  # part of a line could hide part of a secret
        self.ready[name] = self._redactor.clean(data)

    def write(self, file: Path, folder: str) -> None:
        """Write the archive, readable only by its owner.

        A temporary file is renamed, so that the archive is either complete or absent.
        """
        lines = [f"{name}: {reason}\n" for name, reason in sorted(self.missing.items())]
        text = "".join(lines) or "nothing is missing\n"
        self.ready["missing.txt"] = self._redactor.clean(text.encode("utf-8", "replace"))
        temporary = file.with_name(f"{file.name}.{os.getpid()}.part")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
                for name, data in sorted(self.ready.items()):
                    entry = tarfile.TarInfo(f"{folder}/{name}")
                    entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                    archive.addfile(entry, io.BytesIO(data))
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or type(error).__name__}"
    return str(error) or type(error).__name__
