"""Inspects a container with the `docker` command: inspect, stats, logs. Changes nothing in it.

Every call that does not return a process ends within its time limit. ContainerError's message is one line.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

TIMEOUT_S = 5.0
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class ContainerError(Exception):
    """No such container, no docker command, or no engine."""


class Container:
    """A container by name or id. `docker_command` is the command and anything that precedes its arguments."""

    def __init__(self, name: str, docker_command: tuple[str, ...] = ("docker",)) -> None:
        self.name = name
        self._docker_command = docker_command

    def inspect(self) -> dict[str, Any]:
        """Return the engine's data on the container."""
        text = self.run("container", "inspect", self.name)
        try:
            found = json.loads(text)[0]
        except (ValueError, LookupError):
            found = None
        if not isinstance(found, dict):
            raise ContainerError("docker container inspect: the answer is not JSON")
        return found

    def memory(self) -> int:
        """Return the bytes in use as `docker stats` counts them, without the inactive page cache."""
        text = self.run("stats", "--no-stream", "--format", "{{.MemUsage}}", self.name)
        size = parse_size(text.decode("utf-8", "replace").partition("/")[0])
        if size is None:
            raise ContainerError(f"docker stats: no size in {text[:80]!r}")
        return size

    def open_log(self, since: str | None, *, follow: bool) -> subprocess.Popen[bytes]:
        """Open the log as one pipe for both outputs, from `since` ago or from now on.

        The caller ends the process.
        """
        return self._open_logs(
            *(("-f",) if follow else ()), *(("--since", since) if since else ("--tail", "0"))
        )

    def open_log_tail(self, lines: int) -> subprocess.Popen[bytes]:
        """Open the last lines of the log in the same way."""
        return self._open_logs("--tail", str(lines))

    def _open_logs(self, *options: str) -> subprocess.Popen[bytes]:
        args = [*self._docker_command, "logs", *options, self.name]
        try:
            return subprocess.Popen(
                args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise _command_missing(self._docker_command, error) from None

    def run(self, *args: str, timeout_s: float = TIMEOUT_S) -> bytes:
        """Run a docker command and return its standard output. Raises ContainerError."""
        try:
            done = subprocess.run(
                [*self._docker_command, *args],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ContainerError(f"docker {args[0]}: no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise _command_missing(self._docker_command, error) from None
        if done.returncode:
            stderr = " ".join(done.stderr.decode("utf-8", "replace").split())
            if re.search(r"no such (container|object)", stderr, re.IGNORECASE):
                raise ContainerError(f"no such container: {self.name}")
            raise ContainerError(f"docker {args[0]}: {stderr[:300] or f'exit code {done.returncode}'}")
        return done.stdout


def _command_missing(args: tuple[str, ...], error: OSError) -> ContainerError:
    return ContainerError(f"cannot run {args[0]}: {error.strerror}; is docker installed?")


def parse_size(text: str) -> int | None:
    """Return the bytes of a size such as "84.1MiB" or "12.3MB", or None if it is not a size."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmg]i?|)b\s*", text, re.IGNORECASE)
    if found is None or found[1].count(".") > 1 or found[1] == ".":
        return None
    return int(float(found[1]) * _UNITS[found[2].lower()])


def container_environment(inspected: dict[str, Any]) -> dict[str, str]:
    """Return the variables that the container was started with."""
    entries = (inspected.get("Config") or {}).get("Env") or ()
    return {name: value for name, _, value in (str(entry).partition("=") for entry in entries)}


def server_url(inspected: dict[str, Any]) -> str | None:
    """Return the server's URL as seen from this machine: its published port, else its own address."""
    variables = container_environment(inspected)
    port = variables.get("FASTTAIL_PORT", "")
    if not (port.isascii() and port.isdigit()):  # not set, or the address of a service "fasttail"
        port = "8000"
    scheme = "https" if variables.get("FASTTAIL_TLS_CERT") else "http"
    network = inspected.get("NetworkSettings") or {}
    for binding in (network.get("Ports") or {}).get(f"{port}/tcp") or ():
        host = binding.get("HostIp") or "127.0.0.1"
        host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{binding['HostPort']}"
    if (inspected.get("HostConfig") or {}).get("NetworkMode") == "host":
        return f"{scheme}://127.0.0.1:{port}"
    for attached in (network.get("Networks") or {}).values():
        if attached and attached.get("IPAddress"):
            return f"{scheme}://{attached['IPAddress']}:{port}"
    return None
