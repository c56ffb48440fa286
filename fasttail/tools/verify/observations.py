"""Samples the server, its container and its process, and keeps the history.

A source that does not answer is skipped in that sample, and the reason is kept.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from fasttail.monitoring.growth import MB
from fasttail.tools import endpoint
from fasttail.tools.container import Container, ContainerError
from fasttail.tools.endpoint import Endpoint, EndpointError
from fasttail.tools.verify.log_stats import Occurrences

_BUILD = re.compile(r'fasttail_build_info\{commit="([^"]*)",version="([^"]*)"\}')


@dataclass
class Observations:
    """All samples so far. Each source is optional.

    memory:    source -> (seconds, bytes) of each sample.
    increased: increase of each counter, across restarts.
    missing:   query without an answer -> the latest reason.
    ended:     how the container or the process ended, or that it was restarted.
    """

    server: Endpoint | None = None
    container: Container | None = None
    pid: int | None = None
    clock: Callable[[], float] = time.monotonic

    samples: int = 0
    live: int = 0
    not_live: Occurrences = field(default_factory=Occurrences)
    stale: int = 0
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    increased: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    metrics: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    ended: str = ""
    version: str | None = None

    _container_run: tuple[Any, ...] | None = None
    _process_start: float | None = None

    def sample(self) -> None:
        """Sample every source once. Takes seconds if one does not answer."""
        self.samples += 1
        if self.server is not None:
            self._health(self.server)
            self._metrics(self.server)
        if self.container is not None:
            self._stats(self.container)
            self._state(self.container)
        if self.pid is not None:
            self._process(self.pid)

    def _health(self, server: Endpoint) -> None:
        try:
            status, body = server.get("/health/live")
            if status == 404:  # the old service has only /health
                status, body = server.get("/health")
            elif server.get("/health")[0] == 503:
                self.stale += 1
        except EndpointError as error:
            self.not_live.add(str(error))
            return
        if status == 200:
            self.live += 1
            return
        try:
            reason = str(json.loads(body)["reason"])
        except (ValueError, LookupError, TypeError):
            reason = "no reason given"
        self.not_live.add(f"{status}: {reason}")

    def _metrics(self, server: Endpoint) -> None:
        try:
            status, body = server.get("/metrics")
        except EndpointError as error:
            self.missing["/metrics"] = str(error)
            return
        if status != 200:
            hint = ": it requires the token, by --token-file or FASTTAIL_TOKEN" if status == 401 else ""
            self.missing["/metrics"] = f"/metrics answers {status}{hint}"
            return
        before, self.metrics = self.metrics, endpoint.parse_metrics(body)
        if before:
            for name, value in self.metrics.items():
                # A counter that decreased has restarted at 0.
                previous = before.get(name, 0.0)
                self.increased[name] += value - previous if value >= previous else value
            if self.metrics.get("fasttail_batches_total", 0) < before.get("fasttail_batches_total", 0):
                self.ended = "the server was restarted: its counters went back"
        for name in self.metrics:
            if build := _BUILD.fullmatch(name):
                self.version = f"{build[2]} (commit {build[1]})"
        if (rss := self.metrics.get("fasttail_rss_bytes")) is not None:
            self._add("RSS", rss)

    def _stats(self, container: Container) -> None:
        try:
            self._add("docker stats", container.memory())
        except ContainerError as error:
            self.missing["docker stats"] = str(error)

    def _state(self, container: Container) -> None:
        try:
            found = container.inspect()
        except ContainerError as error:
            self.missing["docker inspect"] = str(error)
            return
        state = found.get("State") or {}
        run = (state.get("StartedAt"), found.get("RestartCount"))
        if state.get("Running") is False:
            how = ", out of memory" if state.get("OOMKilled") else ""
            self.ended = f"the container is not running (exit code {state.get('ExitCode')}{how})"
        elif self._container_run not in (None, run):
            self.ended = f"the container was restarted at {state.get('StartedAt')}"
        self._container_run = run

    def _process(self, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            process_start = process.create_time()
            if self._process_start not in (None, process_start):
                self.ended = f"process {pid} was replaced by another process"
            self._process_start = process_start
            self._add(f"process {pid}", process.memory_info().rss)
        except psutil.NoSuchProcess:
            self.ended = f"process {pid} has ended"
        except psutil.Error as error:
            self.missing["process"] = f"process {pid}: {type(error).__name__}"

    def _add(self, source: str, size: float) -> None:
        self.memory.setdefault(source, []).append((self.clock(), size))

    def memory_text(self) -> str:
        """Return the latest memory size, for the progress line."""
        with contextlib.suppress(StopIteration):
            return f"{next(iter(self.memory.values()))[-1][1] / MB:.0f} MB"
        return ""
