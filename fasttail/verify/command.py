"""`fasttail verify`: watches for some minutes, or reads a log that is done, and prints the checklist.

    0 PASS    1 FAIL    2 nothing to look at: no such container, file or process

Two threads: one reads a log that may still grow, the main one looks at everything else meanwhile.
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

from fasttail import container as containers
from fasttail.config import ConfigError, VerifySettings
from fasttail.container import Container, ContainerError
from fasttail.endpoint import Endpoint, token
from fasttail.verify.checks import Check, Status, checklist, verdict
from fasttail.verify.looks import Looks
from fasttail.verify.reading import Reading
from fasttail.verify.unwrap import Unwrapper

if TYPE_CHECKING:
    from tqdm import tqdm

LOOKS = 60
"""So many are spread over the time, as many as a trend is told from."""
TICK_S = 0.25
SAID_S = 30.0
END_S = 2.0
MAX_LINE = 256 << 10
"""Bytes of a line that are read as one; fasttail's own are shorter."""


def verify(settings: VerifySettings) -> int:
    """Watch, print, and say by the exit code how it is."""
    if not (settings.container or settings.log or settings.url or settings.pid):
        raise ConfigError("nothing to look at: give --container, --log, --url or --pid")
    if settings.container and settings.log:
        raise ConfigError("two logs: give --container or --log")
    if settings.since and not settings.container:
        raise ConfigError("--since is for the log of a --container")
    looks = _looks(settings)
    log = _open(settings, looks.container)
    began = time.monotonic()
    try:
        with _Progress(settings.minutes * 60) as progress:
            _watch(settings.minutes * 60, looks, log, progress)
        now = time.monotonic() if log is not None and log.cut_off else None
        checks = checklist(log.read() if log is not None else None, looks, now)
    finally:
        if log is not None:
            log.close()
    good = verdict(checks)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where no marker can be shown
    print(_as_json(checks, good) if settings.json else _table(checks, good, time.monotonic() - began))
    return 0 if good else 1


def _looks(settings: VerifySettings) -> Looks:
    container, url = None, settings.url
    if settings.container is not None:
        container = Container(settings.container)
        try:
            inspected = container.inspect()
        except ContainerError as error:
            raise ConfigError(str(error)) from None
        url = url or containers.address(inspected)
    if settings.pid is not None and not psutil.pid_exists(settings.pid):
        raise ConfigError(f"no such process: {settings.pid}")
    try:
        server = Endpoint(url, token(settings.token_file)) if url else None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    looks = Looks(server, container, settings.pid)
    if container is not None:
        with contextlib.suppress(ContainerError):  # one without the command, or that does not run
            said = container.run("exec", container.name, "fasttail", "--version")
            looks.version = said.decode("utf-8", "replace").strip().removeprefix("fasttail ")
    return looks


class _Log:
    """A log that is read by a thread of its own: to its end if it is `finite`, else until it is cut off."""

    def __init__(
        self, file: int, name: str, *, finite: bool, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.finite = finite
        self.cut_off = False
        self._file = file
        self._name = name
        self._failure: OSError | None = None
        self._process = process
        self._reading = Reading()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    @property
    def started(self) -> int:
        """Batches so far."""
        return self._reading.started

    def read(self) -> Reading:
        """What was read, once it has ended or was cut off."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._reading

    def cut(self) -> None:
        """No more of it is wanted."""
        self.cut_off = not self.ended

    def close(self) -> None:
        """Ends the command whose output it is."""
        self.cut_off = True
        self._thread.join()
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _run(self) -> None:
        rest = b""
        unwrapper = Unwrapper()
        while not self.cut_off:
            if not select.select([self._file], [], [], TICK_S)[0]:
                continue
            try:
                part = os.read(self._file, 1 << 16)
            except BlockingIOError:  # somebody else has read it
                continue
            except OSError as error:
                self._failure = OSError(error.errno, error.strerror, self._name)
                return
            now = time.monotonic()
            *lines, rest = (rest + part).split(b"\n")
            if not part or len(rest) > MAX_LINE:
                lines, rest = [*lines, *([rest] if rest else [])], b""
            for raw in lines:
                if (line := unwrapper.feed(raw)) is not None:
                    self._reading.feed(line, now)
            if not part:
                break
        for line in unwrapper.rest():
            self._reading.feed(line, time.monotonic())


def _open(settings: VerifySettings, container: Container | None) -> _Log | None:
    if container is not None:
        try:
            process = container.follow(settings.since, follow=settings.minutes > 0)
        except ContainerError as error:
            raise ConfigError(str(error)) from None
        assert process.stdout is not None
        return _Log(process.stdout.fileno(), "docker logs", finite=not settings.minutes, process=process)
    if settings.log is None:
        return None
    file = 0 if settings.log == "-" else os.open(settings.log, os.O_RDONLY)
    finite = stat.S_ISREG(os.fstat(file).st_mode) or not settings.minutes
    return _Log(file, settings.log, finite=finite)


def _watch(seconds: float, looks: Looks, log: _Log | None, progress: _Progress) -> None:
    """Until the time is over and a finite log read; with nothing else than a log until its end."""
    began = looked = time.monotonic()
    others = looks.server is not None or looks.container is not None or looks.pid is not None
    if others:
        looks.take()
    while True:
        now = time.monotonic()
        over = now >= began + seconds
        progress.show(now - began, log.started if log is not None else None, looks)
        if log is None or log.ended or (over and not log.finite):
            if over or not others or (looks.ended and log is not None):
                break
        elif over:
            time.sleep(TICK_S)
            continue
        if others and now >= looked + seconds / LOOKS:
            looked = now
            looks.take()
        time.sleep(max(0.0, min(TICK_S, began + seconds - time.monotonic())))
    if log is not None:
        log.cut()
    if others and seconds:
        looks.take()


class _Progress:
    """On standard error while it watches: a line of a terminal, elsewhere one every `SAID_S`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._said = 0.0
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

    def show(self, elapsed: float, batches: int | None, looks: Looks) -> None:
        """How far it is."""
        if self._bar is None and elapsed < self._said + SAID_S:
            return
        shown = ([f"{batches} batches"] if batches is not None else []) + [looks.shown(), looks.ended]
        if self._bar is None:
            self._said = elapsed
            line = ", ".join(filter(None, shown))
            print(f"watching: {elapsed:.0f} of {self._seconds:.0f} s, {_printable(line)}", file=sys.stderr)
            return
        self._bar.set_postfix_str(", ".join(filter(None, shown)), refresh=False)
        self._bar.update(min(elapsed, self._seconds) - self._bar.n)


def _table(checks: list[Check], good: bool, seconds: float) -> str:
    rows = [f"{check.status:4}  {check.name:10}  {_printable(check.figure)}" for check in checks]
    counts = [(sum(check.status is each for check in checks), each) for each in Status]
    told = ", ".join(f"{count} {status}" for count, status in counts if count)
    return "\n".join([*rows, f"\n{'PASS' if good else 'FAIL'}: {told}; {seconds:.0f} s"])


def _as_json(checks: list[Check], good: bool) -> str:
    rows = [check._asdict() for check in checks]
    return json.dumps({"verdict": "PASS" if good else "FAIL", "checks": rows}, ensure_ascii=False)


def _printable(text: str) -> str:
    """A log's words may hold anything, and this goes to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
