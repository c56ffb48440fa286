"""A container as the `docker` command shows it: inspect, stats, log. Nothing is changed in it.

Every call that gives no process ends within `timeout_s`. ContainerError says in one line what is wrong.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

TIMEOUT_S = 5.0
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class ContainerError(Exception):
    """There is no such container, no docker command, or no engine behind it."""


class Container:
    """A container by name or id. `docker_command` is the command, with what has to stand before its own."""

    def __init__(self, name: str, docker_command: tuple[str, ...] = ("docker",)) -> None:
        self.name = name
        self._docker_command = docker_command

    def inspect(self) -> dict[str, Any]:
        """What the engine knows of it."""
        text = self.run("container", "inspect", self.name)
        try:
            found = json.loads(text)[0]
        except (ValueError, LookupError):
            found = None
        if not isinstance(found, dict):
            raise ContainerError("docker container inspect: the answer is not JSON")
        return found

    def memory(self) -> int:
        """Bytes in use, as `docker stats` counts: without the page cache that is not in use."""
        text = self.run("stats", "--no-stream", "--format", "{{.MemUsage}}", self.name)
        size = parse_size(text.decode("utf-8", "replace").partition("/")[0])
        if size is None:
            raise ContainerError(f"docker stats: no size in {text[:80]!r}")
        return size

    def open_log(self, since: str | None, *, follow: bool) -> subprocess.Popen[bytes]:
        """Its log on a pipe, both outputs in one: from `since` ago, or from now on. The caller ends it."""
        return self._open_logs(
            *(("-f",) if follow else ()), *(("--since", since) if since else ("--tail", "0"))
        )

    def open_log_tail(self, lines: int) -> subprocess.Popen[bytes]:
        """The end of its log, the same way."""
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
        """Standard output of a docker command."""
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
    """Bytes of a size such as "84.1MiB" or "12.3MB"; None if it is none."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmg]i?|)b\s*", text, re.IGNORECASE)
    if found is None or found[1].count(".") > 1 or found[1] == ".":
        return None
    return int(float(found[1]) * _UNITS[found[2].lower()])


def container_environment(inspected: dict[str, Any]) -> dict[str, str]:
    """The variables that the container was started with."""
    entries = (inspected.get("Config") or {}).get("Env") or ()
    return {name: value for name, _, value in (str(entry).partition("=") for entry in entries)}


def server_url(inspected: dict[str, Any]) -> str | None:
    """Where the server inside is reached from this machine: its published port, else its own address."""
    variables = container_environment(inspected)
    port = variables.get("FASTTAIL_PORT", "")
    if not (port.isascii() and port.isdigit()):  # not set, or the address of a service called "fasttail"
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
