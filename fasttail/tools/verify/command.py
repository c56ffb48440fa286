"""`fasttail verify`: watches a server for minutes, or reads a finished log, and prints the checklist.

    0 PASS    1 FAIL    2 nothing to check: no such container, file or process

One thread reads a log that may still grow, while the main thread samples everything else.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import stat
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import psutil

from fasttail.config import ConfigError, VerifySettings
from fasttail.tools import container as containers
from fasttail.tools.container import Container, ContainerError
from fasttail.tools.endpoint import Endpoint, client_token
from fasttail.tools.verify.checks import Check, Status, checklist, verdict
from fasttail.tools.verify.log_stats import LogStats
from fasttail.tools.verify.observations import Observations
from fasttail.tools.verify.unwrap import Unwrapper

if TYPE_CHECKING:
    from tqdm import tqdm

SAMPLES = 60
"""Samples spread over the time, as many as a trend is estimated from."""
POLL_S = 0.25
PROGRESS_INTERVAL_S = 30.0
TERMINATE_TIMEOUT_S = 2.0
MAX_LINE = 256 << 10
"""Maximum size of a line in bytes; longer ones are split, and fasttail's own are shorter."""


def verify(settings: VerifySettings) -> int:
    """Watch, print the checklist, and return the exit code."""
    if not (settings.container or settings.log or settings.url or settings.pid):
        raise ConfigError("nothing to check: give --container, --log, --url or --pid")
    if settings.container and settings.log:
        raise ConfigError("both --container and --log given: choose one")
    if settings.since and not settings.container:
        raise ConfigError("--since is for the log of a --container")
    observations = _make_observations(settings)
    log = _open_log(settings, observations.container)
    started = time.monotonic()
    try:
        with _Progress(settings.minutes * 60) as progress:
            _watch(settings.minutes * 60, observations, log, progress)
        now = time.monotonic() if log is not None and log.stopped else None
        checks = checklist(log.read() if log is not None else None, observations, now)
    finally:
        if log is not None:
            log.close()
    good = verdict(checks)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for encodings without the markers
    print(
        _as_json(checks, good) if settings.json else _format_table(checks, good, time.monotonic() - started)
    )
    return 0 if good else 1


def _make_observations(settings: VerifySettings) -> Observations:
    container, url = None, settings.url
    if settings.container is not None:
        container = Container(settings.container)
        try:
            inspected = container.inspect()
        except ContainerError as error:
            raise ConfigError(str(error)) from None
        url = url or containers.server_url(inspected)
    if settings.pid is not None and not psutil.pid_exists(settings.pid):
        raise ConfigError(f"no such process: {settings.pid}")
    try:
        server = Endpoint(url, client_token(settings.token_file)) if url else None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    observations = Observations(server, container, settings.pid)
    if container is not None:
        with contextlib.suppress(ContainerError):  # no such command, or not running
            output = container.run("exec", container.name, "fasttail", "--version")
            observations.version = output.decode("utf-8", "replace").strip().removeprefix("fasttail ")
    return observations


class _LogReader:
    """Reads a log on a thread of its own: to its end if it is `finite`, else until it is stopped."""

    def __init__(
        self, file: int, name: str, *, finite: bool, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.finite = finite
        self.stopped = False
        self._file = file
        self._name = name
        self._failure: OSError | None = None
        self._process = process
        self._stats = LogStats()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    @property
    def started(self) -> int:
        """Batches started so far."""
        return self._stats.started

    def read(self) -> LogStats:
        """Wait until the log has ended or was stopped, and return its statistics. Raises OSError."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._stats

    def stop(self) -> None:
        """Stop reading; `stopped` remains False if the log has already ended."""
        self.stopped = not self.ended

    def close(self) -> None:
        """Stop reading, and end the command that produces the log."""
        self.stopped = True
        self._thread.join()
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(TERMINATE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _run(self) -> None:
        rest = b""
        unwrapper = Unwrapper()
        while not self.stopped:
            if not select.select([self._file], [], [], POLL_S)[0]:
                continue
            try:
                chunk = os.read(self._file, 1 << 16)
            except BlockingIOError:  # another process has read it
                continue
            except OSError as error:
                self._failure = OSError(error.errno, error.strerror, self._name)
                return
            now = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            if not chunk or len(rest) > MAX_LINE:
                lines, rest = [*lines, *([rest] if rest else [])], b""
            for raw in lines:
                if (line := unwrapper.feed(raw)) is not None:
                    self._stats.feed(line, now)
            if not chunk:
                break
        for line in unwrapper.flush():
            self._stats.feed(line, time.monotonic())


def _open_log(settings: VerifySettings, container: Container | None) -> _LogReader | None:
    if container is not None:
        try:
            process = container.open_log(settings.since, follow=settings.minutes > 0)
        except ContainerError as error:
            raise ConfigError(str(error)) from None
        assert process.stdout is not None
        return _LogReader(
            process.stdout.fileno(), "docker logs", finite=not settings.minutes, process=process
        )
    if settings.log is None:
        return None
    file = 0 if settings.log == "-" else os.open(settings.log, os.O_RDONLY)
    finite = stat.S_ISREG(os.fstat(file).st_mode) or not settings.minutes
    return _LogReader(file, settings.log, finite=finite)


def _watch(seconds: float, observations: Observations, log: _LogReader | None, progress: _Progress) -> None:
    """Sample until the time is up and a finite log is read. A log alone is read at most until its end."""
    started = last_sample_at = time.monotonic()
    has_probes = (
        observations.server is not None or observations.container is not None or observations.pid is not None
    )
    if has_probes:
        observations.sample()
    while True:
        now = time.monotonic()
        time_is_up = now >= started + seconds
        progress.show(now - started, log.started if log is not None else None, observations)
        if log is None or log.ended or (time_is_up and not log.finite):
            if time_is_up or not has_probes or (observations.ended and log is not None):
                break
        elif time_is_up:
            time.sleep(POLL_S)
            continue
        if has_probes and now >= last_sample_at + seconds / SAMPLES:
            last_sample_at = now
            observations.sample()
        time.sleep(max(0.0, min(POLL_S, started + seconds - time.monotonic())))
    if log is not None:
        log.stop()
    if has_probes and seconds:
        observations.sample()


class _Progress:
    """Progress on standard error: a bar on a terminal, elsewhere a line every `PROGRESS_INTERVAL_S`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last_line_at = 0.0
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty() and self._seconds:
            from tqdm import tqdm

            shape = "{l_bar}{bar}| {elapsed} of {total:.0f} s{postfix}"
            self._bar = tqdm(
                total=self._seconds, desc="watching", bar_format=shape, leave=False, file=sys.stderr
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, elapsed: float, batches: int | None, observations: Observations) -> None:
        """Show the current state."""
        if self._bar is None and elapsed < self._last_line_at + PROGRESS_INTERVAL_S:
            return
        shown = ([f"{batches} batches"] if batches is not None else []) + [
            observations.memory_text(),
            observations.ended,
        ]
        if self._bar is None:
            self._last_line_at = elapsed
            line = ", ".join(filter(None, shown))
            print(f"watching: {elapsed:.0f} of {self._seconds:.0f} s, {_printable(line)}", file=sys.stderr)
            return
        self._bar.set_postfix_str(", ".join(filter(None, shown)), refresh=False)
        self._bar.update(min(elapsed, self._seconds) - self._bar.n)


def _format_table(checks: list[Check], good: bool, seconds: float) -> str:
    rows = [f"{check.status:4}  {check.name:10}  {_printable(check.figure)}" for check in checks]
    counts = [(sum(check.status is each for check in checks), each) for each in Status]
    summary = ", ".join(f"{count} {status}" for count, status in counts if count)
    return "\n".join([*rows, f"\n{'PASS' if good else 'FAIL'}: {summary}; {seconds:.0f} s"])


def _as_json(checks: list[Check], good: bool) -> str:
    rows = [check._asdict() for check in checks]
    return json.dumps({"verdict": "PASS" if good else "FAIL", "checks": rows}, ensure_ascii=False)


def _printable(text: str) -> str:
    """Replace unprintable characters: a log may contain anything, and this goes to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
